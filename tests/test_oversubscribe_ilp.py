"""The planning ILP of power: published-style parity cases, brute force on tiny rows, reasons when nothing fits."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planners.oversubscribe.ilp import Option, RowPlan, RowProblem, ServerClass, build, plan_row

CASES = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "power"
SLACK = 1e-6
"""Rounding of sums of powers; the solver's own feasibility tolerance."""


def problem_of(case: dict) -> RowProblem:
    classes = tuple(
        ServerClass(
            name=c["name"],
            count=c["count"],
            weight=c["weight"],
            slo_latency_factor=c["slo_latency_factor"],
            options=tuple(Option(**o) for o in c["options"]),
        )
        for c in case["classes"]
    )
    return RowProblem(classes=classes, budget=case["power_budget"], spike_reserve=case["spike_reserve"])


@pytest.mark.skipif(not CASES.is_dir(), reason="no ../shared/data/power")
@pytest.mark.parametrize("path", sorted(CASES.glob("*.json")), ids=lambda p: p.stem)
def test_parity_case(path: Path) -> None:
    case = json.loads(path.read_text("utf-8"))
    problem, expected = problem_of(case), case["expected"]
    plan = plan_row(problem)
    assert plan.solver.status == expected["status"]
    if expected["status"] == "infeasible":
        assert plan.reason.startswith("row_budget:")
        return
    assert plan.solver.objective == pytest.approx(expected["objective"], abs=1e-6)
    assert plan.power <= problem.usable + SLACK
    assert [sum(c.values()) for c in plan.counts] == [c["count"] for c in case["classes"]]


def packs(problem: RowProblem, powers: list[float]) -> bool:
    """Whether some way to put servers of these powers into the racks keeps every rack's budget."""
    if problem.rack_usable is None:
        return True
    ways = itertools.product(range(problem.racks), repeat=len(powers))
    limit = problem.rack_usable + 1e-9
    return any(
        all(sum(p for p, r in zip(powers, way, strict=True) if r == rack) <= limit for rack in range(problem.racks))
        for way in ways
    )


def within(server: ServerClass) -> list[Option]:
    """Options that keep both limits, not by the planner's own rule."""
    late = {o.name for o in server.options if o.latency_factor > server.slo_latency_factor}
    late |= {o.name for o in server.options if o.median_factor > server.slo_median_factor}
    return [o for o in server.options if o.name not in late]


def brute(problem: RowProblem, only: float | None = None, least: float | None = None) -> float | None:
    """Best objective over all ways to set whole servers, exhaustively. ``only``: of the classes of that weight, unweighted
    otherwise as the programme's; ``least``: throughput that the classes of the largest weight must have."""
    top_weight = max(s.weight for s in problem.classes)

    def splits(server: ServerClass) -> list[tuple[int, tuple[int, ...]]]:
        top = server.count if server.max_count is None else server.max_count
        ways = itertools.product(range(top + 1), repeat=len(within(server)))
        return [(sum(way), way) for way in ways if server.count <= sum(way) <= top]

    installed = sum(s.count for s in problem.classes)
    best = None
    for combination in itertools.product(*map(splits, problem.classes)):
        total = sum(k for k, _ in combination)
        pairs = list(zip(problem.classes, combination, strict=True))
        if problem.keep_mix and any(abs(k - s.count / installed * total) > 1 + 1e-9 for s, (k, _) in pairs):
            continue
        power = sum(o.power * k for s, (_, way) in pairs for o, k in zip(within(s), way, strict=True))
        if power > problem.usable + 1e-9:
            continue
        powers = [o.power for s, (_, way) in pairs for o, k in zip(within(s), way, strict=True) for _ in range(k)]
        parts = [(s, sum(o.throughput * k for o, k in zip(within(s), w, strict=True))) for s, (_, w) in pairs]
        if least is not None and sum(t for s, t in parts if s.weight == top_weight) < least - 1e-6:
            continue
        value = sum(s.weight * t for s, t in parts if only is None or s.weight == only)
        if (best is None or value > best) and packs(problem, powers):
            best = value
    return best


@st.composite
def problems(draw: st.DrawFn) -> RowProblem:
    def option(mhz: int) -> Option:
        return Option(
            mhz=mhz,
            power=draw(st.integers(1, 20)) / 20,
            throughput=draw(st.integers(1, 20)) / 20,
            latency_factor=draw(st.sampled_from([1.0, 1.1, 2.0])),
            median_factor=draw(st.sampled_from([1.0, 1.02, 1.2])),
        )

    racks = draw(st.sampled_from([1, 1, 2, 3]))
    classes = []
    for name in ("high", "low"):
        count = draw(st.integers(1, 3))
        classes.append(
            ServerClass(
                name=name,
                count=count,
                weight=draw(st.sampled_from([1, 10])),
                slo_latency_factor=draw(st.sampled_from([1.05, 1.5])),
                slo_median_factor=draw(st.sampled_from([1.01, 1.05, float("inf")])),
                options=tuple(option(mhz) for mhz in (1410, 1275, 1110)[: draw(st.integers(1, 3))]),
                max_count=draw(st.sampled_from([None, count + 1])),
            )
        )
    return RowProblem(
        classes=tuple(classes),
        budget=draw(st.integers(1, 80)) / 20 + 0.01,
        spike_reserve=draw(st.sampled_from([0.0, 0.118])),
        keep_mix=draw(st.booleans()),
        racks=racks,
        rack_budget=draw(st.integers(1, 40)) / 20 + 0.01 if racks > 1 else None,
    )


