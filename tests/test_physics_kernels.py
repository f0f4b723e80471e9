"""Kernel times: limits, closed forms, and arrays equal to scalars."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from physics_helpers import H100, LLAMA_8B, MIXTRAL, NETWORK, cluster, prefill_shape

from hardware_profiles.schema import CollectiveFit, GemmFit, PrefillAttentionFit
from simulator.physics import kernels
from simulator.physics.attention import attention_coefficients, prefill_cost
from simulator.physics.collectives import Interconnect
from simulator.physics.efficiency import DEFAULT_GEMM, DEFAULT_MOE, efficiency_of
from simulator.physics.layout import lay_out
from simulator.physics.moe import expected_active_experts, expert_probabilities, slowest_rank
from simulator.physics.precision import resolve_precision
from simulator.plan import ParallelPlan

PEAK, BANDWIDTH = 989.4e12, 3.35e12
IDEAL = GemmFit(compute=1.0, memory=1.0, launch_s=0.0, norm=64.0)
RING = CollectiveFit(
    alpha1_s=1.0, alpha1_rank_s=0.0, bandwidth1_bytes_per_s=1.0, alpha2_s=0.0, alpha2_rank_s=0.0,
    bandwidth2_bytes_per_s=1e9,
)  # fmt: skip


def gemm(m, n, k, fit=IDEAL):
    return kernels.gemm_s(
        m, n, k, peak_flop_per_s=PEAK, bandwidth_bytes_per_s=BANDWIDTH, weight_bytes=2.0, activation_bytes=2.0, fit=fit
    )


def test_ideal_gemm_is_the_roofline_on_both_sides_of_the_ridge():
    assert gemm(8192, 8192, 8192) == pytest.approx(2 * 8192**3 / PEAK, rel=1e-6)
    nbytes = 2 * (8192**2 + 2 * 8192)
    assert gemm(1, 8192, 8192) == pytest.approx(nbytes / BANDWIDTH, rel=1e-6)


def test_quantise_term_reads_sixteen_bits_and_writes_the_activation_dtype():
    with_term = GemmFit(compute=1.0, memory=1.0, launch_s=0.0, norm=64.0, quantise=0.5)
    extra = gemm(64, 512, 1024, with_term) - gemm(64, 512, 1024)
    assert extra == pytest.approx(64 * 1024 * (2 + 2) / (0.5 * BANDWIDTH))


def test_arrays_give_the_same_numbers_as_scalars():
    rng = np.random.default_rng(1)
    m, n, k = (rng.integers(1, 9000, 50).astype(float) for _ in range(3))
    fit = DEFAULT_GEMM["bfloat16"]
    assert gemm(m, n, k, fit) == pytest.approx([gemm(*row, fit) for row in zip(m, n, k, strict=True)], rel=1e-13)
    sizes, ranks = rng.uniform(1, 1e9, 20), rng.integers(1, 9, 20).astype(float)
    fit2 = CollectiveFit(
        alpha1_s=4e-6, alpha1_rank_s=1e-7, bandwidth1_bytes_per_s=2e11, alpha2_s=9e-6, alpha2_rank_s=0.0,
        bandwidth2_bytes_per_s=3e11,
    )  # fmt: skip
    together = kernels.collective_s("all_reduce", sizes, ranks, fit2)
    assert together == pytest.approx(
        [kernels.collective_s("all_reduce", *p, fit2) for p in zip(sizes, ranks, strict=True)], rel=1e-13
    )


@pytest.mark.parametrize(("op", "share"), [("all_reduce", 2 * 7 / 8), ("all_gather", 7 / 8), ("all_to_all", 7 / 8)])
def test_each_rank_sends_what_theory_says(op, share):
    assert kernels.collective_bytes(op, 800.0, 8) == pytest.approx(800 * share)
    assert kernels.collective_s(op, 8e9, 8, RING) == pytest.approx(8e9 * share / 1e9)
    assert kernels.collective_s(op, 8e9, 1, RING) == 0.0


def test_attention_coefficients_are_the_prefill_kernel():
    plan = ParallelPlan(tp=2)
    precision = resolve_precision(LLAMA_8B, H100, plan)
    attention = lay_out(LLAMA_8B, plan, precision).stages[0].layers[0][0].attention
    shape = prefill_shape(700, cached=300, seqs=2)
    kernel_s = kernels.prefill_attention_s(
        2, 1400, shape.prefill_pairs, 2000,
        num_heads=16, num_kv_heads=4, head_dim=128, v_head_dim=128, kv_bytes=2.0, num_sms=H100.num_sms,
        peak_flop_per_s=PEAK, bandwidth_bytes_per_s=BANDWIDTH, fit=precision.prefill_attention,
    )  # fmt: skip
    assert sum(prefill_cost(attention_coefficients(attention, 3, H100, precision), shape)[:2]) == pytest.approx(
        3 * kernel_s
    )


def test_padding_is_a_tile_for_one_row_and_half_a_tile_for_many():
    assert kernels.padded_rows(8.0, 8.0, 64.0) == 8 * 64
    assert kernels.padded_rows(8e6, 8.0, 65.0) == 8e6 + 8 * 32
    assert kernels.padded_rows(100.0, 8.0, 1.0) == 100.0


def test_grouped_gemm_reads_only_active_experts():
    kwargs = dict(hidden=4096, intermediate=14336, weight_bytes=2.0, activation_bytes=2.0)
    one, two = (kernels.grouped_gemm_bytes(0.0, e, **kwargs) for e in (1.0, 2.0))
    assert one == 3 * 4096 * 14336 * 2
    assert two == 2 * one
    fit = DEFAULT_MOE["bfloat16"]
    times = [
        kernels.grouped_gemm_s(
            rows, min(8.0, rows), peak_flop_per_s=PEAK, bandwidth_bytes_per_s=BANDWIDTH, fit=fit, **kwargs
        )
        for rows in (1.0, 2.0, 8.0, 64.0, 4096.0)
    ]
    assert times == sorted(times)


def test_a_rank_with_some_of_the_experts_sorts_the_rows_of_all() -> None:
    fit = replace(DEFAULT_MOE["bfloat16"], routing=2.0)
    peaks, shape = {"peak_flop_per_s": 1e15, "bandwidth_bytes_per_s": 3e12}, {"hidden": 4096, "intermediate": 1536}
    kwargs = {**shape, "weight_bytes": 2.0, "activation_bytes": 2.0}
    own, all_of_them = (
        kernels.grouped_gemm_s(64.0, 4.0, fit=fit, routed_rows=rows, **peaks, **kwargs) for rows in (None, 512.0)
    )
    assert all_of_them - own == pytest.approx(2.0 * (512 - 64) * 4096 * 2 / 3e12)


def test_waves_are_whole_and_tiles_too() -> None:
    assert kernels.idle_share(128, 256, 1) == 0.0
    assert kernels.idle_share(128, 256, 132) == 131.0
    assert kernels.idle_share(1, 256, 1) == 127.0
    assert kernels.idle_share(129.0 * np.ones(2), 512, 4).tolist() == [128 / 129 * 2 - 1] * 2


def test_half_as_wide_heads_take_more_than_half_the_time() -> None:
    """One exponential per pair and head, whatever the width (FlashAttention-3 on H100: 484 against 600 TFLOP/s)."""
    fit = PrefillAttentionFit(compute=1.0, memory=1.0, launch_s=0.0, softmax_s=2e-13)
    shape = {"num_heads": 64, "num_kv_heads": 8, "kv_bytes": 2.0, "num_sms": 132, "fit": fit}
    peaks = {"peak_flop_per_s": 989e12, "bandwidth_bytes_per_s": 1e18}
    wide, narrow = (
        kernels.prefill_attention_s(1, 8192, 8192 * 8193 / 2, 8192, head_dim=d, v_head_dim=d, **shape, **peaks)
        for d in (128, 64)
    )
    products_s, exponentials_s = 4 * 128 * 64 * 8192 * 8193 / 2 / 989e12, 2e-13 * 64 * 8192 * 8193 / 2
    assert wide == pytest.approx(products_s + exponentials_s, rel=1e-3)
    assert narrow == pytest.approx(products_s / 2 + exponentials_s, rel=1e-3)


def test_shares_of_the_link_lie_between_those_measured() -> None:
    fit = replace(RING, share4=0.5, share8=0.25)
    shares = [kernels.rank_share(n, fit) for n in (2, 3, 4, 6, 8, 16)]
    assert shares == sorted(shares, reverse=True) and shares[0] == 1.0 and shares[2] == pytest.approx(0.5)
    assert shares[4] == shares[5] == pytest.approx(0.25)
    assert kernels.rank_share(np.array([2.0, 8.0]), fit).tolist() == pytest.approx([1.0, 0.25])


def test_a_third_regime_is_used_where_it_is_faster() -> None:
    fit = replace(RING, alpha3_s=1e-3, bandwidth3_bytes_per_s=RING.bandwidth2_bytes_per_s * 2)
    for nbytes in (1e3, 1e9):
        assert kernels.collective_s("all_reduce", nbytes, 4, fit) <= kernels.collective_s("all_reduce", nbytes, 4, RING)
    small, large = (kernels.collective_s("all_gather", n, 4, fit) for n in (1.0, 1e9))
    assert small == pytest.approx(kernels.collective_s("all_gather", 1.0, 4, RING))
    assert large < kernels.collective_s("all_gather", 1e9, 4, RING)


def test_uniform_routing_hits_the_closed_form():
    assert expected_active_experts(1, 8, 2) == pytest.approx(2)
    assert expected_active_experts(10, 256, 8) == pytest.approx(256 * (1 - (1 - 8 / 256) ** 10))
    rng = np.random.default_rng(0)
    hits = [len({e for _ in range(10) for e in rng.choice(64, 4, replace=False)}) for _ in range(2000)]
    assert expected_active_experts(10, 64, 4) == pytest.approx(np.mean(hits), rel=0.01)


@pytest.mark.parametrize("skew", [0.0, 0.5, 1.2, 4.0])
def test_expert_probabilities_sum_to_the_experts_per_token(skew):
    hit = expert_probabilities(64, 6, skew)
    assert hit.sum() == pytest.approx(6)
    assert hit.max() <= 1 + 1e-9
    assert expected_active_experts(20, 64, 6, skew) <= expected_active_experts(20, 64, 6) + 1e-9


@pytest.mark.parametrize("skew", [0.0, 1.0])
def test_the_busiest_rank_has_at_least_the_mean_and_at_most_everything(skew):
    before = (0.0, 0.0)
    for tokens in (1, 3, 10, 100, 5000):
        rows, active = slowest_rank(tokens, 64, 6, 8, skew)
        assert tokens * 6 / 8 <= rows <= tokens * 6
        assert active <= 8
        assert rows >= before[0] and active >= before[1] - 1e-9
        before = rows, active
    assert slowest_rank(100, 64, 6, 1) == (600, expected_active_experts(100, 64, 6))


def test_busiest_rank_estimate_covers_simulated_routing():
    rng = np.random.default_rng(0)
    loads = []
    for _ in range(300):
        experts = np.concatenate([rng.choice(64, 4, replace=False) for _ in range(64)])
        loads.append(np.bincount(experts // 8, minlength=8).max())
    assert np.mean(loads) == pytest.approx(slowest_rank(64, 64, 4, 8)[0], rel=0.12)


def test_groups_fill_the_scale_up_domain_then_the_node_then_the_network():
    def ranks(net: Interconnect, n: int) -> list[int]:
        return [t.ranks for t in net.tiers(n)]

    h100 = Interconnect(cluster(nodes=4), efficiency_of(H100))
    assert ranks(h100, 8) == [8] and ranks(h100, 16) == [8, 2] and ranks(h100, 1) == []
    bridged = replace(H100, scaleup_domain=2)
    assert ranks(Interconnect(cluster(bridged, nodes=2), efficiency_of(bridged)), 16) == [2, 4, 2]
    rack = replace(H100, scaleup_domain=72)
    assert ranks(Interconnect(cluster(rack, 4, 18), efficiency_of(rack)), 64) == [64]
    small = Interconnect(cluster(devices=2, nodes=4), efficiency_of(H100))
    assert ranks(small, 8) == [2, 4] and small.tiers(8)[1].link == NETWORK, "NVLink does not leave a node of two"
    alone = replace(H100, scaleup=None, host_link=None)
    assert Interconnect(cluster(alone), efficiency_of(alone)).tiers(2)[0].link == NETWORK


def test_crossing_nodes_costs_more_and_shards_cross_only_once():
    net = Interconnect(cluster(nodes=2), efficiency_of(H100))
    assert net.seconds("all_reduce", 1e8, 16) > 1.5 * net.seconds("all_reduce", 1e8, 8)
    assert net.link_bytes("all_reduce", 1e8, 16) == pytest.approx(1e8 * (2 * 7 / 8 + 2 * (1 / 2) / 8))
    assert net.send_s(1e8, 7, 8) > net.send_s(1e8, 6, 7)


def test_moe_model_has_experts_on_every_rank():
    precision = resolve_precision(MIXTRAL, H100, ParallelPlan(tp=4, ep=4))
    sharded = lay_out(MIXTRAL, ParallelPlan(tp=4, ep=4), precision).stages[0].layers[0][0].experts
    split = lay_out(MIXTRAL, ParallelPlan(tp=4), precision).stages[0].layers[0][0].experts
    assert (sharded.local_experts, sharded.intermediate) == (2, 14336)
    assert (split.local_experts, split.intermediate) == (8, 3584)
    assert sharded.weight_bytes == split.weight_bytes


def test_a_chunk_behind_a_cached_prefix_costs_whole_query_tiles():
    """16 new tokens behind 8192 cached ones compute as many pairs with those as 128 do; without a prefix none are added."""
    assert kernels.padding_pairs(16.0, 1.0, 8192.0, 128.0) == 112 * 8192
    assert kernels.padding_pairs(128.0, 1.0, 8192.0, 128.0) == 0
    assert kernels.padding_pairs(32.0, 2.0, 2 * 8192.0, 128.0) == 112 * 2 * 8192, "two chunks, each padded"
    assert kernels.padding_pairs(16.0, 1.0, 0.0, 128.0) == 0
    assert kernels.padding_pairs(16.0, 1.0, 8192.0, 1.0) == 0
