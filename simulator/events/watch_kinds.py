"""Logs of replicas whose steps are more than one at a time, or verify drafts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TypeVar, cast

import simpy

from simulator import clock
from simulator.driver import Driver
from simulator.events.step_log import Kind, Slice, Watch
from simulator.events.watch import Noting, WatchedReplica, log_of
from simulator.physics.sums import in_order
from simulator.pipeline import PipelineReplica
from simulator.replica import Replica
from simulator.sharing.pair import PairReplica
from simulator.sharing.replica import SplitReplica
from simulator.speculative.lane import GROWN
from simulator.speculative.replica import SpeculativeReplica
from simulator.speculative.step_model import SpeculativeStepModel

K = TypeVar("K", bound=Driver)
PROMPTS = 1
"""Thread of prompts where they run beside tokens."""


class WatchedSpeculative(WatchedReplica, SpeculativeReplica):
    """Steps one by one, each with the draft's part."""

    _drafted = 0.0

    def _mixed_step(self) -> None:
        before = self._counters.draft_ticks
        super()._mixed_step()
        self._drafted = self._counters.draft_ticks - before

    def _commit(self) -> None:
        if self._batch:
            self._commit_mixed()
            return
        first, record, lane, steps = self._in_flight(), self.record, self._lane, self._steps
        joules = record.counters.joules
        model, seqs = self.costs.model, lane.num_seqs
        assert isinstance(model, SpeculativeStepModel)
        line, scale = model.draft(seqs), self.costs.ticks_per_s
        contexts, windows = self._contexts[:steps].tolist(), self._windows[:steps].tolist()
        drafts = [
            scale * (line.base_s + line.context_s * c + line.window_s * w)
            for c, w in zip(contexts, windows, strict=True)
        ]
        each_j = [self._step_j(lane, step) for step in range(steps)]
        ends = [first.begin + end for end in self._ends[:steps].tolist()]
        grown = lane.ahead(GROWN, steps).tolist() if seqs else [0] * steps
        super(WatchedReplica, self)._commit()
        log, core, begin = log_of(record), self.core, first.begin
        each_j[-1] += record.counters.joules - joules - in_order(each_j)
        for step, end in enumerate(ends):
            last = step == steps - 1
            piece = first._replace(
                begin=begin, end=end, steps=1, joules=each_j[step], draft_ticks=drafts[step], output_tokens=grown[step]
            )
            log.add(piece, core.used_blocks() if last else None, core.peak_blocks if last else 0)
            log.close(0)
            begin = end
        self.note(self._now)
        self._counted_j = record.counters.joules

    def _commit_mixed(self) -> None:
        piece, record, mine = self._in_flight(), self.record, self._counters
        tokens, joules = mine.emitted_tokens, record.counters.joules
        super(WatchedReplica, self)._commit()
        done = piece._replace(
            output_tokens=mine.emitted_tokens - tokens,
            joules=record.counters.joules - joules,
            draft_ticks=self._drafted,
        )
        log_of(record).add(done, self.core.used_blocks(), self.core.peak_blocks)
        self.note(self._now)
        self._counted_j = record.counters.joules


class WatchedSplit(WatchedReplica, SplitReplica):
    """Tokens on one thread, prompts on another."""

    def _on_start(self, event: simpy.Event) -> None:
        super()._on_start(event)
        self.note(int(self.clock.now))

    def _on_prompt_end(self, event: simpy.Event) -> None:
        work, batch = self._prompt, list(self.core.lane.flying)
        ends = event is self._prompt_end
        super()._on_prompt_end(event)
        if not ends or work is None:
            return
        now, core = int(self.clock.now), self.core
        tokens = work.shape.prefill_tokens
        piece = Slice(work.begin, now, PROMPTS, Kind.PREFILL, 1, 0, len(batch), tokens, 0, work.joules)
        log_of(self.record).add(piece, core.used_blocks(), core.peak_blocks)
        self.note(now)


