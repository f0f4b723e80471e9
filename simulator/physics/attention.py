"""Attention of the blocks of a stage as coefficients: linear in context, pairs and tokens, so a step is arithmetic.

Decode reads the KV cache; the compute of MLA's absorbed form, and of decode rows that share a kernel with a prefill
chunk, is a second slope on the same context, and the steeper one counts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from hardware_profiles.schema import DeviceProfile
from simulator.physics.coefficients import AttentionCoefficients, product_rate
from simulator.physics.kernels import OUTPUT_BYTES, QUERY_TILE_ROWS, padding_pairs
from simulator.physics.layout import RankAttention
from simulator.physics.precision import Precision
from simulator.physics.shape import StepShape
from simulator.physics.ssm import ssm_coefficients, state_bytes
from simulator.techniques import SparseAttention


def _linear(
    attention: RankAttention, layers: int, device: DeviceProfile, precision: Precision
) -> AttentionCoefficients:
    """Linear attention / SSM: state read and written once per sequence; as AttentionSpec.flop_per_token."""
    bandwidth = device.memory_bandwidth_bytes_per_s
    decode, prefill = precision.decode_attention, precision.prefill_attention
    compute_rate = product_rate(prefill, precision.attention_peak_flop_per_s)
    moved = 2.0 * state_bytes(attention, precision) * layers
    flop = 6.0 * attention.state_elements * layers
    spec = attention.spec
    io_bytes = 2.0 * attention.num_heads * (spec.head_dim + spec.v_head_dim) * OUTPUT_BYTES * layers
    state_s = moved / (decode.memory * bandwidth)
    return AttentionCoefficients(
        window=None,
        kind="linear",
        decode_fixed_s=decode.launch_s * layers,
        decode_seq_s=decode.sequence_s * layers + state_s,
        decode_context_s=0.0,
        decode_flop=0.0,
        decode_bytes=0.0,
        decode_seq_flop=flop,
        decode_seq_bytes=moved,
        decode_is_compute=False,
        mixed_fixed_s=decode.launch_s * layers,
        mixed_context_s=0.0,
        prefill_fixed_s=prefill.launch_s * layers,
        prefill_seq_s=state_s,
        prefill_pair_s=0.0,
        prefill_tile_rows=1.0,
        prefill_occupancy=0.0,
        prefill_token_s=flop / compute_rate + io_bytes / (prefill.memory * bandwidth),
        prefill_kv_s=0.0,
        prefill_cached_s=0.0,
        prefill_context_s=0.0,
        pair_flop=0.0,
        token_flop=flop,
        context_flop=0.0,
        prefill_seq_bytes=moved,
        token_bytes=io_bytes,
        kv_bytes=0.0,
    )


def _softmax(
    attention: RankAttention, layers: int, device: DeviceProfile, precision: Precision
) -> AttentionCoefficients:
    """MHA, GQA, MQA and MLA."""
    spec = attention.spec
    is_mla = spec.kind == "mla"
    decode = precision.mla_decode_attention if is_mla else precision.decode_attention
    prefill = precision.prefill_attention
    bandwidth = device.memory_bandwidth_bytes_per_s
    peak = precision.attention_peak_flop_per_s
    entry_bytes = attention.kv_elements_per_token * precision.kv_bytes * layers
    width = spec.head_dim + spec.v_head_dim
    pair_flop = 2.0 * attention.num_heads * width * layers
    context_flop = 0.0
    if is_mla:
        latent = spec.kv_lora_rank or 0
        decode_flop = 2.0 * attention.num_heads * (2 * latent + spec.qk_rope_head_dim) * layers
        expanded = spec.head_dim - spec.qk_rope_head_dim + spec.v_head_dim
        context_flop = 2.0 * latent * attention.num_heads * expanded * layers
        kv_bytes = attention.num_heads * width * OUTPUT_BYTES * layers
    else:
        decode_flop = pair_flop
        kv_bytes = entry_bytes
    memory_slope = entry_bytes / (decode.memory * bandwidth)
    decode_rate = decode.compute * peak if decode.compute else product_rate(prefill, peak)
    compute_slope = decode_flop / decode_rate if is_mla else 0.0
    shares_kernel = decode.mixed_tile_rows > 0 and not is_mla
    pair_s = pair_flop / (prefill.compute * peak) + attention.num_heads * layers * prefill.softmax_s
    tile_slope = decode.mixed_tile_rows * pair_s if shares_kernel else 0.0
    token_bytes = attention.num_heads * width * OUTPUT_BYTES * layers + entry_bytes
    return AttentionCoefficients(
        window=spec.sliding_window,
        kind=spec.kind,
        decode_fixed_s=decode.launch_s * layers * spec.kernels,
        decode_seq_s=decode.sequence_s * layers * spec.kernels,
        decode_context_s=max(memory_slope, compute_slope),
        decode_flop=decode_flop,
        decode_bytes=entry_bytes,
        decode_seq_flop=0.0,
        decode_seq_bytes=entry_bytes,
        decode_is_compute=compute_slope > memory_slope,
        mixed_fixed_s=0.0 if shares_kernel else decode.launch_s * layers * spec.kernels,
        mixed_context_s=max(memory_slope, compute_slope, tile_slope),
        prefill_fixed_s=prefill.launch_s * layers,
        prefill_seq_s=0.0,
        prefill_pair_s=pair_s,
        prefill_tile_rows=prefill.tile_rows,
        prefill_occupancy=prefill.occupancy * device.num_sms / attention.num_heads,
        prefill_token_s=token_bytes / (prefill.memory * bandwidth),
        prefill_kv_s=kv_bytes / (prefill.memory * bandwidth),
        prefill_cached_s=layers * prefill.cached_bytes / (prefill.memory * bandwidth),
        prefill_context_s=context_flop / (precision.linear.gemm.compute * precision.linear.peak_flop_per_s),
        pair_flop=pair_flop,
        token_flop=0.0,
        context_flop=context_flop,
        prefill_seq_bytes=0.0,
        token_bytes=token_bytes,
        kv_bytes=kv_bytes,
    )


def attention_coefficients(
    attention: RankAttention,
    layers: int,
    device: DeviceProfile,
    precision: Precision,
    sparse: SparseAttention | None = None,
) -> AttentionCoefficients:
    """Coefficients of ``layers`` equal blocks on one rank; ``sparse`` bounds those that see the whole context."""
    if attention.spec.ssm is not None:
        return ssm_coefficients(attention, layers, device, precision)
    build = _linear if attention.spec.kind == "linear" else _softmax
    full = build(attention, layers, device, precision)
    if sparse is None or attention.spec.kind == "linear" or full.window is not None:
        return full
    if sparse.top_k is not None:
        return replace(full, window=sparse.top_k, selection=sparse.selection)
    share = sparse.density + sparse.selection
    return replace(
        full,
        decode_context_s=full.decode_context_s * share,
        decode_flop=full.decode_flop * share,
        decode_bytes=full.decode_bytes * share,
        mixed_context_s=full.mixed_context_s * share,
        prefill_pair_s=full.prefill_pair_s * share,
        pair_flop=full.pair_flop * share,
    )


class PrefillCost(NamedTuple):
    """Attention of a step's prefill chunks in all blocks of one kind, on one rank."""

    compute_s: float
    other_s: float
    """Memory traffic, launches, what is fixed [s]; adds to ``compute_s``."""
    flop: float
    nbytes: float


