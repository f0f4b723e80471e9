"""What ``apex-sim validate`` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from apex_sim.text import number, table
from simulator.validation.intervals import Coverage
from simulator.validation.outcome import Outcome
from simulator.validation.score import Aggregate, Goal, GoalResult, Residual

WORST = 12


def percent(value: float, sign: bool = False) -> str:
    """A share as a percentage with one decimal (none from a hundred on)."""
    digits = 0 if abs(value) >= 1 else 1
    return f"{100 * value:{'+' if sign else ''}.{digits}f}%"


def outcome_text(outcome: Outcome, by: Sequence[str], *, everything: bool = False) -> str:
    """Summary first, then goals, aggregates, the worst (or all) runs, failures and skipped runs."""
    parts = [_head(outcome)]
    if outcome.goals:
        parts.append("goals\n" + goals_table(outcome.goals))
    if outcome.residuals:
        parts.append(
            "measured figures inside the 80 % interval of their prediction\n" + coverage_table(outcome.coverage)
        )
        parts.append(f"error by {', '.join(by)}\n" + aggregates_table(outcome.aggregates(by), by))
        rows = outcome.residuals if everything else outcome.worst(WORST)
        title = (
            "every run and metric" if everything else f"the {len(rows)} largest errors (--all: every run and metric)"
        )
        parts.append(f"{title}\n" + residuals_table(rows))
    if outcome.failures:
        lines = [f"  {p.run.source} {p.run.id}: {p.failure}" for p in outcome.failures]
        parts.append("could not be simulated\n" + "\n".join(lines))
    if outcome.skipped:
        parts.append(_skipped(outcome, everything))
    return "\n\n".join(parts)


def _head(outcome: Outcome) -> str:
    predicted = len(outcome.predictions) - len(outcome.failures)
    return (
        f"{len(outcome.runs)} measured runs: {predicted} predicted, {len(outcome.failures)} failed, "
        f"{len(outcome.skipped)} skipped; {len(outcome.residuals)} figures compared"
    )


def limits_text(goal: Goal) -> str:
    """``median 6%, p90 12%``."""
    limits = (("median", goal.median), ("p90", goal.p90), ("worst", goal.worst))
    return ", ".join(f"{name} {100 * limit:.0f}%" for name, limit in limits if limit is not None)


def goals_table(goals: Sequence[GoalResult]) -> str:
    """One line per goal."""
    rows = [
        [
            g.goal.source,
            g.goal.metric,
            "met" if g.met else "NOT MET",
            limits_text(g.goal),
            percent(g.reached.median),
            percent(g.reached.p90),
            percent(g.reached.worst),
            str(g.reached.n),
            str(g.failures or ""),
        ]
        for g in goals
    ]
    return table(("source", "metric", "goal", "at most", "median", "p90", "worst", "n", "failed"), rows, left=4)


def aggregates_table(groups: Sequence[Aggregate], by: Sequence[str]) -> str:
    """One line per group: absolute errors, and the median signed one."""
    rows = [
        [*g.key, str(g.n), percent(g.median), percent(g.mean), percent(g.p90), percent(g.signed, sign=True)]
        for g in groups
    ]
    return table((*by, "n", "median", "mean", "p90", "bias"), rows, left=len(by))


def coverage_table(entries: Sequence[Coverage]) -> str:
    """One line per family of metrics: share inside, and how far the ends of the median interval are apart."""
    rows = [[c.family, percent(c.share), f"x{c.width:.2f}", str(c.total)] for c in entries]
    return table(("metrics", "inside", "median width", "n"), rows, left=1)


def residuals_table(residuals: Sequence[Residual]) -> str:
    """One line per run and metric, with the range over seeds where there is one."""
    rows = []
    for r in residuals:
        spread = "" if r.spread is None else f"{number(r.spread[0], 4)} to {number(r.spread[1], 4)}"
        rows.append(
            [r.run.source, _short(r.run.id), r.run.device, r.metric, number(r.predicted, 4), number(r.measured, 4),
             percent(r.error, sign=True), percent(abs(r.error)), spread]
        )  # fmt: skip
    header = ("source", "run", "device", "metric", "predicted", "measured", "error", "|error|", "over seeds")
    return table(header, rows, left=4)


def _short(text: str, width: int = 56) -> str:
    return text if len(text) <= width else f"{text[: width // 2 - 1]}…{text[-width // 2 :]}"


def _skipped(outcome: Outcome, everything: bool) -> str:
    """Reasons with their count; every run by name when asked."""
    if everything:
        lines = [f"  {run.source} {run.id}: {run.skip}" for run in outcome.skipped]
    else:
        reasons = Counter((run.source, run.skip) for run in outcome.skipped)
        lines = [f"  {count:4d}  {source}: {reason}" for (source, reason), count in reasons.items()]
    return "skipped, with the reason the source gives" + ("\n" if lines else "") + "\n".join(lines)
