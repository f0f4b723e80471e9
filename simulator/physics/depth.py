"""Layers that not every token passes: recursion depth by token (Mixture-of-Recursions, arXiv:2507.10524).

Pass r of a shared block computes the tokens that reach it, a share a_r of all. With a cache of its own, its queries meet the
keys of those tokens: a_r^2 of the query-key pairs, a_r of the KV cache. With the first pass's cache they meet all keys: a_r of
the pairs, and no cache beyond the first. The weights of the block are stored once and read in every pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hardware_profiles.errors import UserError
from simulator.plan import ParallelPlan

if TYPE_CHECKING:
    from simulator.physics.coefficients import AttentionCoefficients
    from simulator.physics.layout import RankAttention, RankLayer


def deep_layers(
    blocks: Sequence[RankLayer], order: Sequence[int], plan: ParallelPlan
) -> tuple[tuple[RankLayer, int], ...]:
    """(block, how many) of all passes; ``order``: kind of each block of the model."""
    shape = plan.techniques.shape
    passes = len(shape.recursion_depths)
    each, rest = divmod(len(order), passes)
    assert not rest, "divides: model_changes.changed_model"
    if plan.pp > 1:
        raise UserError("--recursion-depths with --pp: the passes through a shared block run on one stage; use pp=1")
    first = list(order[:each])
    if any(list(order[p * each : (p + 1) * each]) != first for p in range(passes)):
        raise UserError(
            f"--recursion-depths: layers of {passes} passes differ in kind, so that they cannot share weights; use another "
            "number of shares"
        )
    kinds = sorted(set(first))
    return tuple(
        (_pass(blocks[kind], reached, number, shape.recursion_kv == "shared"), first.count(kind))
        for number, reached in enumerate(shape.reached)
        for kind in kinds
    )


def _pass(block: RankLayer, reached: float, number: int, shared: bool) -> RankLayer:
    attention = replace(
        block.attention,
        query_share=reached,
        key_share=1.0 if shared else reached,
        stored_share=float(number == 0) if shared else reached,
    )
    return replace(block, attention=attention, token_share=reached, is_stored=number == 0)


def at_depth(c: AttentionCoefficients, attention: RankAttention) -> AttentionCoefficients:
    """Attention of the tokens that reach a block to the keys that it sees."""
    queries, keys = attention.query_share, attention.key_share
    if queries == keys == 1.0:
        return c
    pairs = queries * keys
    return replace(
        c,
        decode_seq_s=c.decode_seq_s * queries,
        decode_seq_flop=c.decode_seq_flop * queries,
        decode_seq_bytes=c.decode_seq_bytes * queries,
        decode_context_s=c.decode_context_s * pairs,
        decode_flop=c.decode_flop * pairs,
        decode_bytes=c.decode_bytes * pairs,
        mixed_context_s=c.mixed_context_s * pairs,
        prefill_seq_s=c.prefill_seq_s * queries,
        prefill_pair_s=c.prefill_pair_s * pairs,
        prefill_token_s=c.prefill_token_s * queries,
        prefill_kv_s=c.prefill_kv_s * keys,
        prefill_cached_s=c.prefill_cached_s * min(queries, keys),
        prefill_context_s=c.prefill_context_s * keys,
        pair_flop=c.pair_flop * pairs,
        token_flop=c.token_flop * queries,
        context_flop=c.context_flop * keys,
        prefill_seq_bytes=c.prefill_seq_bytes * queries,
        token_bytes=c.token_bytes * queries,
        kv_bytes=c.kv_bytes * keys,
    )
