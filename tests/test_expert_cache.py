"""Experts in a cache: closed forms, a simulated cache, links, prefetch, routing traces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from offload_helpers import DRAM, build, host, step_s

from apex_sim import simulate
from hardware_profiles.errors import UserError
from simulator.physics.expert_cache import held_experts, occupancy, uncached_bytes
from simulator.physics.moe import expert_probabilities
from simulator.physics.offload import DRAM_SHARE
from simulator.techniques import GIB


def _popularity(experts: int, chosen: int, skew: float) -> tuple[float, ...]:
    return tuple(expert_probabilities(experts, chosen, skew).tolist())


@pytest.mark.parametrize("eviction", ["lru", "fifo", "lfu"])
@pytest.mark.parametrize("skew", [0.0, 0.7, 2.0])
def test_a_cache_is_full_and_holds_popular_experts_rather(eviction: Any, skew: float) -> None:
    for held in (2.0, 7.5, 40.0, 63.0, 64.0):
        there = occupancy(_popularity(64, 6, skew), held, eviction)
        assert there.sum() == pytest.approx(held, rel=1e-6)
        assert (there >= 0).all() and (there <= 1 + 1e-12).all()
        assert (np.diff(there) <= 1e-9).all()


def test_equal_experts_are_hit_as_often_as_they_are_held() -> None:
    for eviction in ("lru", "fifo"):
        assert occupancy(_popularity(64, 6, 0.0), 16.0, eviction) == pytest.approx(np.full(64, 0.25))  # type: ignore[arg-type]


@pytest.mark.parametrize("held", [8, 20])
def test_occupancy_is_that_of_a_simulated_cache(held: int) -> None:
    """Tokens that draw experts independently through a list in order of last use; Che's approximation is within 2 points."""
    hit = expert_probabilities(32, 3, 0.9)
    rng = np.random.default_rng(3)
    order: list[int] = []
    seen = np.zeros(32)
    draws = rng.random((12000, 32)) < hit
    for token in draws:
        seen[order[:held]] += 1
        used = rng.permutation(np.flatnonzero(token)).tolist()
        order = used + [e for e in order if e not in used]
    assert seen / len(draws) == pytest.approx(occupancy(_popularity(32, 3, 0.9), held, "lru"), abs=0.06)
    assert (hit * seen).sum() == pytest.approx(
        len(draws) * (hit * occupancy(_popularity(32, 3, 0.9), held, "lru")).sum(), rel=0.02
    )


def test_popular_experts_kept_for_good_are_hit_most() -> None:
    hit = expert_probabilities(64, 6, 0.9)
    rates = [float((hit * occupancy(_popularity(64, 6, 0.9), 16.0, e)).sum()) for e in ("lfu", "lru", "fifo")]  # type: ignore[arg-type]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[1] > rates[2]


def test_missing_experts_come_over_the_link() -> None:
    """One token of Mixtral, four of eight experts held: one of the two it needs is missing in each of 32 layers."""
    whole, cached = (
        build(cluster=host("a40:4"), tp=4),
        build(cluster=host("a40:4"), tp=4, expert_cache_size=4),
    )
    link = cached.cluster.device.host_link
    assert link is not None
    rate = min(link.bandwidth_bytes_per_s * link.efficiency, DRAM_SHARE * DRAM / 4)
    expert = 3 * 4096 * 14336 * 2 / 4
    wait_s = step_s(cached.step_model, 1, 100) - step_s(whole.step_model, 1, 100)
    assert wait_s == pytest.approx(32 * 2 * 0.5 * expert / rate)
    assert whole.memory.weight_bytes - cached.memory.weight_bytes == pytest.approx(32 * 4 * expert)


def test_prompts_miss_what_the_cache_does_not_hold() -> None:
    model = build(expert_cache_size=3).step_model
    assert model.hybrids is not None
    cache = model.hybrids[0].cache
    assert cache is not None
    traffic = cache.traffic(5000)
    assert traffic.needed == pytest.approx(32 * 8)
    assert traffic.missed == pytest.approx(32 * 5)


