"""A fleet that changes over the day: windows of the trace, and what starting instances costs.

An instance that serves in a window and did not in the one before is started so early that it is ready when the window
begins; its start-up time is paid at its price. The instances of the first window run when the day begins. An instance
no longer wanted stops, and is paid, at the end of its window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from planners.fleet.problem import FleetProblem, Floats, Slices
from workloads.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Day:
    """Windows with rates of their own; types, sizes and throughputs are the same in all."""

    windows: tuple[FleetProblem, ...]
    starts_s: Floats
    """float64[windows]: when each begins on the trace's clock."""
    hours: Floats
    """float64[windows]: how long each is."""
    startup_s: float

    @property
    def startup_hours(self) -> float:
        """Paid for every start."""
        return self.startup_s / 3600.0

    def usd(self, counts: npt.NDArray[np.int64]) -> float:
        """Of counts int64[windows, types]: running hours and starts [$]."""
        prices = self.windows[0].usd_per_hour
        return float(self.hours @ (counts @ prices) + self.startup_hours * (started(counts).sum(axis=0) @ prices))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Schedule:
    """Instances over the day."""

    counts: npt.NDArray[np.int64]
    """int64[windows, types]."""
    slices: tuple[Slices, ...]
    """Per window, int64[sizes, types]."""
    usd: float
    """Of the day, with the starts."""
    bound_usd: float
    """No schedule is cheaper, nor any at another slice factor."""
    gap: float


def started(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """int64[windows, types]: instances that begin to serve with each window; none with the first."""
    changes = np.diff(counts, axis=0, prepend=counts[:1])
    return np.maximum(changes, 0)


def stopped(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """int64[windows, types]: instances that served in the window before and no longer do."""
    return np.maximum(-np.diff(counts, axis=0, prepend=counts[:1]), 0)


def windows_of(trace: Trace, window_s: float) -> tuple[npt.NDArray[np.int64], Floats]:
    """(int64[requests] window of each request, float64[windows] lengths [s]); the last may be shorter."""
    first = float(trace.arrival_s[0])
    span = trace.duration_s * len(trace) / (len(trace) - 1)  # to where the next request would arrive
    number = max(1, int(np.ceil(span / window_s - 1e-6)))
    of = np.minimum(((trace.arrival_s - first) // window_s).astype(np.int64), number - 1)
    lengths = np.full(number, window_s)
    if number * window_s > span:
        lengths[-1] = span - (number - 1) * window_s
    return of, lengths


def day_of(
    problem: FleetProblem, cell: npt.NDArray[np.int64], trace: Trace, window_s: float, startup_s: float
) -> tuple[Day, npt.NDArray[np.int64]]:
    """The day of a trace whose requests lie in cells ``cell`` of ``problem``, and the window of each request.

    A size without requests in ``problem`` (left out) has none in any window.
    """
    of, lengths = windows_of(trace, window_s)
    shape = (len(lengths), len(problem.sizes))
    counts = np.bincount(of * shape[1] + cell, minlength=shape[0] * shape[1]).reshape(shape)
    rates = np.where(problem.rates_per_s > 0, counts / lengths[:, None], 0.0)
    windows = tuple(with_rates(problem, row) for row in rates)
    begins = np.asarray(float(trace.arrival_s[0]) + window_s * np.arange(len(lengths)), dtype=np.float64)
    return Day(windows=windows, starts_s=begins, hours=lengths / 3600.0, startup_s=startup_s), of


def with_rates(problem: FleetProblem, rates_per_s: Floats) -> FleetProblem:
    """The same problem at other rates."""
    sizes = [replace(size, rate_per_s=rate) for size, rate in zip(problem.sizes, rates_per_s.tolist(), strict=True)]
    return replace(problem, sizes=tuple(sizes))


def repeated(counts: Sequence[int], windows: int) -> npt.NDArray[np.int64]:
    """int64[windows, types]: the same instances all day."""
    return np.tile(np.array(counts, dtype=np.int64), (windows, 1))
