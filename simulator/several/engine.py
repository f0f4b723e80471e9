"""An engine that runs only while its model has the devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from simulator.clock import Phase
from simulator.core import EngineCore
from simulator.replica import Replica
from simulator.request import Request

NEVER = 1 << 200
"""Beyond every moment of a run: ticks have no largest number (2^62 of them would be 77 minutes)."""
STOPPED = 13 << 36
"""Rank of the notice that an engine has stopped, plus its index."""


class GatedCore(EngineCore):
    """Admits nobody new from a moment on, so that what runs comes to its end."""

    drains_from = NEVER
    """Who the scheduler looks for after this moment [ticks] may only be somebody that has run before."""

    def admissible(self) -> Iterator[Request]:
        """While draining: preempted requests alone."""
        for request in super().admissible():
            if self.drains_from <= self.admissible_until and request.scheduled_tick < 0:
                return
            yield request

    def visible(self) -> list[Request]:
        """While draining: preempted requests alone."""
        draining = self.drains_from <= self.admissible_until
        return [request for request in super().visible() if not draining or request.scheduled_tick >= 0]

    @property
    def drained(self) -> bool:
        """Nothing runs, and nothing that ran waits."""
        return not self.num_running and not any(request.scheduled_tick >= 0 for request in self.waiting)


class GatedReplica(Replica):
    """Closed engines take no steps; one that is told to stop does so when the scheduler next looks."""

    is_open = False
    stops_from = NEVER
    """It begins no step after this moment [ticks]."""
    on_stop: Callable[[int], None]
    """Called, as an event, when it has stopped for that reason. Set before the first event."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        assert isinstance(self.core, GatedCore)
        self.gated: GatedCore = self.core

    def _schedule(self) -> bool:
        if not self.is_open:
            return False
        if self.stops_from <= self._now:
            self._stop()
            return False
        return super()._schedule()

    def _stop(self) -> None:
        self.is_open, self.stops_from = False, NEVER
        if self.core.lane.num_seqs:
            self._stragglers.fall_behind(self.core.lane.num_seqs, self._now)
        tick = self._now + 1
        self.clock.at(tick, Phase.EXTERNAL, STOPPED + self.index, lambda event: self.on_stop(tick))

    def open(self, tick: int) -> None:
        """Run from now on (EXTERNAL phase)."""
        self.is_open, self.stops_from = True, NEVER
        self.gated.drains_from = NEVER
        self.stir()
        self.notify(tick, False)
