"""The programme in the space of instance counts alone: Benders' decomposition of the fluid form.

Master: min c B, B integer within the limits, subject to the rows found so far. Its bound holds for every fleet at every
slice factor. A B that carries everything becomes a fleet of whole slices; one that does not yields a row. Ten types are
ten integers, however many sizes there are.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from planners.fleet.carry import Carried, Carrier
from planners.fleet.certify import cheaper
from planners.fleet.problem import FULL, FleetProblem, Floats, Slices, cost_of
from planners.fleet.rounding import fit, whole_slices
from planners.solver import relative_gap, solve

ROUNDS = 150
COARSE = 0.01
NODES, DEEP_NODES = 5_000, 300
"""Branch-and-bound nodes of one master; unlike time, the same everywhere."""
SCALE = 1000.0
"""Of rows: solvers keep them to 1e-6, which must not hide a part of an instance."""


@dataclass(slots=True, eq=False)
class Search:
    """What is known so far."""

    bound: float = 0.0
    """No fleet is cheaper [$/h]."""
    plan: Slices | None = None
    cost: float = np.inf
    rows: list[Floats] = field(default_factory=list)
    carries: bool = True
    """False: all instances to be had carry too little."""

    @property
    def gap(self) -> float:
        """Of cost and bound, as a share of the cost; infinite without a fleet."""
        return relative_gap(self.cost, self.bound) if self.plan is not None else np.inf


def search(fleet: FleetProblem, *, gap: float, time_limit_s: float | None) -> Search:
    """Fleets and a bound, until they are within ``gap`` of each other or the fluid form is solved.

    Coarsely first, which finds most rows and a fleet to beat for little.
    """
    started, found = time.perf_counter(), Search()
    carrier = Carrier(fleet)
    found.rows = [row for row in (carrier.row(fleet.usd_per_hour), *least_rows(fleet)) if row.any()]
    most = carrier.carry(_most(fleet))
    if most is not None and not most.all:
        found.carries = False
        return found
    for aim in (gap,) if gap >= COARSE else (COARSE, gap):
        for _ in range(ROUNDS):
            left = None if time_limit_s is None else time_limit_s - (time.perf_counter() - started)
            if found.gap <= aim or (left is not None and left <= 0) or not _round(fleet, carrier, found, aim, left):
                break
    return found


def least_rows(fleet: FleetProblem) -> list[Floats]:
    """However small a size's rate, one instance of some type that serves it: 1 for each such type. Of two sets of types,
    the larger says nothing that the smaller does not."""
    served = np.isfinite(fleet.loads[fleet.rates_per_s > 0])
    sets = sorted({tuple(row) for row in served.tolist()}, key=lambda row: (sum(row), row))
    least: list[Floats] = []
    for row in (np.array(types, dtype=np.float64) for types in sets):
        if not any((other <= row).all() for other in least):
            least.append(row)
    return least


def _round(fleet: FleetProblem, carrier: Carrier, found: Search, gap: float, time_limit_s: float | None) -> bool:
    """One master and what becomes of its B; False when there is nothing more to learn at this gap."""
    problem, B = build(fleet, found.rows)
    result = solve(problem, gap=gap / 4 or None, time_limit_s=time_limit_s, max_nodes=NODES, cuts=gap > 0)
    if not result.has_solution:
        return False
    bound = min(result.bound or 0.0, found.cost)
    other = cheaper(fleet, found.rows, bound) if bound > found.bound else None
    counts = decode(B) if other is None else other  # a cheaper one: CBC's bound is wrong
    if other is None:
        found.bound = max(found.bound, bound)
    carried = _try(fleet, carrier, counts, found)
    if found.gap <= gap or carried is None:
        return False
    if carried.all:
        return other is not None
    if gap:
        _deepest(fleet, carrier, found, gap, time_limit_s)
    else:
        _repair(fleet, carrier, counts, found)
    return True


def _deepest(fleet: FleetProblem, carrier: Carrier, found: Search, gap: float, time_limit_s: float | None) -> None:
    """Try the instances that keep all rows with the most to spare among those cheap enough to end the search: they are
    likelier to carry everything than the cheapest, and the row that excludes them is central."""
    import pulp

    problem, B = build(fleet, found.rows)
    dollars, spare = problem.objective, problem.add_variable("spare", 0, 10)
    problem.setObjective(-1 * spare)
    problem += dollars <= found.bound / (1 - gap), "cheap_enough"
    for i, row in enumerate(found.rows):
        held = pulp.lpSum(value * B[j] for j, value in enumerate(row.tolist()) if value > 0)
        problem += held - spare >= 0, f"spare_at_prices_{i}"
    result = solve(problem, gap=1e-3, time_limit_s=time_limit_s, max_nodes=DEEP_NODES)
    if result.has_solution:
        _try(fleet, carrier, decode(B), found)


def build(fleet: FleetProblem, rows: list[Floats]) -> tuple[Any, list[Any]]:
    """The master and its B."""
    import pulp

    problem = pulp.LpProblem("counts", pulp.LpMinimize)
    B = [problem.add_variable(f"B_{j}", 0, kind.limit, pulp.LpInteger) for j, kind in enumerate(fleet.types)]
    problem += pulp.lpSum(kind.usd_per_hour * B[j] for j, kind in enumerate(fleet.types)), "cost"
    for i, row in enumerate(rows):
        held = pulp.lpSum(SCALE * value * B[j] for j, value in enumerate(row.tolist()) if value > 0)
        problem += held >= SCALE * (1 - FULL), f"capacity_at_prices_{i}"
    return problem, B


def decode(B: list[Any]) -> Floats:
    """float64[types]: whole instances."""
    return np.array([round(variable.value() or 0.0) for variable in B], dtype=np.float64)


def _try(fleet: FleetProblem, carrier: Carrier, counts: Floats, found: Search) -> Carried | None:
    """See what ``counts`` carries: a fleet for ``found``, or a row that excludes it; None when neither comes out."""
    carried = strong_row(carrier, counts)
    if carried is None:
        return None
    if carried.all:
        _keep(fleet, carried, counts, found)
        return carried
    if carried.row @ counts >= 1 - FULL:  # nothing excludes it, to the rounding of sums
        return None
    found.rows.append(carried.row)
    return carried


def strong_row(carrier: Carrier, counts: Floats) -> Carried | None:
    """What ``counts`` carries. When that is too little, its row comes from counts with a little of every type added
    where that excludes ``counts`` as well: of the many rows that do, one that is strong nearby too."""
    some = 0.01 * max(1.0, counts.sum()) / len(counts)
    carried = carrier.carry(counts + some)
    if carried is None or carried.all or carried.row @ counts >= 1 - FULL:
        carried = carrier.carry(counts)
    return carried


def slices_within(fleet: FleetProblem, carrier: Carrier, counts: npt.NDArray[np.int64]) -> Slices | None:
    """Whole slices of everything within given instances; None when they carry too little or rounding fails."""
    carried = carrier.carry(counts.astype(np.float64))
    if carried is None or not carried.all:
        return None
    return fit(fleet, whole_slices(fleet, carried.shares), counts, carried.row)


def _keep(fleet: FleetProblem, carried: Carried, counts: Floats, found: Search) -> None:
    """A fleet of whole slices from a fluid one; where they do not fit, with the cheapest instance that helps."""
    start = whole_slices(fleet, carried.shares)
    room = [np.inf if kind.limit is None else kind.limit for kind in fleet.types]
    more = [np.zeros(len(counts)), *[row for j, row in enumerate(np.eye(len(counts))) if counts[j] < room[j]]]
    for extra in sorted(more, key=lambda row: float(row @ fleet.usd_per_hour)):
        if (counts + extra) @ fleet.usd_per_hour >= found.cost * (1 - FULL):
            return
        plan = fit(fleet, start, (counts + extra).astype(np.int64), carried.row)
        if plan is not None:
            found.plan, found.cost = plan, cost_of(fleet, plan)
            return


def _repair(fleet: FleetProblem, carrier: Carrier, counts: Floats, found: Search) -> None:
    """Add instances to ``counts`` until all rows hold, best value first, and see what the result carries."""
    limits = np.array([np.inf if kind.limit is None else kind.limit for kind in fleet.types])
    rows, counts = np.array(found.rows), counts.copy()
    while (short := np.clip(1 - FULL - rows @ counts, 0, None)).any():
        value = np.minimum(rows, short[:, None]).sum(axis=0) / np.maximum(fleet.usd_per_hour, 1e-9)
        value[counts >= limits] = 0.0
        if not value.any():
            return
        counts[int(np.argmax(value))] += 1
        if counts @ fleet.usd_per_hour >= found.cost * (1 - FULL):
            return
    _try(fleet, carrier, counts, found)


def _most(fleet: FleetProblem) -> Floats:
    """float64[types]: all instances to be had, or more than all requests fill."""
    loads = fleet.loads
    needed = np.where(np.isfinite(loads), loads, 0.0).sum(axis=0)
    limits = [np.inf if kind.limit is None else float(kind.limit) for kind in fleet.types]
    most: Floats = np.minimum(limits, np.ceil(needed) + 1)
    return most
