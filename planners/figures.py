"""The figure of a plan: what each simulated candidate costs, against its latency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hardware_profiles.terms import usd_per_device_hour
from workloads.figure_labels import place_labels, vertical
from workloads.figure_style import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    SMALL_PT,
    headline,
    new_figure,
    plain_ticks,
    short_name,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from planners.outcome import Entry, PlanResult


FAR = 5.0
"""A latency axis ends at this many times the SLO's limit, or the slowest plan of the front."""
HEIGHTS = {
    "request-cost": ("usd_per_request", "$ per request"),
    "energy": ("joules_per_output_token", "J per output token"),
    "kwh": ("facility_kwh_per_million_output_tokens", "kWh at the meter per 1M output tokens"),
    "carbon": ("gco2e_per_million_output_tokens", "gCO2e per 1M output tokens"),
}
"""Objective -> field on the upright axis and its label; the cost of output tokens for any other."""


def _height(result: PlanResult) -> tuple[str, str]:
    if result.objective in HEIGHTS:
        return HEIGHTS[result.objective]
    if usd_per_device_hour(result.cluster.device, result.cluster.terms) is None:
        return HEIGHTS["energy"]
    return "usd_per_million_output_tokens", "$ per 1M output tokens"


def pareto_figure(result: PlanResult) -> Figure:
    """Cost (or energy or emissions, when they are the objective; energy where the device has no price) against p95 TTFT and
    TPOT; the front and the best are named."""
    figure, axes = new_figure(2, 1, height=2.5)
    cost, words = _height(result)
    for axis, (metric, label) in zip(axes[:, 0], (("p95_ttft_ms", "TTFT"), ("p95_tpot_ms", "TPOT")), strict=True):
        _scatter(axis, result, metric, cost)
        limit = None if result.slo is None else getattr(result.slo, f"{label.lower()}_s")
        axis.set_xscale("log")
        beyond = _cut(axis, result, metric, cost, limit)
        more = f"; {beyond} further right" if beyond else ""
        plain_ticks(axis)
        if limit is not None and axis.get_xlim()[0] > 1e3 * limit:
            more += f"; SLO {1e3 * limit:,.10g} ms further left"
        elif limit is not None:
            vertical(axis, limit * 1e3, f"SLO {limit * 1e3:,.10g} ms", ORANGE, low=not _at_foot(axis, limit * 1e3))
        axis.set_xlabel(f"p95 {label} [ms]" + more)
        axis.set_ylabel(words)
        _name_points(axis, result, metric, cost)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=SMALL_PT, ncols=2, loc="outside lower left", labelcolor=INK)
    headline(figure, f"{short_name(result.model.name)} on {result.cluster.name}, {result.trace.name}")
    return figure


def _scatter(axis: Any, result: PlanResult, metric: str, cost: str) -> None:
    best = result.best
    groups: tuple[tuple[str, list[Entry], str, str], ...] = (
        (
            "screened on the busiest stretch",
            [e for e in result.entries if e.measured is None and e.screen],
            MUTED,
            "x",
        ),
        ("whole trace", [e for e in result.entries if e.measured and e not in result.pareto], BLUE, "o"),
        ("Pareto front (latency, goodput, $, J)", [e for e in result.pareto if e is not best], GREEN, "o"),
        ("best" if result.meets_slo else "nearest to the SLO", [best], ORANGE, "*"),
    )
    for name, entries, colour, marker in groups:
        points = [_point(e, metric, cost) for e in entries]
        points = [p for p in points if None not in p and p[0] == p[0]]
        if points:
            x, y = zip(*points, strict=True)
            axis.scatter(x, y, s=170 if marker == "*" else 30, c=colour, marker=marker, label=name, zorder=3)


def _known(entries: Sequence[Entry], metric: str, cost: str) -> list[tuple[float, float]]:
    """Points of the entries that have both figures."""
    pairs = [_point(e, metric, cost) for e in entries if e.best_known is not None]
    return [(x, y) for x, y in pairs if x is not None and y is not None and x == x]


def _cut(axis: Any, result: PlanResult, metric: str, cost: str, limit_s: float | None) -> int:
    """End the axes where plans are hopeless: several times the SLO's limit, or the best plan's figures; how many lie beyond."""
    points = _known([e for e in result.entries if e.measured or e.screen], metric, cost)
    front = _known([result.best, *result.pareto], metric, cost)
    if not front:
        return 0
    most = FAR * max([x for x, _ in front] + ([] if limit_s is None else [1e3 * limit_s]))
    shown = [(x, y) for x, y in points if x <= most]
    low = min(x for x, _ in shown)
    low = low if limit_s is None or not low / FAR < 1e3 * limit_s < low else 1e3 * limit_s
    high = max([x for x, _ in shown] + ([] if limit_s is None else [1e3 * limit_s]))
    axis.set_xlim(low / 1.3, 1.3 * high)
    axis.set_ylim(0, 1.2 * max(y for _, y in shown) or 1.0)
    return len(points) - len(shown)


def _at_foot(axis: Any, x: float) -> bool:
    """Whether a point lies where a label at the lower end of an upright line at ``x`` would be."""
    transform = axis.transScale + axis.transLimits
    start = float(transform.transform((x, 1.0))[0])
    dots = [transform.transform(point) for group in axis.collections for point in group.get_offsets()]
    return any(start - 0.01 <= right <= start + 0.2 and up < 0.12 for right, up in dots)


def _name_points(axis: Any, result: PlanResult, metric: str, cost: str) -> None:
    """Names of the best and of the front, one where several points coincide."""
    labels: list[tuple[float, float, str]] = []
    for entry in [result.best, *(e for e in result.pareto if e is not result.best)]:
        for x, y in _known([entry], metric, cost):
            if not any(abs(x - a) < 0.15 * a and abs(y - b) <= 0.04 * b for a, b, _ in labels):
                labels.append((x, y, _name(entry)))
    place_labels(axis, labels, _known([e for e in result.entries if e.measured or e.screen], metric, cost))


def _name(entry: Entry) -> str:
    candidate = entry.candidate
    kv = "" if candidate.kv_cache_dtype == "auto" else f"kv-{candidate.kv_cache_dtype}"
    return " ".join(part for part in (candidate.layout, candidate.quantization, kv) if part)


def _point(entry: Entry, metric: str, cost: str) -> tuple[float | None, float | None]:
    known = entry.best_known
    assert known is not None
    return known.metrics[metric], known.metrics[cost]
