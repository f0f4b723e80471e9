"""A model loaded on a device, ready to serve traces one after another."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.batching import BATCHING
from simulator.core import CoreLimits
from simulator.run import RunRecord
from simulator.serve_runner.clock import RealClock
from simulator.serve_runner.loop import ServeLoop
from simulator.serve_runner.power import PowerLog
from simulator.serve_runner.shapes import architecture_of
from simulator.serve_runner.worker import TorchWorker, WorkerSettings
from workloads.model import ModelSpec
from workloads.trace import Trace

BATCHING_POLICY = "chunked"
"""Of the simulator's policies, the one this engine runs."""

CALIBRATION_REPEATS = 3
"""Of every calibration load; a stall in one of them does not show in the median."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """A model and the limits under which it is served."""

    model: ModelSpec
    worker: WorkerSettings
    max_num_batched_tokens: int

    @property
    def limits(self) -> CoreLimits:
        """What the scheduler may hand out."""
        w = self.worker
        return CoreLimits(
            num_blocks=w.num_blocks,
            block_size=w.block_size,
            max_num_seqs=w.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            max_model_len=w.max_model_len,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedRun:
    """One trace, served for real."""

    trace: Trace
    record: RunRecord
    steps: npt.NDArray[np.float64]
    """float64[steps, columns] in the order of loop.STEP_COLUMNS."""
    power_w: float | None
    """Mean power of the device while it served; None where it cannot be read."""
    cpu_share: float | None = None
    """CPU time of this process over the time its steps took, per thread; None unless a CPU computes. Well below one, other
    processes had the processor meanwhile, and the times say as much about them."""


class Session:
    """Holds the worker; its kernels are warm after the first trace."""

    def __init__(self, settings: ServeSettings, seed: int = 0) -> None:
        self.settings = settings
        self.worker = TorchWorker(architecture_of(settings.model), settings.worker, seed)
        self._power = PowerLog.open(settings.worker.device)

    def serve(self, trace: Trace, *, seed: int = 0, progress: Callable[[int, int], None] | None = None) -> ServedRun:
        """Serve a trace in real time. ``seed`` draws the prompts' tokens; their lengths and arrivals are the trace's."""
        limits, policy = self.settings.limits, BATCHING[BATCHING_POLICY]()
        vocab = self.settings.model.vocab_size
        with _collector_paused(), self._power:
            loop = ServeLoop(trace, limits, policy, self.worker, RealClock(), vocab=vocab, seed=seed, progress=progress)
            cpu_s = time.process_time()
            record = loop.run()
            cpu_s = time.process_time() - cpu_s
        steps = loop.steps.table
        return ServedRun(
            trace=trace, record=record, steps=steps, power_w=self._power.mean_w, cpu_share=self._share(cpu_s, steps)
        )

    def _share(self, cpu_s: float, steps: npt.NDArray[np.float64]) -> float | None:
        busy_s = float((steps[:, 1] - steps[:, 0]).sum())
        threads = self.worker.threads
        return cpu_s / (busy_s * threads) if threads and busy_s else None

    def calibrate(self, trace: Trace, *, seed: int) -> npt.NDArray[np.float64]:
        """Step log of a closed loop, served CALIBRATION_REPEATS times: every step with the median of its durations.

        In a closed loop what a step contains does not depend on how long the one before took.
        """
        logs = [self.serve(trace, seed=seed).steps for _ in range(CALIBRATION_REPEATS)]
        assert all(np.array_equal(log[:, 2:], logs[0][:, 2:]) for log in logs), "the batches differ between repeats"
        steps = logs[0].copy()
        durations = np.median([log[:, 1] - log[:, 0] for log in logs], axis=0)
        steps[:, 1] = np.cumsum(durations)
        steps[:, 0] = steps[:, 1] - durations
        return steps

    def warm_up(self) -> None:
        """Run every batch size and the largest chunks once: kernels are compiled and chosen at their first use."""
        limits = self.settings.limits
        longest = limits.max_model_len - 2
        sizes = np.array([min(n, longest) for n in (longest, limits.max_num_batched_tokens)])
        self.serve(_at_once(sizes, 2))
        short = min(8, longest)
        outputs = 2 + np.arange(limits.max_num_seqs) % max(1, limits.max_model_len - short - 2)
        self.serve(_at_once(np.full(limits.max_num_seqs, short), outputs))


def _at_once(inputs: npt.NDArray[np.int64], outputs: npt.NDArray[np.int64] | int) -> Trace:
    outputs = np.broadcast_to(np.asarray(outputs, dtype=np.int64), inputs.shape).copy()
    return Trace(arrival_s=np.zeros(len(inputs)), input_tokens=inputs, output_tokens=outputs, name="warm-up")


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Collecting garbage stops the engine for milliseconds at random moments; serving engines pause it as well."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
