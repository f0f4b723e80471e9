"""The planning ILP: a clock or a power cap for every server so that the row fits its budget; how many servers that allows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from planners.solver import EXACT, SolverResult, Status, relative_gap, solve
from simulator.physics.sums import in_order

if TYPE_CHECKING:
    import pulp

NODES, RACK_NODES = 5_000, 300
"""Branch-and-bound nodes of a row, and of the problem with its racks. Settings of nearly the same worth make
the last 0.1 % of a proof long, and nodes, unlike seconds, end at the same plan everywhere."""
PACKINGS, SHRINK = 12, 0.002
"""Row plans that are tried for one that goes into the racks, and the least share by which their budget shrinks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One setting of a class: peak power of a server, throughput of a server, latency against the free server.

    ``mhz``: the locked clock (the largest: free); ``cap_w``: a power cap of each device instead.
    """

    mhz: float
    power: float
    throughput: float
    latency_factor: float
    """Of the percentile that ``slo_latency_factor`` limits (the 99th)."""
    cap_w: float | None = None
    median_factor: float = 1.0

    @property
    def name(self) -> str:
        """'1275 MHz', 'cap 300 W'."""
        return f"{self.mhz:g} MHz" if self.cap_w is None else f"cap {self.cap_w:g} W"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerClass:
    """Identical servers. ``count``: those that are there; ``max_count``: with those that may be added (None: none)."""

    name: str
    count: int
    weight: float
    slo_latency_factor: float
    options: tuple[Option, ...]
    max_count: int | None = None
    slo_median_factor: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class RowProblem:
    """What to decide. ``budget``: power in the unit of the options; ``spike_reserve``: share of it kept free."""

    classes: tuple[ServerClass, ...]
    budget: float
    spike_reserve: float = 0.0
    keep_mix: bool = False
    """Added servers keep the classes' proportions, to one server."""
    racks: int = 1
    rack_budget: float | None = None
    """Power of each rack, less the same reserve; None: the row's budget alone."""

    @property
    def usable(self) -> float:
        """Budget less the reserve."""
        return (1 - self.spike_reserve) * self.budget

    @property
    def rack_usable(self) -> float | None:
        """The same of a rack."""
        return None if self.rack_budget is None else (1 - self.spike_reserve) * self.rack_budget

    @property
    def places(self) -> int:
        """Racks that the plan tells apart: 1 without budgets of their own."""
        return 1 if self.rack_budget is None else self.racks


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPlan:
    """The decision. ``counts``: per class, option's name -> servers, in the order of the options."""

    solver: SolverResult
    counts: tuple[dict[str, int], ...] = ()
    rack_counts: tuple[tuple[dict[str, int], ...], ...] = ()
    """The same for each rack: [rack][class]."""
    throughput: tuple[float, ...] = ()
    power: float = 0.0
    value: float = 0.0
    """Weighted throughput: sum_c w_c T_c."""
    lp_bound: float | None = None
    """The same with fractions of servers: no plan is better."""
    reason: str = ""
    """Why there is none."""

    @property
    def num_servers(self) -> int:
        """Servers of all classes."""
        return sum(sum(c.values()) for c in self.counts)


def allowed(server: ServerClass) -> tuple[Option, ...]:
    """Options within the class's SLO: the others' variables do not exist."""
    return tuple(
        o
        for o in server.options
        if o.latency_factor <= server.slo_latency_factor + 1e-12 and o.median_factor <= server.slo_median_factor + 1e-12
    )


Variables = list[list[list[Any]]]
"""n[class][option][rack]."""


