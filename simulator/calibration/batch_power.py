"""``python -m simulator.calibration.batch_power FILE``: the A100's power line in power.py, from batches on a DGX.

FILE is SplitwiseSim's table (runs/dgx_prompt_token_times.csv, MIT): Llama-2-70B, one batch of equal prompts at a time, with
the mean power of a GPU from the first prompt to the last token as a share of its TDP. What the batch computes and moves in
the measured time are the utilisations that the power is fitted to. Prints; writes nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from hardware_profiles.errors import UserError
from simulator.calibration.serving_power import Point, fit_line, left_out_errors
from simulator.physics.shape import StepShape, window_pairs
from simulator.validation.replay import deployment_of
from simulator.validation.rows import Row, read_rows
from simulator.validation.run import MeasuredRun
from simulator.validation.sources import dgx

LONGEST_PROMPT = 2048
"""Longer ones are left out: with 8192 tokens the table has 0.17 of TDP, which is an idle GPU's, at every TP; with 4096 it
falls too."""


def point_of(run: MeasuredRun, row: Row) -> Point:
    """Utilisations of a batch from its first prompt to its last token; runs are told apart by their TP."""
    step_model = deployment_of(run).step_model
    batch, prompt, tokens = (int(row.need(name)) for name in ("batch_size", "prompt_size", "token_size"))
    seconds = 1e-3 * row.need("e2e_time_ms")
    context = batch * (prompt + tokens // 2)
    pairs = batch * window_pairs(prompt, 0, prompt)
    prefill = StepShape(0, 0, 0, batch * prompt, pairs, pairs, batch, 0, batch)
    decode = StepShape(decode_seqs=batch, context_tokens=context, window_tokens=context, logits_rows=batch)
    flop, nbytes = (work(prefill) + (tokens - 1) * work(decode) for work in (step_model.flop, step_model.hbm_bytes))
    devices = step_model.num_devices
    return Point(
        device=run.device,
        model=f"tp {run.tp}",
        watts=run.measured["power_w_per_gpu"],
        mfu=flop / devices / step_model.peak_flop_per_s / seconds,
        mbu=nbytes / devices / step_model.bandwidth_bytes_per_s / seconds,
    )


def points_of(file: Path) -> list[Point]:
    """All batches that state their power and are not left out."""
    _, rows = read_rows(file)
    return [
        point_of(run, row)
        for run, row in zip(dgx.read(file, rows), rows, strict=True)
        if run.skip is None and "power_w_per_gpu" in run.measured and row.need("prompt_size") <= LONGEST_PROMPT
    ]


def main(argv: list[str] | None = None) -> int:
    """Print the line of every device that has power in the table."""
    parser = argparse.ArgumentParser(prog="python -m simulator.calibration.batch_power", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="runs/dgx_prompt_token_times.csv")
    args = parser.parse_args(argv)
    try:
        points = points_of(args.file)
    except UserError as error:
        print(f"batch_power: error: {error}", file=sys.stderr)
        return 2
    for device in dict.fromkeys(p.device for p in points):
        own = [p for p in points if p.device == device]
        limit_w = dgx.TDP_W["a100-80gb" if device.startswith("a100") else "h100-80gb"]
        base_w, compute_w, memory_w = fit_line(own, limit_w)
        errors = left_out_errors(own, limit_w)
        print(
            f"{device}: base_w {base_w:.0f}, compute_w {compute_w:.0f}, memory_w {memory_w:.0f}; {len(own)} batches; TP left "
            f"out: median {np.median(errors):.1%}, p90 {np.quantile(errors, 0.9):.1%}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
