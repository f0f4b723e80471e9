"""Replicas that keep a log of their steps. A subclass per kind of replica, so that runs without a log have no hooks."""

from __future__ import annotations

from simulator.driver import Driver
from simulator.events.step_log import Kind, Load, Slice, StepLog
from simulator.handover import SendingCore
from simulator.kv_loads import Load as CacheLoad
from simulator.recorder import ReplicaRecord
from simulator.replica import Replica
from simulator.request import Request


def log_of(record: ReplicaRecord) -> StepLog:
    """The log of a replica that is watched."""
    assert record.step_log is not None
    return record.step_log


class Noting(Driver):
    """What all kinds of replicas note: their queue, and loads of cached KV."""

    def note(self, tick: int) -> None:
        """The queue and the batch as they are now."""
        core = self.core
        log_of(self.record).note(tick, core.num_running - core.received, len(core.waiting) + core.inbound)

    def enqueue(self, request: Request) -> None:
        """A request reaches the engine's queue."""
        super().enqueue(request)
        self.note(int(self.clock.now))

    def stir(self) -> None:
        """Something but the queue has changed."""
        super().stir()
        now, core = int(self.clock.now), self.core
        self.note(now)
        if isinstance(core, SendingCore):  # it never decodes, so what it holds depends on no span
            log_of(self.record).sample_blocks(now, core.used_blocks(), core.peak_blocks)

    def _await(self, load: CacheLoad, tick: int) -> None:
        tokens = sum(load.reach.hits)
        log_of(self.record).loads.append(Load(self.core.now, tick, load.request.row, tokens))
        super()._await(load, tick)


class WatchedReplica(Noting, Replica):
    """Notes each step, or span of steps, as it ends."""

    _waits = 0
    _swapped = 0
    _counted_j = 0.0
    """Energy of what is in the log."""

    def _schedule(self) -> bool:
        self._waits = self._swapped = 0
        found, core = super()._schedule(), self.core
        self.note(self._begin)
        if found and self._batch:  # prompts have their blocks from now on
            log_of(self.record).sample_blocks(self._begin, core.used_blocks(), core.peak_blocks)
        return found

    def _add_swap(self) -> None:
        self._swapped = self.core.swap_tokens
        super()._add_swap()

    def _wait(self, ticks: int) -> None:
        self._waits += ticks
        super()._wait(ticks)

    def _commit(self) -> None:
        piece, record = self._in_flight(), self.record
        tokens, joules = record.counters.decode_tokens, record.counters.joules
        super()._commit()
        core, counters = self.core, record.counters
        piece = piece._replace(output_tokens=counters.decode_tokens - tokens, joules=counters.joules - joules)
        log_of(record).add(piece, core.used_blocks(), core.peak_blocks)
        self.note(self._now)
        self._counted_j = counters.joules
        self._waits = self._swapped = 0

    def _in_flight(self) -> Slice:
        """The step or span under way, before its end; what it produced comes then."""
        batch, seqs = self._batch, self.core.lane.num_seqs if self._decode else 0
        kind = Kind.DECODE if not batch else Kind.MIXED if seqs else Kind.PREFILL
        prompts, tokens = len(batch), sum(new for _, new in batch)
        times = self._begin, self._end
        return Slice(*times, 0, kind, self._steps, seqs, prompts, tokens, 0, 0.0, 0.0, self._waits, self._swapped)

    def halt(self, tick: int) -> list[Request]:
        """Stop for good; the step under way is lost, its time and energy are not."""
        under_way, done = bool(self._steps) and tick > self._begin, self._done_by(tick)
        piece = self._in_flight() if under_way else None
        self._counted_j = self.record.counters.joules
        left = super().halt(tick)
        log = log_of(self.record)
        if piece is not None:
            begin = self._end if done else piece.begin
            if begin < tick:
                joules = self.record.counters.joules - self._counted_j
                log.add(piece._replace(begin=begin, end=tick, kind=Kind.LOST, steps=0, joules=joules))
        log.sample_blocks(tick, 0, self.core.peak_blocks)
        log.note(tick, 0, 0)
        return left