def build(
    problem: RowProblem,
    *,
    whole: bool = True,
    only: float | None = None,
    floors: Mapping[float, float] | None = None,
    total: int | None = None,
) -> tuple[pulp.LpProblem, Variables]:
    """Multiple-choice knapsack with classes c, options f (clocks and caps) and racks r:

        max  sum_c sum_f w_c T_cf n_cf,    n_cf = sum_r n_cfr
        s.t. sum_f n_cf = n_c (or between n_c and its largest number)    class_c
             sum_c sum_f P_cf n_cf <= (1 - rho) P                        row_budget
             sum_c sum_f P_cf n_cfr <= (1 - rho) P_rack                  rack_budget_r
             n_cfr whole; n_cf absent where lambda_cf > SLO_c (median or 99th percentile)

    and with ``keep_mix`` the proportions of the row as it is, to less than one server: |n_c - s_c N| <= 1. Not ``whole``: the
    linear relaxation. ``only``: classes of that weight alone are worth anything; ``floors``: weight -> least throughput of
    its classes (first_w); ``total``: servers of all classes (servers).
    """
    import pulp

    model = pulp.LpProblem("oversubscribe", pulp.LpMaximize)
    kind = "Integer" if whole else "Continuous"
    n: Variables = []
    for c, server in enumerate(problem.classes):
        top = server.count if server.max_count is None else server.max_count
        n.append(
            [
                [model.add_variable(f"n_{c}_{i}_{r}", 0, top, cat=kind) for r in range(problem.places)]
                for i, _ in enumerate(allowed(server))
            ]
        )
    model.setObjective(
        pulp.lpSum(s.weight * _throughput(s, row) for s, row in _pairs(problem, n) if only is None or s.weight == only)
    )
    for c, (server, row) in enumerate(_pairs(problem, n)):
        if server.max_count is None:
            model.addConstraint(_servers(row) == server.count, f"class_{c}")
        else:
            model.addConstraint(_servers(row) >= server.count, f"class_{c}_least")
            model.addConstraint(_servers(row) <= server.max_count, f"class_{c}_most")
    model.addConstraint(
        pulp.lpSum(_power(problem, n, r) for r in range(problem.places)) <= problem.usable, "row_budget"
    )
    if problem.rack_usable is not None:
        for r in range(problem.places):
            model.addConstraint(_power(problem, n, r) <= problem.rack_usable, f"rack_budget_{r}")
    if problem.keep_mix:
        _keep_mix(model, problem, n)
    if total is not None:
        model.addConstraint(pulp.lpSum(_servers(row) for row in n) == total, "servers")
    for weight, least in (floors or {}).items():
        first = pulp.lpSum(_throughput(s, row) for s, row in _pairs(problem, n) if s.weight == weight)
        model.addConstraint(first >= least - 1e-7 * max(1.0, least), f"first_{weight:g}")
    return model, n


def _pairs(problem: RowProblem, n: Variables) -> zip[tuple[ServerClass, list[list[Any]]]]:
    return zip(problem.classes, n, strict=True)


def _servers(row: list[list[Any]]) -> Any:
    import pulp

    return pulp.lpSum(v for option in row for v in option)


def _throughput(server: ServerClass, row: list[list[Any]]) -> Any:
    import pulp

    return pulp.lpSum(o.throughput * v for o, vs in zip(allowed(server), row, strict=True) for v in vs)


def _power(problem: RowProblem, n: Variables, rack: int) -> Any:
    import pulp

    return pulp.lpSum(
        o.power * vs[rack] for s, row in _pairs(problem, n) for o, vs in zip(allowed(s), row, strict=True)
    )


def _keep_mix(model: pulp.LpProblem, problem: RowProblem, n: Variables) -> None:
    import pulp

    installed = sum(s.count for s in problem.classes)
    total = pulp.lpSum(_servers(row) for row in n)
    for c, (server, row) in enumerate(_pairs(problem, n)):
        share = server.count / installed
        model.addConstraint(_servers(row) - share * total <= 1, f"mix_{c}_most")
        model.addConstraint(_servers(row) - share * total >= -1, f"mix_{c}_least")


