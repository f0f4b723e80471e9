"""What the planner hopes of a layout before it runs it: never less than the run then shows, or a winner could be skipped."""

from __future__ import annotations

import pytest

from hardware_profiles.cluster import parse_cluster
from planners.outcome import OBJECTIVES, Objective
from planners.search import Search
from planners.space import SearchSpace
from workloads.catalog import load_model
from workloads.slo import Slo
from workloads.synthetic import generate


@pytest.mark.parametrize("cluster", ["h100-sxm:4", "l40s:4"])
@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_no_run_is_better_than_hoped(objective: Objective, cluster: str) -> None:
    trace = generate(input_len=600, output_len=60, num_requests=60, rate_per_s=20.0, arrival="poisson", seed=3)
    slo = Slo(ttft_s=0.3, tpot_s=0.03, attainment=0.5)
    search = Search(
        load_model("llama-3.1-8b"), parse_cluster(cluster), trace, slo, SearchSpace(), objective, 5, 1, 0, None
    )
    search._enumerate()
    entries = [entry for entry in search.entries if entry.status != "unfit"]
    search.full(entries)
    name, larger, _ = OBJECTIVES[objective]
    ratios = []
    for entry in entries:
        assert entry.measured is not None
        seen, hoped = entry.measured.metrics[name], search.hopes.at_best(entry)
        if seen and hoped:
            ratios.append(hoped / seen if larger else seen / hoped)
    assert len(ratios) >= 5 and min(ratios) >= 1 - 1e-9
    vague = 8 if objective == "energy" else 3  # of the energy only idle power is certain
    assert min(ratios) < vague, "such a hope would rule nothing out"
