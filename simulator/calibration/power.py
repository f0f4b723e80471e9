"""Fits PowerFit per device from the power of single operators."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hardware_profiles.schema import DeviceProfile, PowerFit
from simulator.calibration.fitting import Bound, Parameters, errors, fit, group_keys, halves, rounded, rounded_all
from simulator.calibration.tables import FloatColumn, Mask, Table

_H100_RUNS = (
    "ML.ENERGY benchmark v3: mean power of 82 serving runs on H100 of 700 W; error on models left out: median 5.9%, p90 10.7% "
    "(simulator.calibration.serving_power)"
)
_B200_RUNS = (
    "ML.ENERGY benchmark v3: mean power of 68 serving runs on B200 of 1000 W; error on models left out: median 8.7%, p90 21.5% "
    "(simulator.calibration.serving_power)"
)
_A100_BATCHES = (
    "SplitwiseSim's profiles (MIT): mean power of 27 batches of Llama-2-70B on a DGX A100, 400 W; error on TPs left out: "
    "median 6.6%, p90 10.9% (simulator.calibration.batch_power)"
)
SERVING: Mapping[str, PowerFit] = {
    "a100-sxm-80gb": PowerFit(base_w=115.0, compute_w=473.0, memory_w=290.0, source=_A100_BATCHES),
    "h100-sxm": PowerFit(base_w=140.0, compute_w=730.0, memory_w=445.0, limits_time=True, source=_H100_RUNS),
    "h200-sxm": PowerFit(
        base_w=140.0, compute_w=730.0, memory_w=445.0, limits_time=True, source=f"the same chip: {_H100_RUNS}"
    ),
    "b200": PowerFit(base_w=190.0, compute_w=725.0, memory_w=973.0, limits_time=True, source=_B200_RUNS),
}
"""Lines fitted to whole runs: energy there is what they are for, and single operators, timed one by one on a hot device,
are a poor guide to it (they put 350 W of 700 W into the base).

With the limit, closed loops of vLLM 0.12 whose steps are full of prompts (Qwen3-32B, H100, 4096 tokens in, 128 out) lose
their trend with TP: throughput +11, +6 and +2 % at TP 2, 4 and 8 without. Bursts of 0.1 to 1 s on a DGX H100 speak against it:
their prompt times fit to 2 % without and 7 % with. A clock that follows the mean power of the last second would serve
both; it is not modelled."""
FRAMEWORK = "vllm"
SHORTEST_S = 0.25e-3
"""Shorter kernels do not fill the averaging window of the power sensor."""


def fit_power(table: Table, device: DeviceProfile) -> PowerFit | None:
    """Line through compute and memory utilisation, cut at the power limit; None without rows."""
    rows = table.select(framework=FRAMEWORK)
    rows = rows.where(rows["latency_s"] >= SHORTEST_S)
    if not len(rows):
        return None
    limit_w = rows["power_limit_w"]

    def predicted(p: Parameters, mask: Mask) -> FloatColumn:
        watts = p["base_w"] + p["compute_w"] * rows["compute_util_of_spec"] + p["memory_w"] * rows["hbm_util_of_spec"]
        return np.asarray(np.minimum(watts, limit_w)[mask], dtype=np.float64)

    bounds = _bounds(float(limit_w.max()))
    everything = np.ones(len(rows), dtype=bool)
    values = fit(predicted, rows["power_w"], everything, bounds)
    first = halves(group_keys(np.arange(len(rows), dtype=np.float64)))
    held_out = np.empty(len(rows))
    for seen in (first, ~first):
        held_out[~seen] = predicted(fit(predicted, rows["power_w"], seen, bounds), ~seen)
    median, p90 = errors(held_out, rows["power_w"])
    return PowerFit(
        **rounded_all(values),
        source=f"{rows.name}: {rows.describe('framework', 'version')}; {len(rows)} rows of {device.name}; "
        f"error on held-out rows: median {median:.1%}, p90 {p90:.1%}",
    )


def _bounds(limit_w: float) -> Mapping[str, Bound]:
    return {
        "base_w": Bound(0.4 * limit_w, 0.05 * limit_w, limit_w),
        "compute_w": Bound(0.6 * limit_w, 0.01 * limit_w, 3 * limit_w),
        "memory_w": Bound(0.3 * limit_w, 0.01 * limit_w, 2 * limit_w),
    }


def scaled(power: PowerFit, source: DeviceProfile, target: DeviceProfile) -> PowerFit | None:
    """The line of another device as shares of its TDP."""
    if not source.tdp_w or not target.tdp_w:
        return None
    share = target.tdp_w / source.tdp_w
    return PowerFit(
        base_w=rounded(power.base_w * share),
        compute_w=rounded(power.compute_w * share),
        memory_w=rounded(power.memory_w * share),
        source=f"{source.name} as shares of TDP ({power.source})",
    )
