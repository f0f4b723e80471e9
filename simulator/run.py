"""The event loop: replicas behind a router, fed by a trace, run to the end."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from simulator import clock
from simulator.adapters.connect import connect_adapters
from simulator.adapters.core import AdapterCore
from simulator.adapters.pool import AdapterSetup
from simulator.batching import BatchingPolicy
from simulator.clock import Clock, to_ticks
from simulator.cold import ColdKernels, ColdStart
from simulator.core import CoreLimits, EngineCore, check_fits
from simulator.costs import StepCosts, StepModelLike
from simulator.driver import OnFinish
from simulator.events.step_log import Watch
from simulator.events.watch_kinds import start_logs, watched
from simulator.kv_links import NodePaths
from simulator.kv_setup import KvTiers, connect, new_cache
from simulator.kv_tiers import added
from simulator.pipeline import PipelineReplica
from simulator.ports import KvPath
from simulator.prefix_order import group_prefixes
from simulator.recorder import REJECTED, ReplicaRecord, RequestTable
from simulator.replica import FOREVER, Replica
from simulator.request import Request
from simulator.routing import RoutingPolicy
from simulator.sharing.changing import ChangingRates, ChangingReplica, connect_rates
from simulator.sharing.instance import INSTANCES
from simulator.sharing.pair import PairReplica
from simulator.sharing.phases import SplitPhysics
from simulator.sharing.replica import SplitReplica
from simulator.sources import Followers, OpenLoop
from simulator.speculative.counters import Speculation
from simulator.speculative.lane import speculative_lane
from simulator.speculative.replica import SpeculativeReplica
from simulator.step_sizes import CountingPipelineReplica, counting
from simulator.stream import TokenStream
from simulator.tiered_cache import TieredPrefixCache
from workloads.trace import Trace

Progress = Callable[[int, int], None]
"""Called now and then with (finished, total)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSetup:
    """One replica as the event loop sees it: limits, physics and behaviour."""

    limits: CoreLimits
    step_model: StepModelLike
    batching: Callable[[], BatchingPolicy]
    stages: int = 1
    async_scheduling: bool = False
    prefix_caching: bool = False
    order: str = "arrival"
    """Of requests that arrive together: see :mod:`simulator.prefix_order`."""
    tiers: KvTiers | None = None
    """Memories for cached prefixes below the device's, and in what order pieces leave; None: none, least recently used."""
    request_fixed_s: float = 0.0
    request_token_s: float = 0.0
    response_s: float = 0.0
    stream_token_s: float = 0.0
    swap_token_s: float = 0.0
    swap_overlap: float = 0.0
    """Share of the copies of swapped KV that runs beside the step they belong to."""
    speculation: Speculation | None = None
    """Drafts that every decode step verifies; None: one token per step and sequence."""
    rates: ChangingRates | None = None
    """Co-tenants that come and go; None: steps cost the same at all times."""
    adapters: AdapterSetup | None = None
    """Adapters that are loaded when requests need them; None: they are on the devices, or there are none."""
    pair: KvPath | None = None
    """A replica is two instances that hold each other's KV, which takes this path; None: one instance."""
    split: SplitPhysics | None = None
    """Prompts and tokens at the same time, each on a share of the devices; None: in common steps."""
    cold: ColdStart | None = None
    """The servers have just started; None: they are warm."""
    counts_steps: bool = False
    """Steps are counted by their tokens."""
    watch: Watch | None = None
    """Every step is kept; None: sums alone."""


@dataclass(slots=True, kw_only=True)
class RunRecord:
    """What the event loop measured."""

    table: RequestTable
    replicas: list[ReplicaRecord]
    end_s: float
    """When the last request finished [s]."""


def ids_per_segment(block_size: int, prefix_block_tokens: int) -> int:
    """How many of the trace's pieces make one segment of whole KV blocks; the last id of them names it, since equal ids
    mean equal tokens up to there. Pieces of a block or more are segments themselves."""
    if prefix_block_tokens == 0 or prefix_block_tokens >= block_size:
        return 1
    return math.lcm(block_size, prefix_block_tokens) // prefix_block_tokens


def first_turns(trace: Trace) -> list[int]:
    """Row of the first request of every request's session."""
    assert trace.previous is not None
    first = list(range(len(trace)))
    for row, previous in enumerate(trace.previous.tolist()):  # earlier rows only, so they are known
        if previous >= 0:
            first[row] = first[previous]
    return first


