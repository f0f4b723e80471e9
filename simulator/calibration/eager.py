"""``python -m simulator.calibration.eager --data DIR``: constants of the eager vLLM of 2023 from SplitwiseSim's tables.

Fits what ``vllm-v0@0.2`` says beside the kernels, and how much slower a DGX A100's host is, on prompt and token times of
Llama-2-70B on DGX-A100 and DGX-H100 (DIR/runs/dgx_prompt_token_times.csv). A cell is one (tp, prompt, batch) on both
devices; errors are those of fits that have not seen the cell. Prints; writes nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hardware_profiles.cluster import parse_cluster
from simulator.calibration.fitting import Bound, Parameters, errors, fit_and_score, group_keys
from simulator.calibration.tables import FloatColumn, Mask, Table, read_table
from simulator.engine_loader import load_engine
from simulator.physics.explain import step_shape
from simulator.physics.shape import StepShape
from simulator.physics.step_model import StepModel
from simulator.plan import ParallelPlan
from workloads.catalog import load_model

CLUSTERS = {"a100-80gb": "a100-sxm-80gb:8", "h100-80gb": "h100-sxm:8"}
MODEL = "meta-llama/Llama-2-70b-hf"
MOST_PROMPT_TOKENS = 2048
"""Prompts above this are not fitted: from there on a token costs up to twice as much, for a reason the table does not show."""
SLOWDOWNS = np.linspace(1.0, 1.6, 7)
BOUNDS = {
    "step_fixed_s": Bound(5e-3, 1e-3, 3e-2),
    "step_seq_s": Bound(2e-4, 1e-5, 1e-3),
    "launch_layer_s": Bound(3e-4, 1e-4, 1e-3),
    "prompt_launch_layer_s": Bound(5e-4, 1e-4, 2e-3),
    "hidden_passes": Bound(30.0, 1.0, 200.0),
    "hopper_slowdown": Bound(1.2, 1.0, 1.6),
    "a100_cpu_slowness": Bound(1.4, 1.0, 2.0),
}


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """Measured steps of one kind with what the kernels alone take: columns of one value per step."""

    prompts: Mask
    hopper: Mask
    batch: FloatColumn
    layers: float
    device_s: FloatColumn
    """[slowdown, step]: the device's work at every value of SLOWDOWNS."""
    pass_s: FloatColumn
    """One more pass over the hidden states [s]."""
    measured_s: FloatColumn
    cells: Sequence[str]

    def predict(self, p: Parameters, rows: Mask) -> FloatColumn:
        """Seconds, as StepModel adds them up."""
        slow = np.where(self.hopper[rows], 1.0, p["a100_cpu_slowness"])
        device_s = self._device_s(p["hopper_slowdown"], rows) + p["hidden_passes"] * self.pass_s[rows]
        launch = np.where(self.prompts[rows], p["prompt_launch_layer_s"], p["launch_layer_s"])
        host_s = p["step_fixed_s"] + p["step_seq_s"] * self.batch[rows]
        return np.asarray(slow * host_s + np.maximum(device_s, slow * launch * self.layers), dtype=np.float64)

    def _device_s(self, slowdown: float, rows: Mask) -> FloatColumn:
        place = float(np.interp(slowdown, SLOWDOWNS, np.arange(len(SLOWDOWNS))))
        low = min(int(place), len(SLOWDOWNS) - 2)
        table = self.device_s[:, rows]
        on_hopper = table[low] + (place - low) * (table[low + 1] - table[low])
        return np.asarray(np.where(self.hopper[rows], on_hopper, table[0]), dtype=np.float64)


@cache
def _steps_of(device: str, tp: int, slowdown: float, passes: float) -> StepModel:
    """Kernels alone: an engine without host times."""
    cluster = parse_cluster(CLUSTERS[device])
    bare = dataclasses.replace(
        load_engine("vllm-v0@0.2", cluster.device),
        step_fixed_s=0.0,
        step_seq_s=0.0,
        launch_layer_s=0.0,
        prompt_launch_layer_s=None,
        hidden_passes=passes,
        compute_slowdown={"hopper": slowdown},
    )
    return StepModel(load_model(MODEL), cluster, ParallelPlan(tp=tp, dtype="float16"), bare)


