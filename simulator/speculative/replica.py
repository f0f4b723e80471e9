"""A replica whose steps verify drafts: spans of steps with growths that differ, but are known.

The sums of the lane for the steps ahead give their durations, one by one and in whole ticks, so a span ends at the same tick as
its steps taken singly.
"""

from __future__ import annotations

import numpy as np

from simulator.driver import Driver
from simulator.replica import FOREVER, Replica, step_shape
from simulator.request import Request
from simulator.speculative.acceptance import Ints
from simulator.speculative.counters import SpeculativeCounters
from simulator.speculative.lane import GROWN, WINDOW_GROWN, SpeculativeLane
from simulator.speculative.step_model import SpeculativeStepModel

SPAN = 4096
"""Most steps in a span."""
TICK_LIMIT = 1 << 60
"""Ticks of a span stay below this: sums are 64-bit."""


class SpeculativeReplica(Replica):
    """Drives one engine core whose lane is a :class:`SpeculativeLane`."""

    _durations: Ints
    """Ticks of each step in flight."""
    _ends: Ints
    """The same, added up."""
    _contexts: Ints
    _windows: Ints

    @property
    def _lane(self) -> SpeculativeLane:
        lane = self.core.lane
        assert isinstance(lane, SpeculativeLane)
        return lane

    @property
    def _counters(self) -> SpeculativeCounters:
        if self.record.speculative is None:
            self.record.speculative = SpeculativeCounters()
        return self.record.speculative

    def settle_ahead(self, tick: int) -> None:
        """Evict what the steps begun by ``tick`` need, as if each had been an event of its own."""
        elapsed = tick - self._begin
        if self._steps and elapsed > 0 and self.core.prefix_cache is not None:
            begun = min(self._steps, int(np.searchsorted(self._ends, elapsed)) + 1)
            self.core.settle_ahead(None if self._batch else begun)
        else:
            Driver.settle_ahead(self, tick)

    def _done_by(self, tick: int) -> int:
        """Steps in flight that have ended by ``tick``."""
        return int(np.searchsorted(self._ends[: self._steps], tick - self._begin, side="right")) if self._steps else 0

    def progress(self, tick: int) -> tuple[int, int]:
        """(busy ticks, tokens of decode steps) up to ``tick``; of what is in flight as much as has come about by then."""
        busy, tokens = self.record.counters.busy_ticks, self._counters.emitted_tokens
        if self._steps and tick > self._begin:
            busy += tick - self._begin
            if self._decode and self._lane.num_seqs:
                tokens += int(self._lane.ahead(GROWN, self._steps)[: self._done_by(tick)].sum())
        return busy, tokens

    def halt(self, tick: int) -> list[Request]:
        """Stop for good: steps that have ended by ``tick`` count, the one under way is lost but for its time and energy.

        Returns the requests that were here, in the order of the trace.
        """
        core, lane, counters = self.core, self._lane, self.record.counters
        if self._steps and tick > self._begin:
            done, planned = self._done_by(tick), self._steps
            begin = self._begin + (int(self._ends[done - 1]) if done else 0)
            joules = 0.0
            if done < planned:
                joules = self._joules if self._batch else self._step_j(lane, done)
                joules *= (tick - begin) / int(self._durations[done])
            if done:
                self._steps, self._end = done, begin
                self._commit()
            counters.busy_ticks += tick - begin
            counters.joules += joules
            self._counters.busy_ticks += tick - begin
            core.note_lost(tick > begin, bool(self._batch))
        else:
            core.note_peak()
        self._steps, self._wake, self._idle = 0, None, True
        decoding = [request for _, _, request in lane.heap]
        left = {r.row: r for r in (*core.waiting, *core.swapped, *lane.prefilling, *decoding, *core.held)}
        for request in decoding:
            lane.remove(request)
        self._counters.count(lane.take_histogram())
        return [left[row] for row in sorted(left)]

    def _step_j(self, lane: SpeculativeLane, step: int) -> float:
        """Energy of one of the decode steps in flight [J]."""
        base, per_token, per_window, base_j, token_j, window_j, _, wait_j = self.costs.decode(lane.num_seqs)
        context, window = int(self._contexts[step]), int(self._windows[step])
        waits = int(self._durations[step]) - (base + per_token * context + per_window * window)
        return base_j + token_j * context + (window_j * window if lane.window is not None else 0.0) + wait_j * waits

    def _cut(self, tick: int, at_once: bool = False) -> None:
        steps = int(np.searchsorted(self._ends, tick - self._begin)) + 1
        if self._async and not at_once:
            steps += 1
        if steps < self._steps:
            self._steps = steps
            self._end = self._begin + int(self._ends[steps - 1])
            self._wake = None

    def _mixed_step(self) -> None:
        super()._mixed_step()
        core, lane = self.core, self._lane
        self._durations = self._ends = np.array([self._first], dtype=np.int64)
        self._contexts = np.array([lane.context if self._decode else 0], dtype=np.int64)
        self._windows = np.array([lane.window_context if self._decode else 0], dtype=np.int64)
        model = self.costs.model
        assert isinstance(model, SpeculativeStepModel)
        draft_s = model.draft_s(step_shape(core, self._decode, self.costs.window))
        self._counters.draft_ticks += draft_s * self.costs.ticks_per_s

    def _decode_span(self, horizon: int) -> None:
        """Decode steps up to the first finish or shortage of blocks."""
        core, lane = self.core, self._lane
        steps = min(lane.heap[0][0] - lane.it, horizon, SPAN)
        steps = lane.steps_within(core.free_blocks(FOREVER), steps)
        if steps > 1 and core.eviction_may_admit:
            steps = max(1, lane.steps_within(core.unclaimed_blocks(FOREVER), steps))
        if steps == 0:
            core.begin_step()
            core.make_room_for_decode()
            self._note_moves()
            steps = 1
        self._lay_out(lane, steps)
        if int(self._durations.max()) * steps > TICK_LIMIT:
            steps = 1
            self._lay_out(lane, steps)
        self._line_j = None
        self._first, self._slope, self._steps = int(self._durations[0]), 0, steps
        self._end = self._begin + int(self._ends[-1])

    def _lay_out(self, lane: SpeculativeLane, steps: int) -> None:
        """Contexts and durations of the next steps."""
        self._contexts = lane.context + _before(lane.ahead(GROWN, steps))
        windows = lane.window is not None
        self._windows = lane.window_context + _before(lane.ahead(WINDOW_GROWN, steps)) if windows else self._contexts
        base, per_token, per_window, _, _, _, floor, _ = self.costs.decode(lane.num_seqs)
        line = base + per_token * self._contexts + per_window * self._windows
        self._durations = np.maximum(line, floor)
        self._ends = np.cumsum(self._durations)

    # -- accounting ---------------------------------------------------------------------------------------------------

    def _commit(self) -> None:
        """What is in flight has ended: tokens are out, finished requests leave."""
        core, lane = self.core, self._lane
        now = self._now = self._end
        steps, begin = self._steps, self._begin
        self._steps = 0
        counters, mine = self.record.counters, self._counters
        counters.steps += steps
        counters.busy_ticks += now - begin
        mine.busy_ticks += now - begin
        if self._async:
            self._last_start = now - int(self._durations[steps - 1])
        if self._batch:
            counters.joules += self._joules
        else:
            self._add_span(lane, steps)
        rows = lane.num_seqs if self._decode else 0
        grown = lane.ahead(GROWN, steps).copy() if rows else np.zeros(steps, dtype=np.int64)
        self._send_all(grown, steps, begin, now)
        if rows:
            self._commit_drafts(lane, steps, grown)
        elif lane.num_seqs:
            self._stragglers.fall_behind(lane.num_seqs, begin)
        core.promised = 0
        if self._batch:
            self._complete_prefills(self._batch, now)
        core.settle_cache()
        self._pop_finished(now)
        if lane.histogram.any():
            mine.count(lane.take_histogram())

    def _add_span(self, lane: SpeculativeLane, steps: int) -> None:
        """Energy of decode steps, and the draft's part of their time."""
        base, per_token, per_window, base_j, token_j, window_j, floor, wait_j = self.costs.decode(lane.num_seqs)
        contexts, windows = self._contexts[:steps], self._windows[:steps]
        waits = np.maximum(0, floor - (base + per_token * contexts + per_window * windows))
        joules = base_j * steps + token_j * int(contexts.sum()) + wait_j * int(waits.sum())
        if lane.window is not None:
            joules += window_j * int(windows.sum())
        self.record.counters.joules += joules
        model = self.costs.model
        assert isinstance(model, SpeculativeStepModel)
        line = model.draft(lane.num_seqs)
        draft_s = line.base_s * steps + line.context_s * int(contexts.sum()) + line.window_s * int(windows.sum())
        self._counters.draft_ticks += draft_s * self.costs.ticks_per_s

    def _send_all(self, grown: Ints, steps: int, begin: int, now: int) -> None:
        """Tokens of the steps go to the clients, those of one step together."""
        if self.stream is None:
            self._sent = now
            return
        firsts = sum(request.prompt_left == tokens for request, tokens in self._batch)
        for step in range(steps):
            end = begin + int(self._ends[step])
            tokens = int(grown[step]) + (firsts if step == steps - 1 else 0)
            self._sent = self.stream.send(tokens, 1, end, end)

    def _commit_drafts(self, lane: SpeculativeLane, steps: int, grown: Ints) -> None:
        """Decode rows: counters, gaps between the steps of a sequence, and the lane moves on."""
        core, counters, mine = self.core, self.record.counters, self._counters
        rows = lane.num_seqs
        counters.decode_tokens += rows * lane.queries * steps
        counters.decode_context += int(self._contexts[:steps].sum()) * lane.queries
        if lane.window is not None:
            counters.decode_window += int(self._windows[:steps].sum()) * lane.queries
        mine.seq_steps += rows * steps
        mine.emitted_tokens += int(grown.sum())
        gaps = self.record.gaps
        for step, ticks in enumerate(self._durations[:steps].tolist()):
            regular = rows
            if step == 0 and self._stragglers.groups:
                regular -= self._stragglers.catch_up(gaps, self._begin + ticks)
            if regular:
                gaps.add(regular, 1, ticks, 0)
        core.promised = 0
        peak = core.used_blocks() + int(lane.extra_blocks(steps)[-1])
        assert peak <= core.limits.num_blocks, "drafts beyond the KV cache"
        core.peak_blocks = max(core.peak_blocks, peak)
        lane.advance(steps)
        core.promised = max(0, peak - core.used_blocks())
        core.settle_cache()
        lane.last_decode_tick = self._now


def _before(grown: Ints) -> Ints:
    """Growth before each of several steps."""
    before: Ints = np.cumsum(grown) - grown
    return before
