"""Attention of the blocks of a stage as coefficients: linear in context, pairs and tokens, so a step is arithmetic.

Decode reads the KV cache; the compute of MLA's absorbed form, and of decode rows that share a kernel with a prefill
chunk, is a second slope on the same context, and the steeper one counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from hardware_profiles.schema import DeviceProfile
from simulator.physics.kernels import OUTPUT_BYTES, QUERY_TILE_ROWS, padding_pairs
from simulator.physics.layout import RankAttention
from simulator.physics.precision import Precision
from simulator.physics.shape import StepShape


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionCoefficients:
    """Attention of ``layers`` equal blocks on one rank. All values are for the blocks together."""

    window: int | None
    kind: str
    decode_fixed_s: float
    decode_seq_s: float
    decode_context_s: float
    decode_flop: float
    """FLOP per context entry."""
    decode_bytes: float
    """Bytes read per context entry."""
    decode_seq_flop: float
    decode_seq_bytes: float
    """Per sequence: new KV entries, or the constant state of linear attention."""
    decode_is_compute: bool
    """The compute slope is the steeper one."""
    mixed_fixed_s: float
    mixed_context_s: float
    """The same beside a prefill chunk."""
    prefill_fixed_s: float
    prefill_seq_s: float
    prefill_pair_s: float
    """Per query-key pair at full occupancy."""
    prefill_tile_rows: float
    """Query tiles are computed whole against cached keys."""
    prefill_occupancy: float
    """Slowdown of pairs is 1 + this / (sequences * query tiles)."""
    prefill_token_s: float
    prefill_kv_s: float
    prefill_context_s: float
    """MLA: expanding cached latents to keys and values again."""
    pair_flop: float
    token_flop: float
    context_flop: float
    prefill_seq_bytes: float
    token_bytes: float
    kv_bytes: float


def _linear(
    attention: RankAttention, layers: int, device: DeviceProfile, precision: Precision
) -> AttentionCoefficients:
    """Linear attention / SSM: state read and written once per sequence; as AttentionSpec.flop_per_token."""
    bandwidth = device.memory_bandwidth_bytes_per_s
    decode, prefill = precision.decode_attention, precision.prefill_attention
    state_bytes = 2.0 * attention.state_elements * precision.element_bytes * layers
    flop = 6.0 * attention.state_elements * layers
    spec = attention.spec
    io_bytes = 2.0 * attention.num_heads * (spec.head_dim + spec.v_head_dim) * OUTPUT_BYTES * layers
    state_s = state_bytes / (decode.memory * bandwidth)
    return AttentionCoefficients(
        window=None,
        kind="linear",
        decode_fixed_s=decode.launch_s * layers,
        decode_seq_s=decode.sequence_s * layers + state_s,
        decode_context_s=0.0,
        decode_flop=0.0,
        decode_bytes=0.0,
        decode_seq_flop=flop,
        decode_seq_bytes=state_bytes,
        decode_is_compute=False,
        mixed_fixed_s=decode.launch_s * layers,
        mixed_context_s=0.0,
        prefill_fixed_s=prefill.launch_s * layers,
        prefill_seq_s=state_s,
        prefill_pair_s=0.0,
        prefill_tile_rows=1.0,
        prefill_occupancy=0.0,
        prefill_token_s=flop / (prefill.compute * precision.attention_peak_flop_per_s)
        + io_bytes / (prefill.memory * bandwidth),
        prefill_kv_s=0.0,
        prefill_context_s=0.0,
        pair_flop=0.0,
        token_flop=flop,
        context_flop=0.0,
        prefill_seq_bytes=state_bytes,
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
    compute_rate = prefill.compute * precision.attention_peak_flop_per_s
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
    decode_rate = (decode.compute or prefill.compute) * precision.attention_peak_flop_per_s
    compute_slope = decode_flop / decode_rate if is_mla else 0.0
    shares_kernel = decode.mixed_tile_rows > 0 and not is_mla
    tile_slope = decode.mixed_tile_rows * pair_flop / compute_rate if shares_kernel else 0.0
    token_bytes = attention.num_heads * width * OUTPUT_BYTES * layers + entry_bytes
    return AttentionCoefficients(
        window=spec.sliding_window,
        kind=spec.kind,
        decode_fixed_s=decode.launch_s * layers,
        decode_seq_s=decode.sequence_s * layers,
        decode_context_s=max(memory_slope, compute_slope),
        decode_flop=decode_flop,
        decode_bytes=entry_bytes,
        decode_seq_flop=0.0,
        decode_seq_bytes=entry_bytes,
        decode_is_compute=compute_slope > memory_slope,
        mixed_fixed_s=0.0 if shares_kernel else decode.launch_s * layers,
        mixed_context_s=max(memory_slope, compute_slope, tile_slope),
        prefill_fixed_s=prefill.launch_s * layers,
        prefill_seq_s=0.0,
        prefill_pair_s=pair_flop / compute_rate,
        prefill_tile_rows=prefill.tile_rows,
        prefill_occupancy=prefill.occupancy * device.num_sms / attention.num_heads,
        prefill_token_s=token_bytes / (prefill.memory * bandwidth),
        prefill_kv_s=kv_bytes / (prefill.memory * bandwidth),
        prefill_context_s=context_flop / (precision.linear.gemm.compute * precision.linear.peak_flop_per_s),
        pair_flop=pair_flop,
        token_flop=0.0,
        context_flop=context_flop,
        prefill_seq_bytes=0.0,
        token_bytes=token_bytes,
        kv_bytes=kv_bytes,
    )


def attention_coefficients(
    attention: RankAttention, layers: int, device: DeviceProfile, precision: Precision
) -> AttentionCoefficients:
    """Coefficients of ``layers`` equal blocks on one rank."""
    build = _linear if attention.spec.kind == "linear" else _softmax
    return build(attention, layers, device, precision)


def visible_kv(c: AttentionCoefficients, shape: StepShape) -> float:
    """KV entries that the chunks of a step read: their own tokens and the cached ones (within the window)."""
    return shape.prefill_tokens + _cached_kv(c, shape)


def _cached_kv(c: AttentionCoefficients, shape: StepShape) -> float:
    cached = shape.prefill_context
    return cached if c.window is None else min(cached, shape.prefill_seqs * c.window)


def prefill_seconds(c: AttentionCoefficients, shape: StepShape) -> tuple[float, float]:
    """(compute, everything else) of a step's prefill chunks, all blocks of ``c`` [s]; sum as prefill_attention_s."""
    seqs = shape.prefill_seqs or 1
    pairs: float = shape.prefill_pairs if c.window is None else shape.window_pairs
    if shape.prefill_context:
        pairs += padding_pairs(shape.prefill_tokens, seqs, _cached_kv(c, shape), c.prefill_tile_rows)
    tiles = -(-(shape.prefill_tokens / seqs) // QUERY_TILE_ROWS)
    compute_s = c.prefill_pair_s * pairs * (1.0 + c.prefill_occupancy / (seqs * tiles))
    compute_s += c.prefill_context_s * shape.prefill_context
    memory_s = c.prefill_token_s * shape.prefill_tokens + c.prefill_kv_s * visible_kv(c, shape)
    return compute_s, memory_s + c.prefill_fixed_s + c.prefill_seq_s * seqs


def prefill_flop(c: AttentionCoefficients, shape: StepShape) -> float:
    """FLOP of the prefill chunks, all blocks of ``c`` on one rank."""
    pairs = shape.prefill_pairs if c.window is None else shape.window_pairs
    return c.pair_flop * pairs + c.token_flop * shape.prefill_tokens + c.context_flop * shape.prefill_context


def prefill_bytes(c: AttentionCoefficients, shape: StepShape) -> float:
    """HBM bytes of the prefill chunks, all blocks of ``c`` on one rank."""
    moved = c.token_bytes * shape.prefill_tokens + c.kv_bytes * visible_kv(c, shape)
    return moved + c.prefill_seq_bytes * shape.prefill_seqs


def decode_flop(c: AttentionCoefficients, shape: StepShape) -> float:
    """FLOP of the decode rows, all blocks of ``c`` on one rank."""
    context = shape.context_tokens if c.window is None else shape.window_tokens
    return c.decode_flop * context + c.decode_seq_flop * shape.decode_seqs


def decode_bytes(c: AttentionCoefficients, shape: StepShape) -> float:
    """HBM bytes of the decode rows, all blocks of ``c`` on one rank."""
    context = shape.context_tokens if c.window is None else shape.window_tokens
    return c.decode_bytes * context + c.decode_seq_bytes * shape.decode_seqs
