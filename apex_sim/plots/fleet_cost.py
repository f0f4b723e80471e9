"""What a fleet costs per hour, beside fleets of one type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from apex_sim.text import dollars
from workloads.figure_labels import note
from workloads.figure_style import INK, MUTED, ORANGE, PALETTE, SMALL_PT, headline, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def fleet_cost_figure(data: Mapping[str, Any]) -> Figure:
    """Bars of dollars per hour: the mix by type, then each type alone; a type that cannot serve alone is named.

    ``data``: what ``apex-sim gpus --json`` writes, or ``.data`` of :func:`apex_sim.gpus`.
    """
    types = data["types"]
    alone = [t for t in types if t["alone_usd_per_hour"] is not None]
    names = ["the mix", *[f"{t['alone_count']} x {t['name']}" for t in alone]]
    costs = [data["usd_per_hour"], *[t["alone_usd_per_hour"] for t in alone]]
    figure, axes = new_figure(1, 1, height=0.9 + 0.32 * len(names))
    axis, base = axes[0, 0], 0.0
    for i, kind in enumerate(types):
        usd = kind["count"] * kind["usd_per_hour_each"]
        if usd:
            axis.barh(0, usd, left=base, height=0.62, color=PALETTE[i % len(PALETTE)], edgecolor="white", linewidth=0.8)
            if usd > 0.12 * max(costs):
                note(axis, base + usd / 2, 0, f"{kind['count']} x {kind['name']}", ha="center", va="center")
            base += usd
    axis.barh(range(1, len(names)), costs[1:], height=0.62, color=MUTED)
    for row, usd in enumerate(costs):
        axis.annotate(
            dollars(usd), (usd, row), (4, 0), textcoords="offset points", va="center", fontsize=SMALL_PT, color=INK
        )
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.grid(False, axis="y")
    axis.set_xlim(0, 1.15 * max([*costs, 1e-9]))
    axis.set_xlabel("$/h")
    headline(figure, _title(data, costs), _below(data))
    if "kept" in data and not data["kept"]:
        axis.set_title("the simulated fleet misses its SLO", fontsize=SMALL_PT, color=ORANGE, loc="left")
    return figure


def _title(data: Mapping[str, Any], costs: list[float]) -> str:
    chosen = " + ".join(f"{t['count']} {t['name']}" for t in data["types"] if t["count"]) or "nothing to rent"
    least = min(costs[1:], default=0.0)
    saved = f", {1 - costs[0] / least:.0%} below the cheapest single type" if least and costs[0] < least else ""
    return f"{chosen}: {dollars(costs[0])}/h{saved}"


def _below(data: Mapping[str, Any]) -> str:
    cannot = [t["name"] for t in data["types"] if t["alone_usd_per_hour"] is None]
    load = f"for {data['rate_per_s']:.3g} requests/s"
    return f"{load}; {', '.join(cannot)} alone cannot serve all of them" if cannot else load
