"""Placement of experts: bounds hold, ILPs and exact search agree with brute force, the command runs end to end."""

from __future__ import annotations

import json
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from experts_ilp2 import solve_clusters
from hypothesis import given, settings
from hypothesis import strategies as st

from apex_sim.cli import main
from hardware_profiles.errors import UserError
from planners.experts.assignment import assign
from planners.experts.balance import balance_bound, balanced, busiest
from planners.experts.balance_ilp import solve_balance
from planners.experts.exact import all_states, best_path, number_of_states
from planners.experts.placement import figures_of
from planners.experts.replicate import hierarchical_layer, replica_bound, replicated
from planners.experts.search import SearchSettings, plan_experts
from planners.experts.topology import Topology, two_level
from planners.experts.traffic import rename_ranks, traffic_bound
from simulator.experts.generate import generate_routing
from simulator.experts.measure import measure
from simulator.experts.placement import from_ranks, linear_ranks, to_ranks
from simulator.experts.routing import Demand, Routing, demand_of

CASES = Path(__file__).resolve().parents[2] / "shared" / "data" / "moe_placement"
needs_cases = pytest.mark.skipif(not CASES.exists(), reason="../shared/data is absent")
loads = st.lists(st.integers(0, 60), min_size=6, max_size=6).map(lambda w: np.array(w, dtype=np.float64))
seeds = st.integers(0, 10_000)


def cases(kind: str) -> list[Path]:
    return sorted(CASES.glob(f"{kind}_*.json")) if CASES.exists() else []


def demand(seed: int, experts: int, layers: int) -> Demand:
    rng = np.random.default_rng(seed)
    flow = rng.integers(0, 20, (layers - 1, experts, experts)).astype(np.float64)
    loads = rng.integers(1, 50, (layers, experts)).astype(np.float64)
    return Demand(loads=loads, transitions=flow)


@settings(max_examples=12, deadline=None)
@given(loads, st.sampled_from([2, 3]))
def test_the_balance_ilp_finds_what_brute_force_finds(load: np.ndarray, ranks: int) -> None:
    best = min(busiest(load, state, ranks) for state in all_states(6, ranks))
    solved = solve_balance(load, ranks)
    assert solved.ranks is not None and solved.result.status == "optimal"
    assert busiest(load, solved.ranks, ranks) == pytest.approx(best)
    assert (np.bincount(solved.ranks, minlength=ranks) == 6 // ranks).all()
    assert balance_bound(load, ranks) <= best + 1e-9
    assert busiest(load, balanced(load, ranks), ranks) >= best - 1e-9


@settings(max_examples=6, deadline=None)
@given(loads)
def test_the_balance_ilp_with_free_sizes_and_deviations_matches_brute_force(load: np.ndarray) -> None:
    splits = [np.array(s) for s in product(range(3), repeat=6) if len(set(s)) == 3]
    most = min(busiest(load, s, 3) for s in splits)
    off = min(np.abs(np.bincount(s, weights=load, minlength=3) - load.sum() / 3).sum() for s in splits)
    assert solve_balance(load, 3, equal_sizes=False).result.objective == pytest.approx(most, abs=1e-5)
    assert balance_bound(load, 3, 0) <= most + 1e-9
    found = solve_balance(load, 3, equal_sizes=False, goal="deviation").result.objective
    assert found == pytest.approx(off, abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 6))
def test_assignment_matches_brute_force(seed: int, size: int) -> None:
    cost = np.random.default_rng(seed).integers(-9, 30, (size, size)).astype(np.float64)
    order, least = assign(cost)
    assert sorted(order) == list(range(size))
    assert least == min(sum(cost[i, p[i]] for i in range(size)) for p in permutations(range(size)))


@settings(max_examples=6, deadline=None)
@given(seeds, st.sampled_from(["tail", "total"]), st.sampled_from([1.0, 4.0]))
def test_the_cluster_ilp_finds_what_brute_force_finds(seed: int, goal: str, weight: float) -> None:
    topology = two_level(4, 2, weight) if weight > 1 else two_level(3, 3, 1.0)
    size = topology.num_ranks
    flow = np.random.default_rng(seed).integers(0, 20, (1, size, size)).astype(np.float64)

    def cost(first: tuple[int, ...], second: tuple[int, ...]) -> float:
        moved = flow[0] * topology.weights[np.ix_(first, second)]
        return float(moved.max() if goal == "tail" else moved.sum())

    orders = list(permutations(range(size)))
    best = min(cost(a, b) for a in orders for b in orders)
    solved = solve_clusters(flow, topology.weights, goal=goal)  # type: ignore[arg-type]
    assert solved.gpus is not None
    assert solved.result.objective == pytest.approx(best, abs=1e-5)
    assert cost(tuple(solved.gpus[0]), tuple(solved.gpus[1])) == pytest.approx(best, abs=1e-5)


