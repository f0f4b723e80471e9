"""``python -m simulator.calibration.serving_power FILE``: the power lines in power.py, from the mean power of serving runs.

FILE is a table of the ML.ENERGY benchmark (runs/mlenergy.csv). Every run is one steady step: the mean batch at its mean
context, with the prompts that arrive per step, lasting as long as was measured. What it computes and moves in that time, the
sampler's passes included, are the utilisations that the mean power is fitted to. Prints; writes nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hardware_profiles.errors import UserError
from simulator.physics.components import ComponentCost
from simulator.physics.shape import StepShape
from simulator.validation.replay import deployment_of
from simulator.validation.rows import Row, read_rows
from simulator.validation.run import MeasuredRun
from simulator.validation.sources import mlenergy

PROMPT_SHAPE = StepShape(
    decode_seqs=0,
    context_tokens=0,
    window_tokens=0,
    prefill_tokens=2048,
    prefill_pairs=2048 * 150,
    window_pairs=2048 * 150,
    prefill_seqs=7,
    prefill_context=0,
    logits_rows=0,
)
"""A step full of prompts of 300 tokens: the work of a prompt token."""
CACHED_SHARE = 0.55
"""Of the prompts of chat runs that is known from earlier turns (study of the workload; their prefix hits are not published)."""
SOFT_L1_SCALE = 0.05

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Point:
    """One run: mean power, and the shares of peak arithmetic and bandwidth in use."""

    device: str
    model: str
    watts: float
    mfu: float
    mbu: float


def point_of(run: MeasuredRun, row: Row) -> Point:
    """Utilisations of a run at its measured pace."""
    step_model = deployment_of(run).step_model
    trace = run.workload.requests
    assert trace is not None
    seqs = row.need("avg_batch_size")
    seconds = seqs / row.need("output_throughput_tok_s")
    context, arrivals = _steady(trace.output_tokens.astype(float), seqs, row)
    context += float(trace.input_tokens.mean())
    fresh = float(trace.input_tokens.mean()) * (1.0 if run.tags["workload"] == "gpqa" else 1.0 - CACHED_SHARE)
    batch, window = round(seqs), step_model.window
    seen = context if window is None else min(context, float(window))
    decode = step_model.explain(
        StepShape(
            decode_seqs=batch,
            context_tokens=int(batch * context),
            window_tokens=int(batch * seen),
            logits_rows=batch,
        )
    )
    prompts = step_model.explain(PROMPT_SHAPE)
    share = arrivals * fresh / PROMPT_SHAPE.prefill_tokens
    flop, nbytes = (a + share * b for a, b in zip(_work(decode), _work(prompts), strict=True))
    devices = step_model.num_devices
    return Point(
        device=run.device,
        model=run.model,
        watts=row.need("avg_power_w_per_gpu"),
        mfu=flop / devices / step_model.peak_flop_per_s / seconds,
        mbu=nbytes / devices / step_model.bandwidth_bytes_per_s / seconds,
    )


def _steady(outputs: Floats, seqs: float, row: Row) -> tuple[float, float]:
    """(mean tokens a running answer has, requests that start per step) in the steady part of a run."""
    ordered, places = np.sort(outputs), int(row.need("max_num_seqs"))
    ended = max(1, len(ordered) - places - 1)
    if ended > places:  # lengths as an observer of a renewal process meets them
        return float((ordered**2).mean() / (2 * ordered.mean())), seqs / row.need("avg_output_len")
    last = float(ordered[min(len(ordered) - 1, ended)])
    return last / 2, ended / last


def _work(components: Sequence[ComponentCost]) -> tuple[float, float]:
    return sum(c.flop for c in components), sum(c.hbm_bytes for c in components)


def fit_line(points: Sequence[Point], limit_w: float) -> Floats:
    """base_w, compute_w, memory_w: soft-L1 of the log error, cut at the limit."""
    from scipy.optimize import least_squares

    use, watts = _columns(points)

    def residual(p: Floats) -> Floats:
        return np.asarray(np.log(np.minimum(p[0] + use @ p[1:], limit_w) / watts))

    start = np.array([0.3, 0.6, 0.6]) * limit_w
    found = least_squares(
        residual, start, bounds=([0.05 * limit_w, 0, 0], np.inf), loss="soft_l1", f_scale=SOFT_L1_SCALE
    )
    return np.asarray(found.x)


def _columns(points: Sequence[Point]) -> tuple[Floats, Floats]:
    return np.array([[p.mfu, p.mbu] for p in points]), np.array([p.watts for p in points])


def left_out_errors(points: Sequence[Point], limit_w: float) -> Floats:
    """Absolute errors of every model's runs under a line fitted to the other models'."""
    errors: list[float] = []
    for model in dict.fromkeys(p.model for p in points):
        line = fit_line([p for p in points if p.model != model], limit_w)
        use, watts = _columns([p for p in points if p.model == model])
        errors += np.abs(np.minimum(line[0] + use @ line[1:], limit_w) / watts - 1.0).tolist()
    return np.array(errors)


def main(argv: list[str] | None = None) -> int:
    """Print the line of every device."""
    parser = argparse.ArgumentParser(prog="python -m simulator.calibration.serving_power", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="runs/mlenergy.csv")
    args = parser.parse_args(argv)
    try:
        _, rows = read_rows(args.file)
        runs = mlenergy.read(args.file, rows)
        pairs = [(run, row) for run, row in zip(runs, rows, strict=True) if run.skip is None]
        points = [point_of(run, row) for run, row in pairs]
        limits = {run.device: deployment_of(run).cluster.device.tdp_w or 0.0 for run, _ in pairs}
    except UserError as error:
        print(f"serving_power: error: {error}", file=sys.stderr)
        return 2
    for device, limit_w in limits.items():
        own = [p for p in points if p.device == device]
        base_w, compute_w, memory_w = fit_line(own, limit_w)
        errors = left_out_errors(own, limit_w)
        print(
            f"{device}: base_w {base_w:.0f}, compute_w {compute_w:.0f}, memory_w {memory_w:.0f}; {len(own)} runs; models left "
            f"out: median {np.median(errors):.1%}, p90 {np.quantile(errors, 0.9):.1%}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
