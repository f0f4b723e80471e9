"""When nothing meets the SLO: which candidate comes nearest, and what to say about it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hardware_profiles.errors import UserError
from hardware_profiles.schema import Cluster
from planners.outcome import Entry, excess, missing
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