def decode(problem: RowProblem, n: Variables, solved: SolverResult) -> RowPlan:
    """Counts from the variables' values; power and throughput added up anew from whole servers."""
    counts, throughput, power = [], [], 0.0
    racks: list[list[dict[str, int]]] = [[] for _ in range(problem.places)]
    for server, row in _pairs(problem, n):
        picked = [(o, [round(v.value() or 0) for v in vs]) for o, vs in zip(allowed(server), row, strict=True)]
        counts.append({o.name: sum(ks) for o, ks in picked if sum(ks)})
        throughput.append(in_order(o.throughput * sum(ks) for o, ks in picked))
        power += in_order(o.power * sum(ks) for o, ks in picked)
        for r, rack in enumerate(racks):
            rack.append({o.name: ks[r] for o, ks in picked if ks[r]})
    return RowPlan(
        solver=solved,
        counts=tuple(counts),
        rack_counts=tuple(tuple(rack) for rack in racks),
        throughput=tuple(throughput),
        power=power,
        value=in_order(s.weight * t for s, t in zip(problem.classes, throughput, strict=True)),
    )


def plan_row(problem: RowProblem, *, first: bool = False) -> RowPlan:
    """Build, solve, decode. Without a solution the plan says which constraint cannot hold.

    ``first``: the classes of the largest weight get the most throughput that they can have, then those of the next, and so on;
    the solver's objective and bound are then those of the last.
    """
    stages: list[float | None] = [*sorted({s.weight for s in problem.classes}, reverse=True)] if first else [None]
    floors: dict[float, float] = {}
    for only in stages:
        plan = _solve_row(problem, only, floors) if problem.places == 1 else _solve_racks(problem, only, floors)
        if not plan.counts:
            return dataclasses.replace(plan, reason=_reason(problem, plan.solver))
        if only is not None:
            floors[only] = in_order(
                t for s, t in zip(problem.classes, plan.throughput, strict=True) if s.weight == only
            )
    relaxed = solve(build(problem, whole=False)[0])
    return dataclasses.replace(plan, lp_bound=relaxed.objective)


def _solve_row(problem: RowProblem, only: float | None, floors: Mapping[float, float]) -> RowPlan:
    """The best over every number of servers N. Whole shares of N are what leaves a gap to fractions of servers: with N fixed a
    proof takes milliseconds, with N free minutes."""
    if not problem.keep_mix or all(s.max_count is None for s in problem.classes):
        return _solve(problem, only, floors, NODES)
    least = sum(s.count for s in problem.classes)
    most = sum(s.count if s.max_count is None else s.max_count for s in problem.classes)
    thriftiest = min((o.power for s in problem.classes for o in allowed(s)), default=0.0)
    found: list[RowPlan] = []
    for total in range(least, most + 1):
        if found and total * thriftiest > problem.usable:
            break
        found.append(_solve(problem, only, floors, NODES, total))
    best = max(found, key=lambda plan: -math.inf if plan.solver.objective is None else plan.solver.objective)
    open_plans = [plan.solver for plan in found if plan.solver.status != "infeasible"]
    if not open_plans or best.solver.objective is None:
        return best if not open_plans else RowPlan(solver=open_plans[0])
    unknown = any(s.bound is None for s in open_plans)
    return _bounded(best, None if unknown else max(s.bound for s in open_plans if s.bound is not None))


def _bounded(plan: RowPlan, bound: float | None) -> RowPlan:
    """The plan with a bound of the whole problem, and the status that follows."""
    objective = plan.solver.objective
    assert objective is not None
    bound = None if bound is None else max(bound, objective)
    status: Status = "optimal" if bound is not None and relative_gap(objective, bound) <= EXACT else "feasible"
    return dataclasses.replace(plan, solver=dataclasses.replace(plan.solver, bound=bound, status=status))


def _solve(
    problem: RowProblem, only: float | None, floors: Mapping[float, float], max_nodes: int, total: int | None = None
) -> RowPlan:
    model, n = build(problem, only=only, floors=floors, total=total)
    solved = solve(model, max_nodes=max_nodes)
    return decode(problem, n, solved) if solved.has_solution else RowPlan(solver=solved)