class WatchedPair(Noting, PairReplica):
    """A log for each instance."""

    @cached_property
    def _flown(self) -> dict[int, Slice]:
        """Instance -> its step under way."""
        return {}

    def note(self, tick: int) -> None:
        """Both instances have the same queue, and each may go on with any sequence."""
        core = self.core
        for instance in self.instances:
            log_of(instance.record).note(tick, core.num_running, len(core.waiting) + core.inbound)

    def _fly(self, number: int, now: int, ticks: int, joules: float, prompts: bool) -> None:
        super()._fly(number, now, ticks, joules, prompts)
        self.note(now)
        lane = self.core.lanes[number]
        seqs, batch = (0, lane.flying) if prompts else (lane.num_seqs, [])
        kind = Kind.PREFILL if prompts else Kind.DECODE
        tokens = sum(new for _, new in batch)
        self._flown[number] = Slice(now, now + ticks, 0, kind, 1, seqs, len(batch), tokens, 0, joules)

    def _land(self, number: int) -> None:
        record = self.instances[number].record
        before = record.counters.decode_tokens
        super()._land(number)
        core, piece = self.core, self._flown.pop(number)
        piece = piece._replace(output_tokens=record.counters.decode_tokens - before)
        log_of(record).add(piece)
        log_of(record).close(0)
        for instance in self.instances:  # they hold the same KV
            log_of(instance.record).sample_blocks(piece.end, core.used_blocks(), core.peak_blocks)
        self.note(int(piece.end))


class WatchedPipeline(Noting, PipelineReplica):
    """A thread per stage; each pass is a slice in all of them. What it did is counted in the first."""

    @cached_property
    def _passes(self) -> dict[int, tuple[list[tuple[int, int]], int, int, int]]:
        """Lane -> (begin and end in every stage, sequences that decode, prompts, their tokens) of its pass under way."""
        return {}

    def _launch(self, index: int, tick: int) -> None:
        free, counters = list(self._stage_free), self.record.counters
        busy, tokens = counters.busy_ticks, counters.prefill_tokens
        super()._launch(index, tick)
        flight, lane = self._flights[index], self.core.lanes[index]
        self.note(tick)
        if not flight.busy:
            return
        first = counters.busy_ticks - busy
        begin = self._stage_free[0] - first
        stages: list[tuple[int, int]] = []
        for stage, end in enumerate(self._stage_free):
            if stage:
                begin = max(stages[-1][1], free[stage])
            stages.append((begin, end))
        seqs = lane.num_seqs if flight.decode else 0
        self._passes[index] = stages, seqs, len(lane.flying), counters.prefill_tokens - tokens

    def _land(self, index: int) -> None:
        record, flight = self.record, self._flights[index]
        before = record.counters.decode_tokens
        super()._land(index)
        core, log = self.core, log_of(record)
        stages, seqs, prompts, tokens = self._passes.pop(index)
        kind = Kind.DECODE if not prompts else Kind.MIXED if seqs else Kind.PREFILL
        total = in_order(end - begin for begin, end in stages)
        for stage, (begin, end) in enumerate(stages):
            produced = record.counters.decode_tokens - before
            joules = flight.joules * (end - begin) / total if total else 0.0
            log.add(Slice(begin, end, stage, kind, 1, seqs, prompts, tokens, produced, joules))
            log.close(stage)
        now = int(self.clock.now)
        log.sample_blocks(now, core.used_blocks(), core.peak_blocks)
        self.note(now)


HOOKS: tuple[tuple[type[Driver], type[Driver]], ...] = (
    (PairReplica, WatchedPair),
    (PipelineReplica, WatchedPipeline),
    (SpeculativeReplica, WatchedSpeculative),
    (SplitReplica, WatchedSplit),
    (Replica, WatchedReplica),
)
"""Kind of replica -> what notes its steps; the first that fits."""
_KINDS: dict[int, type[Driver]] = {}


def watched(kind: type[K]) -> type[K]:
    """A kind of replica that keeps a log; the same class for the same kind."""
    if id(kind) not in _KINDS:
        hooks = next(hooks for base, hooks in HOOKS if issubclass(kind, base))
        bases = (hooks,) if hooks.__mro__[1:].count(kind) else (hooks, kind)
        _KINDS[id(kind)] = type(f"Watched{kind.__name__}", bases, {})
    return cast(type[K], _KINDS[id(kind)])


def start_logs(replicas: Sequence[Driver], watch: Watch) -> None:
    """Give the replicas of a pool their logs; call before the first event."""
    for replica in replicas:
        for record in replica.records:
            record.step_log = watch.log(len(replicas), clock.TICKS_PER_S)
