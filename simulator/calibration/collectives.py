"""Fits CollectiveFit per device and operation from measured collectives inside a node."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import cast, get_args

import numpy as np

from hardware_profiles.schema import CollectiveFit, DeviceProfile
from simulator.calibration.fitting import (
    Bound,
    Parameters,
    Scored,
    fit_and_score,
    group_keys,
    rounded,
    rounded_all,
    soft_l1,
)
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


FIRST_GUESSES: tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...] = (
    ((4e-6, 9e-6, 2e-5), (0.1, 0.4, 0.7)),
    ((5e-6, 1.4e-5, 1.4e-5), (0.05, 0.3, 0.8)),
    ((5e-6, 1e-5, 3e-5), (0.3, 0.5, 0.9)),
    ((3e-6, 1.2e-5, 2e-5), (0.01, 0.05, 0.5)),
)
"""Start-ups [s] and shares of the link of three regimes: NVLink by hand, by NCCL's protocols, and over PCIe."""

EARNED = 0.97
"""A richer form must lower the loss on held-out sizes to this share of the best plainer one's."""


def candidates(link_bytes_per_s: float, ranks: Collection[float]) -> dict[str, list[Mapping[str, Bound]]]:
    """Forms by name, the plainest first, each with its starts: two or three regimes, with and without shares."""
    limits = {4.0: Bound(1.0, 0.02, 2.0), 8.0: Bound(1.0, 0.01, 2.0)}
    shares = {f"share{n:g}": bound for n, bound in limits.items() if n in ranks}
    third = [_regimes(link_bytes_per_s, *guess) for guess in FIRST_GUESSES]
    two = [bounds(link_bytes_per_s), *({k: b for k, b in t.items() if "3" not in k} for t in third)]
    return {
        "two regimes": two,
        "three regimes": list(third),
        "two regimes, shares": [{**t, **shares} for t in two],
        "three regimes, shares": [{**t, **shares} for t in third],
    }


def _regimes(link: float, alphas_s: Sequence[float], parts: Sequence[float]) -> dict[str, Bound]:
    found: dict[str, Bound] = {}
    for i, (alpha_s, part) in enumerate(zip(alphas_s, parts, strict=True), start=1):
        found[f"alpha{i}_s"] = Bound(alpha_s, 2e-7, 3e-4)
        found[f"alpha{i}_rank_s"] = Bound(1e-6, 1e-9, 5e-5)
        found[f"bandwidth{i}_bytes_per_s"] = Bound(part * link, 0.002 * link, 1.5 * link)
    return found


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


def as_fit(p: Parameters) -> CollectiveFit:
    """Parameters of any candidate; eight ranks that were not measured share the links like four."""
    return CollectiveFit(**{"share8": p.get("share4", 1.0), **p})


def fit_collective(
    op: CollectiveOp, rows: Table, device: DeviceProfile, link_bytes_per_s: float
) -> tuple[CollectiveFit, Points]:
    """Fit one operation of one device over all numbers of ranks together; buffer sizes are held out as a whole.

    Of the candidate forms the one that predicts held-out sizes best is kept, a richer one only if it does.
    """

    def predicted(p: Parameters, mask: Mask) -> FloatColumn:
        return predict(rows.where(mask), device, op, as_fit(p))

    measured_s = rows["latency_ms"] * 1e-3
    groups = group_keys(rows["bytes"])
    best: Scored | None = None
    for starts in candidates(link_bytes_per_s, set(rows["num_gpus"].tolist())).values():
        scored = fit_and_score(predicted, measured_s, groups, starts)
        if best is None or soft_l1(scored.held_out_s, measured_s) < EARNED * soft_l1(best.held_out_s, measured_s):
            best = scored
    assert best is not None
    result = replace(
        as_fit(rounded_all(best.parameters)),
        median_error=rounded(best.median_error, 3),
        p90_error=rounded(best.p90_error, 3),
        source=f"{rows.name}: {rows.describe('kernel_source', 'version')}; {len(rows)} rows",
    )
    return result, Points("collectives", device.name, op, rows, measured_s, best.held_out_s, SHAPE)
