"""Seconds of single kernels from their shapes: roofline forms whose parameters are fitted per device and dtype.

Every function takes scalars or NumPy arrays (broadcast elementwise) and uses only + - * / min, max and **, so that
fitting and simulating share one formula. The forms are those whose error on unseen shapes was lowest for their number
of parameters on NVIDIA AIConfigurator's measured operator tables (Apache-2.0): about 4-7 % for GEMM, 7-9 % for
attention, 12-15 % for grouped GEMM and 5-10 % for collectives (see docs/physics.md).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from hardware_profiles.schema import CollectiveFit, DecodeAttentionFit, GemmFit, MoeFit, PrefillAttentionFit

Real = Any
"""A float or a float64 array: the formulas are elementwise, and the result has the broadcast shape."""

CollectiveOp = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all"]

OUTPUT_BYTES = 2.0
"""GEMMs write, and attention reads queries and writes outputs, in a 16-bit dtype whatever the weights are in."""
GEMM_TILE = (128, 256)
"""Rows and columns of the output tile one thread block computes in the large GEMM kernels of CUTLASS and cuBLAS."""
QUERY_TILE_ROWS = 128
"""Query rows one thread block of FlashAttention-2/3 works on (Dao, 2023; Shah et al., 2024)."""


def smooth_max(a_s: Real, b_s: Real, norm: float) -> Real:
    """p-norm of two non-negative times [s], not both zero: between the sum (norm 1) and the maximum (norm -> inf).

    Taken relative to the sum, so that large norms neither underflow nor overflow.
    """
    total_s = a_s + b_s
    return total_s * ((a_s / total_s) ** norm + (b_s / total_s) ** norm) ** (1.0 / norm)


def gemm_flop(m: Real, n: Real, k: Real) -> Real:
    """FLOP of an (m x k) by (k x n) product; a multiply-add counts two."""
    return 2.0 * m * n * k


def gemm_bytes(m: Real, n: Real, k: Real, *, weight_bytes: float, activation_bytes: float) -> Real:
    """Compulsory traffic [B]: weights once, inputs once, outputs once in 16 bits."""
    return n * k * weight_bytes + m * k * activation_bytes + m * n * OUTPUT_BYTES


def idle_share(m: Real, n: Real, num_sms: int) -> Real:
    """Work of whole waves of whole output tiles over the work asked for, minus one [1]."""
    rows, columns = GEMM_TILE
    tiles = -(-m // rows) * -(-n // columns)
    return -(-tiles // num_sms) * num_sms * rows * columns / (m * n) - 1.0


def gemm_s(
    m: Real,
    n: Real,
    k: Real,
    *,
    peak_flop_per_s: float,
    bandwidth_bytes_per_s: float,
    weight_bytes: float,
    activation_bytes: float,
    fit: GemmFit,
    num_sms: int = 0,
) -> Real:
    """Dense linear layer on ``m`` tokens, ``k`` inputs, ``n`` outputs [s].

    t = ((flop/(compute*peak))^norm + (bytes/(memory*bandwidth))^norm)^(1/norm) + launch_s + quantise, where
    quantise = m*k*(2 + activation_bytes)/(quantise*bandwidth) reads 16-bit activations and writes them quantised.
    ``weight_bytes`` and ``activation_bytes`` are bytes per element, scales included. Where fit.wave is not zero, flop
    counts that share of the idle part of the last wave and of partly filled tiles on ``num_sms`` multiprocessors.
    """
    compute_s = gemm_flop(m, n, k) / (fit.compute * peak_flop_per_s)
    if fit.wave > 0 and num_sms > 0:
        compute_s = compute_s * (1.0 + fit.wave * idle_share(m, n, num_sms))
    moved = gemm_bytes(m, n, k, weight_bytes=weight_bytes, activation_bytes=activation_bytes)
    seconds = smooth_max(compute_s, moved / (fit.memory * bandwidth_bytes_per_s), fit.norm) + fit.launch_s
    if fit.quantise > 0:
        seconds = seconds + m * k * (OUTPUT_BYTES + activation_bytes) / (fit.quantise * bandwidth_bytes_per_s)
    return seconds


def prefill_attention_flop(pairs: Real, *, num_heads: int, head_dim: int, v_head_dim: int) -> Real:
    """FLOP of QK^T and PV over ``pairs`` query-key pairs (causal pairs only)."""
    return 2.0 * pairs * num_heads * (head_dim + v_head_dim)


def padding_pairs(new_tokens: Real, seqs: Real, cached_tokens: Real, tile_rows: float) -> Real:
    """Query-key pairs that are computed for nothing: a chunk's last query tile is whole, and meets all cached keys.

    ``cached_tokens`` is the sum over chunks. Padding against a chunk's own keys (half a tile of them) is left out.
    """
    rows = new_tokens / seqs
    return (-(-rows // tile_rows) * tile_rows - rows) * cached_tokens


def prefill_attention_bytes(
    new_tokens: Real,
    kv_tokens: Real,
    *,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    v_head_dim: int,
    kv_bytes: float,
) -> Real:
    """Traffic [B]: queries and outputs in 16 bits; keys and values of ``kv_tokens`` read, of new tokens written."""
    width = head_dim + v_head_dim
    return new_tokens * num_heads * width * OUTPUT_BYTES + (kv_tokens + new_tokens) * num_kv_heads * width * kv_bytes


def prefill_attention_s(
    seqs: Real,
    new_tokens: Real,
    pairs: Real,
    kv_tokens: Real,
    *,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    v_head_dim: int,
    kv_bytes: float,
    num_sms: int,
    peak_flop_per_s: float,
    bandwidth_bytes_per_s: float,
    fit: PrefillAttentionFit,
) -> Real:
    """Causal attention of ``new_tokens`` prompt tokens of ``seqs`` chunks, one layer [s].

    t = (flop/(compute*peak) + pairs*heads*softmax_s)/occ + bytes/(memory*bandwidth) + launch_s; occ = u/(u + occupancy)
    with u = seqs * num_heads * ceil(new_tokens/seqs/128) / num_sms thread blocks per multiprocessor. Compute and memory
    add up (they hardly overlap in measured kernels), and so do products and exponentials: one per pair and head,
    whatever the head's width, which makes narrow heads less efficient. Bytes count above fit.cached_bytes.
    ``kv_tokens``: keys visible to the chunks, cached and new; flop counts the padding of the last query tile against
    cached ones. ``kv_bytes``: bytes per KV element. Heads are those of one rank.
    """
    computed = pairs + padding_pairs(new_tokens, seqs, kv_tokens - new_tokens, fit.tile_rows)
    flop = prefill_attention_flop(computed, num_heads=num_heads, head_dim=head_dim, v_head_dim=v_head_dim)
    moved = prefill_attention_bytes(
        new_tokens,
        kv_tokens,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        v_head_dim=v_head_dim,
        kv_bytes=kv_bytes,
    )
    if fit.cached_bytes > 0:
        moved = np.maximum(moved - fit.cached_bytes, 0.0)
    slowdown = 1.0
    if fit.occupancy > 0 and num_sms > 0:
        tiles = -(-(new_tokens / seqs) // QUERY_TILE_ROWS)
        slowdown = 1.0 + fit.occupancy * num_sms / (seqs * num_heads * tiles)
    compute_s = slowdown * (flop / (fit.compute * peak_flop_per_s) + computed * num_heads * fit.softmax_s)
    return compute_s + moved / (fit.memory * bandwidth_bytes_per_s) + fit.launch_s


def decode_attention_s(
    context_tokens: Real,
    seqs: Real,
    *,
    kv_bytes_per_token: float,
    bandwidth_bytes_per_s: float,
    fit: DecodeAttentionFit,
) -> Real:
    """Attention of one new token per sequence, one layer [s]: kv bytes/(memory*bandwidth) + launch_s + sequence_s*seqs.

    ``context_tokens`` is the sum over sequences; ``kv_bytes_per_token`` that of one layer on one rank [B].
    """
    read_s = context_tokens * kv_bytes_per_token / (fit.memory * bandwidth_bytes_per_s)
    return read_s + fit.launch_s + fit.sequence_s * seqs


def padded_rows(rows: Real, active_experts: Real, row_pad: float) -> Real:
    """Expected rows after every active expert's share is rounded up to a tile of ``row_pad`` rows.

    Rounding a spread-out count up wastes (row_pad - 1)/2 rows on average; an active expert has at least one tile.
    """
    on_average = rows + active_experts * (row_pad - 1.0) / 2.0
    at_least = active_experts * row_pad
    if isinstance(on_average, np.ndarray) or isinstance(at_least, np.ndarray):
        return np.maximum(on_average, at_least)
    return max(on_average, at_least)


def grouped_gemm_bytes(
    rows: Real,
    active_experts: Real,
    *,
    hidden: int,
    intermediate: int,
    weight_bytes: float,
    activation_bytes: float,
    num_matrices: int = 3,
    activation: float = 1.0,
) -> Real:
    """Traffic [B]: weights of the active experts, and ``activation`` times rows in, between and out."""
    weights = active_experts * num_matrices * hidden * intermediate * weight_bytes
    per_row = hidden * activation_bytes + num_matrices * intermediate * OUTPUT_BYTES + hidden * OUTPUT_BYTES
    return weights + activation * rows * per_row


def grouped_gemm_s(
    rows: Real,
    active_experts: Real,
    *,
    hidden: int,
    intermediate: int,
    peak_flop_per_s: float,
    bandwidth_bytes_per_s: float,
    weight_bytes: float,
    activation_bytes: float,
    fit: MoeFit,
    num_matrices: int = 3,
    routed_rows: Real | None = None,
) -> Real:
    """All matrices of the routed experts of one layer on one rank [s].

    ``rows``: (token, expert) pairs that land on this rank, tokens * top_k / ep when balanced; ``active_experts``: the
    expected number of this rank's experts with at least one row (``moe.expected_active_experts``); ``intermediate``: an
    expert's width on this rank. As ``gemm_s`` on padded rows; ``num_matrices`` is 3 for gated experts (gate, up, down).
    ``routed_rows``: all pairs that this rank sorts and sums, those of other ranks' experts included; None: its own.
    """
    flop = 2.0 * padded_rows(rows, active_experts, fit.row_pad) * num_matrices * hidden * intermediate
    moved = grouped_gemm_bytes(
        rows,
        active_experts,
        hidden=hidden,
        intermediate=intermediate,
        weight_bytes=weight_bytes,
        activation_bytes=activation_bytes,
        num_matrices=num_matrices,
        activation=fit.activation,
    )
    compute_s = flop / (fit.compute * peak_flop_per_s)
    seconds = smooth_max(compute_s, moved / (fit.memory * bandwidth_bytes_per_s), fit.norm) + fit.launch_s
    pairs = rows if routed_rows is None else routed_rows
    return seconds + fit.routing * pairs * hidden * OUTPUT_BYTES / bandwidth_bytes_per_s


def collective_bytes(op: CollectiveOp, nbytes: Real, ranks: Real) -> Real:
    """Bytes each rank must send [B]: 2(n-1)/n * S for all-reduce, (n-1)/n * S for the others.

    S is the buffer of one rank for all-reduce and all-to-all, and the whole (gathered) buffer for all-gather and
    reduce-scatter (Thakur et al., Optimization of Collective Communication Operations in MPICH, 2005).
    """
    factor = 2.0 if op == "all_reduce" else 1.0
    return factor * (ranks - 1.0) / ranks * nbytes


def rank_share(ranks: Real, fit: CollectiveFit) -> Real:
    """Bandwidth among ``ranks`` devices as a share of that between two: interpolated in the logarithms, flat beyond 8."""
    if fit.share4 == fit.share8 == 1.0:
        return 1.0
    share = np.exp(
        np.interp(np.log2(np.maximum(ranks, 1.0)), (1.0, 2.0, 3.0), (0.0, np.log(fit.share4), np.log(fit.share8)))
    )
    return share if isinstance(ranks, np.ndarray) else float(share)


def collective_s(op: CollectiveOp, nbytes: Real, ranks: Real, fit: CollectiveFit) -> Real:
    """One collective of ``nbytes`` over ``ranks`` devices [s]; zero for one rank.

    t = min(alpha1_s + alpha1_rank_s (n-1) + V max(1, n/2)/(bandwidth1 share), alpha2_s + alpha2_rank_s (n-1) +
    V/(bandwidth2 share), the same with 3): the fastest of a one-shot (every rank reads all buffers) and one or two
    ring-like algorithms or protocols; ``share`` as in ``rank_share``. Overlap is not modelled.
    """
    volume = collective_bytes(op, nbytes, ranks) / rank_share(ranks, fit)
    hops = ranks - 1.0
    many = isinstance(volume, np.ndarray)
    one_shot_bytes = volume * (np.maximum(1.0, ranks / 2.0) if many else max(1.0, ranks / 2.0))
    least = np.minimum if many else min
    seconds = least(
        fit.alpha1_s + fit.alpha1_rank_s * hops + one_shot_bytes / fit.bandwidth1_bytes_per_s,
        fit.alpha2_s + fit.alpha2_rank_s * hops + volume / fit.bandwidth2_bytes_per_s,
    )
    if fit.bandwidth3_bytes_per_s is not None:
        third_s = fit.alpha3_s + fit.alpha3_rank_s * hops + volume / fit.bandwidth3_bytes_per_s
        seconds = least(seconds, third_s)
    if many:
        return np.where(hops > 0, seconds, 0.0)
    return seconds if ranks > 1 else 0.0