class Simulation:
    """Builds and runs one event loop. Use :func:`run`."""

    core_type: type[EngineCore] = EngineCore

    def __init__(
        self,
        trace: Trace,
        setup: ReplicaSetup,
        num_replicas: int,
        router: RoutingPolicy,
        *,
        exact_steps: bool = False,
        progress: Progress | None = None,
    ) -> None:
        check_fits(setup.limits)
        self.trace = trace
        self.setup = setup
        self.clock = Clock()
        self.table = RequestTable(len(trace))
        self._router = router
        self._progress = progress
        self._finished = 0
        self._next_report = 0
        self._rows_left = 0
        self._ids_per_segment = ids_per_segment(setup.limits.block_size, trace.prefix_block_tokens)
        self._nodes: dict[int, NodePaths] = {}
        self.replicas = self._pool(setup, range(num_replicas), self._done, self.core_type, exact_steps)
        for replica in self.replicas:
            replica.sole = num_replicas == 1
        self._prefixes = trace.prefix_ids is not None and setup.prefix_caching
        self._sessions = first_turns(trace) if num_replicas > 1 and trace.previous is not None else None
        self._followers: dict[int, list[int]] = {}
        self._start_sources()

    def _pool(
        self, setup: ReplicaSetup, indices: range, on_finish: OnFinish, core_type: type[EngineCore], exact_steps: bool
    ) -> list[Replica | PipelineReplica]:
        """Equal replicas with the cores of their kind."""
        costs = StepCosts(setup.step_model)
        replicas = [self._replica(setup, index, costs, on_finish, core_type, exact_steps) for index in indices]
        if setup.rates is not None:
            connect_rates(replicas, setup.rates)
        if setup.watch is not None:
            start_logs(replicas, setup.watch)
        for replica in replicas:
            if setup.split is not None and isinstance(replica, SplitReplica):
                replica.divide(setup.split)
        for replica in replicas:
            if setup.cold is not None and isinstance(replica, Replica):
                replica.cold = ColdKernels(setup.cold)
            if setup.adapters is not None:
                connect_adapters(replica, setup.adapters)
            replica.swap_overlap = setup.swap_overlap
            if setup.tiers is not None:
                connect(replica, setup.tiers, self._nodes)
            if setup.stream_token_s:
                replica.stream = TokenStream(to_ticks(setup.stream_token_s))
        return replicas

    def _replica(
        self,
        setup: ReplicaSetup,
        index: int,
        costs: StepCosts,
        on_finish: OnFinish,
        core_type: type[EngineCore],
        exact_steps: bool,
    ) -> Replica | PipelineReplica:
        trace = self.trace
        cache = None
        if setup.prefix_caching and trace.prefix_ids is not None and setup.limits.fixed_reservation is None:
            cache = new_cache(setup.limits.block_size, trace.prefix_block_tokens * self._ids_per_segment, setup.tiers)
        lanes = setup.stages if setup.pair is None else INSTANCES
        core = (core_type if setup.adapters is None else AdapterCore)(setup.limits, lanes, costs.window, cache)
        policy = setup.batching()
        if setup.pair is not None:
            pairs = PairReplica if setup.watch is None else watched(PairReplica)
            pair = pairs(self.clock, index, core, policy, costs, on_finish)
            pair.pair(setup.pair)
            return pair
        if setup.stages > 1:
            pipeline = CountingPipelineReplica if setup.counts_steps else PipelineReplica
            if setup.watch is not None:
                pipeline = watched(pipeline)
            return pipeline(self.clock, index, core, policy, costs, on_finish, swap_token_s=setup.swap_token_s)
        kind: type[Replica] = Replica if setup.rates is None else ChangingReplica
        if setup.split is not None:
            kind = SplitReplica
        if setup.speculation is not None:
            kind = SpeculativeReplica
            drafts = setup.speculation
            core.use_lane(speculative_lane(setup.limits, costs.window, drafts), drafts.queries)
        if setup.counts_steps:
            kind = counting(kind)
        if setup.watch is not None:
            kind = watched(kind)
        return kind(
            self.clock,
            index,
            core,
            policy,
            costs,
            on_finish,
            max_span=1 if exact_steps else FOREVER,
            async_scheduling=setup.async_scheduling,
            swap_token_s=setup.swap_token_s,
        )

    # -- arrivals -------------------------------------------------------------------------------------------------

    def _start_sources(self) -> None:
        trace, setup = self.trace, self.setup
        self._follow = Followers(self.clock, self._deliver)
        self._inputs = trace.input_tokens.data
        self._outputs = trace.output_tokens.data
        if trace.prefix_offsets is not None and trace.prefix_ids is not None:
            self._prefix_offsets, self._prefix_ids = trace.prefix_offsets.data, trace.prefix_ids
        self._delay_s = setup.request_fixed_s + setup.request_token_s * trace.input_tokens
        rows = np.arange(len(trace), dtype=np.int64)
        if trace.concurrency is not None:
            rows = rows[: trace.concurrency]
            self._rows_left = min(trace.concurrency, len(trace))
        elif trace.previous is not None:
            rows = np.flatnonzero(trace.previous < 0)
            for row in np.flatnonzero(trace.previous >= 0).tolist():
                self._followers.setdefault(int(trace.previous[row]), []).append(row)
        times_s = trace.arrival_s[rows] + self._delay_s[rows]
        if setup.order == "prefix-groups":
            rows, times_s = group_prefixes(trace, rows, times_s)
        self._open = OpenLoop(self.clock, rows, times_s, self._deliver)
        np.frombuffer(self.table.arrival_s)[rows] = trace.arrival_s[rows]

    def _deliver(self, rows: list[int], tick: int) -> None:
        """Requests reach the engines: route each, then let the replicas look."""
        replicas = self.replicas
        if len(replicas) == 1:
            replica = replicas[0]
            replica.settle(tick)
            enqueue = replica.enqueue
            for row in rows:
                request = self._request(row, tick)
                if request is not None:
                    enqueue(request)
            replica.notify(tick, True)
            return
        touched: list[int] = []
        for row in rows:
            request = self._request(row, tick)
            if request is None:
                continue
            index = self._router.choose(request, replicas)
            replicas[index].enqueue(request)
            if index not in touched:
                touched.append(index)
        for index in sorted(touched):
            replicas[index].notify(tick, len(touched) == 1)

    def _request(self, row: int, tick: int) -> Request | None:
        """The request of a row, or None when the engine refuses it (no room for a single output token)."""
        room = self.setup.limits.max_model_len
        inputs, outputs = self._inputs[row], self._outputs[row]
        if inputs >= room:
            self.table.status[row] = REJECTED
            self._after(row, tick)
            return None
        prefix: tuple[int, ...] = ()
        if self._prefixes:
            offsets, ids = self._prefix_offsets, self._prefix_ids
            each = self._ids_per_segment
            prefix = tuple(ids[offsets[row] + each - 1 : offsets[row + 1] : each].tolist())
        request = Request(row, tick, inputs, min(outputs, room - inputs), prefix)
        if prefix:
            request.prompt_pieces = -(-inputs // (self._ids_per_segment * self.trace.prefix_block_tokens))
        if self._sessions is not None:
            request.session = self._sessions[row]
        return request

    def _done(self, request: Request, tick: int, replica: int) -> None:
        self.table.finish(request, tick, replica)
        self._after(request.row, tick)

    def _after(self, row: int, tick: int) -> None:
        """A request has left: send what waits for it, report progress."""
        self._finished += 1
        if self._progress is not None and self._finished >= self._next_report:
            self._next_report = self._finished + max(1, len(self.trace) // 200)
            self._progress(self._finished, len(self.trace))
        trace = self.trace
        if trace.concurrency is not None:
            if self._rows_left < len(trace):
                following, self._rows_left = self._rows_left, self._rows_left + 1
                self._send(following, tick, 0.0)
        elif self._followers:
            assert trace.think_s is not None
            for following in self._followers.pop(row, ()):
                self._send(following, tick, float(trace.think_s[following]))

    def _send(self, row: int, tick: int, think_s: float) -> None:
        sent = tick + to_ticks(self.setup.response_s + think_s)
        self.table.arrival_s[row] = sent / clock.TICKS_PER_S
        self._follow.send(row, sent + to_ticks(float(self._delay_s[row])))

    # -- run ------------------------------------------------------------------------------------------------------

    def _everyone(self) -> list[Replica | PipelineReplica]:
        """All replicas, in the order of their indices."""
        return self.replicas

    def run(self) -> RunRecord:
        """Run until nothing is left to happen."""
        with _collector_paused():
            self.clock.run()
        for replica in self._everyone():
            counters, core = replica.record.counters, replica.core
            replica.close()
            counters.peak_blocks = core.peak_blocks
            if isinstance(core.prefix_cache, TieredPrefixCache):
                replica.record.tiers = added(replica.record.tiers, core.prefix_cache.below.account())
            counters.preemptions = core.num_preemptions
            counters.swapped_tokens = core.swapped_tokens_total
            assert core.num_running == 0 and not core.waiting and not core.swapped, "requests left behind"
            assert not core.inbound and not core.in_transfer, "KV on its way left behind"
            assert core.used_blocks() == 0, "KV blocks left behind"
        return RunRecord(
            table=self.table,
            replicas=[record for replica in self._everyone() for record in replica.records],
            end_s=max(0.0, float(np.fmax.reduce(self.table.finish_s))),
        )


@contextmanager
def _collector_paused() -> Iterator[None]:
    """The loop makes no reference cycles worth collecting; looking for them costs it 7 %."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def run(
    trace: Trace,
    setup: ReplicaSetup,
    num_replicas: int,
    router: RoutingPolicy,
    *,
    exact_steps: bool = False,
    progress: Progress | None = None,
) -> RunRecord:
    """Replay ``trace`` on ``num_replicas`` equal replicas behind ``router``; see :class:`ReplicaSetup` for the rest."""
    return Simulation(trace, setup, num_replicas, router, exact_steps=exact_steps, progress=progress).run()
