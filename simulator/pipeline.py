"""One engine over several pipeline stages: as many batches in flight as stages, each passing through all of them.

A request stays in the batch (lane) it was admitted to, as in vLLM, whose scheduler cannot touch it while that batch is in
flight and finds it again when the batch returns. Every pass is an event of its own: the stages couple the lanes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import simpy

from simulator.batching import BatchingPolicy
from simulator.clock import Clock, Phase, to_ticks
from simulator.core import EngineCore
from simulator.costs import StepCosts
from simulator.driver import Driver, OnFinish
from simulator.gaps import Stragglers
from simulator.phases import PromptShares
from simulator.replica import step_shape

LANES = 1 << 10
"""More than any number of pipeline stages: rank of a lane = replica * LANES + lane."""


@dataclass(slots=True)
class Flight:
    """State of one lane: its pass through the pipeline, or idle."""

    busy: bool = False
    begin: int = 0
    decode: bool = True
    joules: float = 0.0
    stragglers: Stragglers = field(default_factory=Stragglers)
    last_end: int = 0


class PipelineReplica(Driver):
    """Drives one engine core with a lane per stage."""

    def __init__(
        self,
        clock: Clock,
        index: int,
        core: EngineCore,
        policy: BatchingPolicy,
        costs: StepCosts,
        on_finish: OnFinish,
        *,
        swap_token_s: float = 0.0,
    ) -> None:
        super().__init__(clock, index, core, policy, costs, on_finish, swap_token_s)
        self.record.prompts = PromptShares(costs, len(core.lanes))
        self._flights = [Flight() for _ in core.lanes]
        self._stage_free = [0] * len(core.lanes)
        self._start_at = -1

    def notify(self, tick: int, alone: bool) -> None:
        """Requests were enqueued at ``tick``."""
        self._start_later(tick)

    def _start_later(self, tick: int) -> None:
        if self._start_at != tick:
            self._start_at = tick
            self.clock.at(tick, Phase.START, self.index * LANES, self._on_start)

    def _on_start(self, event: simpy.Event) -> None:
        """Send idle lanes into the first stage, fullest first, while it is free."""
        now = self.clock.now
        self._start_at = -1
        tick = int(now)
        idle = [i for i, flight in enumerate(self._flights) if not flight.busy]
        idle.sort(key=lambda i: -self.core.lanes[i].num_seqs - len(self.core.lanes[i].prefilling))
        for index in idle:
            if self._stage_free[0] > tick:
                self._start_later(self._stage_free[0])
                return
            self._launch(index, tick)

    def _launch(self, index: int, tick: int) -> None:
        """Schedule a step of the lane and send it through the stages, unless there is nothing to do."""
        core, flight = self.core, self._flights[index]
        lane = core.lane = core.lanes[index]
        core.now = core.admissible_until = tick
        core.begin_step()
        flight.decode = self.policy.plan(core)
        self._note_moves(index)
        core.promised = 0
        if not core.batch and not (flight.decode and lane.num_seqs):
            if core.preempted_now and core.inbound:
                self._start_later(tick)  # its blocks let others in
            return
        lane.flying = core.batch
        if flight.decode:
            core.pledge()
        core.settle_cache()
        shape = step_shape(core, flight.decode, self.costs.window)
        stages, flight.joules = self.costs.stages(shape)
        flight.busy = True
        flight.begin = tick
        at = tick
        if core.swap_tokens:
            at += to_ticks(core.swap_tokens * self._swap_token_s)
            core.swap_tokens = 0
        free = self._stage_free
        for stage, duration in enumerate(stages):
            at = max(at, free[stage]) + duration
            free[stage] = at
        rank = self.index * LANES + index
        self.clock.at(at, Phase.FINISH, rank, lambda event: self._land(index))
        counters = self.record.counters
        counters.prefill_tokens += shape.prefill_tokens
        counters.prefill_pairs += shape.prefill_pairs
        counters.prefill_context += shape.prefill_context
        counters.window_pairs += shape.window_pairs
        if lane.flying:
            counters.mixed_steps += 1
            self.record.prompts.add(*shape[:3], stages[0], flight.joules)
        counters.busy_ticks += stages[0]
        counters.peak_running = max(counters.peak_running, core.num_running - core.received)

    def _land(self, index: int) -> None:
        """A lane's pass has ended: tokens are out, finished requests leave, the lane may start again."""
        core, flight = self.core, self._flights[index]
        lane = core.lane = core.lanes[index]
        now = int(self.clock.now)
        counters = self.record.counters
        counters.steps += 1
        counters.joules += flight.joules
        core.redeem()
        seqs = lane.num_seqs
        self._send(len(lane.heap) if flight.decode else 0, 1, now, now, lane.flying)
        if seqs and flight.decode:
            self._commit_decode(index, now)
        elif seqs:
            flight.stragglers.fall_behind(seqs, flight.last_end)
        self._complete_prefills(lane.flying, now)
        lane.flying = []
        flight.busy = False
        core.promised = 0
        flight.last_end = now
        core.settle_cache()
        self._pop_finished(now)
        self._start_later(max(now, self._stage_free[0]))

    def _commit_decode(self, index: int, now: int) -> None:
        lane, flight, counters = self.core.lane, self._flights[index], self.record.counters
        producing = len(lane.heap)
        counters.decode_tokens += producing
        counters.decode_context += lane.context
        counters.decode_window += lane.window_context
        regular = producing - flight.stragglers.catch_up(self.record.gaps, now)
        if regular:
            self.record.gaps.add(regular, 1, now - flight.last_end, 0)
        lane.advance(1)
        lane.last_decode_tick = now

    def _note_moves(self, index: int) -> None:
        """Sequences left by preemption or returned from host memory while the step was scheduled."""
        core = self.core
        for request, lane in core.preempted:
            flight = self._flights[core.lanes.index(lane)]
            flight.stragglers.leave(request.last_token_tick, flight.last_end)
        for request in core.resumed:
            self._flights[index].stragglers.join(request.last_token_tick)
        if core.preempted_now or core.resumed:
            self._count_moves()
