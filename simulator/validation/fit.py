"""``python -m simulator.validation.fit ENGINE --data DIR``: engine constants from serving runs.

What an engine costs beside the kernels shows only when it serves. Which constants are fitted on which runs is said in
fits.yaml. Runs are dealt into two halves by their ids; the errors printed are those of each half under the constants
fitted to the other, the constants those of both. Prints; writes nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from hardware_profiles.errors import UserError, unknown_name
from simulator.calibration.fitting import halves, rounded
from simulator.validation.files import read_runs
from simulator.validation.replay import Options, predict_all
from simulator.validation.run import MeasuredRun
from simulator.validation.score import Aggregate, Residual, aggregate, residuals_of

Constants = dict[str, float]
Loss = Callable[[Constants], float]

WORST_LOG_ERROR = 0.7
"""Where an error stops to count: a factor of two. Such runs differ in something that no constant is about."""
FIRST_STEP, LAST_STEP = 0.4, 0.05
"""Steps of the search, in logarithms: 50 % at first, 5 % at last. TTFT of a loop that runs in step jumps, so that a gradient
would lead nowhere."""
DIGITS = 2
"""Significant digits of a constant: what the search resolves."""


@dataclass(frozen=True, slots=True)
class Bound:
    """Start and range of one constant, in its unit."""

    start: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is fitted on what."""

    file: str
    where: Mapping[str, str]
    """Label -> value that a run must have (labels of simulator.validation.score)."""
    metrics: tuple[str, ...]
    constants: Mapping[str, Bound]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Constants fitted to all runs, and errors on runs that the constants have not seen."""

    constants: Constants
    unseen: list[Aggregate]
    num_runs: int


def recipes() -> dict[str, Recipe]:
    """By engine, from fits.yaml."""
    import yaml

    data = yaml.safe_load(resources.files("simulator.validation").joinpath("fits.yaml").read_text("utf-8"))
    return {
        name: Recipe(
            file=entry["file"],
            where=entry["where"],
            metrics=tuple(entry["metrics"]),
            constants={constant: Bound(*bounds) for constant, bounds in entry["constants"].items()},
        )
        for name, entry in data.items()
    }


def search(loss: Loss, bounds: Mapping[str, Bound]) -> Constants:
    """Pattern search in logarithms: one constant after the other, up or down while it helps, then with half the step."""
    best = {name: bound.start for name, bound in bounds.items()}
    lowest = loss(best)
    step = FIRST_STEP
    while step >= LAST_STEP:
        improved = False
        for name, bound in bounds.items():
            for factor in (np.exp(step), np.exp(-step)):
                value = float(np.clip(best[name] * factor, bound.low, bound.high))
                if value == best[name]:
                    continue
                found = loss({**best, name: value})
                if found < lowest:
                    best, lowest, improved = {**best, name: value}, found, True
                    break
        if not improved:
            step /= 2.0
    return {name: rounded(value, DIGITS) for name, value in best.items()}


def fit_constants(
    runs: Sequence[MeasuredRun], metrics: Sequence[str], bounds: Mapping[str, Bound], *, jobs: int = 1
) -> Fit:
    """Fit ``bounds``' constants to the runs, twice on a half for the errors and once on all."""
    usable = [run for run in runs if run.skip is None]
    first = halves([run.id for run in usable])
    unseen: list[Residual] = []
    for seen in (first, ~first):
        constants = search(_loss(_chosen(usable, seen), metrics, jobs), bounds)
        unseen += residuals_under(_chosen(usable, ~seen), metrics, constants, jobs, fast=False)
    return Fit(
        constants=search(_loss(usable, metrics, jobs), bounds),
        unseen=aggregate(unseen, ("metric",)),
        num_runs=len(usable),
    )


def _chosen(runs: Sequence[MeasuredRun], mask: Any) -> list[MeasuredRun]:
    return [run for run, wanted in zip(runs, mask, strict=True) if wanted]


def _loss(runs: Sequence[MeasuredRun], metrics: Sequence[str], jobs: int) -> Loss:
    """Mean absolute log error over runs and metrics, errors beyond a factor of two counted as that."""

    def loss(constants: Constants) -> float:
        found = residuals_under(runs, metrics, constants, jobs, fast=True)
        logs = [abs(np.log(r.predicted / r.measured)) for r in found]
        return float(np.mean(np.minimum(logs, WORST_LOG_ERROR)))

    return loss


def residuals_under(
    runs: Sequence[MeasuredRun], metrics: Sequence[str], constants: Constants, jobs: int, *, fast: bool
) -> list[Residual]:
    """Predictions of ``metrics`` with these engine constants, beside what was measured."""
    options = Options(seeds=1, fast=fast, constants=tuple(constants.items()))
    return [r for r in residuals_of(predict_all(runs, options, jobs=jobs)) if r.metric in metrics]


def fit_recipe(name: str, data: Path, *, jobs: int = 1) -> Fit:
    """The fit that fits.yaml describes for an engine, on the runs in ``data``."""
    known = recipes()
    if name not in known:
        raise unknown_name("fit", name, known)
    recipe = known[name]
    runs = [
        run
        for run in read_runs(data / recipe.file)
        if all(_label(run, label) == value for label, value in recipe.where.items())
    ]
    if not any(run.skip is None for run in runs):
        raise UserError(f"{data / recipe.file}: no run to fit {name} on; wanted: {dict(recipe.where)}")
    return fit_constants(runs, recipe.metrics, recipe.constants, jobs=jobs)


def _label(run: MeasuredRun, label: str) -> str:
    return Residual(run=run, metric="", predicted=1.0, measured=1.0).label(label)


def main(argv: list[str] | None = None) -> int:
    """Print the fit; 2 for a user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m simulator.validation.fit", description=__doc__)
    parser.add_argument("engine", help="a name in fits.yaml")
    parser.add_argument("--data", type=Path, required=True, help="folder with the files that fits.yaml names")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    args = parser.parse_args(argv)
    try:
        fit = fit_recipe(args.engine, args.data, jobs=args.jobs)
    except UserError as error:
        print(f"fit: error: {error}", file=sys.stderr)
        return 2
    print(f"{args.engine}: {fit.num_runs} runs")
    for name, value in fit.constants.items():
        print(f"  {name}: {value:.1e}")
    for group in fit.unseen:
        print(f"  unseen {group.key[0]}: median {group.median:.1%}, p90 {group.p90:.1%}, bias {group.signed:+.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
