"""Mixtures of experts: experts without computation, ways to run a layer, slots, known routing; both modes of the loop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apex_sim import simulate
from hardware_profiles.errors import UserError
from simulator.build import build_deployment
from simulator.deployment import Deployment
from simulator.experts.generate import generate_routing
from simulator.experts.placement import Placement
from simulator.experts.placement_files import placement_dict
from simulator.moe_settings import MoeTechniques
from simulator.physics.collectives import Interconnect
from simulator.physics.efficiency import efficiency_of
from simulator.physics.explain import step_shape
from simulator.physics.moe import capacity, dropped_share, expert_probabilities

LAYER = ("moe.experts", "all_to_all", "all_gather.dispatch", "all_gather.experts", "reduce_scatter")


def _deployment(model: str = "qwen3-30b-a3b", cluster: str = "h100-sxm:8", **settings: Any) -> Deployment:
    return build_deployment(model, cluster, **{"dp": 8, "ep": 8, "max_model_len": 4096, **settings})


def _parts(deployment: Deployment, tokens: int) -> dict[str, Any]:
    return {part.name: part for part in deployment.step_model.explain(step_shape(prefill=tokens))}


def _layer_s(deployment: Deployment, tokens: int) -> float:
    """Experts and exchange of a step [s]."""
    return sum(float(part.seconds) for name, part in _parts(deployment, tokens).items() if name.startswith(LAYER))


# -- both modes --------------------------------------------------------------------------------------------------------

EVERY: tuple[dict[str, Any], ...] = (
    {"zero_expert_num": 4, "zero_expert_tau": 0.75},
    {"moe_parallelism": "adaptive", "a2a_ffn_overlap_degree": 8, "moe_all_to_all": "adaptive"},
    {"moe_parallelism": "gather-tokens", "zero_expert_num": 2},
    {"moe_parallelism": "gather-weights", "moe_skew": 0.7},
    {"expert_capacity_factor": 1.25, "moe_kernels": 40, "moe_all_to_all": "flat", "moe_dispatch": "one-hot"},
    {"expert_capacity_factor": 0.0, "zero_expert_num": 2, "kv_compression": 0.5},
    {"expert_routing": "generated(tokens=500,drift=0.5)", "expert_exchange": "onward", "attention_density": 0.5},
)


@pytest.mark.parametrize("settings", EVERY, ids=str)
def test_spans_equal_single_steps(settings: dict[str, Any]) -> None:
    load: dict[str, Any] = {"rate": 20.0, "input_len": "lognormal(median=300,sigma=0.8)", "output_len": "40"}
    runs = [
        simulate(
            *("mixtral-8x7b", "h100-sxm:4"),
            **{"dp": 4, "ep": 4, "max_model_len": 4096, "num_requests": 40, "exact_steps": steps, **load, **settings},
        )
        for steps in (False, True)
    ]
    assert runs[0].requests.finish_s.tolist() == runs[1].requests.finish_s.tolist()
    assert runs[0].summary["energy_j"] == pytest.approx(runs[1].summary["energy_j"], rel=1e-9)


@pytest.mark.parametrize("settings", EVERY, ids=str)
def test_breakdown_adds_up_to_the_step(settings: dict[str, Any]) -> None:
    model = _deployment("mixtral-8x7b", "h100-sxm:4", **{"dp": 4, "ep": 4, **settings}).step_model
    for shape in (step_shape(decode_seqs=20, context=900), step_shape(decode_seqs=9, context=900, prefill=400)):
        assert sum(c.seconds for c in model.explain(shape)) == pytest.approx(model.step(shape)[0], rel=1e-9)


def test_neutral_values_change_nothing() -> None:
    neutral = _deployment(
        zero_expert_num=0, moe_parallelism="exchange", moe_all_to_all="hierarchical", a2a_ffn_overlap_degree=1
    )
    plain = _deployment()
    assert neutral.plan == plain.plan
    for tokens in (1, 100, 5000):
        shape = step_shape(prefill=tokens)
        assert neutral.step_model.step(shape) == plain.step_model.step(shape)


# -- experts without computation ---------------------------------------------------------------------------------------


def test_choices_that_are_computed_are_tau_e_over_tau_e_plus_z() -> None:
    assert MoeTechniques(zero_experts=4, zero_tau=0.75).compute_share(8) == pytest.approx(0.6)
    assert MoeTechniques().compute_share(8) == 1.0
    plain, free = _deployment(), _deployment(zero_expert_num=64, zero_expert_tau=0.5)
    share = 0.5 * 128 / (0.5 * 128 + 64)
    flop = [_parts(d, 4096)["moe.experts"].flop for d in (plain, free)]
    assert flop[1] == pytest.approx(share * flop[0], rel=1e-12)
    router = [_parts(d, 4096)["moe.router"].flop for d in (plain, free)]
    assert router[1] == pytest.approx(router[0] * (128 + 64) / 128)


def test_experts_without_computation_are_not_sent_anywhere() -> None:
    """Copies per token: distinct of 8 ranks hit by top-8 choices, each computed with probability 1/2."""
    rng = np.random.default_rng(0)
    ranks = rng.integers(8, size=(20_000, 8))
    sent = rng.random(ranks.shape) < 0.5
    copies = np.mean([len(set(row[keep])) for row, keep in zip(ranks, sent, strict=True)])
    plain, free = _deployment(), _deployment(zero_expert_num=128)
    moved = [_parts(d, 2048)["all_to_all.dispatch"].link_bytes for d in (plain, free)]
    everyone = np.mean([len(set(row)) for row in ranks])
    assert moved[1] / moved[0] == pytest.approx(copies / everyone, rel=0.01)


# -- ways to run a layer -----------------------------------------------------------------------------------------------

WAYS = ("exchange", "gather-tokens", "gather-weights")


@pytest.mark.parametrize("cluster", ["h100-sxm:8", "a100-sxm-80gb:4x4"])
def test_an_adaptive_layer_takes_the_quickest_way_of_every_step(cluster: str) -> None:
    layout: dict[str, Any] = {"dp": 8, "ep": 8} if cluster == "h100-sxm:8" else {"dp": 16, "ep": 16}
    each = [_deployment(cluster=cluster, moe_parallelism=way, **layout) for way in WAYS]
    best = _deployment(cluster=cluster, moe_parallelism="adaptive", **layout)
    for tokens in (1, 40, 700, 16_000):
        assert _layer_s(best, tokens) == pytest.approx(min(_layer_s(d, tokens) for d in each), rel=1e-12)


def test_gathered_experts_cross_the_links_once_whatever_the_tokens() -> None:
    deployment = _deployment(moe_parallelism="gather-weights")
    nbytes = 48 * 3 * 2048 * 768 * 128 * 2.0 * 7 / 8
    for tokens in (1, 5000):
        assert _parts(deployment, tokens)["all_gather.experts"].link_bytes == pytest.approx(nbytes)
    assert deployment.memory.num_blocks < _deployment().memory.num_blocks  # a layer's experts are held
    others = 128 * 7 / 8 * 3 * 2048 * 768 * 2.0
    assert deployment.memory.weight_bytes - _deployment().memory.weight_bytes == pytest.approx(others)


def test_one_kind_of_link_has_one_all_to_all() -> None:
    for tokens in (3, 3000):
        assert _layer_s(_deployment(moe_all_to_all="flat"), tokens) == _layer_s(_deployment(), tokens)


def test_messages_to_every_rank_lose_with_the_number_of_nodes() -> None:
    """Tutel, section 4.3: the linear all-to-all sends ever smaller messages; the two-level one adds them up first."""
    gains = []
    for nodes in (2, 8):
        layout: dict[str, Any] = {"cluster": f"a100-sxm-80gb:8x{nodes}", "dp": 8 * nodes, "ep": 8 * nodes}
        flat, tiers = (_deployment(moe_all_to_all=name, **layout) for name in ("flat", "hierarchical"))
        best = _deployment(moe_all_to_all="adaptive", **layout)
        gains.append(_layer_s(flat, 64) / _layer_s(tiers, 64))
        for tokens in (1, 64, 4096):
            assert _layer_s(best, tokens) <= min(_layer_s(flat, tokens), _layer_s(tiers, tokens)) * (1 + 1e-12)
    assert 1.0 < gains[0] < gains[1]


def test_pieces_overlap_exchange_and_experts() -> None:
    """Makespan of d pieces on two resources: never below the longer of both, never above both in sequence of those pieces."""
    whole, pieces = _deployment(), _deployment(a2a_ffn_overlap_degree=4)
    assert _layer_s(pieces, 16_000) < _layer_s(whole, 16_000)
    assert _layer_s(pieces, 8) > _layer_s(whole, 8)  # starts dominate
    parts = _parts(pieces, 16_000)
    assert parts["moe.experts"].flop == pytest.approx(_parts(whole, 16_000)["moe.experts"].flop)
    piece = _parts(whole, 4000)
    experts_s = piece["moe.experts"].seconds
    moved_s = piece["all_to_all.dispatch"].seconds + piece["all_to_all.combine"].seconds
    assert _layer_s(pieces, 16_000) == pytest.approx(experts_s + moved_s + 3 * max(experts_s, moved_s))


def test_further_kernels_are_launched() -> None:
    plain, many = _deployment(), _deployment(moe_kernels=43)
    launch_s = plain.step_model.precision.base.gemm.launch_s
    assert _layer_s(many, 300) - _layer_s(plain, 300) == pytest.approx(48 * 40 * launch_s)
    assert many.step_model.stages[0].layout.launches == pytest.approx(
        plain.step_model.stages[0].layout.launches + 48 * 4
    )


# -- slots -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skew", [0.0, 0.8])
@pytest.mark.parametrize("factor", [0.5, 1.0, 1.25, 2.0])
def test_dropped_choices_are_those_beyond_the_slots(skew: float, factor: float) -> None:
    tokens, experts, k = 200, 16, 2
    slots = capacity(tokens, experts, k, factor, skew)
    assert slots == pytest.approx(factor * k * tokens / experts)
    rng = np.random.default_rng(1)
    hit = expert_probabilities(experts, k, skew)
    loads = rng.binomial(tokens, hit, size=(4000, experts))
    drawn = np.maximum(0.0, loads - slots).sum() / (4000 * tokens * k)
    assert dropped_share(tokens, experts, k, slots, skew) == pytest.approx(drawn, abs=2e-3)


def test_slots_for_the_busiest_drop_next_to_nothing() -> None:
    for tokens in (10, 1000):
        slots = capacity(tokens, 64, 6, 0.0, 0.5)
        assert dropped_share(tokens, 64, 6, slots, 0.5) < 0.02
    assert capacity(0.5, 64, 6, 1.25) == 1.0  # a slot per expert at least
    assert capacity(4, 4, 2, 100.0) == 4  # a slot per token at most


def test_empty_slots_are_computed_and_sent() -> None:
    plain, padded, wide = (_deployment(expert_capacity_factor=c) for c in (None, 1.0, 2.0))
    flop = [_parts(d, 4096)["moe.experts"].flop for d in (plain, padded, wide)]
    assert flop[1] == pytest.approx(flop[0])
    assert flop[2] == pytest.approx(2 * flop[1])
    sent = [_parts(d, 4096)["all_to_all.dispatch"].link_bytes for d in (plain, padded, wide)]
    assert sent[1] == pytest.approx(48 * 4096 * 8 * 2048 * 2.0 * 7 / 8)  # every choice once, not every rank once
    assert sent[2] == pytest.approx(2 * sent[1])
    assert sent[0] < sent[1]


def test_a_mask_costs_a_product_of_tokens_and_slots_each_way() -> None:
    masked = _parts(_deployment(expert_capacity_factor=1.5, moe_dispatch="one-hot"), 4096)
    flop = 48 * 2.0 * 4096 * (1.5 * 8 * 4096) * 2048  # T x (E slots) x hidden, a multiply-add is two
    assert masked["moe.encode"].flop == masked["moe.decode"].flop == pytest.approx(flop)
    sorted_ = _parts(_deployment(expert_capacity_factor=1.5), 4096)
    assert masked["moe.experts"].seconds == sorted_["moe.experts"].seconds


# -- known routing -----------------------------------------------------------------------------------------------------


def _save(path: Path, seed: int, ranks: int) -> None:
    """Experts dealt in order of their load in the routing of that seed, one to each rank in turn."""
    routing = generate_routing(num_experts=8, num_layers=32, top_k=2, tokens=2000, skew=3.0, affinity=1.0, seed=seed)
    rows = []
    for layer in range(32):
        order = np.argsort(-np.bincount(routing.experts[:, layer].ravel(), minlength=8), kind="stable")
        snake = np.concatenate([order[:4], order[4:][::-1]])
        rows.append(np.stack([snake[:4], snake[4:]], axis=1).ravel())
    placement = Placement(slots=np.stack(rows), num_experts=8, num_ranks=ranks)
    path.write_text(json.dumps(placement_dict(placement, tuple(range(32)), 32)), encoding="utf-8")


def test_a_placement_balances_what_it_was_made_for_until_popularity_drifts(tmp_path: Path) -> None:
    file = tmp_path / "placement.json"
    _save(file, 5, 4)
    layout: dict[str, Any] = {"model": "mixtral-8x7b", "cluster": "h100-sxm:4", "dp": 4, "ep": 4}

    def busiest(text: str, **more: Any) -> float:
        routing = _deployment(**layout, expert_routing=text, **more).expert_routing
        assert routing is not None
        return routing.busiest_rank

    same = "generated(tokens=2000,skew=3,seed=5)"
    drifted = "generated(tokens=2000,skew=3,seed=5,drift=0.5)"
    placed = busiest(same, init_expert_location=str(file))
    assert placed < busiest(same)
    assert placed < busiest(drifted, init_expert_location=str(file))
    free = _deployment(
        **layout, expert_routing=same, init_expert_location=str(file), zero_expert_num=8, expert_capacity_factor=1.0
    )
    assert free.step_model.decode(30).base_s > 0


def test_copies_of_experts_take_memory(tmp_path: Path) -> None:
    slots = np.tile(np.array([0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3]), (32, 1))
    file = tmp_path / "copies.json"
    placement = Placement(slots=slots, num_experts=8, num_ranks=4)
    file.write_text(json.dumps(placement_dict(placement, tuple(range(32)), 32)), encoding="utf-8")
    layout: dict[str, Any] = {"model": "mixtral-8x7b", "cluster": "h100-sxm:4", "dp": 4, "ep": 4}
    text = "generated(tokens=300)"
    plain = _deployment(**layout, expert_routing=text)
    copied = _deployment(**layout, expert_routing=text, init_expert_location=str(file))
    block = plain.memory.kv_bytes_per_token * plain.engine.block_size
    expert = 32 * 3 * 4096 * 14336 * 2.0
    assert plain.memory.num_blocks - copied.memory.num_blocks == pytest.approx(expert / block, abs=1)


# -- interconnect ------------------------------------------------------------------------------------------------------


def test_bytes_of_a_flat_exchange_are_those_that_leave_the_rank() -> None:
    deployment = _deployment(cluster="h100-sxm:8x2", dp=16, ep=16)
    link = Interconnect(deployment.cluster, efficiency_of(deployment.cluster.device))
    assert link.buffers(1e6, 16, True)[1] == pytest.approx(1e6 * 15 / 16)
    assert link.buffers(1e6, 8, True) == pytest.approx(link.buffers(1e6, 8, False))


# -- refusals ----------------------------------------------------------------------------------------------------------

WRONG: tuple[tuple[dict[str, Any], str], ...] = (
    ({"zero_expert_tau": 0.5}, "--zero-expert-tau without"),
    ({"zero_expert_num": 4, "zero_expert_tau": 0.0}, "no token would reach an expert"),
    ({"zero_expert_num": -1}, "--zero-expert-num"),
    ({"moe_parallelism": "data"}, "unknown moe parallelism 'data'"),
    ({"moe_all_to_all": "ring"}, "unknown moe all to all 'ring'"),
    ({"expert_capacity_factor": -1.0}, "--expert-capacity-factor"),
    ({"expert_capacity_factor": 1.0, "fused_moe": True}, "--fused-moe is one kernel"),
    ({"moe_kernels": 2}, "at least 3"),
    ({"moe_dispatch": "one-hot"}, "add --expert-capacity-factor"),
    ({"moe_parallelism": "adaptive", "expert_cache_size": 2}, "reads all experts of a layer"),
    ({"a2a_ffn_overlap_degree": 2, "dp": 1, "tp": 8}, "only where experts span replicas"),
    ({"moe_parallelism": "gather-tokens", "dp": 1, "tp": 8}, "only where experts span replicas"),
    ({"model": "llama-3.1-8b", "zero_expert_num": 4, "ep": 1}, "has no experts"),
    ({"model": "llama-3.1-8b", "expert_capacity_factor": 0.0, "ep": 1}, "has no experts"),
    ({"init_expert_location": "x.json"}, "add --expert-routing"),
    ({"expert_routing": "missing.npz"}, "missing.npz: no such file"),
    ({"expert_routing": "generated(skew=99)"}, "--expert-routing 'generated(skew=99)'"),
    ({"expert_routing": "generated(heat=2)"}, "unknown parameter of generated 'heat'"),
    ({"expert_routing": "generated(drift=1)"}, "drift is 1"),
    ({"expert_routing": "generated(tokens=9.5)"}, "tokens is 9.5"),
    ({"expert_routing": "generated", "moe_skew": 1.0}, "drop one"),
    ({"expert_routing": "generated", "expert_exchange": "away"}, "unknown expert exchange 'away'"),
    ({"expert_routing": "generated", "dp": 1, "ep": 1, "tp": 4}, "ep=1 has one group"),
)


@pytest.mark.parametrize(("settings", "message"), WRONG, ids=[str(s) for s, _ in WRONG])
def test_nonsense_is_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        _deployment(**settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