def test_prefetches_hide_in_their_window_and_wrong_ones_do_not() -> None:
    demand, layer, attention = (
        build(expert_cache_size=7, expert_prefetch=p).step_model for p in (None, "layer", "attention")
    )
    wrong = build(expert_cache_size=7, expert_prefetch="layer", expert_prefetch_accuracy=0.0).step_model
    late = step_s(demand, 64, 1000)
    assert step_s(layer, 64, 1000) <= step_s(attention, 64, 1000) < late <= step_s(wrong, 64, 1000)
    resident = build(cluster=host("h100-sxm:2"), tp=2).step_model
    # a long prompt computes longer than its experts take
    hidden = build(cluster=host("h100-sxm:2"), tp=2, expert_cache_size=7, expert_prefetch="layer").step_model
    assert step_s(hidden, 0, 0, 16000) == pytest.approx(step_s(resident, 0, 0, 16000))


def test_a_cache_in_bytes_is_a_cache_in_experts() -> None:
    by_size = build(expert_cache_size=2)
    nbytes = 2 * 32 * 3 * 4096 * 14336 * 2.0
    by_bytes = build(expert_cache_gb=nbytes / GIB)
    assert by_bytes.memory.weight_bytes == pytest.approx(by_size.memory.weight_bytes)
    assert by_bytes.step_model.decode(7).base_s == pytest.approx(by_size.step_model.decode(7).base_s)


def test_summary_has_the_hit_rate_of_the_steps() -> None:
    result = simulate(
        *("mixtral-8x7b", host()),
        **{"expert_cache_size": 2, "arrival": "closed(concurrency=1)", "num_requests": 3, "input_len": "1"},
        **{"output_len": "20", "max_model_len": 512},
    )
    steps = result.summary["engine_steps"]
    assert result.summary["expert_hit_rate"] == pytest.approx(0.25)
    assert result.summary["expert_link_bytes"] == pytest.approx(steps * 32 * 2 * 0.75 * 3 * 4096 * 14336 * 2)
    plain = simulate("llama-3.1-8b", "h100-sxm:1", rate=1.0, num_requests=2, input_len="5", output_len="5")
    assert "expert_hit_rate" not in plain.summary


def test_popularity_comes_from_a_routing_trace(tmp_path: Path) -> None:
    """Every token chooses experts 3 and one other of its layer: half of the choices always hit, however small the cache."""
    rng = np.random.default_rng(0)
    others = rng.choice([0, 1, 2, 4, 5, 6, 7], size=(4000, 32))
    np.savez(tmp_path / "routing_trace.npz", experts=np.stack([np.full((4000, 32), 3), others], axis=2))
    path = str(tmp_path / "routing_trace.npz")
    cached = build(expert_cache_size=2, expert_cache_eviction="lfu", expert_cache_trace=path)
    assert cached.step_model.hybrids is not None and cached.step_model.hybrids[0].cache is not None
    traffic = cached.step_model.hybrids[0].cache.traffic(1)
    assert traffic.needed == pytest.approx(64)
    assert traffic.missed == pytest.approx(32 * 6 / 7, rel=0.02)
    with pytest.raises(UserError, match="drop one"):
        build(expert_cache_size=2, moe_skew=1.0, expert_cache_trace=path)
    with pytest.raises(UserError, match="Record the routing"):
        build("mixtral-8x22b", expert_cache_size=2, expert_cache_trace=path)


def test_expert_ranks_share_the_experts_of_the_cache() -> None:
    one, four = build(expert_cache_size=4), build(cluster=host("a40:4"), tp=4, ep=4, expert_cache_size=1)
    stage = four.step_model.stages[0].layout
    assert uncached_bytes(stage, four.plan) == pytest.approx(
        uncached_bytes(one.step_model.stages[0].layout, one.plan) / 4
    )
    assert [layer.held for layer in held_experts(stage, four.plan)] == [1.0]
    first, spread = one.step_model.hybrids, four.step_model.hybrids
    assert first is not None and spread is not None and first[0].cache is not None and spread[0].cache is not None
    assert spread[0].cache.traffic(9).missed == pytest.approx(first[0].cache.traffic(9).missed / 4)
