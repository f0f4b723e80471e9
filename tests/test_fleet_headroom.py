"""The headroom loop: more of the types that missed the SLO, and of no other, until the promise holds or rounds end."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from planners.fleet import simulated
from planners.fleet.capacity import Capacity
from planners.fleet.problem import FleetProblem, GpuType, Size
from workloads.slo import Slo


@pytest.fixture
def keep(monkeypatch):
    """Run the loop on two types that serve one size each; ``enough``: instances at which a type keeps its SLO."""
    types = (GpuType(name="a", usd_per_hour=1.0), GpuType(name="b", usd_per_hour=2.0))
    sizes = (Size(name="s", rate_per_s=4.0), Size(name="t", rate_per_s=4.0))
    problem = FleetProblem(types=types, sizes=sizes, max_tput_per_s=np.array([[2.0, 0.0], [0.0, 2.0]]))

    def run(enough, rounds=8):
        def check(slices, deployments, cell, trace, slo, seed):
            shares = [1.0 if n >= least else 0.5 for n, least in zip(deployments, enough, strict=True)]
            results = tuple(SimpleNamespace(attainment=share) for share in shares)
            return SimpleNamespace(attainment=min(shares), results=results)

        monkeypatch.setattr(simulated, "check", check)
        serving = SimpleNamespace(deployment=lambda candidate, count: count)
        grid, capacity = SimpleNamespace(cell=None), Capacity(slo=Slo(tpot_s=1.0))
        return simulated.keep_promise(
            problem, serving, types, grid, None, capacity, gap=None, time_limit_s=None, rounds=rounds
        )

    return run


def test_a_kept_promise_needs_no_headroom(keep):
    (only,) = keep([2, 2])
    assert only.fleet.counts == (2, 2) and only.headroom.tolist() == [1.0, 1.0]


def test_only_the_type_that_missed_gets_headroom_until_it_keeps_the_slo(keep):
    rounds = keep([4, 2])
    counts = [r.fleet.counts for r in rounds]
    assert counts[0] == (2, 2) and counts[-1] == (4, 2)
    assert all(b == 2 for _, b in counts) and [a for a, _ in counts] == sorted(a for a, _ in counts)
    assert rounds[-1].headroom[1] == 1.0 and rounds[-1].headroom[0] > 1.1
    assert np.allclose(rounds[-1].problem.max_tput_per_s[0, 0], 2.0 / rounds[-1].headroom[0])


def test_the_loop_ends_after_its_rounds_and_reports_a_promise_not_kept(keep):
    rounds = keep([1000, 2], rounds=3)
    assert len(rounds) == 4 and rounds[-1].checked.attainment < 0.95
