"""When nothing meets the SLO: which candidate comes nearest, and what to say about it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hardware_profiles.errors import UserError
from hardware_profiles.schema import Cluster
from planners.outcome import Entry, PlanResult, excess, missing
from workloads.model import ModelSpec
from workloads.slo import Slo
from workloads.trace import Trace


def distance(entry: Entry, slo: Slo) -> tuple[float, float, float]:
    """Order of candidates that the bounds rule out: reachable attainment, load, unloaded latency against the limits."""
    bounds = entry.bounds
    assert bounds is not None
    ratios = [
        latency / limit
        for latency, limit in ((bounds.median_ttft_s, slo.ttft_s), (bounds.median_tpot_s, slo.tpot_s))
        if limit is not None
    ]
    reachable = min(bounds.attainment, bounds.loaded_attainment)
    return (-reachable, -min(1.0, bounds.loaded_attainment), max(ratios, default=0.0))


def nearest(missed: Sequence[Entry], slo: Slo) -> Entry:
    """Of runs that all miss the SLO, the one with most requests in it, then with the latencies nearest to it."""
    return min(missed, key=lambda e: (missing(e.measured, slo), excess(e.measured, slo)) if e.measured else (2.0, 0.0))


class NothingMeets(UserError):
    """No plan meets the SLO. ``result`` has all candidates with reasons; its ``best`` is the nearest."""

    def __init__(self, message: str, result: PlanResult) -> None:
        super().__init__(message)
        self.result = result

    def __reduce__(self) -> tuple[type[NothingMeets], tuple[str, PlanResult]]:
        return type(self), (str(self), self.result)


def shortfalls(entry: Entry, slo: Slo, trace: Trace) -> list[str]:
    """How far a run is from the SLO, and what would be needed, a sentence each."""
    assert entry.measured is not None
    m, lines = entry.measured.metrics, []
    pairs = (("TTFT", "ttft", slo.ttft_s), ("TPOT", "tpot", slo.tpot_s), ("E2E", "e2el", slo.e2e_s))
    for label, name, limit_s in pairs:
        p95 = m[f"p95_{name}_ms"]
        if limit_s is not None and p95 is not None and p95 > 1e3 * limit_s:
            lines.append(f"p95 {label} is {p95 / (1e3 * limit_s):.3g} times its limit of {1e3 * limit_s:,.10g} ms")
    lines.append(
        f"{100 * (m['slo_attainment'] or 0.0):.1f}% of requests are within the SLO; {100 * slo.attainment:g}% are asked for"
    )
    rate, offered = entry.max_rate_per_s, trace.request_rate_per_s
    if rate == 0.0:
        lines.append("it keeps the SLO at no rate: the limits have to be looser, or the devices faster")
    elif rate is not None and math.isfinite(rate) and math.isfinite(offered):
        devices = math.ceil(offered / rate) * m["num_gpus"]
        lines.append(
            f"it keeps the SLO up to {rate:.3g} req/s, the workload has {offered:.3g}: about {devices} devices laid out like "
            "it, were the load shared evenly"
        )
    return lines


def lacks(result: PlanResult) -> list[str]:
    """How far the nearest plan is from an SLO that nothing meets; nothing when the best meets it."""
    if result.meets_slo or result.slo is None:
        return []
    return shortfalls(result.best, result.slo, result.trace)


def no_layout(entry: Entry, model: ModelSpec, cluster: Cluster, trace: Trace, slo: Slo) -> UserError:
    """That no layout meets the SLO, with what the nearest one can do."""
    assert entry.measured is not None
    m = entry.measured.metrics
    rate = entry.max_rate_per_s
    highest = "" if rate is None else f"; its highest rate within it is {rate:.3g} req/s" if rate else ""
    offered = trace.request_rate_per_s
    at = f" at {offered:.3g} req/s" if math.isfinite(offered) and trace.concurrency is None else ""
    return UserError(
        f"no layout of {model.name} on {cluster.name} meets --slo {slo}: the best, "
        f"{entry.candidate.layout}, serves {100 * (m['slo_attainment'] or 0):.1f}% of the requests within it{at} (p95 "
        f"TTFT {m['p95_ttft_ms']:.0f} ms, p95 TPOT {m['p95_tpot_ms']:.1f} ms, p95 E2E {m['p95_e2el_ms']:.0f} ms"
        f"{highest}). Loosen the SLO, lower the rate, or add devices"
    )
