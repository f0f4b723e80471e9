"""Closed forms beside the integer programme: the LP bound and the fleets of one type."""

from __future__ import annotations

import numpy as np

from planners.fleet.problem import FleetProblem, instances


def lp_bound(problem: FleetProblem) -> float:
    """Both integralities relaxed, limits left out: sum over sizes of rate * min_j price_j / MaxTput_j [$/h]."""
    if not len(problem.sizes):
        return 0.0
    loads = problem.loads
    served = np.isfinite(loads)
    dollars = np.where(served, np.where(served, loads, 0.0) * problem.usd_per_hour, np.inf)
    return float(dollars.min(axis=1).sum())


def single_type(problem: FleetProblem) -> list[int | None]:
    """Instances of each type alone; None when it cannot serve a size that has requests, or its limit is too low."""
    totals = problem.loads.sum(axis=0)
    counts: list[int | None] = []
    for kind, total in zip(problem.types, totals.tolist(), strict=True):
        count = instances(total) if np.isfinite(total) else None
        counts.append(None if count is None or (kind.limit is not None and count > kind.limit) else count)
    return counts
