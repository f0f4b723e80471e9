"""The event loop of several models: a request goes to a replica of its model; models of one group take turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simulator.batching import BatchingPolicy
from simulator.clock import Phase
from simulator.core import EngineCore
from simulator.costs import StepCosts
from simulator.driver import OnFinish
from simulator.events.watch_kinds import watched
from simulator.pipeline import PipelineReplica
from simulator.recorder import REJECTED
from simulator.replica import FOREVER, Replica
from simulator.request import Request
from simulator.routing import RoutingPolicy
from simulator.run import Progress, ReplicaSetup, RunRecord, Simulation
from simulator.several.engine import GatedCore, GatedReplica
from simulator.several.settings import Switch
from simulator.several.turns import TurnCounts, Turns
from workloads.trace import Trace

DONE = 12 << 36
"""Rank of the look after a request has finished, plus the replica's index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberSetup:
    """One model as the event loop sees it."""

    setup: ReplicaSetup
    replicas: int
    group: str
    load_s: float
    deadline_s: float


@dataclass(slots=True, kw_only=True)
class SeveralRecord(RunRecord):
    """``replicas``: those of the first model first."""

    turns: list[TurnCounts]


class SeveralSimulation(Simulation):
    """Builds and runs one event loop."""

    def __init__(
        self,
        trace: Trace,
        members: Sequence[MemberSetup],
        switch: Switch,
        routers: Sequence[RoutingPolicy],
        *,
        exact_steps: bool = False,
        progress: Progress | None = None,
    ) -> None:
        assert trace.model is not None
        self._members = members
        groups = [member.group for member in members]
        self._gated = groups.count(members[0].group) > 1
        super().__init__(
            trace, members[0].setup, members[0].replicas, routers[0], exact_steps=exact_steps, progress=progress
        )
        self._routers = routers
        self._places = [list(range(members[0].replicas))]
        """Indices of each model's replicas."""
        for member in members[1:]:
            self._gated = groups.count(member.group) > 1
            begin = len(self.replicas)
            indices = range(begin, begin + member.replicas)
            self.replicas += self._pool(member.setup, indices, self._done, self.core_type, exact_steps)
            self._places.append(list(indices))
        for replica in self.replicas:
            replica.sole = False
        self._model_of = trace.model.tolist()
        self._turns_of: dict[int, Turns] = {}
        self.turns = self._take_turns(groups, switch)

    def _take_turns(self, groups: list[str], switch: Switch) -> list[Turns]:
        """One for each replica's devices of each group of several models."""
        found: list[Turns] = []
        for group in dict.fromkeys(groups):
            inside = [i for i, name in enumerate(groups) if name == group]
            if len(inside) < 2:
                continue
            for place in range(self._members[inside[0]].replicas):
                engines = [self.replicas[self._places[i][place]] for i in inside]
                gated = [engine for engine in engines if isinstance(engine, GatedReplica)]
                load_s = [self._members[i].load_s for i in inside]
                deadlines = [self._members[i].deadline_s for i in inside]
                turns = Turns(self.clock, len(found), gated, load_s, deadlines, switch)
                found.append(turns)
                self._turns_of.update((engine.index, turns) for engine in gated)
        return found

    def _replica(
        self,
        setup: ReplicaSetup,
        index: int,
        costs: StepCosts,
        on_finish: OnFinish,
        core_type: type[EngineCore],
        exact_steps: bool,
    ) -> Replica | PipelineReplica:
        if not self._gated:
            return super()._replica(setup, index, costs, on_finish, core_type, exact_steps)
        core = GatedCore(setup.limits, 1, costs.window, None)
        policy: BatchingPolicy = setup.batching()
        span = 1 if exact_steps else FOREVER
        kind = GatedReplica if setup.watch is None else watched(GatedReplica)
        return kind(
            *(self.clock, index, core, policy, costs, on_finish),
            max_span=span,
            async_scheduling=setup.async_scheduling,
            swap_token_s=setup.swap_token_s,
        )

    def _deliver(self, rows: list[int], tick: int) -> None:
        """Requests reach the engines of their models; then engines and turns look."""
        touched: set[int] = set()
        for row in rows:
            request = self._request(row, tick)
            if request is None:
                continue
            model = self._model_of[row]
            places = self._places[model]
            index = places[self._routers[model].choose(request, [self.replicas[i] for i in places])]
            self.replicas[index].enqueue(request)
            touched.add(index)
        for index in sorted(touched):
            self.replicas[index].notify(tick, False)
        for turns in self.turns:
            if any(engine.index in touched for engine in turns.engines):
                turns.look(tick)

    def _request(self, row: int, tick: int) -> Request | None:
        """As of one model, with the longest request that the row's model serves."""
        limits = self._members[self._model_of[row]].setup.limits
        room = limits.max_model_len
        if self._inputs[row] >= room:
            self.table.status[row] = REJECTED
            self._after(row, tick)
            return None
        self.setup = self._members[self._model_of[row]].setup
        request = super()._request(row, tick)
        self.setup = self._members[0].setup
        return request

    def _done(self, request: Request, tick: int, replica: int) -> None:
        super()._done(request, tick, replica)
        turns = self._turns_of.get(replica)
        engine = self.replicas[replica]
        if turns is None or not isinstance(engine, GatedReplica):
            return
        if engine.gated.drained or not engine.num_outstanding:
            at = max(request.last_token_tick, int(self.clock.now))
            self.clock.at(at, Phase.EXTERNAL, DONE + replica, lambda event: turns.look(at))

    def run(self) -> SeveralRecord:
        """Run until nothing is left to happen."""
        record = super().run()
        counts = [turns.counts for turns in self.turns]
        return SeveralRecord(table=record.table, replicas=record.replicas, end_s=record.end_s, turns=counts)
