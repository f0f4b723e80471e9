"""Mélange's published tables 3 to 8 and figure 9 against this planner.

The throughputs behind the tables were never published. The profiles here are rooflines fitted to the single-type fleets
of the tables, so costs are compared within bands: Arena 15 %, PubMed and Mixed (11.5 % PubMed) 25 %.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from planners.fleet.bounds import single_type
from planners.fleet.ilp import plan_fleet
from planners.fleet.problem import FleetProblem, GpuType, Size
from planners.fleet.profile import read_profile

FOLDER = Path("../shared/data/melange")
TABLES = FOLDER / "melange_paper_tables.csv"
SERIES = [(name, slo) for name in ("arena", "pubmed", "mixed") for slo in (120, 40)]
RATES = (1, 2, 4, 8, 16, 32)
BANDS = {"arena": 0.15, "pubmed": 0.25, "mixed": 0.25}
BEYOND = {("arena", 40, 1): 0.27, ("mixed", 40, 2): 0.37}
"""Rows outside: the first rents an L4, whose weights alone take 45 ms per token, above the 40 ms promised; the second
is one fleet of two instances against another."""
L4, A10G, A100, H100 = range(4)
needs_data = pytest.mark.skipif(not TABLES.exists(), reason="../shared/data/melange is not here")


@cache
def _published():
    with TABLES.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["solver"] == "Melange"]
    return {(r["dataset"], int(r["tpot_slo_ms"]), int(r["rate_req_s"])): float(r["cost_usd_h"]) for r in rows}


@cache
def _ours(name, slo, rate):
    case = "mixed_88_12" if name == "mixed" else name
    file = FOLDER / f"recon_{case}_slo{slo}_r{rate}.json"  # the smaller rates are the same profile, rescaled
    profile = read_profile(file if file.exists() else FOLDER / f"recon_{case}_slo{slo}_r8.json")
    problem = profile.problem(rate, None, {}, {})
    alone = [
        np.inf if n is None else n * t.usd_per_hour for n, t in zip(single_type(problem), problem.types, strict=True)
    ]
    return plan_fleet(problem), alone


@needs_data
@pytest.mark.parametrize(("name", "slo"), SERIES)
def test_costs_are_those_of_the_published_tables_within_the_bands(name, slo):
    for rate in RATES:
        fleet, _ = _ours(name, slo, rate)
        band = BEYOND.get((name, slo, rate), BANDS[name])
        assert fleet.usd_per_hour == pytest.approx(_published()[name, slo, rate], rel=band), rate


@needs_data
def test_arena_at_1_and_4_requests_a_second_is_the_published_fleet():
    assert _ours("arena", 120, 1)[0].counts == (1, 1, 0, 0)
    assert _ours("arena", 120, 4)[0].counts == (1, 0, 1, 0)


@needs_data
def test_types_stand_in_the_published_order():
    for rate in RATES:
        assert _ours("pubmed", 120, rate)[1][A100] < _ours("pubmed", 120, rate)[1][H100]
        if rate >= 2:
            assert _ours("pubmed", 40, rate)[1][H100] < _ours("pubmed", 40, rate)[1][A100]
    for rate in (1, 2):
        assert sum(_ours("arena", 120, rate)[0].counts[A100:]) == 0
    for rate in (4, 8, 16, 32):
        assert sum(_ours("arena", 120, rate)[0].counts[A100:]) > 0


@needs_data
@pytest.mark.parametrize("name", ["arena", "pubmed", "mixed"])
def test_savings_reach_the_published_size(name):
    """Published headlines: 9-77 %, 2-33 %, 4-51 % (rows with none left out)."""
    savings = []
    for slo in (120, 40):
        for rate in RATES:
            fleet, alone = _ours(name, slo, rate)
            savings += [1 - fleet.usd_per_hour / usd for usd in alone if np.isfinite(usd)]
    assert min(savings) >= -1e-9
    assert max(savings) == pytest.approx({"arena": 0.77, "pubmed": 0.33, "mixed": 0.51}[name], abs=0.15)


def test_figure_9_saves_24_and_31_percent():
    """One size, 1000 in / 250 out, at 4.3 requests/s; MaxTput read off the figure's steps: A10G 0.37, A100 2.0."""
    types = (GpuType(name="A10G", usd_per_hour=1.01), GpuType(name="A100", usd_per_hour=3.67))
    problem = FleetProblem(
        types=types,
        sizes=(Size(name="1000 in / 250 out", rate_per_s=4.3),),
        max_tput_per_s=np.array([[0.37, 2.0]]),
        slice_factor=64,
    )
    fleet = plan_fleet(problem)
    assert fleet.counts == (1, 2) and fleet.usd_per_hour == pytest.approx(8.35)
    assert single_type(problem) == [12, 3]
    assert pytest.approx(0.24, abs=0.005) == 1 - 8.35 / (3 * 3.67)
    assert pytest.approx(0.31, abs=0.005) == 1 - 8.35 / (12 * 1.01)
