"""The one place where an integer programme meets a solver; everything else builds problems and decodes values."""

from __future__ import annotations

import re
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hardware_profiles.errors import UserError

if TYPE_CHECKING:
    import pulp

Status = Literal["optimal", "feasible", "infeasible", "unbounded", "none"]
EXACT = 1e-6
"""Relative gap up to which an optimum counts as proven: the tolerance of the solvers' arithmetic."""
_NUMBER = r"([-+]?\d[\d.]*(?:[eE][-+]?\d+)?)"
_LOG_BOUNDS = ((rf"^Lower bound:\s+{_NUMBER}", 5e-4, 0.0), (rf"^Continuous objective value is {_NUMBER}", 0.0, 5e-6))
"""Lines of CBC's log that bound a minimum from below, with the rounding of their printing: absolute (three decimals) and
relative (six digits)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SolverResult:
    """What a solver proved. The values are in the problem's variables when ``has_solution``."""

    status: Status
    """optimal: proven within the gap asked for; feasible: a solution without that proof; none: the time was too short."""
    objective: float | None
    """Of the solution found."""
    bound: float | None
    """No solution is better than this: a lower bound of a minimum, an upper bound of a maximum."""
    solver: str
    """CBC or HiGHS."""
    seconds: float
    """Wall clock of the solve; never part of a plan."""

    @property
    def has_solution(self) -> bool:
        """Whether the variables hold a solution."""
        return self.objective is not None

    @property
    def gap(self) -> float | None:
        """|objective - bound| as a share of the objective; None without both."""
        if self.objective is None or self.bound is None:
            return None
        return relative_gap(self.objective, self.bound)


def relative_gap(objective: float, bound: float) -> float:
    """Distance of an objective from a bound as a share of the objective; 0 when they agree."""
    distance = abs(objective - bound)
    return 0.0 if distance <= EXACT * max(1e-9, abs(objective)) else distance / max(1e-9, abs(objective))


def solver_name() -> str:
    """Which solver runs here: HiGHS when highspy is installed, else CBC."""
    return "HiGHS" if find_spec("highspy") is not None else "CBC"


def solve(
    problem: pulp.LpProblem,
    *,
    time_limit_s: float | None = None,
    gap: float | None = None,
    warm_start: bool = False,
    cuts: bool = True,
    max_nodes: int | None = None,
) -> SolverResult:
    """Solve a PuLP problem: HiGHS when highspy is installed, else the CBC that PuLP brings. One thread, fixed seeds.

    ``gap``: relative gap at which to stop. ``warm_start``: the variables hold a solution. ``cuts=False`` (CBC): without
    cutting planes, which are where CBC's rare wrong optima come from. ``max_nodes``: a limit
    of branch and bound that, unlike time, gives the same result everywhere. The problem keeps its objective and sense.
    """
    import pulp

    sense, objective = problem.sense, problem.objective
    sign, constant = (1.0 if sense == pulp.LpMinimize else -1.0), float(objective.constant)
    problem.sense = pulp.LpMinimize  # logs then speak of lower bounds, and no constant is lost in a file format
    problem.setObjective(sign * (objective - constant))
    use_highs = solver_name() == "HiGHS"
    started = time.perf_counter()
    try:
        if use_highs:
            bound = _run_highs(problem, _limits(time_limit_s, gap, warm_start, max_nodes))
        else:
            bound = _run_cbc(problem, _limits(time_limit_s, gap, warm_start, max_nodes), cuts)
        status, found = _status(problem), pulp.value(problem.objective)
        if use_highs and status in ("infeasible", "none") and _unbounded_or_infeasible(problem):
            problem.setObjective(pulp.LpAffineExpression())
            _run_highs(problem, _limits(time_limit_s, None, False, None))
            status = "unbounded" if _status(problem) == "optimal" else "infeasible"
    finally:
        problem.sense = sense
        problem.setObjective(objective)
    seconds = time.perf_counter() - started
    solver = solver_name()
    if status not in ("optimal", "feasible"):
        return SolverResult(status=status, objective=None, bound=None, solver=solver, seconds=seconds)
    found = float(found or 0.0)
    if status == "optimal":  # proven within the gap asked for, whatever the log printed
        bound = max(found - (gap or 0.0) * abs(found), -float("inf") if bound is None else bound)
    if bound is not None:
        bound = min(bound, found)
        status = "optimal" if relative_gap(found, bound) <= max(gap or 0.0, EXACT) else "feasible"
    return SolverResult(
        status=status,
        objective=sign * found + constant,
        bound=None if bound is None else sign * bound + constant,
        solver=solver,
        seconds=seconds,
    )


