"""Attention of some blocks as numbers: what decode, prompts and cached tokens cost; see :mod:`simulator.physics.attention`."""

from __future__ import annotations

from dataclasses import dataclass

from hardware_profiles.schema import PrefillAttentionFit


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
    prefill_cached_s: float
    """Time of the traffic that stays in the cache, to be taken off."""
    prefill_context_s: float
    """MLA: expanding cached latents to keys and values again."""
    pair_flop: float
    token_flop: float
    context_flop: float
    prefill_seq_bytes: float
    token_bytes: float
    kv_bytes: float
    selection: float = 0.0
    """Choosing the entries of the window, as a share of attention to the whole context."""


REFERENCE_WIDTH = 256
"""Width of keys and values together of the heads that the shares of fits without ``softmax_s`` belong to (128 each)."""


def product_rate(fit: PrefillAttentionFit, peak_flop_per_s: float) -> float:
    """FLOP/s of a prefill kernel on heads of the reference width, exponentials included: the rate of kernels that have no
    measurements of their own."""
    return 1.0 / (1.0 / (fit.compute * peak_flop_per_s) + fit.softmax_s / (2.0 * REFERENCE_WIDTH))
