"""Events of a Chrome trace as JSON texts. Whole nanoseconds, so that what follows without a gap stays so."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NamedTuple

from simulator import clock

REQUESTS, LINK = 1, 2
"""Processes of the requests, and of the link between two pools."""


def process_of(index: int) -> int:
    """Process of a replica. Viewers print the number behind the name, and take the thread of the same number for the
    main one: these numbers mislead nobody."""
    return 1000 + index


class Group(NamedTuple):
    """Events that belong together: all or none of them are in a file."""

    begin: int
    """[ns]."""
    end: int
    events: list[tuple[int, str]]
    counter: tuple[str, int] | None = None
    """(name, process) of a counter, whose value holds until its next event."""

    def at(self, begin: int) -> Group:
        """The same at another time."""
        texts = [(begin, re.sub(r'"ts":[0-9.]+', f'"ts":{us(begin)}', text, count=1)) for _, text in self.events]
        return self._replace(begin=begin, end=begin, events=texts)


def ns(ticks: float) -> int:
    """Nanoseconds of ticks."""
    return round(ticks * 1e9 / clock.TICKS_PER_S)


def us(nanoseconds: int) -> str:
    """Microseconds, as the format has them."""
    return f"{nanoseconds // 1000}.{nanoseconds % 1000:03d}"


def event(phase: str, name: str, at: int, process: int, **fields: str) -> str:
    """One event; fields are JSON texts."""
    more = "".join(f',"{key}":{value}' for key, value in fields.items())
    return f'{{"name":{json.dumps(name)},"ph":"{phase}","ts":{us(at)},"pid":{process}{more}}}'


def local(identity: str) -> str:
    """The number of an asynchronous slice, which holds in its process: with a plain ``id`` Perfetto shows it in none."""
    return f'{{"local":{json.dumps(identity)}}}'


def metadata(process: int, name: str, threads: Mapping[int, str], place: int) -> list[str]:
    """Names of a process and its threads, and its place on the screen."""
    rows = [("process_name", 0, "name", json.dumps(name))]
    rows.append(("process_sort_index", 0, "sort_index", str(place)))
    for thread, label in threads.items():
        rows.append(("thread_name", thread, "name", json.dumps(label)))
        rows.append(("thread_sort_index", thread, "sort_index", str(thread)))
    return [
        f'{{"name":"{kind}","ph":"M","ts":0,"pid":{process},"tid":{thread},"args":{{"{key}":{value}}}}}'
        for kind, thread, key, value in rows
    ]
