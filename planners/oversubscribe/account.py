"""What a row uses and serves in a day: energy, money and emissions from its power, requests and tokens from its runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from planners.oversubscribe.library import LEVELS, Library
from planners.oversubscribe.policy import BRAKE_SHARE
from planners.oversubscribe.row import DAY_S, Row
from planners.oversubscribe.services import Service
from simulator.accounting.rates import JOULES_PER_KWH, Rates
from simulator.deployment import Deployment


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """Of a whole row, per day of 24 hours."""

    servers: int
    devices_kwh: float
    host_kwh: float
    """The two parts of what the servers draw."""
    facility_kwh: float
    """At the meter: PUE times the servers."""
    electricity_usd: float
    """At the site's price, whoever pays it."""
    operational_kgco2e: float
    embodied_kgco2e: float | None
    """Share of manufacture; None: not known."""
    requests: float
    """Served."""
    output_tokens: float

    @property
    def server_kwh(self) -> float:
        """Devices and hosts."""
        return self.devices_kwh + self.host_kwh

    @property
    def tokens_per_kwh(self) -> float:
        """Output tokens per kWh at the meter."""
        return self.output_tokens / self.facility_kwh


def day_of(
    deployment: Deployment,
    library: Library,
    services: tuple[Service, ...],
    row: Row,
    power_w: npt.NDArray[np.float64],
    braked: npt.NDArray[np.bool_] | None = None,
) -> Day:
    """The account of a row that drew ``power_w`` in each second [W], hosts included."""
    cluster, seconds = deployment.cluster, row.seconds
    rates, days = Rates.of(cluster), seconds / DAY_S
    num_servers = sum(row.counts)
    device_s = deployment.plan.devices_per_replica * num_servers * seconds
    servers_j = float(power_w.sum())
    devices_j = (servers_j - rates.host_j(device_s, 0.0)) / (1 + rates.host_slope)
    facility_kwh = rates.facility_kwh(device_s, devices_j)
    embodied_g = rates.embodied_g(device_s)
    requests, tokens = _served(library, services, row, braked)
    return Day(
        servers=num_servers,
        devices_kwh=devices_j / JOULES_PER_KWH / days,
        host_kwh=rates.host_j(device_s, devices_j) / JOULES_PER_KWH / days,
        facility_kwh=facility_kwh / days,
        electricity_usd=cluster.site.usd_per_kwh * facility_kwh / days,
        operational_kgco2e=rates.operational_g(device_s, devices_j) / 1e3 / days,
        embodied_kgco2e=None if embodied_g is None else embodied_g / 1e3 / days,
        requests=requests / days,
        output_tokens=tokens / days,
    )


def _served(
    library: Library, services: tuple[Service, ...], row: Row, braked: npt.NDArray[np.bool_] | None
) -> tuple[float, float]:
    """(requests, output tokens): all that arrive, as no server is saturated; under the brake the clock's share of them."""
    pace = np.ones(row.seconds) if braked is None else np.where(braked, BRAKE_SHARE, 1.0)
    requests = tokens = 0.0
    for service, at_level in zip(services, row.at_level, strict=True):
        for level in range(1, len(LEVELS)):
            entry = library.entry(service, library.max_mhz, level)
            served = entry.rate_per_s * float(at_level[level] @ pace)
            requests += served
            tokens += served * entry.output_tokens
    return requests, tokens
