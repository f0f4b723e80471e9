"""Mélange's integer programme with identical slices aggregated: build, solve, decode.

Paper (arXiv 2404.14527v3, section 5.4): min sum_j c_j B_j (1), every slice on one type (2), the slices of a type within
its instances: sum_i A_ij L_ij <= B_j (3), A binary (4), B a non-negative integer (5). The slice_factor slices of a size
are alike, so the binaries A_ij of a size b add up to one integer n_bj in 0..slice_factor: the same optimum without the
symmetry. Loads may exceed 1: a slice may span instances, as in the paper.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hardware_profiles.errors import UserError
from planners.fleet.bounds import lp_bound, single_type
from planners.fleet.counts import SCALE, Search, search
from planners.fleet.problem import FULL, Fleet, FleetProblem, Floats, Slices, cost_of, counts_of
from planners.fleet.shortage import Shortage, refuse_unserved
from planners.solver import EXACT, SolverResult, relative_gap, solve, solver_name

SMALL = 600
"""Pairs of size and type up to which CBC's optimum is checked by a second solve, with cutting planes."""
CHECK_NODES = 5_000
"""Branch-and-bound nodes of the check, which finds the wrong optima of small instances."""


@dataclass(frozen=True, slots=True)
class Model:
    """The programme and its variables, by index of size and type."""

    problem: Any
    n: dict[tuple[int, int], Any]
    """Slices of size b on type j."""
    B: dict[int, Any]
    """Instances of type j."""


def build(fleet: FleetProblem, *, fluid: bool = False, rows: Sequence[Floats] = ()) -> Model:
    """The programme. ``fluid``: sizes divide at will (slice_factor to infinity), which bounds every slice factor.
    ``rows``: of planners.fleet.counts, which every fleet keeps and a solver does not see by itself."""
    import pulp

    problem = pulp.LpProblem("melange", pulp.LpMinimize)
    slices, loads = fleet.slice_factor, fleet.loads
    upper = [kind.limit for kind in fleet.types]
    B = {j: problem.add_variable(f"B_{j}", 0, None, pulp.LpInteger) for j in range(len(fleet.types))}
    n: dict[tuple[int, int], Any] = {}
    for b in np.flatnonzero(fleet.rates_per_s > 0).tolist():
        for j in np.flatnonzero(np.isfinite(loads[b])).tolist():
            category = pulp.LpContinuous if fluid else pulp.LpInteger
            n[b, j] = problem.add_variable(f"n_{b}_{j}", 0, slices, category)
    problem += pulp.lpSum(kind.usd_per_hour * B[j] for j, kind in enumerate(fleet.types)), "cost"  # (1)
    for b in sorted({b for b, _ in n}):
        served = pulp.lpSum(n[b, j] for j in B if (b, j) in n)
        problem += served == slices, f"every_slice_of_size_{b}_is_served"  # (2)
    for j, count in B.items():
        load = pulp.lpSum(SCALE * float(loads[b, j]) / slices * n[b, j] for b, k in n if k == j)
        problem += load <= SCALE * count, f"load_of_type_{j}_within_its_instances"  # (3)
        if upper[j] is not None:
            problem += count <= upper[j], f"availability_of_type_{j}"
    for i, row in enumerate(rows):
        held = pulp.lpSum(SCALE * value * B[j] for j, value in enumerate(row.tolist()) if value > 0)
        problem += held >= SCALE * (1 - FULL), f"capacity_at_prices_{i}"
    return Model(problem, n, B)


def decode(fleet: FleetProblem, model: Model) -> tuple[tuple[int, ...], Any]:
    """(instances per type, int64[sizes, types] slices) from the solved variables, integers rounded and recounted."""
    slices = np.zeros(fleet.max_tput_per_s.shape, dtype=np.int64)
    for (b, j), variable in model.n.items():
        slices[b, j] = round(variable.value() or 0.0)
    return counts_of(fleet, slices), slices


