"""The fleet of ``apex-sim gpus --autoscale`` over a day."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from apex_sim.text import dollars
from workloads.figure_labels import level, note
from workloads.figure_style import GREEN, GRID, INK, MUTED, ORANGE, PALETTE, headline, hours_axis, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def fleet_day_figure(data: dict[str, Any]) -> Figure:
    """Rate, dollars per hour by type beside the static fleet, and where simulated the share of good requests.

    ``data``: what ``apex-sim gpus --autoscale --json`` writes, or :func:`apex_sim.gpus_day.day_dict` gives.
    """
    windows = data["windows"]
    edges = np.array([w["start_s"] for w in windows] + [windows[-1]["start_s"] + 3600 * windows[-1]["hours"]]) / 3600
    panels = 3 if "slo" in data else 2
    figure, axes = new_figure(panels, 1, height=1.6, sharex=True, height_ratios=[1, 1.7, 1][:panels])
    column = axes[:, 0]
    column[0].stairs([w["rate_per_s"] for w in windows], edges, fill=True, color=GRID)
    column[0].stairs([w["rate_per_s"] for w in windows], edges, color=MUTED, linewidth=1.0)
    column[0].set_ylabel("requests/s")
    _dollars(column[1], data, edges)
    if panels == 3:
        _good(column[2], data, edges)
    column[-1].set_xlabel("time [h]")
    column[-1].set_xlim(edges[0], edges[-1])
    hours_axis(column[-1].xaxis, float(edges[0]), float(edges[-1]))
    headline(figure, *_words(data))
    return figure


def _words(data: dict[str, Any]) -> tuple[str, str]:
    """What the day costs, and what following the load saves."""
    usd, static, day = data["usd"], data["static"]["usd"], f"{data['hours']:.3g} h"
    if all(w["counts"] == data["windows"][0]["counts"] for w in data["windows"]):
        return f"One fleet for all windows: {_money(usd)} for {day}", ""
    saved = 1 - usd / static if static else 0.0
    return (
        f"The mix follows the load: {_money(usd)} for {day}",
        f"The best fleet that never changes costs {_money(static)}; the mix saves {100 * saved:.0f} %",
    )


def _money(usd: float) -> str:
    """Whole dollars from a hundred on."""
    return f"${usd:,.0f}" if usd >= 100 else dollars(usd)


def _dollars(axis: Any, data: dict[str, Any], edges: Any) -> None:
    """Stacked by type, with the static fleet as a line."""
    base = np.zeros(len(edges) - 1)
    used = [t for t in data["types"] if any(w["counts"][t["name"]] for w in data["windows"])]
    for i, kind in enumerate(used):
        cost = np.array([w["counts"][kind["name"]] * kind["usd_per_hour_each"] for w in data["windows"]])
        axis.stairs(base + cost, edges, baseline=base, fill=True, color=PALETTE[i % len(PALETTE)], alpha=0.85)
        first, last = _widest(cost >= cost.max())
        x, y = (edges[first] + edges[last]) / 2, float((base + cost / 2)[first:last].mean())
        note(axis, x, y, kind["name"], ha="center", va="center")
        base = base + cost
    fixed = sum(data["static"]["counts"][t["name"]] * t["usd_per_hour_each"] for t in data["types"])
    axis.set_ylim(0, 1.25 * max(fixed, float(base.max()), 1e-9))
    words = ", ".join(f"{n} {name}" for name, n in data["static"]["counts"].items() if n)
    level(axis, fixed, f"never changing: {words}", INK)
    axis.set_ylabel("$/h")


def _widest(chosen: Any) -> tuple[int, int]:
    """[first, last) of the longest run of true values."""
    best, start = (0, 1), 0
    for i, (value, following) in enumerate(zip(chosen, [*chosen[1:], False], strict=True)):
        start = start if value else i + 1
        if value and not following and i + 1 - start >= best[1] - best[0]:
            best = (start, i + 1)
    return best


def _good(axis: Any, data: dict[str, Any], edges: Any) -> None:
    good = [np.nan if w["simulated_attainment"] is None else 100 * w["simulated_attainment"] for w in data["windows"]]
    axis.plot((edges[:-1] + edges[1:]) / 2, good, "o-", color=GREEN, markersize=3.5, linewidth=1.2)
    promised = 100 * data["promised_attainment"]
    level(axis, promised, f"promised {promised:g} %", ORANGE)
    axis.set_ylabel("good [%]")
    axis.set_ylim(min([promised, *(g for g in good if g == g)]) - 2, 101)
