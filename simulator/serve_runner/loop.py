"""The engine's loop in real time: the same queues, blocks and batching policy as in the simulator, a worker in place of the
step model, a wall clock in place of the event queue."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hardware_profiles.errors import UserError
from simulator import clock
from simulator.batching import BatchingPolicy
from simulator.clock import Clock
from simulator.core import CoreLimits, EngineCore, check_fits
from simulator.costs import StepCosts
from simulator.driver import Driver
from simulator.physics.shape import DecodeLine, StepShape
from simulator.recorder import REJECTED, RequestTable
from simulator.request import Request
from simulator.run import RunRecord
from simulator.serve_runner.arrivals import Arrivals
from simulator.serve_runner.batch import Piece, StepBatch, WallClock, Worker
from workloads.trace import Trace

STEP_COLUMNS = ("begin_s", "end_s", *StepShape._fields)
"""Columns of the step log. A step begins where the one before it ended, or at the arrival that woke the engine: scheduling
and everything else the host does between two steps is inside."""


@dataclass(slots=True)
class StepLog:
    """What every step contained and how long it took."""

    rows: array[float] = field(default_factory=lambda: array("d"))

    def add(self, begin: int, end: int, shape: StepShape) -> None:
        """One step [ticks]."""
        self.rows.extend((begin / clock.TICKS_PER_S, end / clock.TICKS_PER_S, *shape))

    @property
    def table(self) -> npt.NDArray[np.float64]:
        """float64[steps, columns] in the order of STEP_COLUMNS."""
        return np.frombuffer(self.rows).reshape(-1, len(STEP_COLUMNS)).copy()


class _NoPhysics:
    """The driver asks for costs; here they are what the clock says."""

    window = None

    def decode(self, num_seqs: int) -> DecodeLine:
        raise AssertionError("a real engine does not ask what a step costs")

    def step(self, shape: StepShape) -> tuple[float, float]:
        raise AssertionError("a real engine does not ask what a step costs")

    def stage_s(self, shape: StepShape) -> tuple[float, ...]:
        raise AssertionError("a real engine does not ask what a step costs")


class ServeLoop(Driver):
    """Serves one trace with one worker."""

    def __init__(
        self,
        trace: Trace,
        limits: CoreLimits,
        policy: BatchingPolicy,
        worker: Worker,
        wall: WallClock,
        *,
        vocab: int,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        check_fits(limits)
        core = EngineCore(limits, 1, None, None)
        super().__init__(Clock(), 0, core, policy, StepCosts(_NoPhysics()), self._finished, 0.0)
        self.trace = trace
        self.steps = StepLog()
        self.table = RequestTable(len(trace))
        self._worker, self._wall = worker, wall
        self._vocab, self._seed = vocab, seed
        self._arrivals = Arrivals(trace)
        self._tokens: dict[int, list[int]] = {}
        """Prompt and generated tokens of every request in the engine."""
        self._requests: dict[int, Request] = {}
        """Those that may hold KV entries."""
        self._progress = progress
        self._left = 0

    def run(self) -> RunRecord:
        """Serve until every request has left."""
        end = 0
        while True:
            self._take_arrivals(self._wall.now())
            if not self.core.waiting and not self.core.num_running:
                due = self._arrivals.next_tick
                if due is None:
                    break
                self._wall.sleep_until(due)
                end = due
                continue
            end = self._step(end)
        return RunRecord(table=self.table, replicas=[self.record], end_s=end / clock.TICKS_PER_S)

    # -- requests ---------------------------------------------------------------------------------------------------

    def _take_arrivals(self, now: int) -> None:
        room = self.core.limits.max_model_len
        for tick, row in self._arrivals.take(now):
            inputs, outputs = int(self.trace.input_tokens[row]), int(self.trace.output_tokens[row])
            sent_s = float(self.trace.arrival_s[row])
            self.table.arrival_s[row] = sent_s if clock.to_ticks(sent_s) == tick else tick / clock.TICKS_PER_S
            if inputs >= room:
                self.table.status[row] = REJECTED
                self._arrivals.finished(tick)
                continue
            self.enqueue(Request(row, tick, inputs, min(outputs, room - inputs)))
            rng = np.random.default_rng((self._seed, row))
            self._tokens[row] = rng.integers(0, self._vocab, inputs).tolist()

    def _finished(self, request: Request, tick: int, replica: int) -> None:
        self.table.finish(request, tick, replica)
        self._forget(request)
        del self._tokens[request.row]
        self._arrivals.finished(tick)
        self._left += 1
        if self._progress is not None:
            self._progress(self._left, len(self.trace))

    def _forget(self, request: Request) -> None:
        self._requests.pop(request.row, None)
        self._worker.release(request.row)

    # -- steps ------------------------------------------------------------------------------------------------------

    def _step(self, begin: int) -> int:
        """Schedule, compute and account for one step; returns its end [ticks]."""
        core, now = self.core, self._wall.now()
        core.now = core.admissible_until = now
        core.begin_step()
        decodes = self.policy.plan(core)
        if core.preempted_now:
            for request in [r for r in self._requests.values() if r.admit_seq < 0]:
                self._forget(request)
        decoding = sorted((entry[1], entry[2]) for entry in core.lane.heap) if decodes else []
        batch = StepBatch(
            decode=tuple(self._decode_piece(request) for _, request in decoding),
            prefill=tuple(self._prompt_piece(request, tokens) for request, tokens in core.batch),
        )
        if not batch.pieces:
            raise UserError(f"{self.trace.name}: requests wait although nothing runs; give the engine more KV blocks")
        sampled = self._worker.execute(batch)
        end = self._wall.now()
        for piece, token in zip((p for p in batch.pieces if p.samples), sampled, strict=True):
            self._tokens[piece.row].append(token)
        self.steps.add(begin, end, batch.shape)
        self._commit(begin, end, batch)
        return end

    def _decode_piece(self, request: Request) -> Piece:
        length = self.core.lane.length(request)
        return Piece(row=request.row, start=length - 1, tokens=(self._tokens[request.row][length - 1],), samples=True)

    def _prompt_piece(self, request: Request, tokens: int) -> Piece:
        self._requests[request.row] = request
        start, end = request.computed, request.computed + tokens
        chunk = tuple(self._tokens[request.row][start:end])
        return Piece(row=request.row, start=start, tokens=chunk, samples=tokens == request.prompt_left)

    def _commit(self, begin: int, end: int, batch: StepBatch) -> None:
        """Tokens are out: sequences advance, complete prompts join them, finished requests leave."""
        core, lane, counters = self.core, self.core.lane, self.record.counters
        counters.steps += 1
        counters.busy_ticks += end - begin
        counters.mixed_steps += bool(batch.prefill)
        counters.prefill_tokens += sum(len(p.tokens) for p in batch.prefill)
        counters.decode_tokens += len(batch.decode)
        counters.peak_running = max(counters.peak_running, core.num_running)
        if batch.decode:
            self.record.gaps.add(len(batch.decode), 1, end - begin, 0)
            lane.advance(1)
            lane.last_decode_tick = end
        core.promised = 0
        self._send(len(batch.decode), 1, end, end, core.batch)
        self._complete_prefills(core.batch, end)
        self._pop_finished(end)
        self._count_moves()
        counters.peak_blocks = core.peak_blocks
