"""Fits positive parameters on log error and scores them on shapes the fit has not seen."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulator.calibration.tables import FloatColumn, Mask

Parameters = dict[str, Any]
"""Floats by parameter name (Any: they are unpacked into fits that have other fields too)."""

Predict = Callable[[Parameters, Mask], FloatColumn]
"""Seconds predicted for the rows of a mask."""

SOFT_L1_SCALE = 0.1
"""Log error [1] above which a row counts linearly instead of quadratically: about the noise between kernel versions."""


@dataclass(frozen=True, slots=True)
class Bound:
    """Start value and range of one positive parameter; a range of one point fixes it."""

    start: float
    low: float
    high: float


Bounds = Mapping[str, Bound] | Sequence[Mapping[str, Bound]]
"""Of the parameters of one fit; a sequence: several starts."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Parameters fitted on all rows, and errors of two fits on halves of the shapes, each scored on the other half."""

    parameters: Parameters
    median_error: float
    p90_error: float
    held_out_s: FloatColumn
    """Prediction for every row by the fit that has not seen the row's shape [s]."""


def halves(groups: Sequence[str]) -> Mask:
    """True for the rows of one half of the distinct groups.

    Groups are ordered by the CRC-32 of their text and dealt out in turn: the same on every machine, independent of the
    order of rows, and balanced however few groups there are.
    """
    names = sorted(set(groups), key=lambda g: (zlib.crc32(g.encode()), g))
    chosen = set(names[::2])
    return np.array([g in chosen for g in groups], dtype=bool)


def group_keys(*columns: FloatColumn) -> list[str]:
    """Text key of each row's combination of columns (the unit that is held out as a whole)."""
    return ["/".join(f"{v:g}" for v in row) for row in zip(*columns, strict=True)]


def soft_l1(predicted_s: FloatColumn, measured_s: FloatColumn) -> float:
    """What a fit minimises: the sum of 2 (sqrt(1 + (log error / scale)^2) - 1)."""
    scaled = np.log(predicted_s / measured_s) / SOFT_L1_SCALE
    return float(np.sum(2.0 * (np.sqrt(1.0 + scaled * scaled) - 1.0)))


def fit(predict: Predict, measured_s: FloatColumn, rows: Mask, bounds: Bounds) -> Parameters:
    """Parameters that minimise soft-L1 of log(predicted / measured) over ``rows``, searched in their logarithms.

    With several sets of bounds (the same parameters from other start values) the best of the searches.
    """
    if isinstance(bounds, Mapping):
        return _search(predict, measured_s, rows, bounds)
    found = [_search(predict, measured_s, rows, b) for b in bounds]
    losses = [soft_l1(predict(p, rows), measured_s[rows]) for p in found]
    return found[int(np.argmin(np.round(losses, 6)))]


def _search(predict: Predict, measured_s: FloatColumn, rows: Mask, bounds: Mapping[str, Bound]) -> Parameters:
    from scipy.optimize import least_squares

    free = [name for name, b in bounds.items() if b.low < b.high]
    fixed = {name: b.start for name, b in bounds.items() if b.low == b.high}
    target = np.log(measured_s[rows])

    def residual(logs: FloatColumn) -> FloatColumn:
        values = fixed | dict(zip(free, np.exp(logs).tolist(), strict=True))
        return np.asarray(np.log(predict(values, rows)) - target, dtype=np.float64)

    low = np.log([bounds[n].low for n in free])
    high = np.log([bounds[n].high for n in free])
    solution = least_squares(
        residual,
        np.log([bounds[n].start for n in free]),
        bounds=(low, high),
        loss="soft_l1",
        f_scale=SOFT_L1_SCALE,
        x_scale=1.0,
    )
    return {name: bounds[name].start for name in fixed} | dict(zip(free, np.exp(solution.x).tolist(), strict=True))


def fit_and_score(predict: Predict, measured_s: FloatColumn, groups: Sequence[str], bounds: Bounds) -> Scored:
    """Fit on all rows; errors from two-fold fits over halves of the groups."""
    everything = np.ones(len(measured_s), dtype=bool)
    first = halves(groups)
    held_out = np.empty(len(measured_s))
    for seen in (first, ~first):
        unseen = ~seen
        held_out[unseen] = predict(fit(predict, measured_s, seen, bounds), unseen)
    median, p90 = errors(held_out, measured_s)
    return Scored(fit(predict, measured_s, everything, bounds), median, p90, held_out)


def errors(predicted_s: FloatColumn, measured_s: FloatColumn) -> tuple[float, float]:
    """Median and 90th percentile of the absolute relative error."""
    error = np.abs(predicted_s / measured_s - 1.0)
    return float(np.median(error)), float(np.quantile(error, 0.9))


def rounded(value: float, digits: int = 4) -> float:
    """``value`` to so many significant digits, so that the same tables give the same file on every machine."""
    return float(f"{value:.{digits - 1}e}")


def rounded_all(parameters: Parameters) -> Parameters:
    """All parameters to four significant digits."""
    return {name: rounded(value) for name, value in parameters.items()}
