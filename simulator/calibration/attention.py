"""Fits PrefillAttentionFit and DecodeAttentionFit per device and KV dtype from measured attention kernels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hardware_profiles.schema import DecodeAttentionFit, DeviceProfile, PrefillAttentionFit
from simulator.calibration.devices import Cache
from simulator.calibration.dtypes import KV_BYTES
from simulator.calibration.fitting import Bound, Parameters, fit_and_score, group_keys, rounded, rounded_all
from simulator.calibration.points import Points
from simulator.calibration.tables import FloatColumn, Mask, Table
from simulator.physics.kernels import decode_attention_s, prefill_attention_s

FRAMEWORK = "vllm"
HEAD_DIM = 128.0
"""The width most models have, and the only one that decode kernels and all devices were measured with."""
HEAD_DIMS = (64.0, 128.0, 192.0, 256.0)
OTHER_KERNELS = ("vllm_triton_attn", "vllm_flash_attn_fa4")
"""Prefill kernels that stand in where the usual one does not take a width (192 with an fp8 cache, 512): left out."""

COLD_SHARE = 1.3
LAUNCH_BOUND_SHARE = 0.05
"""Decode rows between these shares of the L2 cache are left out: the benchmark reads the same KV cache again and again,
so it stays in the cache, which in serving it never does (the weights of every layer pass in between). Smaller ones are
kept: their time is the launch term whatever memory they come from."""

PREFILL_SHAPE = (
    *("batch_size", "isl", "prefix_len", "num_heads", "num_key_value_heads"),
    *("head_dim", "window_size"),
)
MLA_KERNEL = "mla_decode(FlashMLA)"
MLA_HEADS, MLA_LATENT, MLA_ROPE = 128.0, 512.0, 64.0
"""Shape of the FlashMLA rows (DeepSeek-V3)."""

DECODE_SHAPE = ("batch_size", "kv_len_minus_1", "num_heads", "num_key_value_heads")

SOFTMAX = Bound(2e-13, 1e-15, 3e-12)
"""Seconds per query-key pair and head: 16 exponentials per clock and multiprocessor are 2.7e-13 s on an H100 (132
multiprocessors, 1.755 GHz). Only kernels of several widths show it apart from the matrix products."""
PREFILL_BOUNDS: Mapping[str, Bound] = {
    "compute": Bound(0.65, 0.05, 1.0),
    "memory": Bound(0.7, 0.1, 1.0),
    "launch_s": Bound(1e-5, 4e-6, 1e-4),
    "occupancy": Bound(0.5, 1e-3, 8.0),
}
DECODE_BOUNDS: Mapping[str, Bound] = {
    "memory": Bound(0.8, 0.1, 1.0),
    "launch_s": Bound(1e-5, 1e-6, 1e-4),
    "sequence_s": Bound(1e-8, 1e-11, 1e-6),
}


def fit_prefill(
    table: Table, device: DeviceProfile, tile_rows: float = 1.0, cached_bytes: float = 0.0
) -> tuple[dict[str, PrefillAttentionFit], list[Points]]:
    """Prefill fits of every KV dtype the table has for a device."""
    fits: dict[str, PrefillAttentionFit] = {}
    shown: list[Points] = []
    rows = table.select(framework=FRAMEWORK, head_dim=HEAD_DIMS, attn_dtype="bfloat16")
    rows = rows.where(~np.isin(rows["kernel_source"], OTHER_KERNELS))
    for key in rows.distinct("kv_cache_dtype"):
        of_key = rows.select(kv_cache_dtype=key)
        fits[key], seen = fit_prefill_rows(of_key, device, key, tile_rows, cached_bytes=cached_bytes)
        shown.append(seen)
    return fits, shown


def predict_prefill(rows: Table, device: DeviceProfile, key: str, fit: PrefillAttentionFit) -> FloatColumn:
    """Seconds of the rows under ``fit``; every row is a batch of equal prompts, maybe after a cached prefix."""
    seconds = np.empty(len(rows))
    shapes = list(zip(*(rows[c].tolist() for c in ("num_heads", "num_key_value_heads", "head_dim")), strict=True))
    for heads, kv_heads, width in sorted(set(shapes)):
        same = np.array([s == (heads, kv_heads, width) for s in shapes])
        b, q, past = (rows[name][same] for name in ("batch_size", "isl", "prefix_len"))
        seconds[same] = prefill_attention_s(
            b,
            b * q,
            b * visible_pairs(q, past, rows["window_size"][same]),
            b * (q + past),
            num_heads=int(heads),
            num_kv_heads=int(kv_heads),
            head_dim=int(width),
            v_head_dim=int(width),
            kv_bytes=KV_BYTES[key],
            num_sms=device.num_sms,
            peak_flop_per_s=device.dense_flop_per_s["bfloat16"],
            bandwidth_bytes_per_s=device.memory_bandwidth_bytes_per_s,
            fit=fit,
        )
    return seconds


def visible_pairs(new: FloatColumn, past: FloatColumn, window: FloatColumn) -> FloatColumn:
    """Causal query-key pairs of a prompt; ``window`` 0: all keys are visible. Windowed rows have no cached prefix."""
    everything = new * past + new * (new + 1) / 2
    return np.where((window > 0) & (window < new), window * new - window * (window - 1) / 2, everything)


def fit_prefill_rows(
    rows: Table,
    device: DeviceProfile,
    key: str,
    tile_rows: float = 1.0,
    bounds: Mapping[str, Bound] = PREFILL_BOUNDS,
    cached_bytes: float = 0.0,
) -> tuple[PrefillAttentionFit, Points]:
    """Fit one KV dtype; the exponentials are a term of their own where rows have several widths of heads."""
    if len(rows.distinct("head_dim")) > 1:
        bounds = {**bounds, "softmax_s": SOFTMAX}

    def predicted(p: Parameters, mask: Mask) -> FloatColumn:
        guess = PrefillAttentionFit(**p, tile_rows=tile_rows, cached_bytes=cached_bytes)
        return predict_prefill(rows.where(mask), device, key, guess)

    measured_s = rows["latency_ms"] * 1e-3
    scored = fit_and_score(predicted, measured_s, _groups(rows, "isl", "prefix_len"), bounds)
    result = PrefillAttentionFit(
        **rounded_all(scored.parameters),
        tile_rows=tile_rows,
        cached_bytes=cached_bytes,
        median_error=rounded(scored.median_error, 3),
        p90_error=rounded(scored.p90_error, 3),
        source=_source(rows),
    )
    return result, Points("prefill attention", device.name, key, rows, measured_s, scored.held_out_s, PREFILL_SHAPE)


def fit_decode(
    table: Table, device: DeviceProfile, cache: Cache, mixed_tile_rows: float
) -> tuple[dict[str, DecodeAttentionFit], list[Points]]:
    """Decode fits of every KV dtype the table has for a device."""
    fits: dict[str, DecodeAttentionFit] = {}
    shown: list[Points] = []
    rows = table.select(framework=FRAMEWORK, head_dim=HEAD_DIM, window_size=0.0)
    for key in rows.distinct("kv_cache_dtype"):
        cold = cold_rows(rows.select(kv_cache_dtype=key), cache, key)
        fits[key], seen = fit_decode_rows(cold, device, key, mixed_tile_rows)
        shown.append(seen)
    return fits, shown


def cold_rows(rows: Table, cache: Cache, key: str) -> Table:
    """Rows whose KV cache came from memory, or is so small that only the launch counts."""
    nbytes = kv_bytes(rows, key)
    return rows.where((nbytes > COLD_SHARE * cache.l2_bytes) | (nbytes < LAUNCH_BOUND_SHARE * cache.l2_bytes))


def kv_bytes(rows: Table, key: str) -> FloatColumn:
    """KV cache that each row reads [B]."""
    per_token = 2 * rows["num_key_value_heads"] * rows["head_dim"] * KV_BYTES[key]
    return np.asarray(rows["batch_size"] * (rows["kv_len_minus_1"] + 1) * per_token, dtype=np.float64)


def predict_decode(rows: Table, device: DeviceProfile, key: str, fit: DecodeAttentionFit) -> FloatColumn:
    """Seconds of the rows under ``fit``; every row is a batch of equal contexts."""
    seconds = decode_attention_s(
        kv_bytes(rows, key),  # bytes per token differ from row to row: bytes stand for tokens of one byte
        rows["batch_size"],
        kv_bytes_per_token=1.0,
        bandwidth_bytes_per_s=device.memory_bandwidth_bytes_per_s,
        fit=fit,
    )
    return np.asarray(seconds, dtype=np.float64)


def fit_decode_rows(
    rows: Table,
    device: DeviceProfile,
    key: str,
    mixed_tile_rows: float,
    bounds: Mapping[str, Bound] = DECODE_BOUNDS,
) -> tuple[DecodeAttentionFit, Points]:
    """Fit one KV dtype."""

    def predicted(p: Parameters, mask: Mask) -> FloatColumn:
        return predict_decode(rows.where(mask), device, key, DecodeAttentionFit(**p))

    measured_s = rows["latency_ms"] * 1e-3
    scored = fit_and_score(predicted, measured_s, _groups(rows, "kv_len_minus_1"), bounds)
    result = DecodeAttentionFit(
        **rounded_all(scored.parameters),
        mixed_tile_rows=mixed_tile_rows,
        median_error=rounded(scored.median_error, 3),
        p90_error=rounded(scored.p90_error, 3),
        source=_source(rows),
    )
    return result, Points("decode attention", device.name, key, rows, measured_s, scored.held_out_s, DECODE_SHAPE)


def fit_mla(table: Table, device: DeviceProfile, memory_bound: DecodeAttentionFit) -> DecodeAttentionFit:
    """Absorbed MLA decode of all 128 heads of DeepSeek-V3 (FlashMLA): launch, time per sequence and share of the peak.

    ``memory_bound`` gives the share of the bandwidth, which these rows, bound by compute, do not show.
    """
    rows = table.select(kernel=MLA_KERNEL)
    seqs = rows["m_or_batch"]
    context = seqs * rows["kv_len_or_seq_or_tok_per_expert"]
    flop = context * 2.0 * MLA_HEADS * (2 * MLA_LATENT + MLA_ROPE)
    moved = context * (MLA_LATENT + MLA_ROPE) * KV_BYTES["bfloat16"]
    memory_s = moved / (memory_bound.memory * device.memory_bandwidth_bytes_per_s)

    def predicted(p: Parameters, mask: Mask) -> FloatColumn:
        slope_s = np.maximum(memory_s, flop / (p["compute"] * device.dense_flop_per_s["bfloat16"]))
        return np.asarray((slope_s + p["launch_s"] + p["sequence_s"] * seqs)[mask])

    bounds = {name: DECODE_BOUNDS[name] for name in ("launch_s", "sequence_s")} | {"compute": Bound(0.6, 0.1, 1.0)}
    scored = fit_and_score(predicted, rows["latency_us"] * 1e-6, group_keys(seqs), bounds)
    return DecodeAttentionFit(
        **rounded_all(scored.parameters),
        memory=memory_bound.memory,
        median_error=rounded(scored.median_error, 3),
        p90_error=rounded(scored.p90_error, 3),
        source=f"{rows.name}: FlashMLA, {rows.describe('hardware')}, 128 heads; {len(rows)} rows (InferSim, Apache-2.0)",
    )


def _groups(rows: Table, *lengths: str) -> list[str]:
    """What is held out as a whole: (heads, KV heads, batch); with one kind of heads only, single shapes."""
    heads = rows["num_heads"], rows["num_key_value_heads"]
    if len(set(group_keys(*heads))) > 1:
        return group_keys(*heads, rows["batch_size"])
    return group_keys(rows["batch_size"], *(rows[name] for name in lengths))


def _source(rows: Table) -> str:
    return f"{rows.name}: {rows.describe('framework', 'version', 'kernel_source')}; {len(rows)} rows"
