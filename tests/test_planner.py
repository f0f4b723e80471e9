"""The parallel planner: nothing that could win is dropped, the same plan every time, true reasons."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from apex_sim.files import to_json
from apex_sim.plan_report import pareto_figure, plan_dict, plan_text, write_plan
from hardware_profiles.cluster import parse_cluster
from hardware_profiles.errors import UserError
from planners import search
from planners.outcome import OBJECTIVES, TIE, Objective, score, ties_with
from planners.parallel import PlanResult, busiest_stretch, plan_parallel
from planners.pareto import pareto_front
from planners.pool import RATE_TOLERANCE
from planners.space import Candidate, SearchSpace, build, enumerate_layouts
from simulator.simulate import simulate_deployment
from workloads.catalog import load_model
from workloads.slo import Slo
from workloads.trace import Trace

SLO = Slo(ttft_s=0.5, tpot_s=0.03)
SETTINGS = {"max_num_batched_tokens": 2048, "max_num_seqs": 128}


def traffic(n: int = 300, rate: float = 6.0, seed: int = 0, bursts: bool = False) -> Trace:
    """Chat-like lengths; with ``bursts`` a third of the requests come in a few crowds."""
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate, n))
    if bursts:
        crowd = rng.random(n) < 0.3
        arrivals[crowd] = rng.choice(arrivals[:: n // 5], crowd.sum()) + rng.uniform(0, 0.5, crowd.sum())
    inputs = np.clip(rng.lognormal(np.log(600), 0.8, n), 1, 6000).astype(np.int64)
    outputs = np.clip(rng.lognormal(np.log(80), 0.8, n), 1, 600).astype(np.int64)
    return Trace(arrival_s=np.sort(arrivals), input_tokens=inputs, output_tokens=outputs, name="chat")


def plan(
    model: str = "llama-3.1-8b", cluster: str = "h100-sxm:4", trace: Trace | None = None, **options: object
) -> PlanResult:
    arguments: dict[str, object] = {"slo": SLO, "space": SearchSpace(settings=SETTINGS)} | options
    return plan_parallel(
        model=load_model(model),
        cluster=parse_cluster(cluster),
        trace=trace or traffic(),
        **arguments,  # type: ignore[arg-type]
    )


def brute_force(result: PlanResult) -> dict[Candidate, dict[str, float]]:
    """Every layout that fits, simulated on the whole trace."""
    measured = {}
    for candidate in enumerate_layouts(result.model, result.cluster, result.space):
        try:
            deployment = build(result.model, result.cluster, result.space, candidate)
            measured[candidate] = simulate_deployment(deployment, result.trace, slo=result.slo).summary
        except UserError:
            continue
    return measured


def value(summary: dict[str, float], objective: Objective) -> float:
    name, larger, _ = OBJECTIVES[objective]
    return -summary[name] if larger else summary[name]


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(
    ("model", "cluster", "options"),
    [
        ("llama-3.1-8b", "h100-sxm:4", {"trace": traffic(160, rate=25)}),
        ("llama-3.1-8b", "l40s:4", {"trace": traffic(160, rate=6, bursts=True)}),
        ("qwen3-30b-a3b", "h100-sxm:4", {"trace": traffic(120, rate=15), "slo": Slo(ttft_s=0.5, tpot_s=0.02)}),
        (
            "llama-3.1-8b",
            "h100-sxm:2",
            {"space": SearchSpace(settings=SETTINGS, quantizations=(None, "fp8")), "trace": traffic(160, rate=20)},
        ),
    ],
    ids=["dense", "bursts", "moe", "fp8"],
)
@pytest.mark.parametrize("screen", [2000, 60], ids=["short trace", "screened"])
def test_the_winner_is_that_of_brute_force(
    objective: Objective,
    model: str,
    cluster: str,
    options: dict[str, object],
    screen: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search, "SCREEN_REQUESTS", screen)
    result = plan(model, cluster, objective=objective, **options)
    assert result.slo is not None
    every = brute_force(result)
    good = {c: s for c, s in every.items() if s["slo_attainment"] >= result.slo.attainment}
    assert result.best.measured is not None
    best = min(value(s, objective) for s in good.values())
    found = value(result.best.measured.metrics, objective)
    assert found <= best + abs(best) * TIE
    if screen == 2000:
        ties = [c for c, s in good.items() if ties_with(value(s, objective), best)]
        assert result.best.candidate.num_devices == min(c.num_devices for c in ties)
    for entry in result.entries:
        if entry.status == "bounded":
            summary = every[entry.candidate]
            hopeless = summary["slo_attainment"] < result.slo.attainment
            assert hopeless or (entry.reason.startswith("not simulated") and value(summary, objective) >= found)
        if entry.measured is not None and entry.candidate in every:
            assert entry.measured.metrics["slo_attainment"] == every[entry.candidate]["slo_attainment"]


def test_a_cheap_plan_that_fails_only_in_the_burst_still_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The busiest stretch is a small part of the trace: missing the SLO there is allowed."""
    monkeypatch.setattr(search, "SCREEN_REQUESTS", 100)
    calm = traffic(2200, rate=4, seed=1)
    arrivals = calm.arrival_s.copy()
    arrivals[1500:1580] = arrivals[1500]
    trace = dataclasses.replace(calm, arrival_s=np.sort(arrivals))
    result = plan(trace=trace)
    assert result.best.candidate.num_devices == 1
    assert result.best.screen is not None
    assert result.best.screen.metrics["slo_attainment"] < SLO.attainment


