"""The planning ILP of power: published-style parity cases, brute force on tiny rows, reasons when nothing fits."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planners.oversubscribe.ilp import Option, RowProblem, ServerClass, allowed, plan_row

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


def brute(problem: RowProblem) -> float | None:
    """Best objective over all ways to clock whole servers, exhaustively."""

    def splits(server: ServerClass) -> list[tuple[int, tuple[int, ...]]]:
        top = server.count if server.max_count is None else server.max_count
        ways = itertools.product(range(top + 1), repeat=len(allowed(server)))
        return [(sum(way), way) for way in ways if server.count <= sum(way) <= top]

    installed = sum(s.count for s in problem.classes)
    best = None
    for combination in itertools.product(*map(splits, problem.classes)):
        total = sum(k for k, _ in combination)
        pairs = list(zip(problem.classes, combination, strict=True))
        if problem.keep_mix and any(abs(k - s.count / installed * total) > 1 + 1e-9 for s, (k, _) in pairs):
            continue
        power = sum(o.power * k for s, (_, way) in pairs for o, k in zip(allowed(s), way, strict=True))
        if power <= problem.usable + 1e-9:
            value = sum(s.weight * o.throughput * k for s, (_, w) in pairs for o, k in zip(allowed(s), w, strict=True))
            best = value if best is None else max(best, value)
    return best


@st.composite
def problems(draw: st.DrawFn) -> RowProblem:
    def option(mhz: int) -> Option:
        return Option(
            mhz=mhz,
            power=draw(st.integers(1, 20)) / 20,
            throughput=draw(st.integers(1, 20)) / 20,
            latency_factor=draw(st.sampled_from([1.0, 1.1, 2.0])),
        )

    classes = []
    for name in ("high", "low"):
        count = draw(st.integers(1, 3))
        classes.append(
            ServerClass(
                name=name,
                count=count,
                weight=draw(st.sampled_from([1, 10])),
                slo_latency_factor=draw(st.sampled_from([1.05, 1.5])),
                options=tuple(option(mhz) for mhz in (1410, 1275, 1110)[: draw(st.integers(1, 3))]),
                max_count=draw(st.sampled_from([None, count + 1])),
            )
        )
    return RowProblem(
        classes=tuple(classes),
        budget=draw(st.integers(1, 80)) / 20 + 0.01,
        spike_reserve=draw(st.sampled_from([0.0, 0.118])),
        keep_mix=draw(st.booleans()),
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
        assert plan.power <= problem.usable + SLACK


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
