"""Engine constants from a user's own benchmarks: fitted, judged on results they have not seen, refused if not identified."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hardware_profiles.errors import UserError
from simulator.calibration.fitting import SOFT_L1_SCALE, halves
from simulator.validation.fit import Bound, Constants, Loss, residuals_under, search
from simulator.validation.replay import deployment_of, predict_all
from simulator.validation.run import MeasuredRun
from simulator.validation.score import Aggregate, Residual, aggregate

METRICS = (
    *("tpot_mean_ms", "tpot_p50_ms", "itl_mean_ms", "tpot_by_gap_mean_ms", "itl_p50_ms"),
    *("ttft_mean_ms", "ttft_p50_ms"),
)
"""What is fitted: of every result the first of each line that it has. Percentiles beyond the median say more of the load than
of the engine."""
FAMILIES = (METRICS[:5], METRICS[5:])
NOISE = 0.01
"""Relative repeatability that no benchmark is credited to exceed (an assumption: repeated runs of one server differ by about
this)."""
WORSE_SHARE = 0.1
"""A metric's mean error may grow by this share of itself, and by NOISE, before the fit counts as paid for with it."""
WIDEST = float(np.log(2.0))
"""Standard error of a constant's logarithm beyond which it is not identified: a factor of two either way."""
PROBE = 0.25
"""Step, in logarithms, of the derivatives that say what a constant changes."""
ELSEWHERE = "check --cluster, the layout, quantization and what else the server was started with"
AT_BOUND = 0.03
"""A constant this close to its bound, in logarithms, was stopped by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchFit:
    """Fitted constants, and what they do to predictions."""

    constants: Constants
    profile: Constants
    """The same constants in the profile as it was."""
    factors: Mapping[str, float]
    """Constant -> its standard error, as a factor either way."""
    before: list[Aggregate]
    """Errors of the profile as it was, by metric, over the held-out results."""
    after: list[Aggregate]
    """Errors on the same results with constants fitted to the others."""
    held_out: int
    """Results that were held out; 0: there was one result alone, and the errors are its own."""
    num_results: int

    @property
    def helps(self) -> bool:
        """Whether results that were not seen are predicted better than before, over all metrics, and none pays for another."""
        return _mean(self.after) < _mean(self.before) and not self.worse

    @property
    def worse(self) -> list[tuple[Aggregate, Aggregate]]:
        """(before, after) of the metrics that the fit predicts notably worse: it would trade one for another."""
        pairs = zip(self.before, self.after, strict=True)
        return [(b, a) for b, a in pairs if a.mean > b.mean * (1 + WORSE_SHARE) + NOISE]


def _mean(groups: Sequence[Aggregate]) -> float:
    return float(np.average([group.mean for group in groups], weights=[group.n for group in groups]))


def fitted_metrics(run: MeasuredRun) -> MeasuredRun:
    """The run with only what is fitted; UserError when TPOT or TTFT are missing altogether."""
    import dataclasses

    chosen = [next((name for name in family if name in run.measured), None) for family in FAMILIES]
    kept = {name: run.measured[name] for name in chosen if name is not None}
    if not kept:
        raise UserError(f"{run.place}: has neither TPOT nor TTFT (mean or median) to fit; give another file")
    return dataclasses.replace(run, measured=kept)


def fit_bench(
    runs: Sequence[MeasuredRun],
    bounds: Mapping[str, Bound],
    *,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> BenchFit:
    """Fit ``bounds``' constants to all runs, and to every half of them for the errors on the other.

    Raises UserError when a run cannot be simulated, or when the runs do not identify the constants; says which and why.
    """
    runs = [fitted_metrics(run) for run in runs]
    for prediction in predict_all(runs):
        if prediction.failure is not None:
            raise UserError(f"{prediction.run.place}: {prediction.failure}")
    note = progress or (lambda done, total: None)
    note(1, 4)
    constants = _search(runs, bounds, jobs)
    note(2, 4)
    factors = identified(runs, constants, bounds, jobs)
    before, after, held_out = _scores(runs, bounds, constants, jobs)
    note(4, 4)
    return BenchFit(
        constants=constants,
        profile={name: float(getattr(deployment_of(runs[0]).engine, name)) for name in constants},
        factors=factors,
        before=aggregate(before, ("metric",)),
        after=aggregate(after, ("metric",)),
        held_out=held_out,
        num_results=len(runs),
    )


def _scores(
    runs: Sequence[MeasuredRun], bounds: Mapping[str, Bound], constants: Constants, jobs: int
) -> tuple[list[Residual], list[Residual], int]:
    """Errors without and with a fit, on results that the fit has not seen; with one result, on that one."""
    if len(runs) < 2:
        return _errors(runs, {}, jobs), _errors(runs, constants, jobs), 0
    first = halves([run.id for run in runs])
    after: list[Residual] = []
    for seen in (first, ~first):
        fitted = _search([run for run, known in zip(runs, seen, strict=True) if known], bounds, jobs)
        after += _errors([run for run, known in zip(runs, seen, strict=True) if not known], fitted, jobs)
    return _errors(runs, {}, jobs), after, len(runs)


def _errors(runs: Sequence[MeasuredRun], constants: Constants, jobs: int) -> list[Residual]:
    return residuals_under(runs, METRICS, constants, jobs, fast=False)


def _search(runs: Sequence[MeasuredRun], bounds: Mapping[str, Bound], jobs: int) -> Constants:
    return search(_loss(runs, jobs), bounds)


def _loss(runs: Sequence[MeasuredRun], jobs: int) -> Loss:
    """Mean soft-L1 of the log error, as the kernels' fits; remembered, since the search comes back to where it was."""
    known: dict[tuple[float, ...], float] = {}

    def loss(constants: Constants) -> float:
        key = tuple(constants.values())
        if key not in known:
            found = residuals_under(runs, METRICS, constants, jobs, fast=True)
            scaled = np.log([r.predicted / r.measured for r in found]) / SOFT_L1_SCALE
            known[key] = float(np.mean(np.sqrt(1.0 + scaled**2) - 1.0))
        return known[key]

    return loss


