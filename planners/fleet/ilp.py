"""Mélange's integer programme with identical slices aggregated: build, solve, decode.

Paper (arXiv 2404.14527v3, section 5.4): min sum_j c_j B_j (1), every slice on one type (2), the slices of a type within
its instances: sum_i A_ij L_ij <= B_j (3), A binary (4), B a non-negative integer (5). The slice_factor slices of a size
are alike, so the binaries A_ij of a size b add up to one integer n_bj in 0..slice_factor: the same optimum without the
symmetry. Loads may exceed 1: a slice may span instances, as in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hardware_profiles.errors import UserError
from planners.fleet.bounds import lp_bound, single_type
from planners.fleet.problem import Fleet, FleetProblem, Floats, instances
from planners.solver import EXACT, SolverResult, relative_gap, solve

SMALL = 600
"""Pairs of size and type up to which CBC's optimum is checked by a second solve, with cutting planes."""
SCALE = 1000.0
"""Of the load rows: solvers keep rows to 1e-6, which must not hide a part of an instance."""
FLUID_NODES = 20_000
CHECK_NODES = 5_000
"""Branch-and-bound nodes for the fluid bound and for the check; the check finds the wrong optima of small instances."""


@dataclass(frozen=True, slots=True)
class Model:
    """The programme and its variables, by index of size and type."""

    problem: Any
    n: dict[tuple[int, int], Any]
    """Slices of size b on type j."""
    B: dict[int, Any]
    """Instances of type j."""


def build(fleet: FleetProblem, *, fluid: bool = False) -> Model:
    """The programme. ``fluid``: sizes divide at will (slice_factor to infinity), which bounds every slice factor."""
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
    return Model(problem, n, B)


def decode(fleet: FleetProblem, model: Model) -> tuple[tuple[int, ...], Any]:
    """(instances per type, int64[sizes, types] slices) from the solved variables, integers rounded and recounted."""
    slices = np.zeros(fleet.max_tput_per_s.shape, dtype=np.int64)
    for (b, j), variable in model.n.items():
        slices[b, j] = round(variable.value() or 0.0)
    return _counts(fleet, slices), slices


def plan_fleet(fleet: FleetProblem, *, gap: float | None = None, time_limit_s: float | None = None) -> Fleet:
    """The cheapest fleet. UserError when a size has no type, or the availability cannot carry the load."""
    refuse_unserved(fleet)
    relaxed = build(fleet, fluid=True)
    bound = solve(
        relaxed.problem, time_limit_s=time_limit_s, gap=None if gap is None else gap / 2, max_nodes=FLUID_NODES
    )
    if bound.status == "infeasible":
        raise _too_few(fleet)
    model = build(fleet)
    start = _round(fleet, relaxed) if bound.has_solution else None
    certain = max(lp_bound(fleet), bound.bound or 0.0)
    runs = [bound]
    candidates = [start] if start is not None else []
    if start is None or relative_gap(_cost(fleet, start), certain) > (gap or 0.0):
        runs += _search(fleet, model, start, candidates, certain, time_limit_s, gap)
    candidates += _alone(fleet)
    if not candidates:
        if any(run.status == "infeasible" for run in runs):
            raise _too_few(fleet)
        raise UserError(f"--time-limit {time_limit_s:g} s: no fleet found in that time; allow more, or --gap 0.01")
    best = min(candidates, key=lambda slices: _cost(fleet, slices))  # the first of equals
    cost = _cost(fleet, best)
    proven = [run.bound for run in runs[1:] if run.bound is not None and run.bound <= cost * (1 + EXACT)]
    bound_usd = min(cost, max([certain, *proven]))  # a bound above a plan's cost is one of CBC's wrong optima
    left = relative_gap(cost, bound_usd)
    return Fleet(
        counts=_counts(fleet, best),
        slices=best,
        usd_per_hour=cost,
        bound_usd_per_hour=bound_usd,
        gap=left,
        optimal=left <= max(gap or 0.0, 1e-9),
        solver=runs[0].solver,
        seconds=sum(run.seconds for run in runs),
    )


