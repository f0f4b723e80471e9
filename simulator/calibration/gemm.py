"""Fits GemmFit per device and dtype from measured linear layers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hardware_profiles.schema import DeviceProfile, GemmFit
from simulator.calibration.devices import Cache
from simulator.calibration.dtypes import BY_KEY, RULES, DtypeRule
from simulator.calibration.fitting import Bound, Parameters, fit_and_score, group_keys, rounded
from simulator.calibration.points import Points
from simulator.calibration.tables import FloatColumn, Mask, Table
from simulator.physics.kernels import gemm_bytes, gemm_flop, gemm_s

FRAMEWORKS: Mapping[str, tuple[str, ...]] = {
    "bfloat16": ("vllm", "trtllm"),
    "fp8": ("vllm", "trtllm"),
    # vLLM's rows of fp8_block were timed one by one outside CUDA graphs (60-300 us launch floor)
    "fp8_block": ("trtllm",),
    "nvfp4": ("vllm", "trtllm"),
    "int4_wo": ("trtllm",),
    "int8_wo": ("trtllm",),
    "sq": ("trtllm",),
}
"""Frameworks whose rows are used, by table dtype. The first that has rows is the one whose launch and quantise terms
are kept; the other one's are nuisance parameters (its quantise path and launches differ, its GEMM kernels do not)."""

COLD_SHARE = 0.2
"""Weights count as read from memory when they exceed this share of the L2 cache: the collectors rotate five or six
copies, so that larger matrices have left the cache when their turn comes again."""
WARM_COLD_SHARE = 2.0
"""The same for rows that run from the cache all the same: TRT-LLM's on devices with GDDR memory, where matrices up to
this share of the L2 cache are read faster than the memory can deliver them."""

COMPUTE_BOUND = 2.0
"""Rows whose compute time at peak exceeds the memory time by this factor are used whatever the cache holds."""

SHAPE = ("framework", "m", "n", "k")

BOUNDS: Mapping[str, Bound] = {
    # above 1 where boost clocks exceed those of the datasheet (RTX 4090)
    "compute": Bound(0.7, 0.15, 1.1),
    "memory": Bound(0.8, 0.2, 1.0),
    "launch_s": Bound(4e-6, 1e-6, 4e-5),
    "norm": Bound(3.0, 1.0, 12.0),
    "other_launch_s": Bound(4e-6, 1e-6, 4e-5),
}
QUANTISE = Bound(0.5, 0.05, 20.0)
OFF = Bound(0.0, 0.0, 0.0)
WAVE = (Bound(0.3, 1e-3, 1.0), Bound(0.9, 1e-3, 1.0))
"""Start values of the share of idle tiles and waves that is not hidden, on devices that show it."""


def predict(rows: Table, device: DeviceProfile, key: str, fit: GemmFit) -> FloatColumn:
    """Seconds of the rows under ``fit``."""
    rule = BY_KEY[key]
    seconds = gemm_s(
        rows["m"],
        rows["n"],
        rows["k"],
        peak_flop_per_s=device.dense_flop_per_s[rule.peak],
        bandwidth_bytes_per_s=device.memory_bandwidth_bytes_per_s,
        weight_bytes=rule.weight_bytes,
        activation_bytes=rule.activation_bytes,
        fit=fit,
        num_sms=device.num_sms,
    )
    return np.asarray(seconds, dtype=np.float64)


def fit_gemms(
    table: Table, device: DeviceProfile, cache: Cache, waves: bool = False
) -> tuple[dict[str, GemmFit], list[Points]]:
    """Fits of every dtype the table has for a device, and predictions on held-out (n, k); ``waves``: as in fit_gemm."""
    fits: dict[str, GemmFit] = {}
    shown: list[Points] = []
    for dtype, frameworks in FRAMEWORKS.items():
        rule = RULES[dtype]
        measured = table.select(dtype=dtype, framework=frameworks)
        if len(measured) and rule.peak in device.dense_flop_per_s:
            rows = usable_rows(measured, device, rule, cache)
            main = next(f for f in frameworks if f in rows.distinct("framework"))
            fits[rule.key], seen = fit_gemm(rows, device, rule, main, waves=waves)
            shown.append(seen)
    return fits, shown


def usable_rows(table: Table, device: DeviceProfile, rule: DtypeRule, cache: Cache) -> Table:
    """Rows whose weights came from memory, or that are bound by compute."""
    m, n, k = table["m"], table["n"], table["k"]
    weights = n * k * rule.weight_bytes
    warm = (table["framework"] == "trtllm") & cache.outlives_copies
    share = np.where(warm, WARM_COLD_SHARE, COLD_SHARE)
    moved = gemm_bytes(m, n, k, weight_bytes=rule.weight_bytes, activation_bytes=rule.activation_bytes)
    compute_s = gemm_flop(m, n, k) / device.dense_flop_per_s[rule.peak]
    bound = compute_s > COMPUTE_BOUND * moved / device.memory_bandwidth_bytes_per_s
    return table.where((weights > share * cache.l2_bytes) | bound)


def fit_gemm(
    rows: Table,
    device: DeviceProfile,
    rule: DtypeRule,
    main: str,
    limits: Mapping[str, Bound] = BOUNDS,
    waves: bool = False,
) -> tuple[GemmFit, Points]:
    """Fit one dtype of one device; (n, k) pairs are held out as a whole; ``main``: framework whose launch counts.

    ``limits``: ranges of the parameters, those of GPUs unless given; ``waves``: whole tiles and waves are a term.
    """
    is_main = rows["framework"] == main

    def predicted(p: Parameters, mask: Mask) -> FloatColumn:
        total = np.empty(len(rows))
        total[is_main] = predict(rows.where(is_main), device, rule.key, _as_fit(p, ""))
        total[~is_main] = predict(rows.where(~is_main), device, rule.key, _as_fit(p, "other_"))
        return total[mask]

    quantise = QUANTISE if rule.activation_bytes < 2 else OFF
    limits = {**limits, "quantise": quantise, "other_quantise": quantise}
    if is_main.all():
        limits |= {"other_launch_s": OFF, "other_quantise": OFF}
    bounds = [{**limits, "wave": wave} for wave in (WAVE if waves else (OFF,))]
    measured_s = rows["latency_ms"] * 1e-3
    scored = fit_and_score(predicted, measured_s, group_keys(rows["n"], rows["k"]), bounds)
    values = {name: rounded(scored.parameters[name]) for name in _FIELDS}
    result = GemmFit(
        **values,
        median_error=rounded(scored.median_error, 3),
        p90_error=rounded(scored.p90_error, 3),
        source=f"{rows.name}: {rows.describe('framework', 'version')}; {len(rows)} rows"
        + ("" if is_main.all() else f"; launch and quantise of {main}"),
    )
    return result, Points("gemm", device.name, rule.key, rows, measured_s, scored.held_out_s, SHAPE)


_FIELDS = ("compute", "memory", "launch_s", "norm", "quantise", "wave")


def _as_fit(p: Parameters, prefix: str) -> GemmFit:
    return GemmFit(
        compute=p["compute"],
        memory=p["memory"],
        launch_s=p[f"{prefix}launch_s"],
        norm=p["norm"],
        quantise=p[f"{prefix}quantise"],
        wave=p["wave"],
    )