def identified(
    runs: Sequence[MeasuredRun], constants: Constants, bounds: Mapping[str, Bound], jobs: int
) -> dict[str, float]:
    """Standard error of every constant, as a factor; UserError when one is not determined by the runs.

    Errors are those of a least-squares fit of log figures: s^2 (J'J)^-1, J the derivatives by the constants' logarithms, s the
    scatter that is left (at least NOISE).
    """
    names = list(constants)
    for name in names:
        for end in (bounds[name].low, bounds[name].high):
            if abs(np.log(constants[name] / end)) < AT_BOUND:
                raise UserError(
                    f"{name} runs into the end of its range, {end:g} s: these results differ from the prediction in more "
                    f"than the engine's overhead; {ELSEWHERE}"
                )
    base = _errors(runs, constants, jobs)
    logs = np.array([np.log(r.predicted / r.measured) for r in base])
    slopes = np.stack([_slope(runs, constants, name, jobs) for name in names], axis=1)
    scatter = max(NOISE, float(np.sqrt((logs**2).sum() / max(1, len(logs) - len(names)))))
    at_best, errors = _standard_errors(slopes, NOISE), _standard_errors(slopes, scatter)
    effects = np.sqrt((slopes**2).sum(axis=0))
    for at in np.argsort(effects, kind="stable"):  # the one that shows least is the one to leave out
        name, lowest, error = names[at], at_best[at], errors[at]
        if lowest > WIDEST:
            raise UserError(_not_identified(name, names, slopes))
        if error > WIDEST:
            effect = float(np.sqrt((slopes[:, names.index(name)] ** 2).mean())) * WIDEST
            raise UserError(
                f"{name} is not identified: the best fit leaves errors of {scatter:.0%}, a factor of two in it changes "
                f"figures by {effect:.0%}; add results, or {ELSEWHERE}"
            )
    return {name: float(np.exp(error)) for name, error in zip(names, errors, strict=True)}


def _slope(runs: Sequence[MeasuredRun], constants: Constants, name: str, jobs: int) -> npt.NDArray[np.float64]:
    """float64[figures]: how the logarithm of every predicted figure changes with the constant's."""
    logs = [
        np.array([np.log(r.predicted) for r in _errors(runs, {**constants, name: constants[name] * factor}, jobs)])
        for factor in (np.exp(PROBE), np.exp(-PROBE))
    ]
    return np.asarray((logs[0] - logs[1]) / (2 * PROBE))


def _standard_errors(slopes: npt.NDArray[np.float64], scatter: float) -> npt.NDArray[np.float64]:
    """float64[constants]; infinite where the figures say nothing."""
    if np.linalg.matrix_rank(slopes) < slopes.shape[1]:
        return np.full(slopes.shape[1], np.inf)
    return np.asarray(scatter * np.sqrt(np.diag(np.linalg.inv(slopes.T @ slopes))))


def _not_identified(name: str, names: Sequence[str], slopes: npt.NDArray[np.float64]) -> str:
    """Which constant, why, and what would help."""
    at = list(names).index(name)
    alone = [float(np.sqrt((slopes[:, i] ** 2).sum())) for i in range(len(names))]
    others = [n for n in names if n != name]
    if alone[at] * WIDEST < NOISE or not others:
        return (
            f"{name} is not identified: a factor of two changes no figure by more than {alone[at] * WIDEST:.1%}; "
            "add results at a load where it shows (few sequences per step, short prompts)"
        )
    likeness = {n: abs(float(slopes[:, at] @ slopes[:, i])) / (alone[i] or 1.0) for i, n in enumerate(names) if i != at}
    twin = max(likeness, key=lambda n: likeness[n])
    return (
        f"{name} is not identified beside {twin}: these {len(slopes)} figures cannot tell them apart; add results at other "
        f"loads (another concurrency, other prompt lengths), or fit fewer: --constants {','.join(others)}"
    )