@pytest.mark.parametrize("max_rate", [False, True])
def test_any_number_of_processes_gives_the_same_bytes(max_rate: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search.Evaluator, "POOL_PAYS", 0)
    texts = []
    for jobs in (1, 2, 1):
        result = plan(trace=traffic(50), cluster="h100-sxm:2", jobs=jobs, find_max_rate=max_rate, objective="goodput")
        texts.append(to_json(plan_dict(result)) + plan_text(result, 5))
    assert texts[0] == texts[1] == texts[2]


def test_every_candidate_has_a_status_and_a_reason() -> None:
    result = plan("llama-3.1-70b", "h100-sxm:8", traffic(rate=3), space=SearchSpace(), slo=Slo(ttft_s=1.0, tpot_s=0.05))
    assert {e.status for e in result.entries} >= {"best", "unfit", "bounded"}
    assert all(e.reason for e in result.entries)
    assert sum(e.status == "best" for e in result.entries) == 1
    by_layout = {e.candidate.layout: e for e in result.entries}
    assert "weights" in by_layout["tp1"].reason
    assert len(result.table) == len(result.entries)


def test_ties_are_called_ties() -> None:
    result = plan(trace=traffic(500, rate=1.0), objective="goodput")
    assert result.best.candidate.num_devices == 1
    others = [e for e in result.entries if e.status in ("met", "pareto") and e.candidate.num_devices > 1]
    assert any(e.reason.startswith("ties at") and "on 2 GPUs against 1" in e.reason for e in others)


def test_limits_that_gain_nothing_are_left_at_the_default() -> None:
    result = plan(space=SearchSpace(), trace=traffic(200))
    assert result.best.candidate.max_num_seqs is None


def test_other_limits_win_when_they_alone_meet_the_slo() -> None:
    """Long prompts beside decoding: smaller chunks keep TPOT within the limit (p95 16.0 ms; the default's chunks 16.5)."""
    rng = np.random.default_rng(3)
    n = 200
    trace = Trace(
        arrival_s=np.cumsum(rng.exponential(0.25, n)),
        input_tokens=np.where(rng.random(n) < 0.5, 7000, 200),
        output_tokens=np.full(n, 60),
    )
    result = plan(trace=trace, cluster="h100-sxm:1", space=SearchSpace(), slo=Slo(ttft_s=3.0, tpot_s=0.0163))
    assert result.best.candidate.max_num_batched_tokens in (2048, 4096)


def test_an_slo_that_cannot_be_met_names_the_best() -> None:
    with pytest.raises(
        UserError, match=r"no layout of .* meets --slo ttft=1ms.*the best, tp\d.* serves 0\.0% of the requests"
    ):
        plan(slo=Slo(ttft_s=0.001))


def test_overload_names_the_best_too() -> None:
    with pytest.raises(UserError, match=r"the best, .* serves \d+\.\d% of the requests within it at \d+ req/s"):
        plan(trace=traffic(600, rate=400), cluster="h100-sxm:1")


def test_what_does_not_fit_says_what_would() -> None:
    with pytest.raises(UserError, match=r"does not fit on h100-sxm:1 .*short by .*h100-sxm:2 \(tp=2 pp=1\)") as caught:
        plan("llama-3.1-70b", "h100-sxm:1")
    assert "\n" not in str(caught.value)


