"""Why a candidate lost, in words that are true: numbers from its own bound or run, ties called ties."""

from __future__ import annotations

import math

from planners.limits import Bounds
from planners.outcome import OBJECTIVES, TIE, Objective, ties_with
from planners.pool import Measured
from workloads.slo import Slo


def figure(value: float | None) -> str:
    """Three digits, thousands separated, no exponents for small figures (dollars per request)."""
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{2 - math.floor(math.log10(value))}f}" if 0 < value < 1e-4 else f"{value:.3g}"


def out_of_reach(bounds: Bounds, slo: Slo | None, offered_per_s: float) -> str:
    """Why physics rules a candidate out under the SLO, or ''."""
    if slo is None:
        return ""
    if bounds.attainment < slo.attainment:
        return (
            f"even unloaded at most {_percent(bounds.attainment)} of requests could meet the SLO (median TTFT at least "
            f"{1e3 * bounds.median_ttft_s:.0f} ms, TPOT {1e3 * bounds.median_tpot_s:.1f} ms)"
        )
    if bounds.loaded_attainment < slo.attainment:
        return (
            f"capacity is at most {bounds.capacity_per_s:.3g} req/s, the workload offers {offered_per_s:.3g}: at most "
            f"{_percent(bounds.loaded_attainment)} of requests could be served in time"
        )
    return ""


def missed(measured: Measured, where: str = "") -> str:
    """A run outside the SLO."""
    m = measured.metrics
    refused = f"; {m['failed']:,} refused as too long" if m["failed"] else ""
    p95 = f"p95 TTFT {milliseconds(m['p95_ttft_ms'])}, TPOT {milliseconds(m['p95_tpot_ms'])}"
    return f"{where}only {_percent(m['slo_attainment'] or 0.0)} of requests meet the SLO ({p95}{refused})"


def compare(mine: Measured, best: Measured, objective: Objective) -> str:
    """How a run within the SLO differs from the winner's, along the order in which plans are ranked."""
    name, _, words = OBJECTIVES[objective]
    a, b = mine.metrics, best.metrics
    if not ties_with(a[name], b[name]):
        return f"{figure(a[name])} {words} against {figure(b[name])}{_relative(a[name], b[name])}"
    tie = f"ties at {figure(a[name])} {words}"
    if figure(a[name]) != figure(b[name]):
        tie += f" ({figure(b[name])} is within {TIE:.1%}, which counts as equal)"
    if a["num_gpus"] != b["num_gpus"]:
        return f"{tie} on {a['num_gpus']} GPUs against {b['num_gpus']}"
    if not ties_with(a["mean_e2el_ms"], b["mean_e2el_ms"]):
        times = f"{milliseconds(a['mean_e2el_ms'])} against {milliseconds(b['mean_e2el_ms'])}"
        return f"{tie} on as many GPUs, mean E2E {times}{_relative(a['mean_e2el_ms'], b['mean_e2el_ms'])}"
    return f"{tie}, in GPUs and mean E2E: as good"


def tied_ahead(mine: Measured, best: Measured, objective: Objective) -> bool:
    """A run has a better figure than the winner's, but one that counts as equal."""
    name, larger, _ = OBJECTIVES[objective]
    a, b = mine.metrics[name], best.metrics[name]
    return a is not None and b is not None and (a > b if larger else a < b) and ties_with(a, b)


def milliseconds(value: float) -> str:
    """Milliseconds, in seconds from ten thousand on."""
    return f"{value / 1e3:,.1f} s" if value >= 1e4 else f"{figure(value)} ms"


def _relative(mine: float | None, best: float | None) -> str:
    if not mine or not best:
        return ""
    percent = 100 * (mine / best - 1)
    return f" ({percent:+.0f}%)" if abs(percent) >= 9.5 else f" ({percent:+.1f}%)"


def _percent(share: float) -> str:
    """Never rounded up to the whole: 99.96 % is not 100 %."""
    text = f"{100 * share:.1f}%"
    return "99.9%" if text == "100.0%" and share < 1 else text
