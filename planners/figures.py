"""The figure of a plan: what each simulated candidate costs, against its latency."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hardware_profiles.terms import usd_per_device_hour
from workloads.figure_style import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    SMALL_PT,
    headline,
    new_figure,
    note,
    plain_ticks,
    short_name,
    vertical,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from planners.outcome import Entry, PlanResult


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
        plain_ticks(axis)
        if limit is not None:
            vertical(axis, limit * 1e3, f"SLO {limit * 1e3:g} ms", ORANGE, low=True)
        axis.set_xlabel(f"p95 {label} [ms]")
        axis.set_ylabel(words)
        axis.set_ylim(0, 1.06 * axis.get_ylim()[1])
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
        ("best", [best], ORANGE, "*"),
    )
    for name, entries, colour, marker in groups:
        points = [_point(e, metric, cost) for e in entries]
        points = [p for p in points if None not in p and p[0] == p[0]]
        if points:
            x, y = zip(*points, strict=True)
            axis.scatter(x, y, s=170 if marker == "*" else 30, c=colour, marker=marker, label=name, zorder=3)
    placed: list[tuple[float, float]] = []
    for entry in [best, *(e for e in result.pareto if e is not best)]:
        x_value, y_value = _point(entry, metric, cost)
        if x_value is None or y_value is None or x_value != x_value:
            continue
        if any(abs(x_value - x) < 0.15 * x and abs(y_value - y) <= 0.04 * y for x, y in placed):
            continue
        placed.append((x_value, y_value))
        note(axis, x_value, y_value, _name(entry), xytext=(0, 9), ha="center")


def _name(entry: Entry) -> str:
    candidate = entry.candidate
    kv = "" if candidate.kv_cache_dtype == "auto" else f"kv-{candidate.kv_cache_dtype}"
    return " ".join(part for part in (candidate.layout, candidate.quantization, kv) if part)


def _point(entry: Entry, metric: str, cost: str) -> tuple[float | None, float | None]:
    known = entry.best_known
    assert known is not None
    return known.metrics[metric], known.metrics[cost]
