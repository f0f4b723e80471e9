"""The event loop of replicas that come and go: a controller that looks every interval, failures, repair, retries."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hardware_profiles.errors import UserError
from simulator import clock
from simulator.clock import Phase, to_ticks
from simulator.elastic.controller import Controller
from simulator.elastic.history import ElasticHistory, ElasticRecord
from simulator.elastic.lifecycle import Life, State
from simulator.elastic.policies import parse_policy
from simulator.elastic.settings import Elasticity
from simulator.replica import Replica
from simulator.request import Request
from simulator.routing import RoutingPolicy
from simulator.run import Progress, ReplicaSetup, Simulation
from workloads.trace import Trace

CONTROL = 3 << 38
"""Rank of external events of this module: the controller, then failures, replicas that are ready, retries by replica."""
FAILURE, READY, RETRY = CONTROL + (1 << 20), CONTROL + (2 << 20), CONTROL + (3 << 20)
STREAM = 0x4641494C
"""Of random numbers: failures."""
HOPELESS = 10_000
"""Failures in a row that cost work while no request finishes, after which none ever will."""


class ElasticSimulation(Simulation):
    """Builds and runs one event loop with a controller."""

    def __init__(
        self,
        trace: Trace,
        setup: ReplicaSetup,
        num_replicas: int,
        router: RoutingPolicy,
        elasticity: Elasticity,
        *,
        seed: int = 0,
        exact_steps: bool = False,
        progress: Progress | None = None,
    ) -> None:
        elasticity.check(num_replicas)
        _check_setup(setup, elasticity)
        self.lives = [Life() for _ in range(num_replicas)]
        self.history = ElasticHistory()
        super().__init__(trace, setup, num_replicas, router, exact_steps=exact_steps, progress=progress)
        self._elasticity, self._exact, self._seed = elasticity, exact_steps, seed
        self.stranded: list[int] = []
        """Rows that came while nobody served."""
        self.arrived = 0
        """Requests that have reached the router."""
        self._losses = (0, 0)
        """(requests finished, failures since then that cost work)."""
        self._controller: Controller | None = None
        begin = to_ticks(float(trace.arrival_s.min()))
        for index in range(num_replicas):
            self.replicas[index].sole = False
            if index < elasticity.initial(num_replicas):
                self.serve(index, begin)
        if elasticity.policy is not None:
            policy = parse_policy(elasticity.policy)()
            self._controller = Controller(self, policy, elasticity.min_replicas, begin)
            self.clock.at(begin + to_ticks(elasticity.interval_s), Phase.EXTERNAL, CONTROL, self._control)

    # -- life ---------------------------------------------------------------------------------------------------------

    def change(self, index: int, state: State, tick: int) -> None:
        """A replica's new state."""
        self.lives[index].to(state, tick)
        at = tick / clock.TICKS_PER_S
        self.history.changes.append((at, index, state.value))
        serving = sum(life.state is State.SERVING for life in self.lives)
        self.history.counts.append((at, serving, sum(life.paid for life in self.lives)))

    def _at(self, index: int, tick: int, rank: int, act: Callable[[int, int], None]) -> None:
        """Run ``act(replica, tick)`` then, unless the replica's state has changed before."""
        epoch = self.lives[index].epoch
        self.clock.at(
            tick,
            Phase.EXTERNAL,
            rank + index,
            lambda event: act(index, tick) if self.lives[index].epoch == epoch else None,
        )

    def start(self, index: int, tick: int) -> None:
        """Begin to start a replica; it serves when the start-up is over."""
        if self.lives[index].used:
            self._renew(index)
        self.history.started += 1
        self.change(index, State.STARTING, tick)
        self._at(index, tick + to_ticks(self._elasticity.startup_s), READY, self._ready)

    def _ready(self, index: int, tick: int) -> None:
        self.serve(index, tick)
        rows, self.stranded = self.stranded, []
        if rows:
            self._deliver(rows, tick)

    def serve(self, index: int, tick: int) -> None:
        """A replica takes requests from now on, until it drains or fails."""
        life = self.lives[index]
        life.used = True
        self.change(index, State.SERVING, tick)
        mtbf_s = self._elasticity.mtbf_s
        if mtbf_s is not None:
            draws = np.random.default_rng([self._seed, STREAM, index, life.epoch])
            self._at(index, tick + max(1, to_ticks(float(draws.exponential(mtbf_s)))), FAILURE, self._fail)

    def _renew(self, index: int) -> None:
        """A new server in the place of one that has served: empty memory, the same record."""
        old = self.replicas[index]
        (fresh,) = self._pool(self.setup, range(index, index + 1), self._done, self.core_type, self._exact)
        fresh.record, fresh.sole = old.record, False
        fresh.core.peak_blocks = old.core.peak_blocks
        fresh.core.num_preemptions = old.core.num_preemptions
        fresh.core.swapped_tokens_total = old.core.swapped_tokens_total
        self.replicas[index] = fresh

    def settle_drained(self) -> None:
        """Replicas that were to stop and have nothing left are off since their last request ended."""
        for index, life in enumerate(self.lives):
            if life.state is State.DRAINING and not self.replicas[index].num_outstanding:
                self.change(index, State.OFF, max(life.since, life.last_done))

    # -- failures -----------------------------------------------------------------------------------------------------

    def _fail(self, index: int, tick: int) -> None:
        if self._finished >= len(self.trace):
            return
        replica = self.replicas[index]
        assert isinstance(replica, Replica)
        lost = replica.halt(tick)
        self._renew(index)
        self.history.failures += 1
        self.history.retried += len(lost)
        self.change(index, State.DOWN, tick)
        self._at(index, tick + to_ticks(self._elasticity.repair_s), READY, self._repaired)
        if lost:
            self._count_loss()
            again = tick + max(1, to_ticks(self._elasticity.retry_s))
            rows = [request.row for request in lost]
            self.clock.at(again, Phase.EXTERNAL, RETRY + index, lambda event: self._deliver(rows, again))

    def _count_loss(self) -> None:
        """UserError when replicas fail before they can finish anything, or the run would not end."""
        finished, failures = self._losses
        self._losses = (self._finished, failures + 1 if finished == self._finished else 1)
        if self._losses[1] >= HOPELESS:
            raise UserError(
                f"--mtbf is {self._elasticity.mtbf_s:g} s: {HOPELESS:,} failures in a row cost work and no request finished; "
                "use a longer time between failures or shorter requests"
            )

    def _repaired(self, index: int, tick: int) -> None:
        if self._finished >= len(self.trace):
            return
        if self._controller is None or not self._controller.count():
            self.start(index, tick)
        else:
            self.change(index, State.OFF, tick)

    # -- the controller -----------------------------------------------------------------------------------------------

    def _control(self, event: object) -> None:
        if self._finished >= len(self.trace):
            return
        assert self._controller is not None
        tick = int(self.clock.now)
        self._controller.look(tick)
        self.clock.at(tick + to_ticks(self._elasticity.interval_s), Phase.EXTERNAL, CONTROL, self._control)

    # -- requests -----------------------------------------------------------------------------------------------------

    def _deliver(self, rows: list[int], tick: int) -> None:
        """Requests reach the router: to the replicas that serve, or to nobody until one does."""
        serving = [
            replica for replica, life in zip(self.replicas, self.lives, strict=True) if life.state is State.SERVING
        ]
        if not serving:
            self.stranded += rows
            return
        touched: dict[int, None] = {}
        for row in rows:
            request = self._request(row, tick)
            if request is None:
                continue
            replica = serving[self._router.choose(request, serving)]
            replica.enqueue(request)
            touched[replica.index] = None
        for index in sorted(touched):
            self.replicas[index].notify(tick, len(touched) == 1)

    def _request(self, row: int, tick: int) -> Request | None:
        self.arrived += 1
        return super()._request(row, tick)

    def _done(self, request: Request, tick: int, replica: int) -> None:
        self.lives[replica].last_done = tick
        super()._done(request, tick, replica)

    def run(self) -> ElasticRecord:
        """Run until nothing is left to happen."""
        record = super().run()
        assert not self.stranded, "requests that nobody served"
        self.settle_drained()
        ticks = clock.TICKS_PER_S
        self.history.held_s = [
            [(begin / ticks, None if end is None else end / ticks) for begin, end in life.held] for life in self.lives
        ]
        return ElasticRecord(table=record.table, replicas=record.replicas, end_s=record.end_s, history=self.history)


def _check_setup(setup: ReplicaSetup, elasticity: Elasticity) -> None:
    """UserError for what cannot come and go."""
    if setup.stages > 1 and elasticity.mtbf_s is not None:
        raise UserError("--mtbf: failures of pipelines are not simulated; use --pp 1")
