"""What replicas with and without a pipeline have in common: the queue's entrance, tokens after a prompt, departures."""

from __future__ import annotations

from collections.abc import Callable

from simulator.active_prompts import ActivePrompts
from simulator.batching import BatchingPolicy
from simulator.clock import Clock, Phase
from simulator.core import EngineCore
from simulator.costs import StepCosts
from simulator.kv_links import ReplicaPaths
from simulator.kv_loads import Load, Loads
from simulator.phases import PromptShares
from simulator.recorder import ReplicaRecord
from simulator.request import Request, RequestView
from simulator.stream import TokenStream
from simulator.tiered_cache import TieredPrefixCache

LOAD_RANK = 1 << 36
"""Rank of a load among what comes from outside at one instant: behind all arrivals (row + 1), by row."""

OnFinish = Callable[[Request, int, int], None]
"""Called with (request, tick, replica index) when a request is done."""


class Driver:
    """Moves one :class:`EngineCore` through time; subclasses say how steps follow each other."""

    def __init__(
        self,
        clock: Clock,
        index: int,
        core: EngineCore,
        policy: BatchingPolicy,
        costs: StepCosts,
        on_finish: OnFinish,
        swap_token_s: float,
    ) -> None:
        self.clock = clock
        self.index = index
        self.core = core
        self.policy = policy
        self.costs = costs
        self.record = ReplicaRecord(prompts=PromptShares(costs))
        self.num_outstanding = 0
        self.outstanding_tokens = 0
        self._active_prompts: ActivePrompts | None = None
        """Kept from when a router first asks, which is before anything is sent."""
        self.sole = False
        """The only replica: every event of the simulation but its own calls :meth:`settle` and :meth:`notify`, so the end of
        what is in flight needs no event when another one comes before."""
        self.stream: TokenStream | None = None
        """Between the engine and the clients, where that takes time; set before the first event."""
        self._sent = 0
        """When the tokens of the step that ends now reach the clients [ticks]."""
        self._ended = 0
        """When the latest step ended [ticks]."""
        self._on_finish = on_finish
        self._swap_token_s = swap_token_s
        self.swap_overlap = 0.0
        """Share of the copies of swapped KV that runs beside their step; set before the first event."""

    @property
    def records(self) -> list[ReplicaRecord]:
        """What its instances measured: one, unless it is a pair."""
        return [self.record]

    def enqueue(self, request: Request) -> None:
        """A request reaches the engine's queue (EXTERNAL phase); follow the last one of an instant by :meth:`notify`."""
        waiting = self.core.waiting
        waiting.append(request)
        self.took(request)
        counters = self.record.counters
        if len(waiting) > counters.peak_waiting:
            counters.peak_waiting = len(waiting)

    def took(self, request: Request) -> None:
        """It is for this replica."""
        self.num_outstanding += 1
        self.outstanding_tokens += request.input_tokens
        if self._active_prompts is not None:
            self._active_prompts.add(request)

    def gave(self, request: Request) -> None:
        """It is done, or will not come."""
        self.num_outstanding -= 1
        self.outstanding_tokens -= request.input_tokens
        if self._active_prompts is not None:
            self._active_prompts.remove(request)

    def stir(self) -> None:
        """Something but the queue has changed: the next :meth:`notify` must look."""

    def load_from(self, paths: ReplicaPaths) -> None:
        """Cached KV comes from lower tiers over these paths; call before the first event."""
        cache = self.core.prefix_cache
        assert isinstance(cache, TieredPrefixCache)
        self.core.loads = Loads(self.core, cache, paths)
        self.core.loads.wake = self._await

    def _await(self, load: Load, tick: int) -> None:
        self.clock.at(tick, Phase.EXTERNAL, LOAD_RANK + load.request.row, lambda event: self._loaded(load, tick))

    def _loaded(self, load: Load, tick: int) -> None:
        """The end of a load; of a cancelled one only a moment like others."""
        loads = self.core.loads
        assert loads is not None
        if loads.abandoned:
            return
        self.settle(tick)
        if not load.cancelled:
            self.settle_ahead(tick)
            loads.end(load, tick)
            self.note_waiting()
            self.stir()
        self.notify(tick, True)

    def settle_ahead(self, tick: int) -> None:
        """Bring the cache to where it is at ``tick``, in the middle of a span as well as between steps."""
        if not self.core.loads:
            return
        self.core.note_peak()

    def cached_tokens(self, request: RequestView) -> tuple[int, ...]:
        """Prompt tokens that each tier of the cache holds when the request arrives; for routers."""
        self.settle_ahead(request.arrival_tick)
        cache = self.core.prefix_cache
        return cache.tokens_by_tier(request) if cache is not None else (0,)

    def tokens_with(self, request: RequestView) -> int:
        """Prompt tokens of what it has and of this request, shared ones once; for routers."""
        if self._active_prompts is None:
            cache = self.core.prefix_cache
            if cache is None or self.num_outstanding:
                return self.outstanding_tokens + request.input_tokens
            self._active_prompts = ActivePrompts(cache.segment_tokens)
        return self._active_prompts.with_(request)

    def settle(self, tick: int) -> None:
        """An event at ``tick`` is about to change the queue of the sole replica: work that ends then ends first."""

    def notify(self, tick: int, alone: bool) -> None:
        """Requests were enqueued at ``tick``. ``alone``: no other replica has anything to do at this instant that is not in
        the event queue already, so this one may run ahead."""
        raise NotImplementedError

    def progress(self, tick: int) -> tuple[int, int]:
        """(busy ticks, tokens of decode steps) up to ``tick``; of a pipeline, passes count as they begin and land."""
        return self.record.counters.busy_ticks, self.record.counters.decode_tokens

    def _send(
        self, producing: int, steps: int, first_tick: int, now: int, prompts: list[tuple[Request, int]] | None = None
    ) -> None:
        """Tokens of ``steps`` steps are out, of ``producing`` sequences each; ``prompts``: complete ones add a first token."""
        if self.stream is None:
            self._sent = now
            return
        firsts = sum(request.prompt_left == tokens for request, tokens in prompts) if prompts else 0
        self._sent = self.stream.send(producing + firsts, steps, first_tick, now)

    def _complete_prefills(self, batch: list[tuple[Request, int]], now: int) -> None:
        """Prompt work of a step has ended: complete prompts have produced a token and decode from now on."""
        core = self.core
        for request, tokens in batch:
            if not core.complete_prefill(request, tokens):
                continue
            if request.first_token_tick < 0:
                request.first_token_tick = self._sent
            else:
                self.record.gaps.add(1, 1, now - request.last_token_tick, 0)
            if request.generated >= request.output_tokens:
                self._leave(request, now)
            else:
                core.lane.join(request)
                request.joined_tick = now

    def _pop_finished(self, now: int) -> None:
        """Sequences whose last token is out leave the batch."""
        core, lane = self.core, self.core.lane
        heap, it = lane.heap, lane.it
        if heap and heap[0][0] <= it:
            core.note_peak()
            while heap and heap[0][0] <= it:
                done = lane.pop_finished()
                assert done is not None
                self._leave(done, now)
        self._ended = now
        if now >= self.record.timeline.next_tick:
            self._sample()

    def _sample(self) -> None:
        core, record = self.core, self.record
        waiting = len(core.waiting) + core.inbound
        running = core.num_running - core.received
        record.timeline.add(self._ended, running, waiting, core.used_blocks(), record.counters)

    def close(self) -> None:
        """The run is over: the last step is the last sample, so that the samples hold all of the energy."""
        if self._ended > self.record.timeline.last_tick:
            self._sample()

    def _leave(self, request: Request, now: int) -> None:
        """A request has all its tokens: it is done, or (static batching) waits for the rest of its batch."""
        core = self.core
        core.finish(request)
        if not core.lane.hold:
            self._done(request, now)
        elif not core.lane.heap and not core.lane.prefilling:
            for held in core.release_held():
                self._done(held, now)

    def _done(self, request: Request, now: int) -> None:
        self.gave(request)
        request.last_token_tick = now
        self._on_finish(request, self._sent, self.index)

    def _count_moves(self) -> None:
        counters, core = self.record.counters, self.core
        counters.preemptions = core.num_preemptions
        counters.swapped_tokens = core.swapped_tokens_total
        counters.peak_running = max(counters.peak_running, core.num_running - core.received)
        self.note_waiting()

    def note_waiting(self) -> None:
        """Preempted requests wait again, and so do those whose loads have ended."""
        counters, core = self.record.counters, self.core
        counters.peak_waiting = max(counters.peak_waiting, len(core.waiting) + core.inbound)
