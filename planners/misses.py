"""When nothing meets the SLO: which candidate comes nearest, and what to say about it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hardware_profiles.errors import UserError
from hardware_profiles.schema import Cluster
from planners.outcome import Entry, PlanResult, excess, missing
from planners.reasons import milliseconds
from workloads.model import ModelSpec
from workloads.slo import Slo, time_text
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
            lines.append(f"p95 {label} is {p95 / (1e3 * limit_s):.3g} times its limit of {time_text(limit_s)}")
    lines.append(
        f"{100 * (m['slo_attainment'] or 0.0):.1f}% of requests are within the SLO; {100 * slo.attainment:g}% are asked for"
    )
    rate, offered = entry.max_rate_per_s, trace.request_rate_per_s
    if rate == 0.0:
        lines.append("it keeps the SLO at no rate: the limits have to be looser, or the devices faster")
    elif rate is not None and math.isfinite(rate) and math.isfinite(offered):
        lines.append(
            f"it keeps the SLO up to {rate:.3g} req/s, the workload has {offered:.3g}: about {_devices(offered, rate, m)} "
            "devices laid out like it, were the load shared evenly"
        )
    return lines


def lacks(result: PlanResult) -> list[str]:
    """How far the nearest plan is from an SLO that nothing meets; nothing when the best meets it."""
    if result.meets_slo or result.slo is None:
        return []
    lines = shortfalls(result.best, result.slo, result.trace)
    formats = len(set(result.space.quantizations))
    other = f", the best of {formats} formats" if formats > 1 else "; no other format was tried (--allow-quantization)"
    return [*lines, f"it has {_weights(result.best, result.model)}{other}"]


def no_layout(entry: Entry, model: ModelSpec, cluster: Cluster, trace: Trace, slo: Slo) -> UserError:
    """That no layout meets the SLO, with what the nearest one can do."""
    assert entry.measured is not None
    m = entry.measured.metrics
    rate, offered = entry.max_rate_per_s, trace.request_rate_per_s
    loaded = math.isfinite(offered) and trace.concurrency is None
    at = f" at {offered:.3g} req/s" if loaded else ""
    highest, remedy = "", "add devices"
    if rate:
        highest = f"; its highest rate within it is {rate:.3g} req/s"
        if loaded and math.isfinite(rate):
            remedy = f"add devices (about {_devices(offered, rate, m)} laid out like it)"
    elif rate == 0.0:
        highest, remedy = "; it keeps it at no rate", "take faster devices"
    return UserError(
        f"no layout of {model.name} on {cluster.name} meets --slo {slo}: the best, "
        f"{entry.candidate.layout} with {_weights(entry, model)}, serves {100 * (m['slo_attainment'] or 0):.1f}% of the "
        f"requests within it{at} (p95 TTFT {milliseconds(m['p95_ttft_ms'])}, p95 TPOT {milliseconds(m['p95_tpot_ms'])}, p95 "
        f"E2E {milliseconds(m['p95_e2el_ms'])}{highest}). Loosen the SLO, lower the rate, or {remedy}"
    )


def _devices(offered_per_s: float, rate_per_s: float, metrics: Mapping[str, Any]) -> int:
    """Devices for the whole rate, were the load shared evenly among as many of these as it takes."""
    return math.ceil(offered_per_s / rate_per_s) * int(metrics["num_gpus"])


def _weights(entry: Entry, model: ModelSpec) -> str:
    """The format of the weights."""
    if entry.candidate.quantization:
        return f"{entry.candidate.quantization} weights"
    return f"weights as stored ({model.quant.method if model.quant is not None else model.dtype})"
