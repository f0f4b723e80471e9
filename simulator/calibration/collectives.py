"""Fits CollectiveFit per device and operation from measured collectives inside a node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast, get_args

import numpy as np

from hardware_profiles.schema import CollectiveFit, DeviceProfile
from simulator.calibration.fitting import Bound, Parameters, fit_and_score, group_keys, rounded, rounded_all
from simulator.calibration.points import Points
from simulator.calibration.tables import FloatColumn, Mask, Table
from simulator.physics.kernels import CollectiveOp, collective_s

KERNELS: Mapping[str, tuple[str, ...]] = {
    "all_reduce": ("vLLM_custom_graph", "oneCCL"),
    "all_gather": ("NCCL", "oneCCL"),
    "reduce_scatter": ("NCCL", "oneCCL"),
    "all_to_all": ("NCCL",),
}
"""Kernels by operation, in order of preference: in CUDA graphs vLLM all-reduces with its own kernel (NCCL for large
buffers, as in these rows); the rest is NCCL."""

TABLE_NAMES: Mapping[str, str] = {"all_to_all": "alltoall"}

SHAPE = ("num_gpus", "bytes")

LARGEST_BYTES = 2.0**28
"""Serving sends at most a step's activations: 16k tokens of 8192 16-bit elements."""


def bounds(link_bytes_per_s: float) -> Mapping[str, Bound]:
    """Ranges around the nominal bandwidth of the link."""
    return {
        "alpha1_s": Bound(5e-6, 2e-7, 5e-5),
        "alpha1_rank_s": Bound(2e-7, 1e-9, 2e-5),
        "bandwidth1_bytes_per_s": Bound(0.5 * link_bytes_per_s, 0.005 * link_bytes_per_s, 2 * link_bytes_per_s),
        "alpha2_s": Bound(1.5e-5, 1e-6, 2e-4),
        "alpha2_rank_s": Bound(1e-6, 1e-9, 5e-5),
        "bandwidth2_bytes_per_s": Bound(0.7 * link_bytes_per_s, 0.01 * link_bytes_per_s, 1.2 * link_bytes_per_s),
    }


def fit_collectives(table: Table, device: DeviceProfile) -> tuple[dict[str, CollectiveFit], list[Points]]:
    """Fits of every operation the table has for a device."""
    fits: dict[str, CollectiveFit] = {}
    shown: list[Points] = []
    for op in get_args(CollectiveOp):
        of_op = table.select(op=TABLE_NAMES.get(op, op))
        kernel = next((k for k in KERNELS[op] if k in of_op.distinct("kernel_source")), None)
        rows = of_op.select(kernel_source=kernel or "")
        rows = rows.where(rows["bytes"] <= LARGEST_BYTES)
        if len(rows) and device.scaleup is not None:
            fits[op], seen = fit_collective(op, rows, device, device.scaleup.bandwidth_bytes_per_s)
            shown.append(seen)
    return fits, shown


def predict(rows: Table, device: DeviceProfile, key: str, fit: CollectiveFit) -> FloatColumn:
    """Seconds of the rows under ``fit``."""
    del device  # bandwidths are part of the fit
    op = cast(CollectiveOp, key)
    return np.asarray(collective_s(op, rows["bytes"], rows["num_gpus"], fit), dtype=np.float64)


def fit_collective(
    op: CollectiveOp, rows: Table, device: DeviceProfile, link_bytes_per_s: float
) -> tuple[CollectiveFit, Points]:
    """Fit one operation of one device over all numbers of ranks together; buffer sizes are held out as a whole."""

    def predicted(p: Parameters, mask: Mask) -> FloatColumn:
        return predict(rows.where(mask), device, op, CollectiveFit(**p))

    measured_s = rows["latency_ms"] * 1e-3
    scored = fit_and_score(predicted, measured_s, group_keys(rows["bytes"]), bounds(link_bytes_per_s))
    result = CollectiveFit(
        **rounded_all(scored.parameters),
        median_error=rounded(scored.median_error, 3),
        p90_error=rounded(scored.p90_error, 3),
        source=f"{rows.name}: {rows.describe('kernel_source', 'version')}; {len(rows)} rows",
    )
    return result, Points("collectives", device.name, op, rows, measured_s, scored.held_out_s, SHAPE)
