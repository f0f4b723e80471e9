"""The fleet planner: parity with published cases, brute force, limits, routing, the command."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apex_sim.cli import main
from hardware_profiles.errors import UserError
from planners.fleet.bounds import lp_bound
from planners.fleet.check import route
from planners.fleet.ilp import plan_fleet
from planners.fleet.problem import FleetProblem, GpuType, Size, instances, type_loads
from planners.fleet.profile import read_profile

CASES = sorted(Path("../shared/data/melange").glob("*.json"))


def _problem(rates, tput, prices, limits=None, slices=2):
    limits = limits or [None] * len(prices)
    types = [
        GpuType(name=f"g{j}", usd_per_hour=p, limit=k) for j, (p, k) in enumerate(zip(prices, limits, strict=True))
    ]
    sizes = tuple(Size(name=f"s{b}", rate_per_s=rate) for b, rate in enumerate(rates))
    return FleetProblem(types=tuple(types), sizes=sizes, max_tput_per_s=np.array(tput, float), slice_factor=slices)


def _brute(problem):
    """Cheapest cost over all splits of all sizes."""
    splits = [
        [
            s
            for s in itertools.product(range(problem.slice_factor + 1), repeat=len(problem.types))
            if sum(s) == problem.slice_factor
        ]
    ] * len(problem.sizes)
    best = np.inf
    for plan in itertools.product(*splits):
        slices = np.array(plan)
        if not np.isfinite(problem.loads[slices > 0]).all():
            continue
        counts = [instances(load) for load in type_loads(problem, slices).tolist()]
        if all(t.limit is None or n <= t.limit for t, n in zip(problem.types, counts, strict=True)):
            best = min(best, float(np.dot(problem.usd_per_hour, counts)))
    return best


@given(
    rates=st.lists(st.sampled_from([0.0, 0.3, 1.0, 2.7]), min_size=1, max_size=3),
    tputs=st.lists(st.sampled_from([0.0, 0.5, 0.9, 1.7, 4.0]), min_size=6, max_size=6),
    prices=st.lists(st.sampled_from([0.7, 1.01, 3.67]), min_size=2, max_size=2),
    limits=st.lists(st.sampled_from([None, 0, 1, 3]), min_size=2, max_size=2),
)
@settings(max_examples=25, deadline=None)
def test_the_plan_costs_what_brute_force_finds(rates, tputs, prices, limits):
    tput = np.array(tputs).reshape(3, 2)[: len(rates)]
    problem = _problem(rates, tput, prices, limits, 3)
    best = _brute(problem)
    if not np.isfinite(best):
        with pytest.raises(UserError):
            plan_fleet(problem)
        return
    fleet = plan_fleet(problem)
    assert fleet.usd_per_hour == pytest.approx(best)
    assert fleet.optimal and fleet.bound_usd_per_hour == pytest.approx(best)
    assert lp_bound(problem) <= best + 1e-9
    assert (type_loads(problem, fleet.slices) <= np.array(fleet.counts) + 1e-7).all()
    assert (fleet.slices.sum(axis=1) == np.where(problem.rates_per_s > 0, 3, 0)).all()


@pytest.mark.parametrize("scale", [1e-10, 1e-6, 1e-3])
def test_small_rates_take_one_instance_of_a_type_that_serves_them(scale):
    rates, tput = [195 * scale, 22.9 * scale, 199 * scale], [[38.0, 44.0], [44.0, 0.0], [0.0, 4.5]]
    fleet = plan_fleet(_problem(rates, tput, [8.28, 0.54], [20, None], 4))
    assert fleet.counts == (1, 1) and fleet.optimal and fleet.bound_usd_per_hour == pytest.approx(8.82)
    (alone,) = plan_fleet(_problem([scale], [[54.0]], [8.78], [3], 5)).counts
    assert alone == 1 and instances(0.0) == 0


@pytest.mark.skipif(not CASES, reason="../shared/data/melange is not here")
@pytest.mark.parametrize("path", CASES, ids=[path.stem for path in CASES])
def test_parity_with_the_published_cases(path):
    expected = json.loads(path.read_text())["expected"]
    problem = read_profile(path).problem(None, None, {}, {})
    if expected["status"] == "infeasible":
        with pytest.raises(UserError, match="no GPU type serves"):
            plan_fleet(problem)
    else:
        assert plan_fleet(problem).usd_per_hour == pytest.approx(expected["cost"], abs=1e-6)


def test_limits_that_cannot_carry_the_load_say_how_much_they_carry():
    problem = _problem([4.0], [[1.0]], [1.0], [2])
    with pytest.raises(UserError, match="g0=2: the instances to be had carry 50 % of the load"):
        plan_fleet(problem)


def test_a_size_goes_to_types_in_proportion_to_its_slices():
    types = route(np.array([0] * 8 + [1] * 2), np.array([[3, 1], [0, 0]]))
    assert np.bincount(types[:8]).tolist() == [6, 2]
    assert types[8:].tolist() == [-1, -1]


def _profile(tmp_path, **changes):
    data = {
        "workload_distribution": [[0.2, 0.1], [0.5, 0.2]],
        "total_request_rate": 30.0,
        "gpu_info": {
            "A10G": {"cost": 1.01, "tputs": [[2, 1], [5, 2]]},
            "A100": {"cost": 3.67, "tputs": [[20, 20], [40, 20]]},
        },
    }
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(data | changes))
    return str(path)


def test_the_command_plans_from_a_profile(tmp_path, capsys):
    out = tmp_path / "plan.json"
    assert main(["gpus", "--profile", _profile(tmp_path), "--slice-factor", "2", "--json", str(out)]) == 0
    assert "2 x A10G, 1 x A100: $5.690/h" in capsys.readouterr().out
    assert json.loads(out.read_text())["usd_per_hour"] == pytest.approx(5.69)


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({"gpu_info": {}}, [], "gpu_info"),
        ({"total_request_rate": -1}, [], "total_request_rate is -1"),
        ({"workload_distribution": [[1, 2], [3]]}, [], "workload_distribution"),
        ({}, ["--price", "B200=3"], "unknown type 'B200'"),
        ({}, ["--limit", "A10G=1.5"], "whole number"),
        ({}, ["--slice-factor", "0"], "slice factor is 0"),
        ({}, ["--gap", "2"], "--gap is 2"),
        ({}, ["--slo", "tpot=50ms"], "--slo has no meaning"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, changes, options, words):
    assert main(["gpus", "--profile", _profile(tmp_path, **changes), *options]) == 2
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.count("\n") == 1 and not captured.out


def test_instances_that_do_not_suffice_are_one_line_below_what_was_found(tmp_path, capsys):
    assert main(["gpus", "--profile", _profile(tmp_path), "--limit", "A10G=0,A100=1"]) == 2
    captured = capsys.readouterr()
    assert "carry" in captured.err and captured.err.count("\n") == 1 and captured.out.startswith("No fleet serves")


def test_the_simulated_fleet_keeps_its_promise_and_uses_the_cache(tmp_path, capsys):
    command = ["gpus", "--model", "llama-3.1-8b", "--gpus", "a100-sxm-80gb,l4", "--rate", "4", "--input-len", "300"]
    command += ["--output-len", "60", "--num-requests", "150", "--slo", "tpot=100ms,ttft=2s", "--json", "-"]
    command += ["--cache", str(tmp_path)]
    assert main(command) == 0
    first = capsys.readouterr().out
    data = json.loads(first)
    assert data["kept"] and data["simulated_attainment"] >= 0.95
    assert sum(t["requests"] for t in data["types"]) == 150
    assert len(list(tmp_path.glob("*.json"))) == 2
    assert main(command) == 0
    assert capsys.readouterr().out == first
