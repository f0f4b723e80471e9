"""When requests reach the engine: open loop at the trace's times, closed loop when a place becomes free."""

from __future__ import annotations

from heapq import heappop, heappush

from hardware_profiles.errors import UserError
from simulator.clock import to_ticks
from workloads.trace import Trace


class Arrivals:
    """Rows of a trace in order of arrival (a heap of ticks and rows; an ordered list is one)."""

    def __init__(self, trace: Trace) -> None:
        if trace.previous is not None:
            raise UserError(f"{trace.name}: has sessions; the serving engine replays open and closed loops only")
        places = len(trace) if trace.concurrency is None else min(trace.concurrency, len(trace))
        self._due = [(to_ticks(float(trace.arrival_s[row])), row) for row in range(places)]
        self._following = iter(range(places, len(trace)))

    @property
    def next_tick(self) -> int | None:
        """When the next request arrives, or None when that is not known or there is none."""
        return self._due[0][0] if self._due else None

    def take(self, tick: int) -> list[tuple[int, int]]:
        """(arrival tick, row) of all that have arrived by ``tick``."""
        taken = []
        while self._due and self._due[0][0] <= tick:
            taken.append(heappop(self._due))
        return taken

    def finished(self, tick: int) -> None:
        """A request has left at ``tick``: in a closed loop the next one arrives."""
        row = next(self._following, None)
        if row is not None:
            heappush(self._due, (tick, row))
