"""What given instances carry when sizes divide at will, and the row that says which instances carry too little.

With B fixed the fluid form of the programme (slice_factor to infinity) is a transport: max theta, the share of all
rates that B carries. Its dual prices lambda of the types' capacities give Benders' cut: whatever the fleet, a size b
takes at least min_j lambda_j L_bj of them, so lambda B >= g(lambda) = sum_b min_j lambda_j L_bj holds for every fleet
that serves all. Any lambda >= 0 will do, hence rounding in a solver cannot make a row wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from planners.fleet.problem import FULL, FleetProblem, Floats
from planners.solver import solve


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Carried:
    """What a set of instances carries."""

    theta: float
    """Share of all rates; 1 or more: a fluid fleet."""
    row: Floats
    """float64[types]: lambda / g(lambda), so that row B >= 1 for every fleet."""
    shares: Floats
    """float64[sizes, types]: which share of a size goes to which type, each size's summing to 1."""

    @property
    def all(self) -> bool:
        """Whether everything is served, to the rounding of sums."""
        return self.theta >= 1 - FULL


class Carrier:
    """The transport of one problem, solved for one B after another."""

    def __init__(self, fleet: FleetProblem) -> None:
        self._loads = fleet.loads
        self._sizes = np.flatnonzero(fleet.rates_per_s > 0).tolist()
        self._problem, self._theta, self._x, self._rows = self._build()

    def _build(self) -> tuple[Any, Any, dict[tuple[int, int], Any], list[Any]]:
        import pulp

        problem = pulp.LpProblem("carry", pulp.LpMaximize)
        theta = problem.add_variable("theta", 0)
        types = range(self._loads.shape[1])
        x = {
            (b, j): problem.add_variable(f"x_{b}_{j}", 0)
            for b in self._sizes
            for j in types
            if np.isfinite(self._loads[b, j])
        }
        problem += theta
        for b in self._sizes:
            served = pulp.lpSum(x[b, j] for j in types if (b, j) in x)
            problem += served == theta, f"the_same_share_of_size_{b}"
        for j in types:
            load = pulp.lpSum(float(self._loads[b, k]) * v for (b, k), v in x.items() if k == j)
            problem += load <= 0, f"load_of_type_{j}"
        return problem, theta, x, problem.constraints()[len(self._sizes) :]

    def carry(self, counts: Floats) -> Carried | None:
        """Solve for ``counts`` (float64[types], which may be fractions); None when the solver fails."""
        for row, count in zip(self._rows, counts.tolist(), strict=True):
            row.changeRHS(count)
        result = solve(self._problem)
        if result.status != "optimal" or result.objective is None:
            return None
        prices = np.array([abs(row.pi or 0.0) for row in self._rows])
        if not prices.any():  # no dual prices, no row
            return None
        shares = np.zeros_like(self._loads)
        for (b, j), variable in self._x.items():
            shares[b, j] = max(0.0, variable.value() or 0.0)
        shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1e-300)
        return Carried(theta=result.objective, row=self.row(prices), shares=shares)

    def row(self, prices: Floats) -> Floats:
        """lambda / g(lambda); all 0, which says nothing, when g is 0.

        A price that no size would miss is lowered to the highest that one pays: the same g, a stronger row.
        """
        loads = self._loads[self._sizes]
        served = np.isfinite(loads)
        dual = np.where(served, np.where(served, loads, 0.0) * prices, np.inf).min(axis=1, keepdims=True)
        least = np.where(served, dual / np.where(served, loads, 1.0), 0.0).max(axis=0)
        total = float(dual.sum())
        row: Floats = np.minimum(prices, least) / total if total > 0 else np.zeros_like(prices)
        return row