def plan_fleet(fleet: FleetProblem, *, gap: float | None = None, time_limit_s: float | None = None) -> Fleet:
    """The cheapest fleet. Shortage when a size has no type, or the availability cannot carry the load.

    First in the space of instance counts; the whole programme only where whole slices leave a gap to that.
    """
    refuse_unserved(fleet)
    if not (fleet.rates_per_s > 0).any():
        return _nothing(fleet)
    started, aim = time.perf_counter(), gap or 0.0
    found = search(fleet, gap=aim, time_limit_s=time_limit_s)
    if not found.carries:
        raise _too_few(fleet)
    candidates = ([] if found.plan is None else [found.plan]) + _alone(fleet)
    best = _cheapest(fleet, candidates)
    certain = max(lp_bound(fleet), found.bound)
    runs: list[SolverResult] = []
    if best is None or relative_gap(cost_of(fleet, best), certain) > aim:
        left = None if time_limit_s is None else max(1.0, time_limit_s - (time.perf_counter() - started))
        runs = _search(fleet, found, best, candidates, certain, left, gap)
        best = _cheapest(fleet, candidates)
    if best is None:
        if any(run.status == "infeasible" for run in runs):
            raise _too_few(fleet)
        raise UserError(f"--time-limit {time_limit_s:g} s: no fleet found in that time; allow more, or --gap 0.01")
    cost = cost_of(fleet, best)
    proven = [run.bound for run in runs if run.bound is not None and run.bound <= cost * (1 + EXACT)]
    bound_usd = min(cost, max([certain, *proven]))  # a bound above a plan's cost is one of CBC's wrong optima
    left_gap = relative_gap(cost, bound_usd)
    return Fleet(
        counts=counts_of(fleet, best),
        slices=best,
        usd_per_hour=cost,
        bound_usd_per_hour=bound_usd,
        gap=left_gap,
        optimal=left_gap <= aim + 1e-9,
        solver=solver_name(),
        seconds=time.perf_counter() - started,
        rows=tuple(found.rows),
    )


def _nothing(fleet: FleetProblem) -> Fleet:
    """No requests, no instances."""
    slices = np.zeros(fleet.max_tput_per_s.shape, dtype=np.int64)
    return Fleet(
        counts=(0,) * len(fleet.types),
        slices=slices,
        usd_per_hour=0.0,
        bound_usd_per_hour=0.0,
        gap=0.0,
        optimal=True,
        solver=solver_name(),
        seconds=0.0,
    )


def _cheapest(fleet: FleetProblem, candidates: list[Slices]) -> Slices | None:
    """The first of equals."""
    return min(candidates, key=lambda slices: cost_of(fleet, slices), default=None)


def _search(
    fleet: FleetProblem,
    found: Search,
    start: Slices | None,
    candidates: list[Slices],
    certain: float,
    time_limit_s: float | None,
    gap: float | None,
) -> list[SolverResult]:
    """Solve the whole programme, from the best plan so far; without cutting planes, which CBC needs longer with;
    small ones again with them as a check, since CBC is wrong at times either way."""
    runs: list[SolverResult] = []
    model = build(fleet, rows=found.rows)
    for check in (False, True):
        if start is not None:
            _set(model, fleet, start)
        run = solve(
            model.problem,
            time_limit_s=time_limit_s,
            gap=gap,
            warm_start=start is not None,
            cuts=check,
            max_nodes=CHECK_NODES if check else None,
        )
        runs.append(run)
        if run.has_solution:
            start = decode(fleet, model)[1]
            candidates.append(start)
        certified = start is not None and relative_gap(cost_of(fleet, start), certain) <= (gap or 0.0)
        if certified or run.solver != "CBC" or len(model.n) > SMALL:
            break
    return runs


def _set(model: Model, fleet: FleetProblem, slices: Any) -> None:
    """Give the variables the values of a plan, for the solver to start from."""
    for (b, j), variable in model.n.items():
        variable.setInitialValue(int(slices[b, j]))
    for j, count in enumerate(counts_of(fleet, slices)):
        model.B[j].setInitialValue(count)


def _alone(fleet: FleetProblem) -> list[Any]:
    """The fleets of one type that can carry everything, as plans."""
    plans = []
    for j, count in enumerate(single_type(fleet)):
        if count is not None:
            slices = np.zeros(fleet.max_tput_per_s.shape, dtype=np.int64)
            slices[fleet.rates_per_s > 0, j] = fleet.slice_factor
            plans.append(slices)
    return plans


def _too_few(fleet: FleetProblem) -> Shortage:
    """Why the availability cannot hold: the share of the load it carries at most (all rates scaled alike)."""
    import pulp

    model = build(fleet, fluid=True)
    problem = pulp.LpProblem("share", pulp.LpMaximize)
    share = problem.add_variable("share", 0, 1)
    rows = model.problem.constraints()
    problem += share
    for row in rows:
        name = row.name
        if name.startswith("every_slice"):
            problem += pulp.lpSum(v * c for v, c in row.items()) == fleet.slice_factor * share, name
        else:
            problem += row, name
    result = solve(problem)
    limits = ", ".join(f"{t.name}={t.limit}" for t in fleet.types if t.limit is not None)
    carried = f"{100 * result.objective:.3g} % of the load" if result.objective is not None else "less than the load"
    if result.objective is not None and result.objective > 1 - 1e-6:
        carried = "the load only when sizes are split finer (raise --slice-factor)"
    return Shortage(f"--limit {limits}: the instances to be had carry {carried}; raise a limit or add a type")
