"""What control did to the requests: latency of each service against the row that nobody controls."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hardware_profiles.errors import UserError
from planners.oversubscribe.controller import ControlRun
from planners.oversubscribe.library import LEVELS, Library
from planners.oversubscribe.policy import BRAKE_SHARE
from planners.oversubscribe.row import Row
from planners.oversubscribe.services import SLOS, Service

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Impact:
    """One service. Increases are shares of the uncapped value: 0.02 is 2 % more."""

    service: Service
    p50_s: float
    p99_s: float
    """End-to-end latency without control [s]."""
    p50_increase: float
    p99_increase: float
    throughput_loss: float
    """Of clients that wait for each answer before they ask again: 1 - mean latency before / after."""

    @property
    def meets_slo(self) -> bool:
        """Whether both increases are within the limits of the priority."""
        limit = SLOS[self.service.priority]
        return self.p50_increase <= limit.p50 and self.p99_increase <= limit.p99


def impacts(library: Library, services: tuple[Service, ...], row: Row, run: ControlRun) -> tuple[Impact, ...]:
    """Every service's latency: a mixture of the simulated runs, each with the share of requests that arrive in seconds of
    its load and clock. A request keeps the clock of its arrival; under the brake everything takes as much longer as the
    clock is lower."""
    found = []
    for service, at_level in zip(services, row.at_level, strict=True):
        clocks = run.clock_mhz[service.priority]
        before: list[tuple[Floats, Floats]] = []
        after: list[tuple[Floats, Floats]] = []
        for level in range(1, len(LEVELS)):
            free = library.entry(service, library.max_mhz, level)
            before.append(_weighted(free.e2e_s, free.rate_per_s * float(at_level[level].sum())))
            braked_s = float(at_level[level][run.braked].sum())
            if braked_s:
                after.append(_weighted(free.e2e_s / BRAKE_SHARE, free.rate_per_s * braked_s))
            for mhz in np.unique(clocks):
                entry = library.entry(service, float(mhz), level)
                seconds = float(at_level[level][(clocks == mhz) & ~run.braked].sum())
                if seconds:
                    after.append(_weighted(entry.e2e_s, entry.rate_per_s * seconds))
        found.append(_impact(service, before, after))
    return tuple(found)


def _weighted(sample: Floats, requests: float) -> tuple[Floats, Floats]:
    """A sample that stands for so many requests: values and their weights."""
    return sample, np.full(len(sample), requests / max(1, len(sample)))


def _impact(service: Service, before: list[tuple[Floats, Floats]], after: list[tuple[Floats, Floats]]) -> Impact:
    if not sum(weights.sum() for _, weights in before):
        raise UserError(
            f"service {service.label}: no request in the simulated time; raise --days, --load, --valley or --servers"
        )
    p50, p99, mean = _statistics(before)
    new_p50, new_p99, new_mean = _statistics(after)
    return Impact(
        service=service,
        p50_s=p50,
        p99_s=p99,
        p50_increase=new_p50 / p50 - 1,
        p99_increase=new_p99 / p99 - 1,
        throughput_loss=1 - mean / new_mean,
    )


def _statistics(parts: list[tuple[Floats, Floats]]) -> tuple[float, float, float]:
    """Median, 99th percentile and mean of a weighted sample."""
    values, weights = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    last = len(values) - 1
    p50, p99 = (values[order[min(last, int(np.searchsorted(total, q * total[-1])))]] for q in (0.5, 0.99))
    return float(p50), float(p99), float(np.average(values, weights=weights))
