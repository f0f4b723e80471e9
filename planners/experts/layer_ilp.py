"""ILP 2 with the neighbours fixed: one layer's experts onto GPUs, exactly, as steps of a large neighbourhood search.

MoETuner's (8) to (15), arXiv 2502.06643, section 4.2, is bilinear in consecutive layers. With the layers beside it where they
are, a layer is a linear assignment of experts to GPUs with the limit of balance as rows: a programme that is solved to a
limit of nodes of branch and bound, not of time, so that the same input gives the same plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from planners.experts.topology import Topology
from planners.experts.traffic import expert_costs
from planners.solver import SolverResult, solve
from simulator.experts.routing import Demand, Floats, Ints

if TYPE_CHECKING:
    import pulp

Choice = dict[tuple[int, int], "pulp.LpVariable"]
MOST_BINARIES = 512
"""Experts times GPUs of a sub-problem: solved in a fraction of a second."""
GAP, MOST_NODES = 1e-5, 50


@dataclass(frozen=True, slots=True, kw_only=True)
class IlpWork:
    """What the sub-problems gained."""

    problems: int = 0
    improved: int = 0
    saved: float = 0.0
    """Traffic [tokens on the fastest link]."""


def build_layer(cost: Floats, load: Floats, most: Floats, start: Ints) -> tuple[pulp.LpProblem, Choice]:
    """The problem and x[e, g], one where expert e lies on GPU g; ``start``: GPUs of a placement within the limits."""
    import pulp

    experts, gpus = range(cost.shape[0]), range(cost.shape[1])
    problem = pulp.LpProblem("moetuner_ilp2_layer", pulp.LpMinimize)
    x = {(e, g): problem.add_variable(f"x_{e}_{g}", cat="Binary") for e in experts for g in gpus}
    problem += pulp.lpSum(float(cost[e, g]) * v for (e, g), v in x.items())  # (8), total, the other layer's y given
    for e in experts:
        problem += pulp.lpSum(x[e, g] for g in gpus) == 1, f"expert_{e}_once"
    for g in gpus:
        problem += pulp.lpSum(x[e, g] for e in experts) == len(load) // len(gpus), f"size_of_gpu_{g}"  # (13) per layer
        problem += pulp.lpSum(float(load[e]) * x[e, g] for e in experts) <= float(most[g]), f"balance_of_gpu_{g}"
    for (e, g), variable in x.items():
        variable.setInitialValue(int(start[e] == g))
    return problem, x


def decode_layer(x: Choice, num_experts: int) -> Ints:
    """int64[E]: the GPU of each expert."""
    gpus = np.full(num_experts, -1, dtype=np.int64)
    for (e, g), variable in x.items():
        if (variable.value() or 0.0) > 0.5:
            gpus[e] = g
    assert (gpus >= 0).all()
    return gpus


def solve_layer(cost: Floats, load: Floats, most: Floats, start: Ints) -> tuple[Ints | None, SolverResult]:
    """Build, solve and decode."""
    problem, x = build_layer(cost, load, most, start)
    result = solve(problem, gap=GAP, max_nodes=MOST_NODES, warm_start=True)
    return (decode_layer(x, len(load)) if result.has_solution else None), result


def _groups(num_experts: int, num_ranks: int) -> list[Ints]:
    """GPUs taken together: all, or neighbours, as many as keep a sub-problem small."""
    size = num_ranks
    while size > 2 and num_experts * size // num_ranks * size > MOST_BINARIES:
        size = max(n for n in range(1, size) if num_ranks % n == 0)
    return [np.arange(first, first + size) for first in range(0, num_ranks, size)] if size > 1 else []


def improve_layers(
    demand: Demand, ranks: Ints, topology: Topology, most: Floats, problems: int
) -> tuple[Ints, IlpWork]:
    """Solve ``problems`` sub-problems (layer, group of GPUs), spread evenly over all of them; traffic never grows."""
    ranks, work = ranks.copy(), IlpWork()
    every = [(layer, gpus) for gpus in _groups(ranks.shape[1], topology.num_ranks) for layer in range(len(ranks))]
    chosen = [every[i * len(every) // problems] for i in range(problems)] if problems < len(every) else every
    for layer, gpus in chosen:
        held = np.flatnonzero(np.isin(ranks[layer], gpus))
        start = ranks[layer][held] - gpus[0]
        cost = expert_costs(demand, ranks, layer, topology)[np.ix_(held, gpus)]
        load = demand.loads[layer][held]
        now = np.bincount(start, weights=load, minlength=len(gpus))
        found, _ = solve_layer(cost, load, np.maximum(most[layer], now), start)
        at, saved = np.arange(len(held)), 0.0
        if found is not None and (np.bincount(found, minlength=len(gpus)) == len(held) // len(gpus)).all():
            loads = np.bincount(found, weights=load, minlength=len(gpus))
            saved = float((cost[at, start] - cost[at, found]).sum())
            if saved > 1e-6 and (loads <= np.maximum(most[layer], now) + 1e-6).all():
                ranks[layer, held] = found + gpus[0]
            else:
                saved = 0.0
        work = IlpWork(problems=work.problems + 1, improved=work.improved + (saved > 0), saved=work.saved + saved)
    return ranks, work
