"""The one function that calls a solver: statuses, bounds, and problems left as they were."""

from __future__ import annotations

import random

import pulp
import pytest

from planners.solver import solve


def _knapsack(sense: int, size: int = 12) -> pulp.LpProblem:
    chance = random.Random(1)
    problem = pulp.LpProblem("knapsack", sense)
    xs = [problem.add_variable(f"x{i}", cat="Binary") for i in range(size)]
    weights = [chance.randint(10, 99) for _ in xs]
    values = [chance.randint(10, 99) for _ in xs]
    problem += pulp.lpDot(values, xs) + 7
    total = pulp.lpDot(weights, xs)
    problem += (total <= sum(weights) // 2 if sense == pulp.LpMaximize else total >= sum(weights) // 2), "weight"
    return problem


@pytest.mark.parametrize("sense", [pulp.LpMinimize, pulp.LpMaximize])
def test_optimum_counts_the_constant_and_leaves_the_problem_as_it_was(sense):
    problem = _knapsack(sense)
    before = str(problem)
    result = solve(problem)
    assert result.status == "optimal" and result.gap == 0
    assert str(problem) == before
    assert result.objective == pytest.approx(pulp.value(problem.objective))
    assert all(c.valid(1e-6) for c in problem.constraints())


def test_infeasible_and_unbounded_are_told_apart():
    problem = pulp.LpProblem("infeasible", pulp.LpMinimize)
    x = problem.add_variable("x", 0, 3, cat="Integer")
    problem += x
    problem += x >= 4, "too_much"
    assert solve(problem).status == "infeasible"
    problem = pulp.LpProblem("unbounded", pulp.LpMaximize)
    y = problem.add_variable("y", 0, cat="Integer")
    problem += y
    problem += y >= 1, "some"
    result = solve(problem)
    assert result.status == "unbounded" and not result.has_solution


def _hard(size: int = 60) -> pulp.LpProblem:
    """A market-split instance: feasible with slack, but no solver closes it quickly."""
    chance = random.Random(5)
    problem = pulp.LpProblem("market_split", pulp.LpMinimize)
    xs = [problem.add_variable(f"x{i}", cat="Binary") for i in range(size)]
    slack = []
    for row in range(6):
        weights = [chance.randint(0, 99) for _ in xs]
        over, under = problem.add_variable(f"o{row}", 0), problem.add_variable(f"u{row}", 0)
        problem += pulp.lpDot(weights, xs) - over + under == sum(weights) // 2, f"split_{row}"
        slack += [over, under]
    problem += pulp.lpSum(slack) + 1
    return problem


def test_a_solution_cut_off_by_the_time_limit_is_not_called_optimal():
    result = solve(_hard(), time_limit_s=1)
    assert result.status == "feasible"
    assert result.bound is not None and result.bound < result.objective
    assert result.gap > 0


@pytest.mark.parametrize("sense", [pulp.LpMinimize, pulp.LpMaximize])
def test_the_bound_of_a_wide_gap_holds(sense):
    best = solve(_knapsack(sense, 40)).objective
    loose = solve(_knapsack(sense, 40), gap=0.2)
    assert loose.status == "optimal"
    better = (lambda a, b: a <= b) if sense == pulp.LpMinimize else (lambda a, b: a >= b)
    assert better(loose.bound, best + 1e-6 if sense == pulp.LpMinimize else best - 1e-6)
    assert better(best, loose.objective)
