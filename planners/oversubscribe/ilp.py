"""The planning ILP: a clock for every server so that the row fits its budget, and how many servers that allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from planners.solver import SolverResult, solve

if TYPE_CHECKING:
    import pulp


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One clock of a class: peak power of a server, throughput of a server, latency against the largest clock."""

    mhz: float
    power: float
    throughput: float
    latency_factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerClass:
    """Identical servers. ``count``: those that are there; ``max_count``: with those that may be added (None: none)."""

    name: str
    count: int
    weight: float
    slo_latency_factor: float
    options: tuple[Option, ...]
    max_count: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowProblem:
    """What to decide. ``budget``: power in the unit of the options; ``spike_reserve``: share of it kept free."""

    classes: tuple[ServerClass, ...]
    budget: float
    spike_reserve: float = 0.0
    keep_mix: bool = False
    """Added servers keep the classes' proportions, to one server."""

    @property
    def usable(self) -> float:
        """Budget less the reserve."""
        return (1 - self.spike_reserve) * self.budget


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPlan:
    """The decision. ``counts``: per class, clock -> servers, largest clock first."""

    solver: SolverResult
    counts: tuple[dict[float, int], ...] = ()
    throughput: tuple[float, ...] = ()
    power: float = 0.0
    reason: str = ""
    """Why there is none."""

    @property
    def num_servers(self) -> int:
        """Servers of all classes."""
        return sum(sum(c.values()) for c in self.counts)


def allowed(server: ServerClass) -> tuple[Option, ...]:
    """Clocks within the class's SLO: the others' variables do not exist."""
    return tuple(o for o in server.options if o.latency_factor <= server.slo_latency_factor + 1e-12)


def build(problem: RowProblem) -> tuple[pulp.LpProblem, list[list[Any]]]:
    """Multiple-choice knapsack with classes c and clocks f:

        max  sum_c sum_f w_c T_cf n_cf
        s.t. sum_f n_cf = n_c (or between n_c and its largest number)    class_c
             sum_c sum_f P_cf n_cf <= (1 - rho) P                        row_budget
             n_cf whole; n_cf absent where lambda_cf > SLO_c

    and with ``keep_mix`` the proportions of the row as it is, to less than one server: |n_c - s_c N| <= 1.
    """
    import pulp

    model = pulp.LpProblem("oversubscribe", pulp.LpMaximize)
    n: list[list[Any]] = []
    for c, server in enumerate(problem.classes):
        top = server.count if server.max_count is None else server.max_count
        n.append([model.add_variable(f"n_{c}_{o.mhz:g}", 0, top, cat="Integer") for o in allowed(server)])
    model.setObjective(
        pulp.lpSum(
            s.weight * o.throughput * v
            for s, row in zip(problem.classes, n, strict=True)
            for o, v in zip(allowed(s), row, strict=True)
        )
    )
    for c, (server, row) in enumerate(zip(problem.classes, n, strict=True)):
        if server.max_count is None:
            model.addConstraint(pulp.lpSum(row) == server.count, f"class_{c}")
        else:
            model.addConstraint(pulp.lpSum(row) >= server.count, f"class_{c}_least")
            model.addConstraint(pulp.lpSum(row) <= server.max_count, f"class_{c}_most")
    power = [
        o.power * v for s, row in zip(problem.classes, n, strict=True) for o, v in zip(allowed(s), row, strict=True)
    ]
    model.addConstraint(pulp.lpSum(power) <= problem.usable, "row_budget")
    if problem.keep_mix:
        _keep_mix(model, problem, n)
    return model, n


def _keep_mix(model: pulp.LpProblem, problem: RowProblem, n: list[list[Any]]) -> None:
    import pulp

    installed = sum(s.count for s in problem.classes)
    total = pulp.lpSum(v for row in n for v in row)
    for c, (server, row) in enumerate(zip(problem.classes, n, strict=True)):
        share = server.count / installed
        model.addConstraint(pulp.lpSum(row) - share * total <= 1, f"mix_{c}_most")
        model.addConstraint(pulp.lpSum(row) - share * total >= -1, f"mix_{c}_least")


def decode(problem: RowProblem, n: list[list[Any]], solved: SolverResult) -> RowPlan:
    """Counts from the variables' values; power and throughput added up anew from whole servers."""
    counts, throughput, power = [], [], 0.0
    for server, row in zip(problem.classes, n, strict=True):
        picked = [(o, round(v.value() or 0)) for o, v in zip(allowed(server), row, strict=True)]
        counts.append({o.mhz: k for o, k in picked if k})
        throughput.append(sum(o.throughput * k for o, k in picked))
        power += sum(o.power * k for o, k in picked)
    return RowPlan(solver=solved, counts=tuple(counts), throughput=tuple(throughput), power=power)


def plan_row(problem: RowProblem) -> RowPlan:
    """Build, solve, decode. Without a solution the plan says which constraint cannot hold."""
    model, n = build(problem)
    solved = solve(model)
    if not solved.has_solution:
        return RowPlan(solver=solved, reason=why_infeasible(problem))
    return decode(problem, n, solved)


def why_infeasible(problem: RowProblem) -> str:
    """The class without a clock within its SLO, or the budget that the lowest allowed clocks exceed."""
    for server in problem.classes:
        if server.count and not allowed(server):
            best = min(o.latency_factor for o in server.options)
            return (
                f"{server.name}: no clock keeps the latency within {server.slo_latency_factor:g} times "
                f"(the best has {best:g}); loosen its SLO"
            )
    least = sum(s.count * min((o.power for o in allowed(s)), default=0.0) for s in problem.classes)
    return (
        f"row_budget: {sum(s.count for s in problem.classes)} servers at their lowest clocks within the SLOs draw {least:g}, "
        f"the budget less the reserve is {problem.usable:g}; loosen an SLO, reserve less or take servers away"
    )