def _search(
    fleet: FleetProblem,
    model: Model,
    start: Any,
    candidates: list[Any],
    certain: float,
    time_limit_s: float | None,
    gap: float | None,
) -> list[SolverResult]:
    """Solve the programme, from a rounded start; without cutting planes, which CBC needs longer with;
    small ones again with them as a check, since CBC is wrong at times either way."""
    runs: list[SolverResult] = []
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
        certified = start is not None and relative_gap(_cost(fleet, start), certain) <= (gap or 0.0)
        if certified or run.solver != "CBC" or len(model.n) > SMALL:
            break
    return runs


def _set(model: Model, fleet: FleetProblem, slices: Any) -> None:
    """Give the variables the values of a plan, for the solver to start from."""
    for (b, j), variable in model.n.items():
        variable.setInitialValue(int(slices[b, j]))
    for j, count in enumerate(_counts(fleet, slices)):
        model.B[j].setInitialValue(count)


def _cost(fleet: FleetProblem, slices: Any) -> float:
    return float(np.dot(fleet.usd_per_hour, _counts(fleet, slices)))


def type_loads(fleet: FleetProblem, slices: Any) -> Floats:
    """float64[types]: instances' worth of load on each type."""
    loads = np.where(slices > 0, fleet.loads, 0.0)
    total: Floats = (loads * slices / fleet.slice_factor).sum(axis=0)
    return total


def _counts(fleet: FleetProblem, slices: Any) -> tuple[int, ...]:
    return tuple(instances(load) for load in type_loads(fleet, slices).tolist())


def _round(fleet: FleetProblem, relaxed: Model) -> Any:
    """The fluid solution with whole slices: largest remainders per size; None when that breaks a limit."""
    shares = np.zeros(fleet.max_tput_per_s.shape)
    for (b, j), variable in relaxed.n.items():
        shares[b, j] = max(0.0, variable.value() or 0.0)
    slices = np.floor(shares + 1e-9).astype(np.int64)
    for b in np.flatnonzero(fleet.rates_per_s > 0).tolist():
        missing = fleet.slice_factor - int(slices[b].sum())
        rest = np.where(np.isfinite(fleet.loads[b]), shares[b] - slices[b], -np.inf)
        for j in np.argsort(-rest, kind="stable")[:missing].tolist():
            slices[b, j] += 1
    return slices if _whole(fleet, slices) and _within_limits(fleet, slices) else None


def _whole(fleet: FleetProblem, slices: Any) -> bool:
    served = slices.sum(axis=1) == np.where(fleet.rates_per_s > 0, fleet.slice_factor, 0)
    return bool(served.all() and np.isfinite(fleet.loads[slices > 0]).all())


def _within_limits(fleet: FleetProblem, slices: Any) -> bool:
    counts = _counts(fleet, slices)
    return all(t.limit is None or count <= t.limit for t, count in zip(fleet.types, counts, strict=True))


def _alone(fleet: FleetProblem) -> list[Any]:
    """The fleets of one type that can carry everything, as plans."""
    plans = []
    for j, count in enumerate(single_type(fleet)):
        if count is not None:
            slices = np.zeros(fleet.max_tput_per_s.shape, dtype=np.int64)
            slices[fleet.rates_per_s > 0, j] = fleet.slice_factor
            plans.append(slices)
    return plans


def refuse_unserved(fleet: FleetProblem) -> None:
    """UserError that names the sizes no type serves."""
    if fleet.unserved:
        names = [fleet.sizes[b].name for b in fleet.unserved]
        some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        share = sum(fleet.sizes[b].rate_per_s for b in fleet.unserved) / float(fleet.rates_per_s.sum())
        raise UserError(
            f"no GPU type serves size {some} within the SLO ({100 * share:.3g} % of the requests): relax the SLO, add a "
            "type, or leave them out with --skip-unserved"
        )


def _too_few(fleet: FleetProblem) -> UserError:
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
    return UserError(f"--limit {limits}: the instances to be had carry {carried}; raise a limit or add a type")