def test_what_needs_several_nodes_says_so() -> None:
    with pytest.raises(UserError, match=r"fit with .*h100-sxm:8x2 \(tp=8 pp=2\)"):
        plan("llama-3.1-405b", "h100-sxm:8")


@pytest.mark.parametrize("objective", ["cost", "goodput"])
def test_the_highest_rate_meets_the_slo_and_four_percent_more_does_not(objective: Objective) -> None:
    trace = traffic(400, rate=6)
    result = plan(trace=trace, cluster="h100-sxm:2", find_max_rate=True, objective=objective)
    rate = result.best.max_rate_per_s
    assert rate is not None and rate > trace.request_rate_per_s

    def attainment(at: float) -> float:
        faster = trace.scale_rate(at / trace.request_rate_per_s)
        return simulate_deployment(result.deployment(), faster, slo=SLO).attainment

    assert attainment(rate) >= SLO.attainment
    assert attainment(rate * (1 + 2 * RATE_TOLERANCE)) < SLO.attainment
    assert plan_dict(result)["max_rate_per_s"] == rate
    assert f"{rate:.3g}"[:3] in plan_text(result, 5)


def test_by_rate_the_fastest_of_all_layouts_wins() -> None:
    """Not the fastest of those that are cheapest at the trace's rate."""
    trace = traffic(300, rate=4)
    result = plan(trace=trace, cluster="h100-sxm:4", find_max_rate=True, objective="goodput")
    best = result.best.max_rate_per_s
    assert best is not None
    factor = 1.1 * best / trace.request_rate_per_s
    for candidate in brute_force(result):
        deployment = build(result.model, result.cluster, result.space, candidate)
        faster = simulate_deployment(deployment, trace.scale_rate(factor), slo=SLO)
        assert faster.attainment < SLO.attainment


def test_a_rate_without_limit_is_called_any() -> None:
    trace = Trace(arrival_s=np.arange(5.0), input_tokens=np.full(5, 100), output_tokens=np.full(5, 5))
    result = plan(trace=trace, cluster="h100-sxm:1", find_max_rate=True, slo=Slo(ttft_s=5.0))
    assert result.best.max_rate_per_s == math.inf
    assert plan_dict(result)["max_rate_per_s"] == "any"


def test_rates_need_arrivals() -> None:
    closed = Trace(arrival_s=np.zeros(9), input_tokens=np.full(9, 50), output_tokens=np.full(9, 5), concurrency=3)
    with pytest.raises(UserError, match="closed loop of 3 clients"):
        plan(trace=closed, find_max_rate=True)
    with pytest.raises(UserError, match="arrive at once"):
        plan(trace=dataclasses.replace(closed, concurrency=None), find_max_rate=True)


def test_closed_loops_are_planned_by_what_they_reach() -> None:
    rng = np.random.default_rng(0)
    closed = Trace(
        arrival_s=np.zeros(200),
        input_tokens=rng.integers(100, 900, 200),
        output_tokens=np.full(200, 60),
        concurrency=32,
    )
    result = plan(trace=closed, objective="goodput", slo=Slo(ttft_s=2.0))
    assert result.best.candidate.num_devices == 4


def test_the_busiest_stretch_starts_at_zero_and_has_the_burst() -> None:
    trace = traffic(1000, rate=2, bursts=True)
    stretch = busiest_stretch(trace, 100)
    assert stretch.arrival_s[0] == 0
    assert len(stretch) >= 100
    assert stretch.request_rate_per_s > 2 * trace.request_rate_per_s
    assert busiest_stretch(trace, 1000) is trace


def test_the_score_puts_the_slo_first() -> None:
    result = plan(trace=traffic(rate=40), cluster="h100-sxm:2", slo=Slo(ttft_s=0.2, tpot_s=0.02))
    assert result.best.measured is not None
    assert score(result.best.measured, result.slo, "cost")[0] == 0
    assert any(e.status == "missed" for e in result.entries)


def test_pareto_front_keeps_what_nothing_dominates() -> None:
    points = [(1, 5), (2, 2), (3, 3), (5, 1), (2, 2), (1, math.nan)]
    assert pareto_front(points) == [0, 1, 3, 4]


def test_files_of_a_plan(tmp_path) -> None:  # type: ignore[no-untyped-def]
    result = plan(trace=traffic(60))
    write_plan(result, {}, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"plan.json", "candidates.csv", "pareto.png", "serve.sh"}
    assert (tmp_path / "serve.sh").read_text().startswith("#!/bin/sh\n")
    assert pareto_figure(result).axes
