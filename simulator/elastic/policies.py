"""Autoscaling policies: how many replicas there should be, from what a controller sees every interval."""

from __future__ import annotations

import inspect
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from hardware_profiles.errors import UserError, unknown_name
from workloads.expressions import bind, number, parse_call


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """What the controller knows at one moment; rates and shares are of the interval that ends then."""

    time_s: float
    replicas: int
    """Those that serve, and those that are starting."""
    serving: int
    outstanding: int
    """Requests in all replicas, and those that wait for one."""
    arrivals_per_s: float
    tokens_per_s: float
    """Output tokens of all replicas."""
    busy: float
    """Share of the serving replicas' time with a step in flight, 0 to 1."""


class ScalingPolicy(Protocol):
    """What the simulation needs of a policy. Called once per interval, in order of time."""

    def wanted(self, signals: Signals) -> int:
        """Replicas there should be; the simulation keeps it within its limits."""


class Target:
    """Target tracking, as Kubernetes' horizontal autoscaler: replicas = serving * signal / target, rounded up, unless the
    two are within ``tolerance`` of each other (0.1 there); fewer only when that held for ``patience`` intervals.

    Signals per replica: ``outstanding`` [requests], ``arrivals`` [1/s], ``tokens`` [output tokens/s, the decode-TPS signal of
    HeteroScale, arXiv 2508.19559], ``busy`` [share].
    """

    def __init__(self, signal: str, target: float, tolerance: float = 0.1, patience: float = 3) -> None:
        self._read = _PER_REPLICA[signal]
        self._target, self._tolerance = target, tolerance
        self._fewer: deque[int] = deque(maxlen=max(1, round(patience)))

    def wanted(self, signals: Signals) -> int:
        """The count at which the signal per replica would meet its target."""
        ratio = self._read(signals) / self._target
        count = signals.replicas if abs(ratio - 1) <= self._tolerance else math.ceil(signals.serving * ratio - 1e-9)
        self._fewer.append(count)
        if count >= signals.replicas:
            return count
        settled = len(self._fewer) == self._fewer.maxlen
        return min(signals.replicas, max(self._fewer)) if settled else signals.replicas


def _per(value: Callable[[Signals], float]) -> Callable[[Signals], float]:
    return lambda signals: value(signals) / max(1, signals.serving)


_PER_REPLICA: dict[str, Callable[[Signals], float]] = {
    "outstanding": _per(lambda s: s.outstanding),
    "arrivals": _per(lambda s: s.arrivals_per_s),
    "tokens": _per(lambda s: s.tokens_per_s),
    "busy": lambda s: s.busy,
}


class Reactive:
    """One more replica when more than ``up`` requests are outstanding per serving replica, one fewer below ``down``."""

    def __init__(self, up: float, down: float) -> None:
        if down >= up:
            raise UserError(f"--autoscale reactive: down is {down:g}, up is {up:g}; down must be below up")
        self._up, self._down = up, down

    def wanted(self, signals: Signals) -> int:
        """One step up or down."""
        each = signals.outstanding / max(1, signals.serving)
        return signals.replicas + (each > self._up) - (each < self._down)


class Forecast:
    """Enough replicas for a quantile of the arrival rates of the last ``window`` intervals, ``capacity`` requests/s each."""

    def __init__(self, capacity: float, quantile: float = 0.9, window: float = 10) -> None:
        if not 0 <= quantile <= 1:
            raise UserError(f"--autoscale forecast: quantile is {quantile:g}; it must be from 0 to 1")
        self._capacity, self._quantile = capacity, quantile
        self._rates: deque[float] = deque(maxlen=max(1, round(window)))

    def wanted(self, signals: Signals) -> int:
        """Quantile of the rates over the capacity of one replica, rounded up."""
        self._rates.append(signals.arrivals_per_s)
        return math.ceil(float(np.quantile(list(self._rates), self._quantile)) / self._capacity - 1e-9)


POLICIES: dict[str, Callable[..., ScalingPolicy]] = {
    **{name: partial(Target, name) for name in _PER_REPLICA},
    "reactive": Reactive,
    "forecast": Forecast,
}
"""Names for the CLI and YAML: ``outstanding(target=20)``, ``busy(target=0.7)``, ``reactive(up=30, down=5)``,
``forecast(capacity=4)``."""


def parse_policy(text: str) -> Callable[[], ScalingPolicy]:
    """A policy from its name and parameters, made anew for every run; UserError for unknown or impossible ones."""
    call = parse_call(text, "--autoscale", "a name such as outstanding(target=20)")
    if call.name not in POLICIES:
        raise unknown_name("autoscaling policy", call.name, POLICIES)
    make = POLICIES[call.name]
    parameters = list(inspect.signature(make).parameters.values())
    required = [p.name for p in parameters if p.default is p.empty]
    optional = [p.name for p in parameters if p.default is not p.empty]
    given = {
        name: number(call, name, value, positive=name in ("target", "up", "capacity", "window", "patience"))
        for name, value in bind(call, required, optional).items()
    }
    make(**given)
    return partial(make, **given)
