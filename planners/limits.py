"""What no schedule of a candidate can beat, as numbers; :mod:`planners.bounds` works them out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from planners.demand import Demand, WorkloadStats
from workloads.slo import Slo
from workloads.trace import FloatArray

SHORTEST_S = 1e-9
"""A run takes longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Limits that no schedule of the candidate can beat."""

    capacity_per_s: float
    """At most so many requests per second in the long run, all replicas."""
    load: float
    """At least this share of the replicas' time is needed; above 1 the queue grows (0: closed loop)."""
    attainment: float
    """At most this share of the requests can meet the SLO, even if each were alone on the machine."""
    loaded_attainment: float
    """At most this share can, together with the others in the time there is."""
    median_ttft_s: float
    """Unloaded TTFT of the median request."""
    median_tpot_s: float
    """Unloaded TPOT of the median request (0 when all have one output token)."""
    p95_ttft_s: float
    p95_tpot_s: float
    mean_e2e_s: float
    """Of an unloaded machine."""
    duration_s: float
    """The run takes at least so long, from first arrival to last token."""
    served: int
    """Requests that are not refused for their length."""
    output_tokens: int
    """Of those requests."""


def bounds_of(
    demand: Demand,
    stats: WorkloadStats,
    slo: Slo | None,
    ttft_s: FloatArray,
    decode_s: FloatArray,
    *,
    capacity_per_s: float,
    load: float,
    loaded_attainment: float,
    busy_s: float,
) -> Bounds:
    """Bounds from the times of each request alone on the machine [s]; ``busy_s``: least time for all of them together [s]."""
    several = demand.outputs > 1
    tpot_s = decode_s / np.maximum(1, demand.outputs - 1)
    attainment = 1.0
    if slo is not None:
        good = slo.good(ttft_s, np.where(several, tpot_s, np.nan), ttft_s + decode_s)
        attainment = float(good.sum()) / stats.requests
    tpot_s = tpot_s[several] if several.any() else np.zeros(1)
    return Bounds(
        capacity_per_s=capacity_per_s,
        load=load,
        attainment=attainment,
        loaded_attainment=loaded_attainment,
        median_ttft_s=float(np.median(ttft_s)),
        median_tpot_s=float(np.median(tpot_s)),
        p95_ttft_s=float(np.percentile(ttft_s, 95)),
        p95_tpot_s=float(np.percentile(tpot_s, 95)),
        mean_e2e_s=float((ttft_s + decode_s).mean()),
        duration_s=max(float(demand.arrival_s[-1] - stats.arrivals_s[0]) + float(ttft_s.min()), busy_s),
        served=len(demand.inputs),
        output_tokens=int(demand.outputs.sum()),
    )


def nothing_served() -> Bounds:
    """Of a deployment that refuses every request."""
    return Bounds(
        capacity_per_s=0.0,
        load=0.0,
        attainment=0.0,
        loaded_attainment=0.0,
        median_ttft_s=float("inf"),
        median_tpot_s=float("inf"),
        p95_ttft_s=float("inf"),
        p95_tpot_s=float("inf"),
        mean_e2e_s=float("inf"),
        duration_s=0.0,
        served=0,
        output_tokens=0,
    )


def anything(stats: WorkloadStats) -> Bounds:
    """What holds for every candidate: all requests are served, none before it arrives."""
    return replace(
        nothing_served(),
        capacity_per_s=math.inf,
        attainment=1.0,
        loaded_attainment=1.0,
        median_ttft_s=0.0,
        median_tpot_s=0.0,
        p95_ttft_s=0.0,
        p95_tpot_s=0.0,
        mean_e2e_s=0.0,
        duration_s=max(stats.duration_s, SHORTEST_S),
        served=stats.requests,
        output_tokens=int(stats.outputs.sum()),
    )
