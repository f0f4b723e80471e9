"""Fits MoeFit per device and dtype from measured fused experts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hardware_profiles.schema import DeviceProfile, MoeFit
from simulator.calibration.devices import Cache
from simulator.calibration.dtypes import BY_KEY, RULES, DtypeRule
from simulator.calibration.fitting import Bound, Parameters, fit_and_score, group_keys, rounded, rounded_all
from simulator.calibration.points import Points
from simulator.calibration.tables import FloatColumn, Mask, Table
from simulator.physics.kernels import grouped_gemm_s

FRAMEWORKS = ("vllm", "sglang", "trtllm")
"""In order of preference; the first with rows of balanced routing is used (SGLang's Triton kernel descends from the one
vLLM uses, and on A100 only its rows are balanced)."""

UNTUNED = ("vllm_modeloptfp8moe_flashinfer_cutlass",)
"""Kernels whose rows are left out: timed without autotuning, they take 2.6 times as long as the same shapes in bf16;
TRT-LLM's rows of the same CUTLASS kernels are used instead."""

COLD_SHARE = 1.3
"""Of the L2 cache: active experts below it may be read from there (see cold_rows)."""

SHAPE = ("model", "num_tokens", "moe_tp_size", "moe_ep_size")

BOUNDS: Mapping[str, Bound] = {
    "compute": Bound(0.5, 0.02, 1.0),
    "memory": Bound(0.7, 0.05, 1.0),
    "launch_s": Bound(3e-5, 1e-6, 6e-5),
    "norm": Bound(2.0, 1.0, 12.0),
    "row_pad": Bound(16.0, 1.0, 32.0),  # wider tiles fit no better, at efficiencies above any kernel's
    "routing": Bound(0.3, 0.02, 6.0),
}


def fit_moes(table: Table, device: DeviceProfile, cache: Cache) -> tuple[dict[str, MoeFit], list[Points]]:
    """Fits of every dtype the table has for a device."""
    fits: dict[str, MoeFit] = {}
    shown: list[Points] = []
    usable = usable_rows(table)
    for dtype in usable.distinct("moe_dtype"):
        of_dtype = usable.select(moe_dtype=dtype)
        framework = next(f for f in FRAMEWORKS if f in of_dtype.distinct("framework"))
        rows = cold_rows(of_dtype.select(framework=framework), cache, RULES[dtype])
        fits[RULES[dtype].key], seen = fit_moe(rows, device, RULES[dtype].key)
        shown.append(seen)
    return fits, shown


def usable_rows(table: Table) -> Table:
    """Rows of balanced routing and of tuned kernels.

    Left out too, because the routing of the benchmark was not balanced: experts of SGLang split over ranks (8192 tokens
    take as long on 8 ranks as on one) and DeepSeek's in vLLM (group-limited routing keeps half of the groups: 32 tokens
    read 1.7 times what the memory can deliver if they touched all 256 experts). And batches with less than one row per
    rank: the benchmark times the rank that has it.
    """
    untuned = np.array([kernel.startswith(UNTUNED) for kernel in table["kernel_source"].tolist()], dtype=bool)
    limited = (table["model"] == "deepseek-v3/r1") & (table["framework"] == "vllm")
    skewed = (table["framework"] == "sglang") & (table["moe_ep_size"] > 1)
    some_row = table["num_tokens"] * table["topk"] >= table["moe_ep_size"]
    return table.where((table["distribution"] == "balanced") & ~untuned & ~limited & ~skewed & some_row)


def cold_rows(rows: Table, cache: Cache, rule: DtypeRule) -> Table:
    """Rows whose experts cannot have stayed in the cache, where the cache outlives the benchmark's copies."""
    if not cache.outlives_copies:
        return rows
    per_expert = 3 * rows["hidden_size"] * rows["inter_size"] / rows["moe_tp_size"] * rule.weight_bytes
    return rows.where(active_experts(rows) * per_expert > COLD_SHARE * cache.l2_bytes)


def active_experts(rows: Table) -> FloatColumn:
    """Distinct experts of a rank that are hit.

    Balanced routing deals experts out in turn (AIConfigurator's collector: token t takes experts t + j E/k), so that
    T tokens touch min(E, T k). Rows that name no distribution chose k of E uniformly.
    """
    dealt = np.minimum(rows["num_experts"], rows["num_tokens"] * rows["topk"])
    chosen = rows["num_experts"] * (1.0 - (1.0 - rows["topk"] / rows["num_experts"]) ** rows["num_tokens"])
    balanced = rows["distribution"] == "balanced" if "distribution" in rows.columns else np.zeros(len(rows), dtype=bool)
    return np.asarray(np.where(balanced, dealt, chosen) / rows["moe_ep_size"], dtype=np.float64)


def predict(rows: Table, device: DeviceProfile, key: str, fit: MoeFit) -> FloatColumn:
    """Seconds of the rows under ``fit``."""
    rule = BY_KEY[key]
    pairs = rows["num_tokens"] * rows["topk"]
    seconds = grouped_gemm_s(
        pairs / rows["moe_ep_size"],
        active_experts(rows),
        hidden=rows["hidden_size"],  # type: ignore[arg-type]  # elementwise, like every argument
        intermediate=rows["inter_size"] / rows["moe_tp_size"],  # type: ignore[arg-type]
        peak_flop_per_s=device.dense_flop_per_s[rule.peak],
        bandwidth_bytes_per_s=device.memory_bandwidth_bytes_per_s,
        weight_bytes=rule.weight_bytes,
        activation_bytes=rule.activation_bytes,
        fit=fit,
        routed_rows=pairs,
    )
    return np.asarray(seconds, dtype=np.float64)


def fit_moe(
    rows: Table, device: DeviceProfile, key: str, limits: Mapping[str, Bound] = BOUNDS
) -> tuple[MoeFit, Points]:
    """Fit one dtype of one device; (hidden, inter, tp, ep) are held out as a whole. ``limits``: ranges of parameters."""

    def predicted(p: Parameters, mask: Mask) -> FloatColumn:
        return predict(rows.where(mask), device, key, MoeFit(**p))

    measured_s = rows["latency_ms"] * 1e-3
    groups = group_keys(*(rows[c] for c in ("hidden_size", "inter_size", "moe_tp_size", "moe_ep_size")))
    scored = fit_and_score(predicted, measured_s, groups, limits)
    result = MoeFit(
        **rounded_all(scored.parameters),
        median_error=rounded(scored.median_error, 3),
        p90_error=rounded(scored.p90_error, 3),
        source=f"{rows.name}: {rows.describe('framework', 'version')}, balanced routing; {len(rows)} rows",
    )
    return result, Points("moe", device.name, key, rows, measured_s, scored.held_out_s, SHAPE)
