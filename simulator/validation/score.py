"""Errors of predictions: every run and metric, aggregates by any label, and goals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from importlib import resources

import numpy as np

from hardware_profiles.errors import UserError, unknown_name
from hardware_profiles.records import parse_yaml
from simulator.validation.metrics import metric_names
from simulator.validation.replay import Prediction
from simulator.validation.run import MeasuredRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """One metric of one run."""

    run: MeasuredRun
    metric: str
    predicted: float
    measured: float
    spread: tuple[float, float] | None = None
    """Lowest and highest prediction over seeds."""
    classes: Mapping[str, str] = field(default_factory=dict)
    """provenance (measured, transferred, datasheet), experts (dense, moe), load (unsaturated, saturated ...)."""

    @property
    def error(self) -> float:
        """Signed relative error: predicted / measured - 1."""
        return self.predicted / self.measured - 1.0

    def label(self, name: str) -> str:
        """A label to aggregate by: a field of the run, a class or a tag; '-' where the run has none."""
        if name in LABELS:
            return LABELS[name](self)
        return str(self.classes.get(name) or self.run.tags.get(name) or "-")


LABELS: Mapping[str, Callable[[Residual], str]] = {
    "device": lambda r: r.run.device,
    "model": lambda r: r.run.model.rpartition("/")[2],
    "tp": lambda r: str(r.run.tp),
    "engine": lambda r: r.run.tags.get("engine") or r.run.engine,
    "version": lambda r: r.run.engine_version or "-",
    "source": lambda r: r.run.source,
    "split": lambda r: r.run.split,
    "metric": lambda r: r.metric,
    "workload": lambda r: r.run.tags.get("workload", "-"),
}
"""Labels every run has; classes (provenance, experts, load) and tags of the runs are labels too."""
CLASSES = ("provenance", "experts", "load")


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """Relative errors of a group, as shares (0.05 is 5 %)."""

    key: tuple[str, ...]
    n: int
    median: float
    """Of the absolute error, as are the next three."""
    mean: float
    p90: float
    worst: float
    signed: float
    """Median of the signed error."""

    @classmethod
    def of(cls, key: tuple[str, ...], errors: Sequence[float]) -> Aggregate:
        """Of one group's signed errors; there is at least one."""
        size = np.abs(errors)
        return cls(
            key=key,
            n=len(errors),
            median=float(np.median(size)),
            mean=float(size.mean()),
            p90=float(np.quantile(size, 0.9)),
            worst=float(size.max()),
            signed=float(np.median(errors)),
        )


def residuals_of(predictions: Iterable[Prediction]) -> list[Residual]:
    """One per metric of every run that could be simulated."""
    return [
        Residual(
            run=p.run,
            metric=metric,
            predicted=value,
            measured=p.run.measured[metric],
            spread=p.spread.get(metric),
            classes=p.classes,
        )
        for p in predictions
        if p.failure is None
        for metric, value in p.metrics.items()
    ]


def check_labels(by: Sequence[str], runs: Sequence[MeasuredRun]) -> None:
    """UserError for a label that no run has."""
    known = {*LABELS, *CLASSES, *(tag for run in runs for tag in run.tags)}
    for name in by:
        if name not in known:
            raise unknown_name("label", name, known)


def aggregate(residuals: Iterable[Residual], by: Sequence[str] = ("source", "metric")) -> list[Aggregate]:
    """Errors by group, in the order in which the groups first appear."""
    groups: dict[tuple[str, ...], list[float]] = {}
    for residual in residuals:
        groups.setdefault(tuple(residual.label(name) for name in by), []).append(residual.error)
    return [Aggregate.of(key, errors) for key, errors in groups.items()]


# -- goals ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What the errors of one metric of one source should not exceed (shares; None: no such limit)."""

    source: str
    metric: str
    median: float | None = None
    p90: float | None = None
    worst: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GoalResult:
    """A goal beside what was reached; ``failures`` are runs with this metric that could not be simulated."""

    goal: Goal
    reached: Aggregate
    failures: int

    @property
    def met(self) -> bool:
        """Every limit is kept, and every run could be simulated."""
        pairs = [
            (self.goal.median, self.reached.median),
            (self.goal.p90, self.reached.p90),
            (self.goal.worst, self.reached.worst),
        ]
        return not self.failures and all(limit is None or value <= limit for limit, value in pairs)


@cache
def load_goals() -> tuple[Goal, ...]:
    """The project's goals, from goals.yaml."""
    text = resources.files("simulator.validation").joinpath("goals.yaml").read_text("utf-8")
    return goals_from_yaml(text, "goals.yaml")


def goals_from_yaml(text: str, place: str) -> tuple[Goal, ...]:
    """Goals of a YAML list; UserError naming ``place``, entry and field."""
    data = parse_yaml(text, place)
    if not isinstance(data, list) or not data:
        raise UserError(
            f"{place}: has no goals; write a list such as [{{source: my_runs, metric: tpot_mean_ms, median: 0.1}}]"
        )
    return tuple(_goal(entry, f"{place}: goal {index + 1}") for index, entry in enumerate(data))


def _goal(entry: object, place: str) -> Goal:
    known = [f.name for f in fields(Goal)]
    if not isinstance(entry, Mapping):
        raise UserError(f"{place} is {entry!r}; it must be a mapping of {', '.join(known)}")
    for name in entry:
        if name not in known:
            raise UserError(f"{place}: {unknown_name('field', str(name), known)}")
    if not isinstance(entry.get("source"), str) or entry.get("metric") not in metric_names():
        raise UserError(f"{place}: needs source (a name) and metric (one of docs/validation.md)")
    limits = {name: entry[name] for name in ("median", "p90", "worst") if entry.get(name) is not None}
    if not limits:
        raise UserError(f"{place}: needs median, p90 or worst: the largest absolute error, as a share")
    for name, limit in limits.items():
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 < limit < 10:
            raise UserError(f"{place}: {name} is {limit!r}; it is a share above 0 (0.1 is 10 %)")
    return Goal(source=entry["source"], metric=entry["metric"], **limits)


def check_goals(
    residuals: Sequence[Residual], predictions: Sequence[Prediction], goals: Sequence[Goal] | None = None
) -> list[GoalResult]:
    """Every goal (default: the project's) for which there is a residual."""
    results = []
    for goal in load_goals() if goals is None else goals:
        errors = [r.error for r in residuals if (r.run.source, r.metric) == (goal.source, goal.metric)]
        failures = sum(
            p.failure is not None and p.run.source == goal.source and goal.metric in p.run.measured for p in predictions
        )
        if errors:
            reached = Aggregate.of((goal.source, goal.metric), errors)
            results.append(GoalResult(goal=goal, reached=reached, failures=failures))
    return results
