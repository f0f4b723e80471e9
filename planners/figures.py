"""The figure of a plan: what each simulated candidate costs, against its latency."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hardware_profiles.terms import usd_per_device_hour
from simulator.figures import COLOURS, new_figure, plain_ticks

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
    figure, axes = new_figure(1, 2, width=11, height=4.6, sharey=True)
    cost, words = _height(result)
    for axis, (metric, label) in zip(axes[0], (("p95_ttft_ms", "TTFT"), ("p95_tpot_ms", "TPOT")), strict=True):
        _scatter(axis, result, metric, cost)
        limit = None if result.slo is None else getattr(result.slo, f"{label.lower()}_s")
        if limit is not None:
            axis.axvline(limit * 1e3, color=COLOURS[4], linestyle="--", linewidth=1)
            axis.text(limit * 1e3, 1.01, f"SLO {limit * 1e3:g} ms", transform=axis.get_xaxis_transform(), ha="center",
                      color=COLOURS[4], fontsize=8)  # fmt: skip
        axis.set_xscale("log")
        plain_ticks(axis)
        axis.set_xlabel(f"p95 {label} [ms]")
    axes[0][0].set_ylabel(words)
    axes[0][0].set_ylim(0, 1.06 * axes[0][0].get_ylim()[1])
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, ncols=4, loc="outside lower center")
    figure.suptitle(f"{result.model.name} on {result.cluster.name}, {result.trace.name}", fontsize=11)
    return figure


def _scatter(axis: Any, result: PlanResult, metric: str, cost: str) -> None:
    best = result.best
    groups: tuple[tuple[str, list[Entry], str, str], ...] = (
        (
            "screened on the busiest stretch",
            [e for e in result.entries if e.measured is None and e.screen],
            "#b0b0b0",
            "x",
        ),
        ("whole trace", [e for e in result.entries if e.measured and e not in result.pareto], COLOURS[0], "o"),
        ("Pareto front (latency, goodput, $, J)", [e for e in result.pareto if e is not best], COLOURS[2], "o"),
        ("best", [best], COLOURS[1], "*"),
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
        axis.annotate(_name(entry), (x_value, y_value), xytext=(0, 9), textcoords="offset points", fontsize=8,
                      ha="center")  # fmt: skip


def _name(entry: Entry) -> str:
    candidate = entry.candidate
    kv = "" if candidate.kv_cache_dtype == "auto" else f"kv-{candidate.kv_cache_dtype}"
    return " ".join(part for part in (candidate.layout, candidate.quantization, kv) if part)


def _point(entry: Entry, metric: str, cost: str) -> tuple[float | None, float | None]:
    known = entry.best_known
    assert known is not None
    return known.metrics[metric], known.metrics[cost]