@settings(max_examples=40, deadline=None)
@given(problems())
def test_ilp_equals_brute_force(problem: RowProblem) -> None:
    plan, best = plan_row(problem), brute(problem)
    if best is None:
        assert plan.solver.status == "infeasible" and plan.reason
    else:
        assert plan.solver.status == "optimal"
        assert plan.solver.objective == pytest.approx(best, abs=1e-6)
        assert plan.value == pytest.approx(best, abs=1e-6)
        assert plan.lp_bound is not None and plan.lp_bound >= best - 1e-6
        check_racks(problem, plan)


def check_racks(problem: RowProblem, plan: RowPlan) -> None:
    """Row and racks within their budgets; the racks' servers are the row's."""
    assert plan.power <= problem.usable + SLACK
    assert len(plan.rack_counts) == problem.places
    for c, (server, counts) in enumerate(zip(problem.classes, plan.counts, strict=True)):
        for option in server.options:
            placed = sum(rack[c].get(option.name, 0) for rack in plan.rack_counts)
            assert placed == counts.get(option.name, 0)
    if problem.rack_usable is not None:
        for rack in plan.rack_counts:
            loads = zip(problem.classes, rack, strict=True)
            power = sum(o.power * counts.get(o.name, 0) for s, counts in loads for o in s.options)
            assert power <= problem.rack_usable + SLACK


@settings(max_examples=25, deadline=None)
@given(problems())
def test_high_priority_first_gives_it_the_most_it_can_have(problem: RowProblem) -> None:
    plan = plan_row(problem, first=True)
    weights = sorted({s.weight for s in problem.classes}, reverse=True)
    most = brute(problem, only=weights[0])
    assert (most is None) == (not plan.counts)
    if most is None:
        return
    got = [sum(t for s, t in zip(problem.classes, plan.throughput, strict=True) if s.weight == w) for w in weights]
    assert weights[0] * got[0] == pytest.approx(most, abs=1e-4)
    if len(weights) > 1:
        then = brute(problem, only=weights[1], least=most / weights[0])
        assert weights[1] * got[1] == pytest.approx(then, abs=1e-4)
    check_racks(problem, plan)


def cap_or_clock(power: float, throughput: float, **more: float) -> Option:
    return Option(mhz=1410, power=power, throughput=throughput, latency_factor=1.0, **more)


def test_caps_stand_beside_clocks_and_keep_their_names() -> None:
    free, capped = cap_or_clock(1.0, 1.0), cap_or_clock(0.5, 0.9, cap_w=300.0)
    server = ServerClass(name="a", count=3, weight=1, slo_latency_factor=1.1, options=(free, capped))
    plan = plan_row(RowProblem(classes=(server,), budget=2.0))
    assert plan.counts == ({"1410 MHz": 1, "cap 300 W": 2},)


def test_infeasible_racks_and_medians_are_named() -> None:
    server = ServerClass(name="a", count=3, weight=1, slo_latency_factor=1.1, options=(cap_or_clock(1.0, 1.0),))
    plan = plan_row(RowProblem(classes=(server,), budget=3.5, racks=2, rack_budget=1.5))
    assert plan.reason.startswith("rack_budget: 3 servers") and plan.solver.status == "infeasible"
    slow = dataclasses.replace(
        server, slo_median_factor=1.01, options=(dataclasses.replace(server.options[0], median_factor=1.2),)
    )
    plan = plan_row(RowProblem(classes=(slow,), budget=3.5))
    assert plan.reason.startswith("a: no clock keeps the median latency within 1.01 times (the best has 1.2)")


def test_every_constraint_has_a_name() -> None:
    server = ServerClass(name="a", count=1, weight=1, slo_latency_factor=2, options=(cap_or_clock(1, 1),), max_count=2)
    problem = RowProblem(classes=(server,), budget=3.5, racks=2, rack_budget=1.5, keep_mix=True)
    model, _ = build(problem, floors={1: 1.0})
    names = "class_0_least class_0_most first_1 mix_0_least mix_0_most rack_budget_0 rack_budget_1 row_budget"
    assert sorted(c.name for c in model.constraints()) == names.split()


def test_the_reason_names_the_class_that_no_clock_serves() -> None:
    slow = ServerClass(
        name="chat",
        count=1,
        weight=1,
        slo_latency_factor=1.0,
        options=(Option(mhz=1110, power=0.5, throughput=1, latency_factor=1.2),),
    )
    plan = plan_row(RowProblem(classes=(slow,), budget=10))
    assert plan.solver.status == "infeasible"
    assert plan.reason.startswith("chat: no clock keeps the latency within 1 times")
