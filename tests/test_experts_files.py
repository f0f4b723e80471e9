"""Placement files in engines' shapes, drift, EPLB by groups, and sub-problems of ILP 2."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apex_sim.cli import main
from hardware_profiles.errors import UserError
from planners.experts.balance import busiest
from planners.experts.exact import all_states
from planners.experts.layer_ilp import improve_layers, solve_layer
from planners.experts.placement import figures_of
from planners.experts.replicate import replicated_by_groups
from planners.experts.search import SearchSettings, plan_experts
from planners.experts.topology import two_level
from planners.experts.traffic import rename_ranks
from simulator.experts.generate import generate_routing
from simulator.experts.placement import Placement, from_ranks, linear_ranks
from simulator.experts.placement_files import placement_dict, read_placement
from simulator.experts.routing import Demand, demand_of
from simulator.experts.trace_files import read_routing

seeds = st.integers(0, 10_000)


def placement(copies: int = 2) -> Placement:
    """Three layers of six experts on two ranks."""
    rng = np.random.default_rng(0)
    rows = [rng.permutation(np.concatenate([np.arange(6), rng.integers(0, 6, copies)])) for _ in range(3)]
    return Placement(slots=np.stack(rows), num_experts=6, num_ranks=2)


@pytest.mark.parametrize("rows", ["moe", "all"])
@pytest.mark.parametrize("copies", [0, 2])
def test_a_written_placement_reads_back(rows: Any, copies: int, tmp_path: Path) -> None:
    """vLLM: a row per MoE layer; SGLang: a row per layer, dense ones too, and -1 where an expert has fewer copies."""
    moe, layers, file = (1, 3, 4), 5, tmp_path / "p.json"
    before = placement(copies)
    tables = placement_dict(before, moe, layers, rows)
    file.write_text(json.dumps(tables))
    assert np.array(tables["physical_to_logical_map"]).shape == (layers if rows == "all" else 3, 6 + copies)
    inverse = np.array(tables["logical_to_physical_map"])
    counts = np.array(tables["logical_replica_count"])
    assert inverse.shape == (*counts.shape, counts.max()) and ((inverse >= 0).sum(axis=2) == counts).all()
    assert (read_placement(file, 6, 2, moe, layers).slots == before.slots).all()


BAD: list[tuple[Any, str]] = [
    ([], "no field physical_to_logical_map"),
    ({"physical_to_logical_map": []}, "list of rows of whole numbers"),
    ({"physical_to_logical_map": [[0, 1], [0]]}, "list of rows of whole numbers"),
    ({"physical_to_logical_map": [[0.5, 1]]}, "list of rows of whole numbers"),
    ({"physical_to_logical_map": "text"}, "list of rows of whole numbers"),
    ({"physical_to_logical_map": [list(range(6))] * 2}, "has 2 rows; the model has 3 MoE layers of 5"),
    ({"physical_to_logical_map": [[0, 1, 2, 3, 4, 6]] * 3}, "names expert 6"),
    ({"physical_to_logical_map": [[0, 1, 2, 3, 4, -1]] * 3}, "names expert -1"),
    ({"physical_to_logical_map": [[0, 1, 2, 3, 4, 4]] * 3}, "leaves out expert 5 in row 0"),
    ({"physical_to_logical_map": [[0, 1, 2, 3, 4, 5, 5]] * 3}, "7 slots per layer do not divide by 2"),
    ({"physical_to_logical_map": [list(range(6))] * 3, "ep_size": 3}, "ep_size is 3"),
    ({"physical_to_logical_map": [list(range(6))] * 3, "ep_size": "2"}, "ep_size is '2'"),
    ({"physical_to_logical_map": [list(range(6))] * 3, "logical_to_physical_map": [[[0]] * 6] * 3}, "not the inverse"),
    ({"physical_to_logical_map": [list(range(6))] * 3, "logical_to_physical_map": 5}, "not the inverse"),
]


@pytest.mark.parametrize(("content", "words"), BAD)
def test_odd_placements_are_refused_in_one_line(content: Any, words: str, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=words.replace("(", r"\(")) as error:
        read_placement(tmp_path / "p.json", 6, 2, (1, 3, 4), 5)
    assert "\n" not in str(error.value)


def test_files_that_are_no_json_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_bytes(b"\xff{")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        read_placement(tmp_path / "p.json", 6, 2, (0,), 1)
    with pytest.raises(UserError, match="no such file"):
        read_placement(tmp_path / "q.json", 6, 2, (0,), 1)


@settings(max_examples=15, deadline=None)
@given(seeds, st.floats(1.0, 1.5))
def test_a_layer_between_fixed_neighbours_is_placed_as_brute_force_does(seed: int, slack: float) -> None:
    rng = np.random.default_rng(seed)
    load, cost = rng.integers(1, 40, 6).astype(np.float64), rng.integers(0, 90, (6, 3)).astype(np.float64)
    states = all_states(6, 3)
    start = min(states, key=lambda s: busiest(load, s, 3))
    most = busiest(load, start, 3) * slack
    best = min(cost[np.arange(6), s].sum() for s in states if busiest(load, s, 3) <= most)
    found, _ = solve_layer(cost, load, np.full(3, most), start)
    assert found is not None and cost[np.arange(6), found].sum() == pytest.approx(best)
    assert busiest(load, found, 3) <= most + 1e-6


def demand(seed: int, experts: int, layers: int) -> Demand:
    rng = np.random.default_rng(seed)
    flow = rng.gamma(0.3, size=(layers - 1, experts, experts)) * 10
    return Demand(loads=np.concatenate([flow.sum(axis=2), flow[-1:].sum(axis=1)]), transitions=flow)


@settings(max_examples=8, deadline=None)
@given(seeds)
def test_sub_problems_only_lower_traffic_and_keep_the_limits(seed: int) -> None:
    topology, job = two_level(4, 2, 5.0), demand(seed, 12, 4)
    ranks = linear_ranks(4, 12, 4)
    most = np.array([1.05 * busiest(load, row, 4) for load, row in zip(job.loads, ranks, strict=True)])
    after, work = improve_layers(job, ranks, topology, most, 6)
    before, now = (figures_of(job, from_ranks(r, 4), topology).traffic for r in (ranks, after))
    assert before - now == pytest.approx(work.saved, abs=1e-6) and work.problems == 4 and work.improved > 0
    assert all(busiest(a, b, 4) <= c + 1e-6 for a, b, c in zip(job.loads, after, most, strict=True))
    again, same = improve_layers(job, ranks, topology, most, 6)
    assert (again == after).all() and same == work


@settings(max_examples=10, deadline=None)
@given(seeds)
def test_few_ranks_are_renamed_at_best(seed: int) -> None:
    topology, job = two_level(3, 3, 1.0), demand(seed, 6, 3)
    before = from_ranks(linear_ranks(3, 6, 3), 3)
    orders = [np.array(o) for o in product(range(3), repeat=3) if len(set(o)) == 3]
    best = min(
        figures_of(
            job,
            Placement(slots=np.stack([before.renamed(i, o) for i, o in enumerate(chosen)]), num_experts=6, num_ranks=3),
            topology,
        ).traffic
        for chosen in product(orders, repeat=3)
    )
    assert figures_of(job, rename_ranks(job, before, topology, 3), topology).traffic == pytest.approx(best)


def test_eplb_by_groups_keeps_the_groups_of_experts_on_one_node() -> None:
    loads = np.random.default_rng(0).integers(1, 99, (3, 16)).astype(np.float64)
    placed = replicated_by_groups(loads, 4, 24, 8, 2)
    for row in placed.slots.reshape(3, 2, 12):
        assert not set(row[0] // 2) & set(row[1] // 2)
    job = Demand(loads=loads, transitions=np.ones((2, 16, 16)))
    names = [c.name for c in plan_experts(job, two_level(4, 2, 5.0), SearchSettings(redundant=8, groups=8)).candidates]
    assert names == ["linear", "replicated (EPLB)", "EPLB by groups", "tuned"]


def test_drift_changes_the_last_tokens_only() -> None:
    same: dict[str, Any] = {"num_experts": 16, "num_layers": 4, "top_k": 2, "skew": 4.0, "affinity": 1.0, "seed": 5}
    whole, late = (generate_routing(tokens=2000, drifted=n, **same).experts for n in (0, 1000))
    first = generate_routing(tokens=1000, **same).experts
    assert (late[:1000] == first).all()
    counts = [np.bincount(part[:, 1].ravel(), minlength=16) for part in (whole[1000:], late[1000:])]
    assert np.abs(np.sort(counts[0]) - np.sort(counts[1])).max() < 100 < np.abs(counts[0] - counts[1]).max()
    with pytest.raises(UserError, match="are to drift"):
        generate_routing(tokens=10, drifted=10, **same)


SMALL = ("experts", "--model", "mixtral-8x7b", "--cluster", "h100-sxm:4", "--tokens", "400", "--num-requests", "10")


def test_a_placement_written_is_judged_beside_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, figures = tmp_path / "p.json", tmp_path / "f.json"
    assert main([*SMALL, "--out", str(out), "--out-layers", "all", "--drift", "0.5"]) == 0
    text = capsys.readouterr().out
    assert "tuned before" in text and "tuned again" in text
    assert main([*SMALL, "--placement", str(out), "--json", str(figures)]) == 0
    rows = json.loads(figures.read_text())["placements"]
    assert [r["name"] for r in rows][-2:] == ["p.json", "tuned"]
    assert json.loads(figures.read_text())["drift"] is None


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--drift", "1.5"), "--drift is 1.5"),
        (("--drift", "0.001"), "would drift"),
        (("--ilp-steps", "-1"), "--ilp-steps is -1"),
        (("--expert-groups", "3"), "--expert-groups is 3"),
        (("--placement", "none.json"), "no such file"),
        (("--redundant", "4000000"), "more than is left for KV"),
        (("--out", "a.json", "--json", "a.json"), "--json and --out are one file, a.json"),
    ],
)
def test_mistakes_are_one_line(more: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, *more]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


@pytest.mark.filterwarnings("error")
def test_arrays_alone_and_numbers_out_of_range_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros((4, 2, 1), dtype=int))
    with pytest.raises(UserError, match="cannot be read as npz"):
        read_routing(tmp_path / "array.npz", 8)
    for wrong in (np.full((4, 2, 1), 1e300), np.full((4, 2, 1), 2**63 + 5, dtype=np.uint64)):
        np.savez(tmp_path / "r.npz", experts=wrong)
        with pytest.raises(UserError, match="beyond 32,767"):
            read_routing(tmp_path / "r.npz", 8)


@pytest.mark.parametrize("names", [("expert_a", "expert_1"), ("expert_0", "expert_2"), ("expert_1", "expert_2")])
def test_columns_that_are_no_choices_are_refused(names: tuple[str, str], tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"token": [0, 1], "layer": [0, 0], names[0]: [0, 1], names[1]: [2, 3]})
    frame.to_parquet(tmp_path / "r.parquet")
    with pytest.raises(UserError, match="they must be expert_0, expert_1"):
        read_routing(tmp_path / "r.parquet", 8)


@pytest.mark.parametrize(
    "more", [("--cluster", "h100-sxm:4x2"), ("--drift", "0.5"), ("--tp", "4"), ("--slo", "ttft=1s")]
)
def test_lines_fit_into_120_columns_and_explain_the_tables(
    more: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, *more]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 120
    assert "busiest/mean: tokens of the busiest GPU" in text and "on the slowest GPU" in text
    assert ("all-reduces of that step" in text) == ("--tp" in more) and ("in SLO" in text) == ("--slo" in more)
    assert "-0.0%" not in text


def test_load_ignored_never_costs_more_traffic_than_load_kept() -> None:
    routing = generate_routing(num_experts=8, num_layers=32, top_k=2, tokens=1000, skew=1.4, affinity=1.0, seed=1)
    plan = plan_experts(demand_of(routing), two_level(8, 4, 9.8), SearchSettings())
    affinity = next(c for c in plan.candidates if c.name == "affinity only")
    assert affinity.figures.traffic <= plan.chosen.figures.traffic