def batch_shapes(batch: int, prompt: int, tokens: int) -> tuple[StepShape, StepShape]:
    """The step that computes ``batch`` equal prompts, and the middle one of ``tokens`` decode steps."""
    one = step_shape(prefill=prompt)
    whole = StepShape(*(batch * value for value in one))
    return whole, step_shape(decode_seqs=batch, context=prompt + tokens // 2)


class Row(NamedTuple):
    """One measured step."""

    device: str
    tp: int
    prompt: int
    batch: int
    shape: StepShape
    measured_s: float


def read_steps(path: Path) -> Steps:
    """Prompt times of up to MOST_PROMPT_TOKENS and token times of the valid, measured rows."""
    table = read_table(path)
    rows = [row for i in range(len(table)) if _is_fitted(table, i) for row in _rows_of(table, i)]
    return Steps(
        prompts=np.array([row.shape.prefill_tokens > 0 for row in rows]),
        hopper=np.array([row.device.startswith("h100") for row in rows]),
        batch=np.array([float(row.batch) for row in rows]),
        layers=float(load_model(MODEL).num_layers),
        device_s=np.array([[_device_s(row, slowdown, 0.0) for row in rows] for slowdown in SLOWDOWNS]),
        pass_s=np.array([_device_s(row, 1.0, 1.0) - _device_s(row, 1.0, 0.0) for row in rows]),
        measured_s=np.array([row.measured_s for row in rows]),
        cells=group_keys(
            *(np.array([float(value) for value in column]) for column in zip(*(r[1:4] for r in rows), strict=True))
        ),
    )


def _rows_of(table: Table, i: int) -> Iterator[Row]:
    device, tp = str(table["hardware"][i]), int(table["tensor_parallel"][i])
    prompt, batch, tokens = (int(table[name][i]) for name in ("prompt_size", "batch_size", "token_size"))
    whole, decode = batch_shapes(batch, prompt, tokens)
    if batch * prompt <= MOST_PROMPT_TOKENS:
        yield Row(device, tp, prompt, batch, whole, 1e-3 * float(table["prompt_time_ms"][i]))
    yield Row(device, tp, prompt, batch, decode, 1e-3 * float(table["token_time_ms"][i]))


def _device_s(row: Row, slowdown: float, passes: float) -> float:
    return _steps_of(row.device, row.tp, slowdown, passes).step(row.shape)[0]


def _is_fitted(table: Table, row: int) -> bool:
    """Measured, valid, and of the model and devices the constants are for."""
    flags = all(str(table[name][row]) == "True" for name in ("measured", "valid"))
    return flags and str(table["hardware"][row]) in CLUSTERS and str(table["model"][row]) == "llama2-70b"


def describe(steps: Steps) -> list[str]:
    """Constants fitted to all rows, and errors on cells the fit has not seen."""
    scored = fit_and_score(steps.predict, steps.measured_s, steps.cells, BOUNDS)
    lines = [f"{name}: {value:.3g}" for name, value in scored.parameters.items()]
    for device, on_device in (("a100", ~steps.hopper), ("h100", steps.hopper)):
        for kind, of_kind in (("prompt", steps.prompts), ("token", ~steps.prompts)):
            chosen = on_device & of_kind
            median, p90 = errors(scored.held_out_s[chosen], steps.measured_s[chosen])
            lines.append(f"{device} {kind}: {chosen.sum()} rows, median {median:.1%}, p90 {p90:.1%} on unseen cells")
    return lines


def main(argv: list[str] | None = None) -> int:
    """Print the fit."""
    parser = argparse.ArgumentParser(prog="python -m simulator.calibration.eager", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds runs/dgx_prompt_token_times.csv")
    args = parser.parse_args(argv)
    print("\n".join(describe(read_steps(args.data / "runs" / "dgx_prompt_token_times.csv"))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
