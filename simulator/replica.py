"""One engine on one pipeline stage: asks its policy for a step, jumps over as many equal steps as are certain, commits.

Nothing about a decode batch is uncertain between two scheduling events: its size is fixed and its context grows by that
size per step. A *span* of such steps is one event, its end a closed form in integers, so jumping and stepping give the
same ticks (``max_span=1`` steps one by one through this same code).
"""

from __future__ import annotations

from math import sqrt

import simpy

from simulator.batching import BatchingPolicy
from simulator.clock import Clock, Phase, to_ticks
from simulator.cold import ColdKernels
from simulator.core import EngineCore
from simulator.costs import StepCosts
from simulator.driver import Driver, OnFinish
from simulator.gaps import Stragglers
from simulator.kv_tiers import added
from simulator.physics.shape import StepShape, window_pairs
from simulator.request import Request

FOREVER = 1 << 62


def steps_until(elapsed: int, first: int, slope: int) -> int:
    """Smallest k >= 1 with k * first + slope * k (k-1) / 2 >= elapsed, for steps of first, first + slope, ... ticks."""
    if elapsed <= first:
        return 1
    if slope:
        half = first - slope / 2
        k = int((sqrt(half * half + 2.0 * slope * elapsed) - half) / slope)
    else:
        k = elapsed // first
    k = max(k, 1)
    while k * first + slope * (k * (k - 1) // 2) < elapsed:
        k += 1
    while k > 1 and (k - 1) * first + slope * ((k - 1) * (k - 2) // 2) >= elapsed:
        k -= 1
    return k


def step_shape(core: EngineCore, decode: bool, window: int | None) -> StepShape:
    """Sufficient statistics of the step that ``core`` has scheduled."""
    lane = core.lane
    tokens = pairs = near = cached = done = 0
    for request, new in core.batch:
        past = request.computed
        tokens += new
        pairs += new * past + new * (new + 1) // 2
        cached += past
        if new == request.prompt_left:
            done += 1
        if window is not None:
            near += window_pairs(new, past, window)
    seqs = lane.num_seqs if decode else 0
    context = lane.context if seqs else 0
    beside = context
    if window is None:
        near = pairs
    else:
        beside = lane.window_context if seqs else 0
    # StepShape(...), at half of its cost
    return tuple.__new__(StepShape, (seqs, context, beside, tokens, pairs, near, len(core.batch), cached, seqs + done))


class Replica(Driver):
    """Drives one engine core without a pipeline."""

    def __init__(
        self,
        clock: Clock,
        index: int,
        core: EngineCore,
        policy: BatchingPolicy,
        costs: StepCosts,
        on_finish: OnFinish,
        *,
        max_span: int = FOREVER,
        async_scheduling: bool = False,
        swap_token_s: float = 0.0,
    ) -> None:
        super().__init__(clock, index, core, policy, costs, on_finish, swap_token_s)
        self._prompts = self.record.prompts
        self._max_span = max_span
        self._async = async_scheduling
        self._idle = True
        self._changed = False
        """The head of the queue is new."""
        self._stirred = False
        """So is something else: blocks are free, or KV has arrived."""
        self._wake: simpy.Event | None = None
        self._now = 0
        self._begin = 0
        self._end = 0
        self._steps = 0
        self._first = 0
        self._slope = 0
        self._joules = 0.0
        self._line_j: tuple[float, float, float] | None = None
        self._batch: list[tuple[Request, int]] = []
        self._decode = True
        self._last_start = -1
        self._stragglers = Stragglers()
        self.cold: ColdKernels | None = None
        """What is compiled so far, if the server has just started; set before the first event."""

    # -- the outside world ----------------------------------------------------------------------------------------

    def enqueue(self, request: Request) -> None:
        """A request reaches the engine's queue; behind others it cannot change what is in flight."""
        core = self.core
        self._changed = self._changed or not core.waiting or core.line is not None
        super().enqueue(request)

    def stir(self) -> None:
        """Something but the queue has changed, which the scheduler sees at once: the next :meth:`notify` must look."""
        self._stirred = True

    def settle_ahead(self, tick: int) -> None:
        """Evict what the steps begun by ``tick`` need, as if each had been an event of its own."""
        elapsed = tick - self._begin
        if self._steps and elapsed > 0 and self.core.has_idle:
            begun = min(self._steps, steps_until(elapsed, self._first, self._slope))
            self.core.settle_ahead(None if self._batch else begun)
        else:
            super().settle_ahead(tick)

    def settle(self, tick: int) -> None:
        """Work of the sole replica that ends at ``tick`` ends before the queue changes."""
        if self.sole and self._steps and self._end == tick:
            self._commit()

    def notify(self, tick: int, alone: bool) -> None:
        """Look up, if the queue's head is new: a request behind others that wait in vain cannot be admitted before something
        finishes."""
        changed, self._changed = self._changed, False
        stirred, self._stirred = self._stirred, False
        if self._idle:
            self._idle = False
            self._now = self._last_start = tick
            self._go_on(alone)
        elif self._steps:
            if (changed or stirred) and self._steps > 1:
                self._cut(tick, at_once=stirred)
            if alone and self._end < self.clock.peek():
                self._wake = None
                self._commit()
                self._go_on(True)
            elif self._wake is None and not self.sole:
                self._wake_at_end()
        elif self._wake is None:
            self._go_on(alone)

    def _cut(self, tick: int, at_once: bool = False) -> None:
        """Something changed at ``tick``: end the span at the first step boundary that can see it; an asynchronous scheduler
        sees new requests a step late, but free blocks ``at_once``."""
        steps = steps_until(tick - self._begin, self._first, self._slope)
        if self._async and not at_once:
            steps += 1
        if steps < self._steps:
            self._steps = steps
            self._end = self._begin + steps * self._first + self._slope * (steps * (steps - 1) // 2)
            self._wake = None

    def _done_by(self, tick: int) -> int:
        """Steps in flight that have ended by ``tick``."""
        elapsed, first, slope = tick - self._begin, self._first, self._slope
        if not self._steps or elapsed < first:
            return 0
        steps = steps_until(elapsed, first, slope)
        late = steps * first + slope * (steps * (steps - 1) // 2) > elapsed
        return min(steps - late, self._steps)

    def progress(self, tick: int) -> tuple[int, int]:
        """(busy ticks, tokens of decode steps) up to ``tick``; of what is in flight as much as has come about by then."""
        counters = self.record.counters
        busy, tokens = counters.busy_ticks, counters.decode_tokens
        if self._steps and tick > self._begin:
            busy += tick - self._begin
            tokens += self._done_by(tick) * len(self.core.lane.heap) * self._decode
        return busy, tokens

    def halt(self, tick: int) -> list[Request]:
        """Stop for good: steps that have ended by ``tick`` count, the one under way is lost but for its time and energy.

        Returns the requests that were here, in the order of the trace.
        """
        core, lane = self.core, self.core.lane
        if self._steps and tick > self._begin:
            done = self._done_by(tick)
            step_ticks, joules = self._first + self._slope * done, self._joules
            if done:
                self._steps, self._end = done, self._begin + done * self._first + self._slope * (done * (done - 1) // 2)
                self._commit()
            begin = self._end if done else self._begin
            core.note_lost(tick > begin, bool(self._batch))
            if self._line_j is not None:
                base_j, token_j, window_j = self._line_j
                joules = base_j + token_j * lane.context + window_j * lane.window_context
            counters = self.record.counters
            counters.busy_ticks += tick - begin
            counters.joules += joules * (tick - begin) / step_ticks
        else:
            core.note_peak()
        self._steps, self._wake, self._idle = 0, None, True
        decoding = [request for _, _, request in lane.heap]
        loading: list[Request] = []
        if core.loads is not None:
            loading, counts = core.loads.abandon()
            self.record.tiers = added(self.record.tiers, counts)
        left = {r.row: r for r in (*core.waiting, *core.swapped, *lane.prefilling, *decoding, *core.held, *loading)}
        return [left[row] for row in sorted(left)]

    # -- the loop -------------------------------------------------------------------------------------------------

    def _go_on(self, alone: bool) -> None:
        """START at ``_now``: at once when nothing else happens at this instant, else in its turn."""
        if alone and self.clock.peek() > self._now:
            self._run()
        else:
            self._wake = self.clock.at(self._now, Phase.START, self.index, self._on_start)

    def _wake_at_end(self) -> None:
        self._wake = self.clock.at(self._end, Phase.FINISH, self.index, self._on_end)

    def _on_start(self, event: simpy.Event) -> None:
        if event is self._wake:
            self._wake = None
            self._run()

    def _on_end(self, event: simpy.Event) -> None:
        if event is self._wake:
            self._wake = None
            self._commit()
            self._go_on(True)

    def _run(self) -> None:
        """Take steps from ``_now`` on, as far ahead as no other event of the simulation can interfere."""
        peek = self.clock.peek
        while self._schedule():
            if self._end >= peek():
                if not self.sole:
                    self._wake_at_end()
                return
            self._commit()
            if peek() <= self._now:
                self._go_on(False)
                return
        self._idle = True

    def _schedule(self) -> bool:
        """Decide the next step or span and when it ends; False when there is nothing to do."""
        core, lane, now = self.core, self.core.lane, self._now
        horizon = self._max_span
        self._begin = now
        self._decode = True
        core.now = now
        if core.waiting or lane.prefilling or core.swapped or core.inbound or not self.policy.steady:
            core.admissible_until = self._last_start if self._async else now
            core.begin_step()
            self._decode = self.policy.plan(core)
            if not core.batch and not lane.num_seqs and (core.inbound or (self._async and core.waiting)):
                if core.preempted:
                    self._note_moves()
                core.admissible_until = now
                core.begin_step()
                self._decode = self.policy.plan(core)
            if core.preempted or core.resumed:
                self._note_moves()
            if core.batch:
                self._mixed_step()
                return True
            moved = core.preempted_now or core.resumed
            if moved or core.unseen or not self.policy.steady:
                horizon = 1
            elif core.decision_steps < horizon:
                horizon = core.decision_steps
        self._batch = []
        if not lane.num_seqs:
            waits = core.waiting or core.swapped or core.inbound
            loading = core.loads is not None and core.loads.pending
            assert core.in_transfer or loading or not waits, "requests wait although nothing runs"
            return False
        self._decode_span(horizon)
        return True

    def _mixed_step(self) -> None:
        """A step with prefill work: one event."""
        core = self.core
        self._batch = core.batch
        shape = step_shape(core, self._decode, self.costs.window)
        decode_seqs, context, beside, tokens, pairs, near, _, cached, _ = shape
        self._line_j = None
        self._first, self._joules = self.costs.step(shape)
        if self.cold is not None:
            self._wait(to_ticks(self.cold.wait_s(decode_seqs + tokens)))
        counters = self.record.counters
        self._prompts.add(decode_seqs, context, beside, self._first, self._joules)
        self._slope = 0
        self._steps = 1
        if core.swap_tokens:
            self._add_swap()
        self._end = self._begin + self._first
        counters.mixed_steps += 1
        counters.prefill_tokens += tokens
        counters.prefill_pairs += pairs
        counters.prefill_context += cached
        counters.window_pairs += near
        running = core.num_running - core.received
        if running > counters.peak_running:
            counters.peak_running = running

    def _decode_span(self, horizon: int) -> None:
        """Decode steps up to the first finish, window crossing, or shortage of blocks."""
        core = self.core
        lane = core.lane
        steps = lane.heap[0][0] - lane.it
        if steps > horizon:
            steps = horizon
        if lane.crossings:
            steps = lane.steps_to_crossing(steps)
        if core.reservation_blocks is None:
            size = lane.block_size
            enough = lane.num_seqs * ((steps + size - 1) // size)
            free = core.free_blocks(enough)
            if free < enough:
                steps = lane.steps_within(free, steps)
            if steps > 1 and core.eviction_may_admit:
                steps = max(1, lane.steps_within(core.unclaimed_blocks(enough), steps))
            if steps == 0:
                core.begin_step()
                core.make_room_for_decode()
                self._note_moves()
                steps = 1
        seqs = lane.num_seqs
        base, per_token, per_window, base_j, token_j, window_j, floor, wait_j = self.costs.decode(seqs)
        first = base + per_token * lane.context
        slope = per_token * seqs
        if lane.window is not None:
            first += per_window * lane.window_context
            slope += per_window * lane.growing
        if first < floor:  # the host's launches take longer than the device's work, until the context has grown enough
            if slope:
                steps = min(steps, (floor - first) // slope + 1)
            first, slope = floor, 0
            base_j += wait_j * (floor - base)
            token_j -= wait_j * per_token
            window_j -= wait_j * per_window
        self._first, self._slope = first, slope
        self._line_j = (base_j, token_j, window_j)
        if core.swap_tokens:
            self._add_swap()
            steps = 1
        self._steps = steps
        self._end = self._begin + steps * self._first + slope * (steps * (steps - 1) // 2)

    def _add_swap(self) -> None:
        """KV blocks move over the host link before the step, in the same stream as its kernels (vLLM v0), or beside it."""
        ticks = to_ticks(self.core.swap_tokens * self._swap_token_s)
        if self.swap_overlap:
            ticks -= int(self.swap_overlap * min(ticks, self._first))
        self._wait(ticks)
        self.core.swap_tokens = 0

    def _wait(self, ticks: int) -> None:
        """The devices wait in their next step, at the power of a device that waits for its host."""
        self._first += ticks
        joules = ticks * self.costs.wait_j
        if self._line_j is None:
            self._joules += joules
        else:
            base_j, token_j, window_j = self._line_j
            self._line_j = (base_j + joules, token_j, window_j)

    # -- accounting -----------------------------------------------------------------------------------------------

    def _commit(self) -> None:
        """What is in flight has ended: tokens are out, finished requests leave."""
        core, lane = self.core, self.core.lane
        now = self._now = self._end
        steps, begin = self._steps, self._begin
        self._steps = 0
        counters = self.record.counters
        counters.steps += steps
        counters.busy_ticks += now - begin
        line = self._line_j
        if line is None:
            counters.joules += self._joules
        else:
            pairs = steps * (steps - 1) // 2
            joules = steps * line[0] + line[1] * (steps * lane.context + lane.num_seqs * pairs)
            if lane.window is not None:
                joules += line[2] * (steps * lane.window_context + lane.growing * pairs)
            counters.joules += joules
        if self._async:
            self._last_start = now - self._first - self._slope * (steps - 1)
        seqs = lane.num_seqs
        if self.stream is None:
            self._sent = now
        else:
            self._send(len(lane.heap) if self._decode else 0, steps, begin + self._first, now, self._batch)
        if seqs:
            if self._decode:
                self._commit_decode(seqs, steps)
            else:
                self._stragglers.fall_behind(seqs, begin)
        core.promised = 0
        if self._batch:
            self._complete_prefills(self._batch, now)
        if core.has_idle:
            core.settle_cache()
        self._pop_finished(now)

    def _commit_decode(self, seqs: int, steps: int) -> None:
        lane, counters = self.core.lane, self.record.counters
        producing = len(lane.heap)
        counters.decode_tokens += producing * steps
        pairs = steps * (steps - 1) // 2
        counters.decode_context += steps * lane.context + seqs * pairs
        if lane.window is not None:
            counters.decode_window += steps * lane.window_context + lane.growing * pairs
        if self._stragglers.groups:
            self._commit_stragglers(producing, steps)
        else:
            self.record.gaps.add(producing, steps, self._first, self._slope)
        lane.advance(steps)
        lane.last_decode_tick = self._now

    def _commit_stragglers(self, producing: int, steps: int) -> None:
        """The first step of the span ends longer gaps for the sequences that had been left out before."""
        gaps = self.record.gaps
        regular = producing - self._stragglers.catch_up(gaps, self._begin + self._first)
        if regular:
            gaps.add(regular, 1, self._first, 0)
        if steps > 1:
            gaps.add(producing, steps - 1, self._first + self._slope, self._slope)

    def _note_moves(self) -> None:
        """Sequences left by preemption or returned from host memory while the step was scheduled."""
        for request, _ in self.core.preempted:
            self._stragglers.leave(request.last_token_tick, self._now)
        for request in self.core.resumed:
            self._stragglers.join(request.last_token_tick)
        self._count_moves()
