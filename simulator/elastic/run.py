"""The event loop of replicas that come and go: a controller that looks every interval, failures, repair, retries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from hardware_profiles.errors import UserError
from simulator import clock
from simulator.clock import Phase, to_ticks
from simulator.elastic.lifecycle import Life, State
from simulator.elastic.policies import Signals, parse_policy
from simulator.elastic.settings import Elasticity
from simulator.replica import Replica
from simulator.request import Request
from simulator.routing import RoutingPolicy
from simulator.run import Progress, ReplicaSetup, RunRecord, Simulation
from workloads.trace import Trace

CONTROL = 3 << 38
"""Rank of external events of this module: the controller, then failures, replicas that are ready, retries by replica."""
FAILURE, READY, RETRY = CONTROL + (1 << 20), CONTROL + (2 << 20), CONTROL + (3 << 20)
STREAM = 0x4641494C
HOPELESS = 10_000
"""Failures in a row that cost work while no request finishes, after which none ever will."""
"""Of random numbers: failures."""


@dataclass(slots=True)
class ElasticHistory:
    """What became of the replicas; seconds since the start of the trace."""

    held_s: list[list[tuple[float, float | None]]] = field(default_factory=list)
    """Per replica: (from, until) for which its devices are held; None: to the end of the run."""
    changes: list[tuple[float, int, str]] = field(default_factory=list)
    """(time, replica, new state)."""
    counts: list[tuple[float, int, int]] = field(default_factory=list)
    """(time, replicas that serve, replicas held) after every change."""
    started: int = 0
    stopped: int = 0
    failures: int = 0
    retried: int = 0
    """Requests sent again."""


@dataclass(slots=True, kw_only=True)
class ElasticRecord(RunRecord):
    """A run whose replicas came and went."""

    history: ElasticHistory


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
        self._stranded: list[int] = []
        """Rows that came while nobody served."""
        self._arrived = 0
        self._losses = (0, 0)
        """(requests finished, failures since then that cost work)."""
        self._seen = (0, 0, 0, 0)
        """(tick, rows, busy ticks, tokens) at the last look."""
        self._policy = None if elasticity.policy is None else parse_policy(elasticity.policy)()
        begin = to_ticks(float(trace.arrival_s.min()))
        for index in range(num_replicas):
            self.replicas[index].sole = False
            if index < elasticity.initial(num_replicas):
                self._serve(index, begin)
        self._seen = (begin, 0, 0, 0)
        if self._policy is not None:
            self.clock.at(begin + to_ticks(elasticity.interval_s), Phase.EXTERNAL, CONTROL, self._control)

    # -- life ---------------------------------------------------------------------------------------------------------

    def _change(self, index: int, state: State, tick: int) -> None:
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

    def _start(self, index: int, tick: int) -> None:
        if self.lives[index].used:
            self._renew(index)
        self.history.started += 1
        self._change(index, State.STARTING, tick)
        self._at(index, tick + to_ticks(self._elasticity.startup_s), READY, self._ready)

    def _ready(self, index: int, tick: int) -> None:
        self._serve(index, tick)
        rows, self._stranded = self._stranded, []
        if rows:
            self._deliver(rows, tick)

    def _serve(self, index: int, tick: int) -> None:
        life = self.lives[index]
        life.used = True
        self._change(index, State.SERVING, tick)
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

    def _settle_drained(self) -> None:
        """Replicas that were to stop and have nothing left are off since their last request ended."""
        for index, life in enumerate(self.lives):
            if life.state is State.DRAINING and not self.replicas[index].num_outstanding:
                self._change(index, State.OFF, max(life.since, life.last_done))

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
        self._change(index, State.DOWN, tick)
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
        if self._policy is None or not self._count():
            self._start(index, tick)
        else:
            self._change(index, State.OFF, tick)

    # -- the controller -----------------------------------------------------------------------------------------------

    def _control(self, event: object) -> None:
        if self._finished >= len(self.trace):
            return
        tick = int(self.clock.now)
        self._settle_drained()
        assert self._policy is not None
        wanted = self._policy.wanted(self._signals(tick))
        self._scale(max(self._elasticity.min_replicas, min(wanted, len(self.replicas))), tick)
        self.clock.at(tick + to_ticks(self._elasticity.interval_s), Phase.EXTERNAL, CONTROL, self._control)

    def _count(self) -> int:
        """Replicas that serve or will."""
        return sum(life.state in (State.SERVING, State.STARTING) for life in self.lives)

    def _signals(self, tick: int) -> Signals:
        begin, rows, busy, tokens = self._seen
        seconds = (tick - begin) / clock.TICKS_PER_S
        progress = [replica.progress(tick) for replica in self.replicas]
        self._seen = (tick, self._arrived, sum(p[0] for p in progress), sum(p[1] for p in progress))
        serving = sum(life.state is State.SERVING for life in self.lives)
        working = sum(life.state in (State.SERVING, State.DRAINING) for life in self.lives)
        return Signals(
            time_s=tick / clock.TICKS_PER_S,
            replicas=self._count(),
            serving=serving,
            outstanding=sum(replica.num_outstanding for replica in self.replicas) + len(self._stranded),
            arrivals_per_s=(self._arrived - rows) / seconds,
            tokens_per_s=(self._seen[3] - tokens) / seconds,
            busy=(self._seen[2] - busy) / clock.TICKS_PER_S / (seconds * max(1, working)),
        )

    def _scale(self, wanted: int, tick: int) -> None:
        """Draining replicas serve again before others start; those that are starting stop before others drain, the
        emptiest first."""
        while self._count() < wanted:
            draining = [i for i, life in enumerate(self.lives) if life.state is State.DRAINING]
            off = [i for i, life in enumerate(self.lives) if life.state is State.OFF]
            if draining:
                self._serve(draining[0], tick)
            elif off:
                self._start(off[0], tick)
            else:
                return
        while self._count() > wanted:
            starting = [i for i, life in enumerate(self.lives) if life.state is State.STARTING]
            self.history.stopped += 1
            if starting:
                self._change(starting[-1], State.OFF, tick)
                continue
            serving = [i for i, life in enumerate(self.lives) if life.state is State.SERVING]
            index = min(serving, key=lambda i: (self.replicas[i].num_outstanding, -i))
            self._change(index, State.DRAINING, tick)
            self._settle_drained()

    # -- requests -----------------------------------------------------------------------------------------------------

    def _deliver(self, rows: list[int], tick: int) -> None:
        """Requests reach the router: to the replicas that serve, or to nobody until one does."""
        serving = [
            replica for replica, life in zip(self.replicas, self.lives, strict=True) if life.state is State.SERVING
        ]
        if not serving:
            self._stranded += rows
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
        self._arrived += 1
        return super()._request(row, tick)

    def _done(self, request: Request, tick: int, replica: int) -> None:
        self.lives[replica].last_done = tick
        super()._done(request, tick, replica)

    def run(self) -> ElasticRecord:
        """Run until nothing is left to happen."""
        record = super().run()
        assert not self._stranded, "requests that nobody served"
        self._settle_drained()
        ticks = clock.TICKS_PER_S
        self.history.held_s = [
            [(begin / ticks, None if end is None else end / ticks) for begin, end in life.held] for life in self.lives
        ]
        return ElasticRecord(table=record.table, replicas=record.replicas, end_s=record.end_s, history=self.history)


def _check_setup(setup: ReplicaSetup, elasticity: Elasticity) -> None:
    """UserError for what cannot come and go."""
    if setup.stages > 1 and elasticity.mtbf_s is not None:
        raise UserError("--mtbf: failures of pipelines are not simulated; use --pp 1")
