"""A second opinion on the master: is there really no cheaper set of instances? CBC is wrong at times."""

from __future__ import annotations

import numpy as np

from planners.fleet.problem import FULL, FleetProblem, Floats

LOOKS = 20_000
"""Partial sets looked at before giving up."""


def cheaper(fleet: FleetProblem, rows: list[Floats], cost: float) -> Floats | None:
    """float64[types]: instances that cost less than ``cost`` and keep every row; None when there are none, or when
    there are too many sets to look at. Dearest types first; a set is dropped when its remaining dollars, spent on
    the remaining type best for a row, cannot fill that row."""
    usd, table = fleet.usd_per_hour, np.array(rows).reshape(-1, len(fleet.types))
    limits = [np.inf if kind.limit is None else float(kind.limit) for kind in fleet.types]
    order = np.argsort(-usd, kind="stable").tolist()
    if not len(table) or (usd <= 0).any():
        return None
    value = table / usd
    best = [value[:, order[i:]].max(axis=1) if i < len(order) else np.zeros(len(table)) for i in range(len(order) + 1)]
    looks = LOOKS
    counts = np.zeros(len(order))

    def look(depth: int, dollars: float, need: Floats) -> bool:
        nonlocal looks
        looks -= 1
        if looks < 0 or (need > np.maximum(dollars, 0.0) * best[depth] + FULL).any():
            return False
        if depth == len(order):
            return True
        j = order[depth]
        most = int(min(limits[j], dollars // usd[j]))
        for count in range(most, -1, -1):
            counts[j] = count
            if look(depth + 1, dollars - count * float(usd[j]), need - count * table[:, j]):
                return True
        return False

    found = look(0, cost * (1 - 1e-7), np.ones(len(table)))
    return counts if found and looks >= 0 else None
