"""Fits PowerFit per device from the power of single operators."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hardware_profiles.schema import DeviceProfile, PowerFit
from simulator.calibration.fitting import Bound, Parameters, errors, fit, group_keys, halves, rounded, rounded_all
from simulator.calibration.tables import FloatColumn, Mask, Table

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
