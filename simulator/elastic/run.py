"""The event loop of replicas that come and go: a controller that looks every interval, failures, repair, retries."""

from __future__ import annotations

from hardware_profiles.errors import UserError
from simulator.clock import Phase, to_ticks
from simulator.driver import Driver
from simulator.elastic.controller import Controller
from simulator.elastic.fleet import CONTROL, Fleet
from simulator.elastic.history import ElasticRecord
from simulator.elastic.policies import parse_policy
from simulator.elastic.settings import Elasticity
from simulator.replica import Replica
from simulator.request import Request
from simulator.routing import RoutingPolicy
from simulator.run import Progress, ReplicaSetup, Simulation
from workloads.trace import Trace

HOPELESS = 10_000
"""Failures in a row that cost work while no request finishes, after which none ever will."""


class Losses:
    """Counts failures that cost work since a request finished last."""

    def __init__(self, mtbf_s: float | None) -> None:
        self._mtbf_s = mtbf_s
        self._finished = self._failures = 0

    def count(self, finished: int) -> None:
        """One more. UserError when replicas fail before they can finish anything, or the run would not end."""
        self._failures = self._failures + 1 if finished == self._finished else 1
        self._finished = finished
        if self._failures >= HOPELESS:
            raise UserError(
                f"--mtbf is {self._mtbf_s:g} s: {HOPELESS:,} failures in a row cost work and no request finished; "
                "use a longer time between failures or shorter requests"
            )


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
        check_setup(setup, elasticity)
        super().__init__(trace, setup, num_replicas, router, exact_steps=exact_steps, progress=progress)
        self._elasticity, self._exact = elasticity, exact_steps
        self._losses = Losses(elasticity.mtbf_s)
        self._controller: Controller | None = None
        begin = to_ticks(float(trace.arrival_s.min()))
        for replica in self.replicas:
            replica.sole = False
        self._fleet = Fleet(self.clock, self, self.replicas, elasticity, seed=seed)
        self._fleet.begin(elasticity.initial(num_replicas), begin)
        if elasticity.policy is not None:
            policy = parse_policy(elasticity.policy)()
            self._controller = Controller(self._fleet, policy, elasticity, begin)
            self._fleet.autoscaled = self._controller.count
            self.clock.at(begin + to_ticks(elasticity.interval_s), Phase.EXTERNAL, CONTROL, self._control)

    def _control(self, event: object) -> None:
        if self.over():
            return
        assert self._controller is not None
        tick = int(self.clock.now)
        self._controller.look(tick)
        self.clock.at(tick + to_ticks(self._elasticity.interval_s), Phase.EXTERNAL, CONTROL, self._control)

    # -- what the fleet asks ------------------------------------------------------------------------------------------

    def over(self) -> bool:
        """All requests have finished."""
        return self._finished >= len(self.trace)

    def renew(self, fleet: Fleet, place: int) -> None:
        """A new server in the place of one that has served: empty memory, the same record."""
        (fresh,) = self._pool(self.setup, range(place, place + 1), self._done, self.core_type, self._exact)
        inherit(fresh, self.replicas[place])
        self.replicas[place] = fresh

    def ready(self, fleet: Fleet, tick: int) -> None:
        """Requests that nobody served go to the replica that does now."""
        rows = fleet.take_stranded()
        if rows:
            self._deliver(rows, tick)

    def failed(self, fleet: Fleet, place: int, tick: int) -> list[int]:
        """The requests of a replica are lost."""
        replica = self.replicas[place]
        assert isinstance(replica, Replica)
        rows = [request.row for request in replica.halt(tick)]
        if rows:
            self._losses.count(self._finished)
        return rows

    def again(self, rows: list[int], tick: int) -> None:
        """Lost requests are sent again, from the beginning."""
        self._deliver(rows, tick)

    # -- requests -----------------------------------------------------------------------------------------------------

    def _deliver(self, rows: list[int], tick: int) -> None:
        """Requests reach the router."""
        self._fleet.deliver(rows, tick, self._router, self._request)

    def _done(self, request: Request, tick: int, replica: int) -> None:
        self._fleet.lives[replica].last_done = tick
        super()._done(request, tick, replica)

    def run(self) -> ElasticRecord:
        """Run until nothing is left to happen."""
        record = super().run()
        assert not self._fleet.stranded, "requests that nobody served"
        self._fleet.close()
        return ElasticRecord(
            table=record.table, replicas=record.replicas, end_s=record.end_s, history=self._fleet.history
        )


def inherit(fresh: Driver, old: Driver) -> None:
    """The record of a place goes on with its next server."""
    fresh.record, fresh.sole = old.record, False
    fresh.core.peak_blocks = old.core.peak_blocks
    fresh.core.num_preemptions = old.core.num_preemptions
    fresh.core.swapped_tokens_total = old.core.swapped_tokens_total


def check_setup(setup: ReplicaSetup, elasticity: Elasticity) -> None:
    """UserError for what cannot come and go."""
    if setup.stages > 1 and elasticity.mtbf_s is not None:
        raise UserError("--mtbf: failures of pipelines are not simulated; use --pp 1")
