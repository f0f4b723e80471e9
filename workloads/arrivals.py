"""Arrival processes: when requests come, and the text that names them.

A process either needs a rate (poisson, constant, gamma), or has rates of its own and takes one as the mean to be scaled
to (bursty, piecewise, diurnal), or has none (at-once, closed).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from hardware_profiles.errors import UserError, unknown_name
from workloads.expressions import Call, bind, check_cv, number, parse_call
from workloads.trace import FloatArray

CHUNK = 65_536
"""Gaps drawn at a time when a duration, not a count, ends the process."""
DIURNAL_GRID = 4_096
"""Points per period at which the daily curve is inverted; linear in between (error below 1e-6 of a period)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A parsed arrival process."""

    text: str
    kind: str
    params: Mapping[str, float] = field(default_factory=dict)
    steps: tuple[tuple[float, float], ...] = ()
    """Piecewise: (from this time on [s], rate [1/s]), times ascending from 0."""

    @property
    def concurrency(self) -> int | None:
        """Requests in flight of a closed loop; None for open ones."""
        return int(self.params["concurrency"]) if self.kind == "closed" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Horizon:
    """Where a process stops: after ``num`` arrivals, or at ``duration_s`` (exactly one is set)."""

    num: int | None = None
    duration_s: float | None = None

    def __post_init__(self) -> None:
        if (self.num is None) == (self.duration_s is None):
            raise UserError("give either num_requests or duration_s (exactly one)")
        if self.num is not None and self.num < 1:
            raise UserError(f"num_requests is {self.num}; it must be at least 1")
        if self.duration_s is not None and not (math.isfinite(self.duration_s) and self.duration_s > 0):
            raise UserError(f"duration_s is {self.duration_s:g}; it must be above 0")


Times = Callable[[np.random.Generator, Arrival, float | None, Horizon], FloatArray]


def parse_arrival(value: object, *, what: str = "arrival") -> Arrival:
    """``"poisson"``, ``"gamma(cv=2)"``, ``"piecewise(0:5, 600:20)"``, ``{closed: {concurrency: 32}}`` ..."""
    if isinstance(value, Arrival):
        return value
    call = parse_call(value, what)
    if call.name not in PROCESSES:
        raise call.error(str(unknown_name("arrival process", call.name, PROCESSES)))
    if call.name == "piecewise":
        return Arrival(text=call.text, kind="piecewise", steps=_steps(call))
    names = PROCESSES[call.name].params
    bound = bind(call, names)
    params = {key: number(call, key, bound[key]) for key in names}
    _check(call, params)
    return Arrival(text=call.text, kind=call.name, params=params)


def arrival_times(arrival: Arrival, rng: np.random.Generator, rate_per_s: float | None, horizon: Horizon) -> FloatArray:
    """Arrival times [s], non-decreasing, of one realisation; a longer horizon continues a shorter one."""
    process = PROCESSES[arrival.kind]
    if rate_per_s is not None and not (math.isfinite(rate_per_s) and rate_per_s > 0):
        raise UserError(f"rate_per_s is {rate_per_s:g}; it must be above 0")
    if process.rate == "needed" and rate_per_s is None:
        raise UserError(f"arrival '{arrival.text}' needs rate_per_s, requests per second (--rate)")
    if process.rate == "none" and rate_per_s is not None:
        raise UserError(f"arrival '{arrival.text}' has no rate; leave out rate_per_s or --rate ({rate_per_s:g})")
    times = process.times(rng, arrival, rate_per_s, horizon)
    if len(times) == 0:
        raise UserError(f"arrival '{arrival.text}' gives no request within {horizon.duration_s:g} s; raise either")
    return times


def _check(call: Call, params: Mapping[str, float]) -> None:
    if call.name == "closed" and (params["concurrency"] < 1 or params["concurrency"] % 1):
        raise call.error(f"concurrency is {params['concurrency']:g}; it must be a whole number of at least 1")
    if call.name == "gamma":
        check_cv(call, params["cv"])
    if call.name == "bursty":
        if params["mean_on_s"] <= 0 or params["mean_off_s"] <= 0:
            raise call.error("mean_on_s and mean_off_s must be above 0")
        if params["rate_on"] <= 0:
            raise call.error("rate_on must be above 0")
    if call.name == "diurnal":
        if params["period_s"] <= 0:
            raise call.error("period_s must be above 0")
        if not 0 < params["peak"] >= params["base"]:
            raise call.error(f"peak ({params['peak']:g}) must be above 0 and at least base ({params['base']:g})")


def _steps(call: Call) -> tuple[tuple[float, float], ...]:
    steps: list[tuple[float, float]] = []
    for item in call.args:
        start, colon, rate = item.partition(":")
        if not colon:
            raise call.error(f"'{item}' is not time:rate; write piecewise(0:5, 600:20)")
        steps.append((number(call, "time", start), number(call, "rate", rate)))
    times = [t for t, _ in steps]
    if call.kwargs or not steps or times[0] != 0 or any(b <= a for a, b in itertools.pairwise(times)):
        raise call.error("write time:rate pairs with ascending times from 0, as in piecewise(0:5, 600:20)")
    if all(rate == 0 for _, rate in steps):
        raise call.error("all rates are 0")
    return tuple(steps)


def _until(next_gaps: Callable[[int], FloatArray], horizon: Horizon) -> FloatArray:
    """Cumulative sums of gaps, ``num`` of them or all before ``duration_s``."""
    if horizon.num is not None:
        return np.cumsum(next_gaps(horizon.num))
    assert horizon.duration_s is not None
    chunks: list[FloatArray] = []
    now = 0.0
    while now < horizon.duration_s:
        gaps = next_gaps(CHUNK)
        gaps[0] += now  # the same sums in the same order as one long cumsum
        chunks.append(np.cumsum(gaps))
        now = float(chunks[-1][-1])
    times = np.concatenate(chunks)
    return times[: np.searchsorted(times, horizon.duration_s)]


def _interpolate(x: FloatArray, xs: FloatArray, ys: FloatArray) -> FloatArray:
    return np.asarray(np.interp(x, xs, ys), dtype=np.float64)


def _poisson(rng: np.random.Generator, arrival: Arrival, rate: float | None, horizon: Horizon) -> FloatArray:
    assert rate is not None
    return _until(lambda n: rng.standard_exponential(n) / rate, horizon)


def _gamma(rng: np.random.Generator, arrival: Arrival, rate: float | None, horizon: Horizon) -> FloatArray:
    assert rate is not None
    cv = arrival.params["cv"]
    if cv == 0:
        return _constant(rng, arrival, rate, horizon)
    shape = cv**-2
    return _until(lambda n: rng.standard_gamma(shape, n) / (shape * rate), horizon)


def _constant(rng: np.random.Generator, arrival: Arrival, rate: float | None, horizon: Horizon) -> FloatArray:
    assert rate is not None
    count = horizon.num if horizon.num is not None else math.ceil((horizon.duration_s or 0.0) * rate)
    return np.arange(count, dtype=np.float64) / rate


def _at_once(rng: np.random.Generator, arrival: Arrival, rate: float | None, horizon: Horizon) -> FloatArray:
    if horizon.num is None:
        raise UserError(f"arrival '{arrival.text}' needs num_requests, not duration_s")
    return np.zeros(horizon.num)


def _piecewise(rng: np.random.Generator, arrival: Arrival, rate: float | None, horizon: Horizon) -> FloatArray:
    starts, rates = (np.array(column) for column in zip(*arrival.steps, strict=True))
    if rate is not None:
        if horizon.duration_s is None:
            raise UserError(
                f"arrival '{arrival.text}' has rates of its own; rate_per_s scales them only with duration_s"
            )
        covered = np.clip(np.append(starts[1:], np.inf), 0, horizon.duration_s) - np.clip(starts, 0, horizon.duration_s)
        if not (rates * covered).any():
            raise UserError(
                f"arrival '{arrival.text}' is 0 throughout {horizon.duration_s:g} s; use a longer duration_s"
            )
        rates = rates * (rate * horizon.duration_s / float((rates * covered).sum()))
    load = np.concatenate(([0.0], np.cumsum(rates[:-1] * np.diff(starts))))
    if horizon.duration_s is not None:
        end = horizon.duration_s
        inside = starts < end
        last = int(np.flatnonzero(inside)[-1])
        end_load = float(load[last] + rates[last] * (end - starts[last]))
        knots, knot_load = np.append(starts[inside], end), np.append(load[inside], end_load)
        unit = _until(rng.standard_exponential, Horizon(duration_s=end_load)) if end_load > 0 else np.empty(0)
        return _interpolate(unit, knot_load, knots)
    unit = _until(rng.standard_exponential, horizon)
    if unit[-1] > load[-1]:
        if rates[-1] == 0:
            raise UserError(
                f"arrival '{arrival.text}' ends with rate 0 after about {load[-1]:.0f} requests; "
                f"{horizon.num} were asked for: use duration_s"
            )
        starts = np.append(starts, starts[-1] + (unit[-1] - load[-1]) / rates[-1])
        load = np.append(load, unit[-1])
    return _interpolate(unit, load, starts)


def _diurnal(rng: np.random.Generator, arrival: Arrival, rate: float | None, horizon: Horizon) -> FloatArray:
    """rate(t) = base + (peak - base) (1 - cos(2 pi t / period)) / 2: the valley at 0, the peak at half a period."""
    base, peak, period = (arrival.params[key] for key in ("base", "peak", "period_s"))
    scale = 1.0 if rate is None else rate / ((base + peak) / 2)
    mean, swing = scale * (base + peak) / 2, scale * (peak - base) / 2

    def load(t: FloatArray) -> FloatArray:
        wave: FloatArray = np.sin(2 * np.pi * t / period)
        return mean * t - swing * period / (2 * np.pi) * wave

    if horizon.num is not None:
        unit = _until(rng.standard_exponential, horizon)
    else:
        total = float(load(np.array([horizon.duration_s]))[0])
        unit = _until(rng.standard_exponential, Horizon(duration_s=total)) if total > 0 else np.empty(0)
    grid = np.linspace(0.0, period, DIURNAL_GRID + 1)
    periods, rest = np.divmod(unit, mean * period)
    return np.maximum.accumulate(periods * period + np.interp(rest, load(grid), grid))


def _bursty(rng: np.random.Generator, arrival: Arrival, rate: float | None, horizon: Horizon) -> FloatArray:
    """Markov-modulated Poisson process with two states of exponential length, started in its steady state."""
    on, off, mean_on, mean_off = (arrival.params[k] for k in ("rate_on", "rate_off", "mean_on_s", "mean_off_s"))
    mean = (on * mean_on + off * mean_off) / (mean_on + mean_off)
    scale = 1.0 if rate is None else rate / mean
    phases, points = rng.spawn(2)
    starts_on = bool(phases.random() < mean_on / (mean_on + mean_off))
    lengths = np.array([mean_on, mean_off] if starts_on else [mean_off, mean_on])
    rates = scale * np.array([on, off] if starts_on else [off, on])
    unit = None if horizon.num is None else _until(points.standard_exponential, horizon)
    times, loads = [np.zeros(1)], [np.zeros(1)]
    while loads[-1][-1] <= unit[-1] if unit is not None else times[-1][-1] <= (horizon.duration_s or 0.0):
        drawn = phases.standard_exponential(CHUNK).reshape(-1, 2) * lengths
        times.append(times[-1][-1] + np.cumsum(drawn))
        loads.append(loads[-1][-1] + np.cumsum(drawn * rates))
    knots, load = np.concatenate(times), np.concatenate(loads)
    if unit is None:
        total = float(np.interp(horizon.duration_s or 0.0, knots, load))
        unit = _until(points.standard_exponential, Horizon(duration_s=total)) if total > 0 else np.empty(0)
    return _interpolate(unit, load, knots)


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One kind of arrival process: its parameters in positional order, what it does with a rate, how to draw it."""

    params: tuple[str, ...] = ()
    rate: Literal["needed", "scales", "none"]
    times: Times


PROCESSES: dict[str, Process] = {
    "poisson": Process(rate="needed", times=_poisson),
    "constant": Process(rate="needed", times=_constant),
    "gamma": Process(params=("cv",), rate="needed", times=_gamma),
    "bursty": Process(params=("rate_on", "rate_off", "mean_on_s", "mean_off_s"), rate="scales", times=_bursty),
    "piecewise": Process(rate="scales", times=_piecewise),
    "diurnal": Process(params=("base", "peak", "period_s"), rate="scales", times=_diurnal),
    "at-once": Process(rate="none", times=_at_once),
    "closed": Process(params=("concurrency",), rate="none", times=_at_once),
}
