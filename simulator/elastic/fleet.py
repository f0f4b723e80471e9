"""Replicas of one pool that come and go: their lives, start-ups, failures and repair. What they serve is elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from simulator import clock
from simulator.clock import Clock, Phase, to_ticks
from simulator.driver import Driver
from simulator.elastic.history import ElasticHistory
from simulator.elastic.lifecycle import Life, State
from simulator.elastic.settings import Elasticity
from simulator.pipeline import PipelineReplica
from simulator.replica import Replica
from simulator.request import Request
from simulator.routing import RoutingPolicy

CONTROL = (3 << 38) + (1 << 30)
"""Rank of external events of this module, behind arrivals and transfers: the controller, then failures, replicas that are
ready, retries, by replica."""
FAILURE, READY, RETRY = CONTROL + (1 << 20), CONTROL + (2 << 20), CONTROL + (3 << 20)
STREAM = 0x4641494C
"""Of random numbers: failures."""

Replicas = list[Replica | PipelineReplica]


class Owner(Protocol):
    """What a fleet asks of the simulation it belongs to."""

    def over(self) -> bool:
        """All requests have finished."""

    def renew(self, fleet: Fleet, place: int) -> None:
        """Put a new server in the place of one that has served."""

    def ready(self, fleet: Fleet, tick: int) -> None:
        """A replica serves from now on: what waited for one can go."""

    def failed(self, fleet: Fleet, place: int, tick: int) -> list[int]:
        """Stop a replica in the middle of its work; rows of the trace that are lost with it."""

    def again(self, rows: list[int], tick: int) -> None:
        """Lost requests are sent again."""


class Fleet:
    """The lives of a pool's replicas. ``place``: position in the pool; ``first``: index of its first replica in the run."""

    def __init__(
        self, clock: Clock, owner: Owner, replicas: Replicas, elasticity: Elasticity, *, first: int = 0, seed: int = 0
    ) -> None:
        self.lives = [Life() for _ in replicas]
        self.history = ElasticHistory()
        self.replicas = replicas
        self.first = first
        self.stranded: list[int] = []
        """Rows that came while nobody served."""
        self.arrived = 0
        """Requests that have reached the pool's router."""
        self.autoscaled: Callable[[], int] | None = None
        """Replicas that a controller has serving or starting; None: nobody scales this pool."""
        self._clock, self._owner, self._elasticity, self._seed = clock, owner, elasticity, seed

    def begin(self, count: int, tick: int) -> None:
        """So many replicas serve from the start."""
        for place in range(count):
            self.serve(place, tick)

    def change(self, place: int, state: State, tick: int) -> None:
        """A replica's new state."""
        self.lives[place].to(state, tick)
        at = tick / clock.TICKS_PER_S
        self.history.changes.append((at, place, state.value))
        serving = sum(life.state is State.SERVING for life in self.lives)
        self.history.counts.append((at, serving, sum(life.paid for life in self.lives)))

    def _at(self, place: int, tick: int, rank: int, act: Callable[[int, int], None]) -> None:
        """Run ``act(place, tick)`` then, unless the replica's state has changed before."""
        epoch = self.lives[place].epoch
        self._clock.at(
            tick,
            Phase.EXTERNAL,
            rank + self.first + place,
            lambda event: act(place, tick) if self.lives[place].epoch == epoch else None,
        )

    def start(self, place: int, tick: int) -> None:
        """Begin to start a replica; it serves when the start-up is over."""
        if self.lives[place].used:
            self._owner.renew(self, place)
        self.history.started += 1
        self.change(place, State.STARTING, tick)
        self._at(place, tick + to_ticks(self._elasticity.startup_s), READY, self._ready)

    def _ready(self, place: int, tick: int) -> None:
        self.serve(place, tick)
        self._owner.ready(self, tick)

    def serve(self, place: int, tick: int) -> None:
        """A replica takes requests from now on, until it drains or fails."""
        life = self.lives[place]
        life.used = True
        self.change(place, State.SERVING, tick)
        mtbf_s = self._elasticity.mtbf_s
        if mtbf_s is not None:
            draws = np.random.default_rng([self._seed, STREAM, self.first + place, life.epoch])
            self._at(place, tick + max(1, to_ticks(float(draws.exponential(mtbf_s)))), FAILURE, self._fail)

    def take_stranded(self) -> list[int]:
        """Rows that nobody served so far, no longer kept here."""
        rows, self.stranded = self.stranded, []
        return rows

    def serving(self) -> list[Replica | PipelineReplica]:
        """Replicas that take requests."""
        return [r for r, life in zip(self.replicas, self.lives, strict=True) if life.state is State.SERVING]

    def deliver(
        self, rows: list[int], tick: int, router: RoutingPolicy, make: Callable[[int, int], Request | None]
    ) -> None:
        """Requests reach the router: to the replicas that serve, or to nobody until one does."""
        serving = self.serving()
        if not serving:
            self.stranded += rows
            return
        touched: dict[int, Driver] = {}
        for row in rows:
            self.arrived += 1
            request = make(row, tick)
            if request is None:
                continue
            replica = serving[router.choose(request, serving)]
            replica.enqueue(request)
            touched[replica.index] = replica
        for index in sorted(touched):
            touched[index].notify(tick, len(touched) == 1)

    def settle_drained(self) -> None:
        """Replicas that were to stop and have nothing left are off since their last request ended, or since they had been
        kept for long enough."""
        soft, now = to_ticks(self._elasticity.soft_stop_s), int(self._clock.now)
        for place, life in enumerate(self.lives):
            replica = self.replicas[place]
            if life.state is not State.DRAINING or replica.num_outstanding or replica.core.in_transfer:
                continue
            end = max(life.since + soft, life.last_done)
            if end <= now or not soft:
                self.change(place, State.OFF, end)

    def close(self) -> None:
        """The run is over."""
        self.settle_drained()
        ticks = clock.TICKS_PER_S
        self.history.held_s = [
            [(begin / ticks, None if end is None else end / ticks) for begin, end in life.held] for life in self.lives
        ]

    def _fail(self, place: int, tick: int) -> None:
        if self._owner.over():
            return
        rows = self._owner.failed(self, place, tick)
        self._owner.renew(self, place)
        self.history.failures += 1
        self.history.retried += len(rows)
        self.change(place, State.DOWN, tick)
        self._at(place, tick + to_ticks(self._elasticity.repair_s), READY, self._repaired)
        if rows:
            again = tick + max(1, to_ticks(self._elasticity.retry_s))
            rank = RETRY + self.first + place
            self._clock.at(again, Phase.EXTERNAL, rank, lambda event: self._owner.again(rows, again))

    def _repaired(self, place: int, tick: int) -> None:
        if self._owner.over():
            return
        if self.autoscaled is None or not self.autoscaled():
            self.start(place, tick)
        else:
            self.change(place, State.OFF, tick)
