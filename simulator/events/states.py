"""Replicas that come and go: when each starts, serves, drains, is down."""

from __future__ import annotations

from collections.abc import Iterator

from simulator.events.counters import histories
from simulator.events.text import Group, event, local, process_of
from simulator.result import SimulationResult

OFF = "off"


def state_groups(result: SimulationResult) -> Iterator[Group]:
    """The states of all replicas but being off, as asynchronous slices, and how many serve and are held."""
    last = round(1e9 * result.record.end_s)
    for first, history in histories(result):
        for place in range(len(history.held_s)):
            changes = [(round(1e9 * at), state) for at, which, state in history.changes if which == place]
            if not changes:
                continue
            ends = [at for at, _ in changes[1:]] + [max([last, *(at for at, _ in changes)])]
            for number, ((begin, state), end) in enumerate(zip(changes, ends, strict=True)):
                if state != OFF and end > begin:
                    yield _state(process_of(first + place), state, begin, end, number)
        for at_s, serving, held in history.counts:
            at = round(1e9 * at_s)
            name, process = "replicas", process_of(first)
            args = f'{{"serving":{serving},"held beside":{held - serving}}}'
            yield Group(at, at, [(at, event("C", name, at, process, args=args))], (name, process))


def _state(process: int, state: str, begin: int, end: int, number: int) -> Group:
    same = {"cat": '"replica"', "id2": local(f"{process}.{number}"), "tid": "0"}
    return Group(begin, end, [
        (begin, event("b", state, begin, process, **same)), (end, event("e", state, end, process, **same))
    ])  # fmt: skip
