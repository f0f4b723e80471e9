"""ILP 1 of MoETuner: experts of one layer into clusters of equal load, exactly (arXiv 2502.06643, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from planners.solver import SolverResult, solve
from simulator.experts.routing import Floats, Ints

if TYPE_CHECKING:
    import pulp

Goal = Literal["max", "deviation"]
"""max: tokens of the busiest cluster (what the layer waits for); deviation: the paper's sum of |T_c - mean|."""
Choice = dict[tuple[int, int], "pulp.LpVariable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerBalance:
    """Clusters of one layer, and how far they are proven."""

    ranks: Ints | None
    """int64[E]; None when no solution was found in time."""
    result: SolverResult


def build_balance(
    load: Floats, num_ranks: int, *, equal_sizes: bool = True, goal: Goal = "max", start: Ints | None = None
) -> tuple[pulp.LpProblem, Choice]:
    """The problem and x[c, e]; ``start`` are the ranks of a known solution.

    Equal loads are interchangeable, and so are clusters: the hottest expert is put in cluster 0.
    """
    import pulp

    clusters, experts = range(num_ranks), range(len(load))
    problem = pulp.LpProblem("moetuner_ilp1", pulp.LpMinimize)
    x = {(c, e): problem.add_variable(f"x_{c}_{e}", cat="Binary") for c in clusters for e in experts}
    tokens = {c: pulp.lpSum(float(load[e]) * x[c, e] for e in experts) for c in clusters}  # T_cl = sum_e P_el x_cel
    mean = float(load.sum()) / num_ranks
    if goal == "max":
        most = problem.add_variable("max_tokens", lowBound=mean)
        problem += most
        for c in clusters:
            problem += tokens[c] <= most, f"busiest_{c}"
    else:
        off = {c: problem.add_variable(f"deviation_{c}", lowBound=0) for c in clusters}
        problem += pulp.lpSum(off.values())
        for c in clusters:
            problem += tokens[c] - mean <= off[c], f"above_mean_{c}"
            problem += mean - tokens[c] <= off[c], f"below_mean_{c}"
    for e in experts:  # missing in print: every expert in exactly one cluster
        problem += pulp.lpSum(x[c, e] for c in clusters) == 1, f"expert_{e}_once"
    for c in clusters:
        held = pulp.lpSum(x[c, e] for e in experts)
        if equal_sizes:
            problem += held == len(load) // num_ranks, f"size_of_cluster_{c}"  # (13), layer by layer
        else:
            problem += held >= 1, f"cluster_{c}_not_empty"  # (7)
    if start is None:
        problem += x[0, int(np.argmax(load))] == 1, "hottest_expert_in_cluster_0"
    else:
        for (c, e), variable in x.items():
            variable.setInitialValue(int(start[e] == c))
    return problem, x


def decode_balance(x: Choice, num_experts: int) -> Ints:
    """int64[E]: the cluster of each expert."""
    ranks = np.full(num_experts, -1, dtype=np.int64)
    for (c, e), variable in x.items():
        if (variable.value() or 0.0) > 0.5:
            ranks[e] = c
    assert (ranks >= 0).all()
    return ranks


def solve_balance(
    load: Floats,
    num_ranks: int,
    *,
    equal_sizes: bool = True,
    goal: Goal = "max",
    start: Ints | None = None,
    gap: float | None = None,
    max_nodes: int | None = None,
) -> LayerBalance:
    """Build, solve and decode ILP 1 for one layer; without cuts, whose rare errors would make a bound too high."""
    problem, x = build_balance(load, num_ranks, equal_sizes=equal_sizes, goal=goal, start=start)
    result = solve(problem, gap=gap, warm_start=start is not None, cuts=False, max_nodes=max_nodes)
    return LayerBalance(ranks=decode_balance(x, len(load)) if result.has_solution else None, result=result)