def prefill_cost(c: AttentionCoefficients, shape: StepShape) -> PrefillCost:
    """Cost of the prefill chunks; the times sum to prefill_attention_s. One function, for the hot path."""
    _, _, _, tokens, pairs, window_pairs, seqs, cached, _ = shape
    seqs = seqs or 1
    context = cached
    chosen = c.selection * pairs
    if c.window is not None:
        pairs = window_pairs
        cached = min(cached, seqs * c.window)
    kv_tokens = tokens + cached
    computed: float = pairs
    if context:
        computed += padding_pairs(tokens, seqs, cached, c.prefill_tile_rows)
    computed += chosen
    tiles = -(-(tokens / seqs) // QUERY_TILE_ROWS)
    memory_s = max(0.0, c.prefill_token_s * tokens + c.prefill_kv_s * kv_tokens - c.prefill_cached_s)
    cost = (
        c.prefill_pair_s * computed * (1.0 + c.prefill_occupancy / (seqs * tiles)) + c.prefill_context_s * context,
        memory_s + c.prefill_fixed_s + c.prefill_seq_s * seqs,
        c.pair_flop * (pairs + chosen) + c.token_flop * tokens + c.context_flop * context,
        c.token_bytes * tokens + c.kv_bytes * kv_tokens + c.prefill_seq_bytes * seqs,
    )
    return tuple.__new__(PrefillCost, cost)  # PrefillCost(*cost), at half of its cost


def context_read(c: AttentionCoefficients, shape: StepShape) -> float:
    """Entries that the decode rows read, in units of a full read: the context, or the window and what choosing it takes."""
    if c.window is None:
        return shape.context_tokens
    return shape.window_tokens + c.selection * shape.context_tokens


def decode_flop(c: AttentionCoefficients, shape: StepShape) -> float:
    """FLOP of the decode rows, all blocks of ``c`` on one rank."""
    return c.decode_flop * context_read(c, shape) + c.decode_seq_flop * shape.decode_seqs


def decode_bytes(c: AttentionCoefficients, shape: StepShape) -> float:
    """HBM bytes of the decode rows, all blocks of ``c`` on one rank."""
    return c.decode_bytes * context_read(c, shape) + c.decode_seq_bytes * shape.decode_seqs