def _limits(time_limit_s: float | None, gap: float | None, warm: bool, max_nodes: int | None) -> dict[str, Any]:
    """When to stop and where to start, as PuLP names it."""
    return {"timeLimit": time_limit_s, "gapRel": gap, "warmStart": warm, "maxNodes": max_nodes}


def _run_cbc(problem: Any, options: dict[str, Any], cuts: bool) -> float | None:
    """Run CBC; the lower bound its log proves."""
    import warnings

    import pulp

    with tempfile.TemporaryDirectory(prefix="apex-sim-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log = Path(folder) / "cbc.log"
        solver = pulp.PULP_CBC_CMD(msg=False, logPath=str(log), cuts=None if cuts else False, **options)
        if not solver.available():
            solver = pulp.COIN_CMD(msg=False, logPath=str(log), cuts=None if cuts else False, **options)
        if not solver.available():
            raise UserError("no ILP solver runs here (PuLP's CBC does not start); install one: pip install highspy")
        solver.tmpDir = folder
        problem.solve(solver)
        return _bound_in(log.read_text(encoding="utf-8", errors="replace"))


def _bound_in(log: str) -> float | None:
    """The highest lower bound that CBC's log prints, less what its printing may have rounded away."""
    bounds = []
    for pattern, absolute, relative in _LOG_BOUNDS:
        for text in re.findall(pattern, log, flags=re.MULTILINE):
            value = float(text)
            bounds.append(value - absolute - relative * abs(value))
    return max(bounds, default=None)


def _run_highs(problem: Any, options: dict[str, Any]) -> float | None:
    """Run HiGHS; its dual bound."""
    import math

    import pulp

    if options["maxNodes"] is not None:
        options = {**options, "mip_max_nodes": options["maxNodes"]}
    options = {name: value for name, value in options.items() if name != "maxNodes"}
    solver = pulp.HiGHS(msg=False, threads=1, **{**options, "gapRel": options["gapRel"] or 0.0})
    problem.solve(solver)
    if not any(v.cat == pulp.LpInteger for v in problem.variables()):
        return None
    bound = float(problem.solverModel.getInfo().mip_dual_bound)
    return bound if math.isfinite(bound) else None


def _unbounded_or_infeasible(problem: Any) -> bool:
    """Whether HiGHS stopped in presolve, which cannot tell one from the other."""
    import highspy

    return bool(problem.solverModel.getModelStatus() == highspy.HighsModelStatus.kUnboundedOrInfeasible)


def _status(problem: Any) -> Status:
    """What PuLP says, read from ``sol_status``: PuLP 3 calls an unproven incumbent Optimal in ``status``."""
    import pulp

    if problem.sol_status == pulp.LpSolutionOptimal:
        return "optimal"
    if problem.sol_status == pulp.LpSolutionIntegerFeasible:
        return "feasible"
    if pulp.LpStatusUnbounded == problem.status or problem.sol_status == pulp.LpSolutionUnbounded:
        return "unbounded"
    if pulp.LpStatusInfeasible == problem.status or problem.sol_status == pulp.LpSolutionInfeasible:
        return "infeasible"
    return "none"