@settings(max_examples=10, deadline=None)
@given(seeds, st.sampled_from([1.0, 5.0]))
def test_the_exact_search_finds_what_brute_force_finds_and_bounds_stay_below(seed: int, weight: float) -> None:
    topology, job = two_level(4, 2, weight), demand(seed, 4, 2)
    states = all_states(4, 4)
    assert len(states) == number_of_states(4, 4) == 24
    limit = np.full(2, np.inf)
    ranks, least = best_path(job, topology, limit)
    best = min(traffic(job, np.stack(s), topology) for s in product(states, repeat=2))
    assert least == pytest.approx(best) == pytest.approx(traffic(job, ranks, topology))
    assert traffic_bound(job, topology) <= best + 1e-6


def traffic(job: Demand, ranks: np.ndarray, topology: Topology) -> float:
    return figures_of(job, from_ranks(ranks, topology.num_ranks), topology).traffic


@settings(max_examples=8, deadline=None)
@given(seeds, st.sampled_from([(12, 4, 4), (12, 4, 2), (8, 8, 4)]))
def test_the_plan_keeps_its_limits_and_beats_what_it_starts_from(seed: int, sizes: tuple[int, int, int]) -> None:
    experts, ranks, per_node = sizes
    topology, job = two_level(ranks, per_node, 6.0), demand(seed, experts, 4)
    plan = plan_experts(job, topology, SearchSettings())
    named = {c.name: c for c in plan.candidates}
    held = to_ranks(plan.chosen.placement)
    assert all((np.bincount(row, minlength=ranks) == experts // ranks).all() for row in held)
    assert plan.chosen.figures.traffic <= named["balance, renamed"].figures.traffic + 1e-6
    for candidate in plan.candidates:
        assert candidate.figures.imbalance >= plan.balance_bound - 1e-9
        loads = zip(job.loads, to_ranks(candidate.placement), plan.limits, strict=True)
        if all(busiest(load, row, ranks) <= limit + 1e-6 for load, row, limit in loads):
            assert candidate.figures.traffic >= plan.traffic_bound - 1e-6
    greedy = named["greedy balance"].figures.imbalance
    assert plan.chosen.figures.imbalance <= max(greedy, 1.01 * plan.balance_bound) + 0.01 * greedy


@settings(max_examples=10, deadline=None)
@given(seeds)
def test_renaming_ranks_leaves_loads_alone_and_never_adds_traffic(seed: int) -> None:
    topology, job = two_level(4, 2, 9.0), demand(seed, 8, 5)
    before = from_ranks(linear_ranks(5, 8, 4), 4)
    after = rename_ranks(job, before, topology, 5)
    assert figures_of(job, after, topology).imbalance == pytest.approx(figures_of(job, before, topology).imbalance)
    assert figures_of(job, after, topology).traffic <= figures_of(job, before, topology).traffic + 1e-6


@settings(max_examples=20, deadline=None)
@given(loads, st.sampled_from([6, 9, 12]))
def test_copies_lower_the_busiest_and_stay_above_their_bound(load: np.ndarray, slots: int) -> None:
    copied = replicated(load[None] + 1, 3, slots)
    topology = two_level(3, 3, 1.0)
    job = Demand(loads=load[None] + 1, transitions=np.zeros((0, 6, 6)))
    assert copied.copies().sum() == slots and copied.copies().min() >= 1
    imbalance = figures_of(job, copied, topology).imbalance
    assert imbalance >= replica_bound(load + 1, 3, slots) / ((load + 1).sum() / 3) - 1e-9


def test_uniform_routing_measured_is_what_the_step_model_assumes() -> None:
    """Random routing: n (1 - (1 - 1/n)^k) ranks per token when experts are many, and no rank busier than chance."""
    routing = generate_routing(num_experts=256, num_layers=2, top_k=8, tokens=4000, skew=1.0, affinity=0.0, seed=0)
    measured = measure(routing, from_ranks(linear_ranks(2, 256, 16), 16), (1, 8))
    assert measured.copies[0] == pytest.approx(16 * (1 - (15 / 16) ** 8), rel=0.02)
    assert measured.copies[1] == pytest.approx(2 * (1 - 0.5**8), rel=0.01)
    assert measured.busiest_rank < 1.06 and max(measured.tail) < 1.06


def test_transitions_out_of_an_expert_sum_to_its_load() -> None:
    routing = generate_routing(num_experts=8, num_layers=3, top_k=2, tokens=300, skew=1.5, affinity=1.0, seed=3)
    job = demand_of(routing)
    assert job.transitions.sum(axis=2) == pytest.approx(job.loads[:-1])
    assert job.transitions.sum(axis=1) == pytest.approx(job.loads[1:])


@needs_cases
@pytest.mark.parametrize("path", cases("ilp1"), ids=lambda p: p.stem)
def test_published_style_balance_cases(path: Path) -> None:
    case = json.loads(path.read_text())
    load, ranks, equal = np.array(case["w"], dtype=np.float64), case["G"], case["equal_cardinality"]
    for goal, key in (("max", "opt_max_load"), ("deviation", "opt_abs_deviation")):
        solved = solve_balance(load, ranks, equal_sizes=equal, goal=goal)  # type: ignore[arg-type]
        assert solved.result.objective == pytest.approx(case[key], abs=1e-4)
    assert balance_bound(load, ranks, None if equal else 0) <= case["opt_max_load"] + 1e-9


@needs_cases
@pytest.mark.parametrize(
    "path", [p for p in cases("ilp2") if json.loads(p.read_text())["L"] <= 3], ids=lambda p: p.stem
)
def test_cluster_cases(path: Path) -> None:
    case = json.loads(path.read_text())
    weights = 1 / np.array(case["B"]) * (1 - np.eye(case["G"]))
    solved = solve_clusters(np.array(case["C"]), weights, goal="tail", time_limit_s=60)
    assert solved.result.objective == pytest.approx(case["opt_sum_of_layer_max"], rel=1e-5)


@needs_cases
@pytest.mark.parametrize("path", cases("ilp2"), ids=lambda p: p.stem)
def test_least_total_traffic_of_cluster_cases(path: Path) -> None:
    case = json.loads(path.read_text())
    weights = 1 / np.array(case["B"]) * (1 - np.eye(case["G"]))
    flow = np.array(case["C"])
    topology = Topology(node_of=np.zeros(case["G"], dtype=np.int64), weights=weights)
    job = Demand(loads=np.ones((case["L"], case["G"])), transitions=flow)
    assert best_path(job, topology, np.full(case["L"], np.inf))[1] == pytest.approx(case["opt_total"])


@needs_cases
@pytest.mark.parametrize("path", cases("exflow"), ids=lambda p: p.stem)
def test_affinity_cases(path: Path) -> None:
    case = json.loads(path.read_text())
    flow = np.array(case["R"], dtype=np.float64)
    job = Demand(loads=np.ones((case["L"], case["E"])), transitions=flow)
    topology = two_level(case["G"], case["G"], 1.0)
    ranks, least = best_path(job, topology, np.full(case["L"], np.inf))
    assert least == pytest.approx(case["opt_cross_transitions"])
    assert case["lower_bound"] - 1e-6 <= traffic_bound(job, topology) + 1e-6 and traffic_bound(job, topology) <= least
    assert traffic(job, linear_ranks(case["L"], case["E"], case["G"]), topology) == case["contiguous"]
    assert traffic(job, ranks, topology) == pytest.approx(least)


@needs_cases
def test_replication_by_groups_is_the_published_example() -> None:
    case = json.loads((CASES / "eplb_readme.json").read_text())
    ranks, slots = case["num_gpus"], case["num_replicas"]
    for weight, published in zip(case["weight"], case["phy2log"], strict=True):
        load = np.array(weight, dtype=np.float64)
        row = hierarchical_layer(load, ranks, slots, num_groups=case["num_groups"], num_nodes=case["num_nodes"])
        ours, theirs = (np.sort(np.reshape(x, (ranks, -1)), axis=1).tolist() for x in (row, published))
        assert sorted(ours) == sorted(theirs)


@needs_cases
def test_no_replication_of_the_published_example_is_below_the_bound() -> None:
    case = json.loads((CASES / "eplb_readme.json").read_text())
    for weight, bound in zip(case["weight"], case["opt_lower_bound_max_load"], strict=True):
        assert replica_bound(np.array(weight, dtype=np.float64), case["num_gpus"], case["num_replicas"]) <= bound + 1e-9


SMALL = (
    "experts",
    "--model",
    "mixtral-8x7b",
    "--cluster",
    "h100-sxm:4",
    "--tokens",
    "400",
    "--num-requests",
    "20",
    "--batch",
    "8",
)


def test_the_command_writes_a_placement_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, figures, saved = tmp_path / "p.json", tmp_path / "f.json", tmp_path / "r.npz"
    assert main([*SMALL, "--out", str(out), "--json", str(figures), "--save-routing", str(saved)]) == 0
    text = capsys.readouterr().out
    assert "gap" in text and "tuned against linear" in text
    placement = json.loads(out.read_text())
    assert np.array(placement["physical_to_logical_map"]).shape == (32, 8)
    for row, back in zip(placement["physical_to_logical_map"], placement["logical_to_physical_map"], strict=True):
        assert [[s for s, e in enumerate(row) if e == expert] for expert in range(8)] == back
    result = json.loads(figures.read_text())
    assert result["balance"]["gap"] <= 0.011 and result["traffic"]["proven_under_balance"]
    before = out.read_bytes()
    assert main([*SMALL, "--routing-trace", str(saved), "--out", str(out)]) == 0
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--ep", "3"), "do not divide by 3"),
        (("--redundant", "1"), "Use --redundant 4"),
        (("--skew", "9"), "--skew is 9"),
        (("--routing-trace", "none.npz"), "no such file"),
        (("--plan-share", "1"), "--plan-share"),
        (("--tp", "3"), "--tp is 3"),
    ],
)
def test_mistakes_are_one_line(more: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, *more]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_a_dense_model_has_no_experts_to_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experts", "--model", "llama-3.1-8b", "--cluster", "h100-sxm:4"]) == 2
    assert "is dense" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((0, 32, 2), dtype=int), "shape"),
        (np.full((5, 32, 2), 9), "experts contains 9"),
        (np.zeros((5, 32, 2), dtype=int), "twice"),
        (np.full((5, 32, 2), np.nan), "no whole numbers"),
        (np.tile([0, 1], (5, 31, 1)), "31 layers"),
        (np.array(["a"]), "must hold whole numbers"),
    ],
)
def test_malformed_traces_are_refused(
    array: np.ndarray, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "r.npz"
    np.savez(file, experts=array)
    assert main([*SMALL, "--routing-trace", str(file)]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    from simulator.experts.trace_files import read_routing

    (tmp_path / "r.npz").write_bytes(b"text")
    with pytest.raises(UserError, match="cannot be read as npz"):
        read_routing(tmp_path / "r.npz", 8)
    (tmp_path / "r.parquet").write_bytes(b"text")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        read_routing(tmp_path / "r.parquet", 8)


def test_parquet_and_npz_give_the_same_routing(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    from simulator.experts.trace_files import read_routing

    routing = generate_routing(num_experts=8, num_layers=3, top_k=2, tokens=5, skew=1.5, affinity=1.0, seed=3)
    rows = [
        {"token": t, "layer": i, "expert_0": int(e[0]), "expert_1": int(e[1])}
        for t, layers in enumerate(routing.experts)
        for i, e in enumerate(layers)
    ]
    pd.DataFrame(rows).sample(frac=1, random_state=0).to_parquet(tmp_path / "r.parquet")
    assert (read_routing(tmp_path / "r.parquet", 8).experts == routing.experts).all()
    assert isinstance(routing, Routing)


def test_two_nodes_of_mixtral_are_nearly_proven() -> None:
    routing = generate_routing(num_experts=8, num_layers=32, top_k=2, tokens=2000, skew=1.4, affinity=1.0, seed=0)
    plan = plan_experts(demand_of(routing), two_level(8, 4, 9.8), SearchSettings())
    assert plan.balance_gap == 0.0 and plan.traffic_gap < 0.01


def test_means_over_layers_cost_what_layers_cost_one_by_one() -> None:
    """The step model takes one busiest rank for all layers; layers differ, but their cost is nearly linear in it."""
    from dataclasses import replace

    from apex_sim.api import build_deployment
    from hardware_profiles.cluster import parse_cluster
    from planners.experts.effect import effect_of

    deployment = build_deployment("mixtral-8x7b", parse_cluster("h100-sxm:4"), tp=1, dp=4, ep=4)
    routing = generate_routing(num_experts=8, num_layers=32, top_k=2, tokens=1000, skew=1.6, affinity=1.0, seed=3)
    placement = from_ranks(linear_ranks(32, 8, 4), 4)
    for batch in (8, 512):
        whole = effect_of(deployment, routing, placement, batch=batch)
        parts = [
            effect_of(
                deployment,
                replace(routing, experts=routing.experts[:, i : i + 1]),
                replace(placement, slots=placement.slots[i : i + 1]),
                batch=batch,
            )
            for i in range(32)
        ]
        assert min(p.routing.busiest_rank for p in parts) < 0.95 * max(p.routing.busiest_rank for p in parts)
        assert whole.experts_s == pytest.approx(np.mean([p.experts_s for p in parts]), rel=2e-3)
        assert whole.exchange_s == pytest.approx(np.mean([p.exchange_s for p in parts]), rel=2e-3)
