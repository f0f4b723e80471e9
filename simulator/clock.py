"""Integer time for the event loop, and the order of events within one instant.

Inside the loop time is an integer count of ticks, so that the end of k steps computed in one formula equals the end of k
steps added one by one, exactly. Seconds everywhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

import simpy

TICKS_PER_S = 10**15
"""Femtoseconds. A KV token costs a decode step as little as 0.4 ns; a femtosecond keeps its rounding below 1e-5.
Python's integers do not overflow; tests patch this to provoke ties."""

RANKS = 1 << 40
"""More than any rank within a phase (replica index, request row)."""


class Phase(IntEnum):
    """Order of what happens in one instant: work ends, then the world changes, then replicas choose what to do next.

    Without it, an arrival that meets the end of a step would be seen a step late or not, depending on which event
    happened to be created first.
    """

    FINISH = 0
    EXTERNAL = 1
    START = 2


FINISH, EXTERNAL, START = int(Phase.FINISH), int(Phase.EXTERNAL), int(Phase.START)
"""The same as plain integers, for what makes an event per request."""


def to_ticks(seconds: float) -> int:
    """Nearest tick of a duration or time [s]."""
    return round(seconds * TICKS_PER_S)


class _Call(simpy.Event):
    """A triggered event with one callback: the cheapest thing SimPy can run."""

    _value = None
    _ok = True

    def __init__(self, env: simpy.Environment, callback: Callable[[simpy.Event], None]) -> None:
        self.env = env
        self.callbacks = [callback]


class Clock(simpy.Environment):
    """SimPy environment in ticks with a total order of events: time, phase, rank within the phase."""

    def at(self, tick: int, phase: int, rank: int, callback: Callable[[simpy.Event], None]) -> simpy.Event:
        """Run ``callback(event)`` at ``tick``. Rank is an identity (replica index, request row), never creation order."""
        event = _Call(self, callback)
        self.schedule(event, phase * RANKS + rank, tick - self._now)  # type: ignore[arg-type]
        return event
