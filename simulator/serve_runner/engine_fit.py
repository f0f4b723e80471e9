"""What the engine adds to its kernels: host time per step, fitted on the step logs of calibration runs.

The physics of the hardware profile says what the kernels of every logged step take; what is left is fitted. No run that is
validated takes part.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.deployment import Deployment
from simulator.engine import EngineProfile
from simulator.physics.shape import StepShape
from simulator.physics.step_model import StepModel
from simulator.serve_runner.loop import STEP_COLUMNS
from workloads.trace import Trace

Floats = npt.NDArray[np.float64]

HOST_FIELDS = (
    *("step_fixed_s", "step_seq_s", "step_token_s", "sync_step_fixed_s", "sync_step_seq_s"),
    *("launch_layer_s", "piece_layer_s"),
)
LAUNCH = "launch_layer_s"
"""Fitted where kernels run beside the host, beside the times per step, sequence and token: a step takes at least this for
every layer. Synchronous times are part of those, since this engine is synchronous."""
SMALLEST_S, LARGEST_S = 1e-9, 1.0
LAUNCH_STARTS_S = (2e-5, 1e-4, 5e-4)
"""Where searches begin (15 launches of 7 us per layer make 1e-4): a maximum has more than one valley."""
CALIBRATION_SEED = 7_000_003
"""Of the calibration requests: no run uses it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFit:
    """Fitted host times and how well they explain the log."""

    seconds: dict[str, float]
    """By field of the engine profile."""
    num_steps: int
    median_error: float
    """Of the duration of a step, after the fit."""
    p90_error: float
    kernel_share: float
    """Part of the logged time that the kernels alone explain."""


def calibration_traces(max_num_seqs: int, max_model_len: int, seed: int = CALIBRATION_SEED) -> list[Trace]:
    """Closed loops of 1, 2, 4, 8, 16, 64 ... requests: batches and prompts of all sizes, mixed steps."""
    rng = np.random.default_rng(seed)
    traces = []
    places = [n for n in (1, 2, 4, 8, 16, 64, 256) if n < max_num_seqs] + [max_num_seqs]
    longest = min(1024, max_model_len // 2)
    for n in places:
        count = 2 * n + 4
        traces.append(
            Trace(
                arrival_s=np.zeros(count),
                input_tokens=np.exp(rng.uniform(np.log(min(16, longest)), np.log(longest), count)).astype(np.int64),
                output_tokens=rng.integers(2, min(48, max_model_len // 2) + 1, count),
                concurrency=n,
                name=f"calibration, {n} at once",
            )
        )
    return traces


def without_host(engine: EngineProfile) -> EngineProfile:
    """The same engine with a host that takes no time."""
    free: Any = dict.fromkeys(HOST_FIELDS, 0.0)
    return dataclasses.replace(engine, prompt_launch_layer_s=None, **free)


def kernel_s(deployment: Deployment, steps: Floats) -> Floats:
    """float64[steps]: what physics says that the kernels of logged steps take [s]."""
    model = StepModel(deployment.model, deployment.cluster, deployment.plan, without_host(deployment.engine))
    first = STEP_COLUMNS.index(StepShape._fields[0])
    return np.array([model.step(StepShape(*(int(v) for v in row[first:])))[0] for row in steps])


def durations_s(steps: Floats) -> Floats:
    """float64[steps]: measured [s]."""
    return np.asarray(steps[:, 1] - steps[:, 0])


def column(steps: Floats, name: str) -> Floats:
    """One column of a step log."""
    return np.asarray(steps[:, STEP_COLUMNS.index(name)])


def _launched_layers(deployment: Deployment, steps: Floats) -> Floats:
    """Layers that the host launched kernel by kernel in every step: none in those replayed from CUDA graphs."""
    layers = np.full(len(steps), float(deployment.model.num_layers))
    if deployment.engine.cuda_graphs == "decode":
        layers[column(steps, "prefill_tokens") == 0] = 0.0
    return layers


def _loss(predicted_s: Floats, measured_s: Floats) -> float:
    """Soft-L1 of the log error, as the fit's."""
    from simulator.calibration.fitting import SOFT_L1_SCALE

    scaled = np.log(predicted_s / measured_s) / SOFT_L1_SCALE
    return float((np.sqrt(1.0 + scaled**2) - 1.0).sum())


def fit_engine(logs: Sequence[tuple[Deployment, Floats]], *, launches: bool = False) -> EngineFit:
    """Host times that explain the steps of all logs best (soft-L1 of the log error, as the kernel fits).

    A step counts once for every token it yields, as in a mean of TPOT, and at least once.
    ``logs``: step logs, each with the deployment (hardware profile, model) it was made on. ``launches``: the device works
    beside the host, which may be the slower one.
    """
    from simulator.calibration.fitting import Bound, errors, fit, rounded

    kernels = np.concatenate([kernel_s(deployment, steps) for deployment, steps in logs])
    layers = np.concatenate([_launched_layers(deployment, steps) for deployment, steps in logs])
    steps = np.concatenate([steps for _, steps in logs])
    num_steps, kernel_share = len(steps), float(kernels.sum() / durations_s(steps).sum())
    counted = np.repeat(np.arange(num_steps), np.maximum(1, column(steps, "logits_rows")).astype(np.int64))
    kernels, layers, steps = kernels[counted], layers[counted], steps[counted]
    measured = durations_s(steps)
    tokens = column(steps, "decode_seqs") + column(steps, "prefill_tokens")
    seqs = column(steps, "decode_seqs") + column(steps, "prefill_seqs")
    parts = {"step_fixed_s": np.ones(len(steps)), "step_seq_s": seqs, "step_token_s": tokens}

    def predict(values: dict[str, Any], rows: npt.NDArray[np.bool_]) -> Floats:
        device_s = np.maximum(kernels[rows], values.get(LAUNCH, 0.0) * layers[rows])
        return np.asarray(device_s + sum(values[name] * part[rows] for name, part in parts.items()))

    everything = np.ones(len(steps), dtype=bool)
    left_s = max(SMALLEST_S * 10, float(np.median(measured - kernels)))
    best: dict[str, Any] = {}
    for launch_s in LAUNCH_STARTS_S if launches else (0.0,):
        starts = {"step_fixed_s": left_s, "step_seq_s": left_s / 100, "step_token_s": left_s / 1000}
        if launches:
            starts[LAUNCH] = launch_s
        bounds = {name: Bound(min(max(s, SMALLEST_S * 2), 0.5), SMALLEST_S, LARGEST_S) for name, s in starts.items()}
        found = fit(predict, measured, everything, bounds)
        if not best or _loss(predict(found, everything), measured) < _loss(predict(best, everything), measured):
            best = found
    found = best
    median, p90 = errors(predict(found, everything), measured)
    return EngineFit(
        seconds={name: rounded(found[name]) if found[name] > 2 * SMALLEST_S else 0.0 for name in found},
        num_steps=num_steps,
        median_error=median,
        p90_error=p90,
        kernel_share=kernel_share,
    )
