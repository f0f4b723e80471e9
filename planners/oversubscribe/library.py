"""Power and latency of one server at every load and clock: the simulator's own runs, cut into seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hardware_profiles.errors import UserError
from planners.oversubscribe.ilp import Option
from planners.oversubscribe.services import Service
from simulator.deployment import Deployment
from simulator.physics.frequency import max_clock_mhz
from simulator.physics.powercap import check_power
from simulator.physics.server import host_power_of
from simulator.power_series import replica_w
from simulator.result import SimulationResult
from simulator.simulate import simulate_deployment
from workloads.synthetic import generate

Floats = npt.NDArray[np.float64]

LEVELS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
"""Loads that are simulated, as shares of the peak rate; 1.2 is a burst on top of the peak."""
WARM_UP_S = 120
TRACE_S = 1800
"""Seconds of a run: the first are dropped, the rest repeat in the row from an offset of each server's own."""
MOST_REQUESTS = 50_000
"""In one run; a few dozen runs are made for each kind of request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One server of one service at one load and clock."""

    power_w: Floats
    """Mean power of the server in each second, host included [W], float64[TRACE_S]."""
    e2e_s: Floats
    """End-to-end latency of each request [s]: the same requests at every clock."""
    rate_per_s: float
    """Requests per second that arrive."""
    output_tokens: float = 0.0
    """Of a request, mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """Entries by (lengths of the service, clock in MHz, index of the level)."""

    entries: dict[tuple[tuple[str, str], float, int], Entry]
    max_mhz: float
    capacity_per_s: dict[tuple[str, str], float]
    """Requests per second of a server with its queue full, at the largest clock."""
    capped: dict[tuple[tuple[str, str], float, int], Entry] = field(default_factory=dict)
    """The same by power cap of a device [W] in place of the clock."""

    def entry(self, service: Service, mhz: float, level: int) -> Entry:
        """The entry of a service at a clock."""
        return self.entries[service.lengths, mhz, level]

    def entry_of(self, service: Service, option: Option, level: int) -> Entry:
        """The entry of a service at a clock or under a cap."""
        if option.cap_w is None:
            return self.entry(service, option.mhz, level)
        return self.capped[service.lengths, option.cap_w, level]


def server_w(deployment: Deployment, devices_w: Floats) -> Floats:
    """Wall power of a server from that of its devices [W]."""
    host = host_power_of(deployment.cluster)
    return host.idle_w * deployment.plan.devices_per_replica + (1 + host.slope) * devices_w


def per_second_w(result: SimulationResult, seconds: int) -> Floats:
    """Mean device power of the only replica in each of the first seconds of the run [W]; idle after its end."""
    return replica_w(result, 0, np.arange(seconds + 1, dtype=float))


def powered(deployment: Deployment, mhz: float | None = None, cap_w: float | None = None) -> Deployment:
    """The deployment on devices locked to a clock, or under a power cap."""
    plan = dataclasses.replace(deployment.plan, gpu_clock_mhz=mhz, power_cap_w=cap_w)
    check_power(deployment.cluster.device, plan)
    return dataclasses.replace(deployment, plan=plan, _cache={})


def capacity_per_s(deployment: Deployment, service: Service, seed: int) -> float:
    """Requests per second that a server completes when all are there at once."""
    trace = generate(
        num_requests=96, arrival="at-once", input_len=service.input_len, output_len=service.output_len, seed=seed
    )
    result = simulate_deployment(deployment, trace)
    if not result.completed.all():
        raise UserError(
            f"service {service.name}: {int((~result.completed).sum())} of {len(trace)} requests are longer than the "
            f"{deployment.effective_max_model_len} tokens a server takes; shorten them or raise --max-model-len"
        )
    return float(result.completed.sum()) / result.duration_s


def _entry(deployment: Deployment, service: Service, rate_per_s: float, seed: int) -> Entry:
    seconds = WARM_UP_S + TRACE_S
    if rate_per_s == 0:
        from simulator.physics.power import idle_w_of

        idle_w = idle_w_of(deployment.cluster.device) * deployment.plan.devices_per_replica
        return Entry(power_w=server_w(deployment, np.full(TRACE_S, idle_w)), e2e_s=np.zeros(0), rate_per_s=0.0)
    trace = generate(
        duration_s=float(seconds),
        rate_per_s=rate_per_s,
        input_len=service.input_len,
        output_len=service.output_len,
        seed=seed,
    )
    result = simulate_deployment(deployment, trace)
    if not result.completed.any():
        raise UserError(
            f"service {service.name}: no request arrives in {seconds} s at the lowest load ({rate_per_s:.3g}/s); "
            "raise --load or shorten its requests"
        )
    power_w = server_w(deployment, per_second_w(result, seconds)[WARM_UP_S:])
    done = result.completed
    return Entry(
        power_w=power_w,
        e2e_s=result.column("e2e_s")[done],
        rate_per_s=rate_per_s,
        output_tokens=float(result.column("output_tokens")[done].mean()),
    )


def build_library(
    deployment: Deployment,
    services: tuple[Service, ...],
    clocks_mhz: dict[str, tuple[float, ...]],
    *,
    peak_load: float,
    seed: int,
    caps_w: tuple[float, ...] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Library:
    """Simulate one server per kind of request, clock or cap, and level.

    ``clocks_mhz``: priority -> clocks it may be locked to. ``peak_load``: rate at level 1 as a share of the capacity.
    """
    by_clock = {mhz: powered(deployment, mhz=mhz) for mhz in sorted({c for cs in clocks_mhz.values() for c in cs})}
    by_cap = {cap_w: powered(deployment, cap_w=cap_w) for cap_w in sorted(caps_w)}
    by_lengths = {s.lengths: s for s in services}
    wanted = sorted({(s.lengths, mhz, False) for s in services for mhz in clocks_mhz[s.priority]})
    wanted += [(lengths, cap_w, True) for lengths in sorted(by_lengths) for cap_w in by_cap]
    capacity = {lengths: capacity_per_s(deployment, s, seed) for lengths, s in by_lengths.items()}
    for lengths, service in by_lengths.items():
        most = LEVELS[-1] * peak_load * capacity[lengths] * (WARM_UP_S + TRACE_S)
        if most > MOST_REQUESTS:
            raise UserError(
                f"service {service.name}: a server takes {most:,.0f} of its short requests in {WARM_UP_S + TRACE_S} s, more "
                f"than the {MOST_REQUESTS:,} that are simulated; lower --load or lengthen them"
            )
    entries: dict[tuple[tuple[str, str], float, int], Entry] = {}
    capped: dict[tuple[tuple[str, str], float, int], Entry] = {}
    for done, (lengths, value, is_cap) in enumerate(wanted):
        target, server = (capped, by_cap[value]) if is_cap else (entries, by_clock[value])
        for level, share in enumerate(LEVELS):
            rate = share * peak_load * capacity[lengths]
            target[lengths, value, level] = _entry(server, by_lengths[lengths], rate, seed)
        if progress is not None:
            progress(done + 1, len(wanted))
    max_mhz = max_clock_mhz(deployment.cluster.device)
    return Library(entries=entries, max_mhz=max_mhz, capacity_per_s=capacity, capped=capped)
