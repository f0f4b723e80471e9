"""Worker processes that end when the command does, Ctrl-C included."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children
from types import TracebackType
from typing import Any, Self

from hardware_profiles.errors import UserError

KILLED = (
    "a worker process was killed, by hand or for want of memory; use fewer processes (--jobs), or send fewer requests"
)


class Workers:
    """A pool of ``count`` processes; leaving the block by an exception stops them at once.

    ``start(*arguments)`` runs once in each. Results come in the order of the tasks.
    """

    def __init__(self, count: int, start: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()) -> None:
        self._others = set(active_children())
        self._pool = ProcessPoolExecutor(count, initializer=_begin, initargs=(start, arguments))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            for process in set(active_children()) - self._others:
                process.terminate()
        self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[..., Any], *tasks: Any) -> Iterator[Any]:
        """``function`` of each task, as the built-in map; UserError where a process is killed from outside."""
        try:
            results = self._pool.map(function, *tasks)
        except BrokenProcessPool:
            raise UserError(KILLED) from None
        return _told(results)


def _told(results: Iterator[Any]) -> Iterator[Any]:
    try:
        yield from results
    except BrokenProcessPool:
        raise UserError(KILLED) from None


def _begin(start: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    """Ctrl-C reaches every process of a terminal; a worker that dies of it would hold the queue's lock for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if start is not None:
        start(*arguments)
