"""ILP 2 of MoETuner whole: clusters of every layer onto GPUs (arXiv 2502.06643, section 4.2, (8) to (15)), linearised.

What the search of planners.experts is held against; commands solve it layer by layer (planners/experts/layer_ilp.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from planners.solver import SolverResult, solve
from simulator.experts.routing import Floats, Ints

if TYPE_CHECKING:
    import pulp

Goal = Literal["tail", "total"]
"""tail: (8), per pair of layers the busiest pair of GPUs; total: all transitions times the weight of their link."""
Assignment = dict[tuple[int, int, int], "pulp.LpVariable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPlan:
    """GPU of each cluster, int64[L, C]; None when no solution was found in time."""

    gpus: Ints | None
    result: SolverResult


def build_clusters(
    traffic: Floats, weights: Floats, *, goal: Goal = "total", start: Ints | None = None
) -> tuple[pulp.LpProblem, Assignment]:
    """The problem and y[l, c, g].

    ``traffic[l, c, d]`` is C_{c,d,l}, tokens from cluster c of layer l to cluster d of layer l+1; ``weights[g, h]`` 1/B_{g,h},
    zero at home. GPUs of equal links may be renamed: with uniform weights layer 0 is fixed.
    """
    import pulp

    pairs, count, _ = traffic.shape
    layers, gpus = range(pairs + 1), range(count)
    problem = pulp.LpProblem("moetuner_ilp2", pulp.LpMinimize)
    y = {(i, c, g): problem.add_variable(f"y_{i}_{c}_{g}", cat="Binary") for i in layers for c in gpus for g in gpus}
    for i in layers:
        for c in gpus:
            problem += pulp.lpSum(y[i, c, g] for g in gpus) == 1, f"cluster_{c}_of_layer_{i}_once"  # (14)
        for g in gpus:
            problem += (
                pulp.lpSum(y[i, c, g] for c in gpus) == 1,
                f"gpu_{g}_in_layer_{i}_once",
            )  # (15); sizes equal: (13)
    build = _tail if goal == "tail" else _total
    problem += pulp.lpSum(build(problem, y, traffic[i], weights, i) for i in range(pairs))
    off = weights[~np.eye(count, dtype=bool)]
    if start is None and (off.size == 0 or np.ptp(off) == 0):
        for c in gpus:
            problem += y[0, c, c] == 1, f"layer_0_as_it_is_{c}"
    for (i, c, g), variable in y.items():
        if start is not None:
            variable.setInitialValue(int(start[i, c] == g))
    return problem, y


def _tail(problem: pulp.LpProblem, y: Assignment, flow: Floats, weights: Floats, layer: int) -> pulp.LpVariable:
    """t >= C w (y + y' - 1) for all pairs: the largest product, without a variable per product (8)."""

    most = problem.add_variable(f"tail_{layer}", lowBound=0)
    for g, h in np.argwhere(weights > 0).tolist():
        for c, d in np.argwhere(flow > 0).tolist():
            cost = float(flow[c, d] * weights[g, h])
            problem += cost * (y[layer, c, g] + y[layer + 1, d, h] - 1) <= most, f"tail_{layer}_{c}_{d}_on_{g}_{h}"
    return most


def _total(
    problem: pulp.LpProblem, y: Assignment, flow: Floats, weights: Floats, layer: int
) -> pulp.LpAffineExpression:
    """z[c, d, g, h] = y y' by its marginals: sum over h is y[l, c, g], sum over g is y[l+1, d, h] (Adams and Johnson, 1994)."""
    import pulp

    gpus = range(len(flow))
    z = {
        (c, d, g, h): problem.add_variable(f"z_{layer}_{c}_{d}_{g}_{h}", lowBound=0, upBound=1)
        for c in gpus
        for d in gpus
        for g in gpus
        for h in gpus
    }
    for c in gpus:
        for d in gpus:
            for g in gpus:
                problem += pulp.lpSum(z[c, d, g, h] for h in gpus) == y[layer, c, g], f"leaves_{layer}_{c}_{d}_{g}"
                problem += pulp.lpSum(z[c, d, h, g] for h in gpus) == y[layer + 1, d, g], f"enters_{layer}_{c}_{d}_{g}"
    return pulp.lpSum(float(flow[c, d] * weights[g, h]) * v for (c, d, g, h), v in z.items() if weights[g, h] > 0)


def decode_clusters(y: Assignment, num_layers: int, count: int) -> Ints:
    """int64[L, C]: the GPU of each cluster."""
    gpus = np.full((num_layers, count), -1, dtype=np.int64)
    for (i, c, g), variable in y.items():
        if (variable.value() or 0.0) > 0.5:
            gpus[i, c] = g
    assert (gpus >= 0).all()
    return gpus


def solve_clusters(
    traffic: Floats,
    weights: Floats,
    *,
    goal: Goal = "total",
    start: Ints | None = None,
    time_limit_s: float | None = None,
) -> ClusterPlan:
    """Build, solve and decode ILP 2."""
    problem, y = build_clusters(traffic, weights, goal=goal, start=start)
    result = solve(problem, time_limit_s=time_limit_s, warm_start=start is not None)
    gpus = decode_clusters(y, traffic.shape[0] + 1, traffic.shape[1]) if result.has_solution else None
    return ClusterPlan(gpus=gpus, result=result)