def _solve_racks(problem: RowProblem, only: float | None, floors: Mapping[float, float]) -> RowPlan:
    """The row without its racks bounds the answer; packed into them, under a budget that shrinks until it fits, it is one.
    Identical racks make the whole problem hard to prove, so it gets :data:`RACK_NODES` nodes; the better plan counts.
    """
    assert problem.rack_usable is not None
    free = 1 - problem.spike_reserve
    budget = min(problem.budget, problem.racks * problem.rack_usable / free)
    row = dataclasses.replace(problem, rack_budget=None, budget=budget)
    best = plan = _solve_row(row, only, floors)
    bound = plan.solver.bound
    for _ in range(PACKINGS):
        if not plan.counts or (excess := pack(problem, plan)[1]) <= 0:
            break
        row = dataclasses.replace(row, budget=row.budget - max(excess / free, SHRINK * budget))
        plan = _solve_row(row, only, floors)
    packed = None
    if plan.counts:
        racks, excess = pack(problem, plan)
        packed = dataclasses.replace(plan, rack_counts=racks) if excess <= 0 else None
    if packed is None or plan is not best:
        whole = _solve(problem, only, floors, RACK_NODES)
        if whole.solver.bound is not None and bound is not None:
            bound = min(bound, whole.solver.bound)
        if packed is None or (whole.counts and (whole.solver.objective or 0) > (packed.solver.objective or 0)):
            packed = whole
    return packed if packed.solver.objective is None else _bounded(packed, bound)


def pack(problem: RowProblem, plan: RowPlan) -> tuple[tuple[tuple[dict[str, int], ...], ...], float]:
    """([rack][class] counts, power of the fullest rack above its budget): servers by power, each to the emptiest rack."""
    assert problem.rack_usable is not None
    servers = [
        (o.power, -c, o.name)
        for c, (s, counts) in enumerate(zip(problem.classes, plan.counts, strict=True))
        for o in s.options
        for _ in range(counts.get(o.name, 0))
    ]
    loads = [0.0] * problem.racks
    racks: list[list[dict[str, int]]] = [[{} for _ in problem.classes] for _ in loads]
    for power, c, name in sorted(servers, reverse=True):
        r = loads.index(min(loads))
        loads[r] += power
        racks[r][-c][name] = racks[r][-c].get(name, 0) + 1
    return tuple(tuple(rack) for rack in racks), max(loads) - problem.rack_usable


def _reason(problem: RowProblem, solved: SolverResult) -> str:
    if solved.status == "none":
        return f"no plan within {RACK_NODES} nodes of the search; give racks more, or fewer racks"
    return why_infeasible(problem)


def why_infeasible(problem: RowProblem) -> str:
    """The class without an option within its SLO, or the budget that the thriftiest allowed options exceed."""
    for server in problem.classes:
        if server.count and not allowed(server):
            best = min(o.latency_factor for o in server.options)
            limit, what = server.slo_latency_factor, "latency"
            if best <= limit:
                best = min(o.median_factor for o in server.options if o.latency_factor <= limit)
                limit, what = server.slo_median_factor, "median latency"
            return f"{server.name}: no clock keeps the {what} within {limit:g} times (the best has {best:g}); loosen its SLO"
    thrifty = [min((o.power for o in allowed(s)), default=0.0) for s in problem.classes]
    least = in_order(s.count * w for s, w in zip(problem.classes, thrifty, strict=True))
    num_servers = sum(s.count for s in problem.classes)
    if least <= problem.usable and problem.rack_usable is not None:
        return (
            f"rack_budget: {num_servers} servers at their thriftiest settings within the SLOs draw {least:g}, each of "
            f"{problem.racks} racks has {problem.rack_usable:g} less the reserve, and whole servers do not fit; give racks "
            "more, reserve less or loosen an SLO"
        )
    return (
        f"row_budget: {num_servers} servers at their lowest clocks within the SLOs draw {least:g}, "
        f"the budget less the reserve is {problem.usable:g}; loosen an SLO, reserve less or take servers away"
    )
