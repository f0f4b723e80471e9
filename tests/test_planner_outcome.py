"""How finished runs are ranked, on runs made up by hand."""

from __future__ import annotations

import math

import pytest

from planners import reasons
from planners.fates import Fates
from planners.outcome import OBJECTIVES, TIE, Entry, Objective, choose, front_of, missing, score, ties_with
from planners.pool import Measured
from planners.space import Candidate
from workloads.slo import Slo

SLO = Slo(ttft_s=1.0, attainment=0.9)


def run(**metrics: float | None) -> Measured:
    usual: dict[str, float | None] = dict.fromkeys(Measured.FIELDS, 1.0)
    return Measured(usual | {"num_gpus": 1, "slo_attainment": 1.0} | metrics, 256, 2048)


def entry(measured: Measured) -> Entry:
    return Entry(Candidate(tp=1, pp=1, dp=1, ep=1), measured=measured)


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_every_objective_prefers_its_better_value(objective: Objective) -> None:
    name, larger, _ = OBJECTIVES[objective]
    low, high = run(**{name: 1.0}), run(**{name: 2.0})
    better, worse = (high, low) if larger else (low, high)
    assert score(better, SLO, objective) < score(worse, SLO, objective)
    entries = [entry(worse), entry(better)]
    assert choose(entries, SLO, objective) is entries[1]


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_a_run_without_the_figure_comes_last(objective: Objective) -> None:
    name = OBJECTIVES[objective][0]
    for nothing in (None, math.nan):
        assert score(run(**{name: 1e9}), SLO, objective) < score(run(**{name: nothing}), SLO, objective)
        entries = [entry(run(**{name: nothing})), entry(run(**{name: 5.0}))]
        assert choose(entries, SLO, objective) is entries[1]


def test_the_slo_comes_before_the_objective_and_the_nearest_miss_before_others() -> None:
    cheap_miss = entry(run(usd_per_million_output_tokens=1.0, slo_attainment=0.89))
    dear = entry(run(usd_per_million_output_tokens=9.0, slo_attainment=0.9))
    far = entry(run(usd_per_million_output_tokens=0.1, slo_attainment=0.2))
    assert choose([far, cheap_miss, dear], SLO, "cost") is dear
    assert choose([far, cheap_miss], SLO, "cost") is cheap_miss
    assert missing(cheap_miss.measured, SLO) == pytest.approx(0.01) and missing(dear.measured, SLO) == 0
    assert missing(far.measured, None) == 0


def test_ties_go_to_fewer_devices_then_to_lower_latency() -> None:
    many = entry(run(p95_tpot_ms=100.0, num_gpus=4, mean_e2el_ms=1.0))
    slow = entry(run(p95_tpot_ms=100.0 * (1 + 0.9 * TIE), num_gpus=2, mean_e2el_ms=9.0))
    quick = entry(run(p95_tpot_ms=100.0 * (1 + 0.9 * TIE), num_gpus=2, mean_e2el_ms=5.0))
    beyond = entry(run(p95_tpot_ms=100.0 * (1 + 1.1 * TIE), num_gpus=1, mean_e2el_ms=1.0))
    assert choose([many, slow, quick, beyond], SLO, "tpot") is quick
    assert ties_with(None, None) and not ties_with(None, 1.0)


def test_the_front_keeps_what_is_best_in_anything_and_drops_what_is_beaten_or_misses_the_slo() -> None:
    quick = entry(run(p95_ttft_ms=1.0, joules_per_output_token=9.0))
    frugal = entry(run(p95_ttft_ms=9.0, joules_per_output_token=1.0))
    beaten = entry(run(p95_ttft_ms=9.0, joules_per_output_token=9.0))
    missed = entry(run(p95_ttft_ms=0.1, slo_attainment=0.5))
    more = entry(run(p95_ttft_ms=9.0, joules_per_output_token=9.0, request_goodput=2.0))
    assert front_of([quick, frugal, beaten, missed, more], SLO) == [quick, frugal, more]


def test_a_better_figure_that_counts_as_equal_is_told_with_the_rule() -> None:
    best = run(usd_per_million_output_tokens=7.93, num_gpus=2)
    cheaper = run(usd_per_million_output_tokens=7.92, num_gpus=4)
    assert reasons.compare(cheaper, best, "cost") == (
        "ties at 7.92 $/1M output tokens (7.93 is within 0.5%, which counts as equal) on 4 GPUs against 2"
    )
    assert reasons.tied_ahead(cheaper, best, "cost") and not reasons.tied_ahead(best, cheaper, "cost")
    assert not reasons.tied_ahead(run(usd_per_million_output_tokens=7.8), best, "cost")


def test_figures_of_the_busiest_stretch_are_told_apart_from_the_table() -> None:
    best = Entry(Candidate(tp=2, pp=1, dp=1, ep=1), screen=run(), measured=run(usd_per_million_output_tokens=2.0))
    other = Entry(Candidate(tp=1, pp=1, dp=1, ep=1), screen=run(usd_per_million_output_tokens=1.5))
    for where, words in (
        ("on the busiest 400 requests ", "on the busiest 400 requests (the table has the whole trace) "),
        ("", ""),
    ):
        other.reason = ""
        Fates("cost", None, where).settle([best, other], best, by_rate=False)
        assert other.reason == f"{words}1.5 $/1M output tokens against 1 (+50%)"
