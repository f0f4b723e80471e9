"""All that came of a validation: runs, predictions, errors, goals, and what was left out, as one value and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hardware_profiles.errors import UserError
from simulator.uncertainty import SHARE, committed_rows
from simulator.validation.intervals import Coverage, coverage, interval_of
from simulator.validation.replay import Prediction
from simulator.validation.run import MeasuredRun
from simulator.validation.score import (
    Aggregate,
    Goal,
    GoalResult,
    Residual,
    aggregate,
    check_goals,
    residuals_of,
)


def select(runs: Sequence[MeasuredRun], metrics: Sequence[str] | None, match: str | None) -> list[MeasuredRun]:
    """Runs whose id contains ``match``, with only these metrics; UserError when nothing is left."""
    chosen = [run for run in runs if match is None or match in run.id]
    if metrics is not None:
        wanted = set(metrics)
        chosen = [
            dataclasses.replace(run, measured={name: run.measured[name] for name in run.measured if name in wanted})
            for run in chosen
            if wanted & set(run.measured)
        ]
    if not chosen:
        what = f"--match {match!r}" if match is not None else f"--metric {', '.join(metrics or ())}"
        raise UserError(f"{what}: none of {len(runs)} runs has it")
    return chosen


@dataclass(frozen=True)
class Outcome:
    """Measured runs and what was predicted for those that are not skipped, in the same order."""

    runs: Sequence[MeasuredRun]
    predictions: Sequence[Prediction]
    wanted: Sequence[Goal] | None = None
    """Goals to hold the runs to; None: the project's."""

    @cached_property
    def residuals(self) -> list[Residual]:
        """Every run and metric that was predicted."""
        return residuals_of(self.predictions)

    @cached_property
    def failures(self) -> list[Prediction]:
        """Runs that could not be simulated, with the reason."""
        return [p for p in self.predictions if p.failure is not None]

    @cached_property
    def skipped(self) -> list[MeasuredRun]:
        """Runs that are listed but not simulated, with the reason."""
        return [run for run in self.runs if run.skip is not None]

    @cached_property
    def goals(self) -> list[GoalResult]:
        """Goals that these runs can be held to."""
        return check_goals(self.residuals, self.predictions, self.wanted)

    @property
    def passed(self) -> bool:
        """Every goal is met and every run could be simulated."""
        return not self.failures and all(result.met for result in self.goals)

    @cached_property
    def coverage(self) -> list[Coverage]:
        """How many measured figures lie in the 80 % intervals that predictions carry."""
        return coverage(self.residuals, committed_rows())

    def aggregates(self, by: Sequence[str]) -> list[Aggregate]:
        """Errors by group."""
        return aggregate(self.residuals, by)

    def worst(self, count: int) -> list[Residual]:
        """The largest absolute errors."""
        return sorted(self.residuals, key=lambda r: (-abs(r.error), r.run.id, r.metric))[:count]


def to_dict(outcome: Outcome, by: Sequence[str]) -> dict[str, Any]:
    """Everything, for JSON: errors are shares, metrics are in the units of their names."""
    predictions = {id(p.run): p for p in outcome.predictions}
    return {
        "runs": len(outcome.runs),
        "predicted": len(outcome.predictions) - len(outcome.failures),
        "failed": len(outcome.failures),
        "skipped": len(outcome.skipped),
        "goals": [_goal(result) for result in outcome.goals],
        "interval_share": SHARE,
        "coverage": [
            {"family": c.family, "inside": c.inside, "n": c.total, "median_width": c.width} for c in outcome.coverage
        ],
        "by": list(by),
        "aggregates": [_aggregate(group, by) for group in outcome.aggregates(by)],
        "results": [_result(run, predictions.get(id(run))) for run in outcome.runs],
    }


def _aggregate(group: Aggregate, by: Sequence[str]) -> dict[str, Any]:
    return {
        **dict(zip(by, group.key, strict=True)),
        "n": group.n,
        "median_abs_error": group.median,
        "mean_abs_error": group.mean,
        "p90_abs_error": group.p90,
        "max_abs_error": group.worst,
        "median_error": group.signed,
    }


def _goal(result: GoalResult) -> dict[str, Any]:
    limits = {name: getattr(result.goal, name) for name in ("median", "p90", "worst")}
    return {
        "source": result.goal.source,
        "metric": result.goal.metric,
        "limits": {name: limit for name, limit in limits.items() if limit is not None},
        "n": result.reached.n,
        "median": result.reached.median,
        "p90": result.reached.p90,
        "worst": result.reached.worst,
        "failures": result.failures,
        "met": result.met,
    }


def _result(run: MeasuredRun, prediction: Prediction | None) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": run.id,
        "source": run.source,
        "split": run.split,
        "kind": run.kind,
        "model": run.model,
        "cluster": run.cluster,
        "device": run.device,
        "engine": run.engine,
        "engine_version": run.engine_version,
        "parallel": {"tp": run.tp, "pp": run.pp, "dp": run.dp, "ep": run.ep},
        "settings": dict(run.settings),
        "measured_by": run.measured_by,
        "tags": dict(run.tags),
        "note": run.note,
        "citation": run.citation,
        "place": run.place,
    }
    if prediction is None:
        return entry | {"status": "skipped", "reason": run.skip, "metrics": {}}
    if prediction.failure is not None:
        return entry | {"status": "failed", "reason": prediction.failure, "metrics": {}}
    metrics = {}
    for residual in residuals_of([prediction]):
        name, value, measured = residual.metric, residual.predicted, residual.measured
        found = interval_of(residual)
        metrics[name] = {
            "predicted": value,
            "measured": measured,
            "error": value / measured - 1.0,
            "abs_error": abs(value / measured - 1.0),
            "interval": None if found is None else list(found.around(value)),
            "spread": list(prediction.spread[name]) if name in prediction.spread else None,
        }
    return entry | {"status": "predicted", "class": dict(prediction.classes), "metrics": metrics}
