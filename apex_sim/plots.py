"""Figures of a run. matplotlib without a display."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.result import SimulationResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#2f6db3", "#d1703c", "#3a8f5c", "#8a5aa8", "#b0413e", "#6b6b6b")


def new_figure(rows: int, columns: int, width: float = 11.0, height: float = 3.2) -> tuple[Figure, Any]:
    """A figure that needs no display, and its axes (2-d array)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save(figure: Figure, path: str | Path) -> None:
    """Write a PNG (or what the suffix says) without a time stamp, so that equal runs give equal bytes."""
    figure.savefig(path, dpi=110, metadata={"Software": None} if str(path).endswith(".png") else None)


def latency_figure(result: SimulationResult) -> Figure:
    """Cumulative distributions of TTFT, TPOT and E2E, with the SLO's limits."""
    figure, axes = new_figure(1, 3)
    slo = result.slo
    columns = (("ttft_s", "TTFT", 1.0, "s"), ("tpot_s", "TPOT", 1e3, "ms"), ("e2e_s", "E2E", 1.0, "s"))
    for axis, (column, label, scale, unit) in zip(axes[0], columns, strict=True):
        values = result.column(column)[result.completed]
        values = np.sort(values[~np.isnan(values)]) * scale
        if len(values):
            axis.plot(values, np.linspace(0, 100, len(values)), color=COLOURS[0])
            if values[-1] > 20 * max(values[len(values) // 2], 1e-9):
                axis.set_xscale("log")
        limit = None if slo is None else getattr(slo, column)
        if limit is not None:
            axis.axvline(limit * scale, color=COLOURS[1], linestyle="--", label=f"SLO {limit * scale:g} {unit}")
            axis.legend(frameon=False, loc="lower right")
        axis.set_xlabel(f"{label} [{unit}]")
        axis.set_ylim(0, 100)
    axes[0][0].set_ylabel("requests [%]")
    figure.suptitle(f"{result.deployment.model.name} on {result.deployment.cluster.name}: {result.trace.name}")
    return figure


def timeline_figure(result: SimulationResult) -> Figure:
    """Running and waiting requests, KV usage and power over time; one line per replica."""
    frame = result.timeline
    figure, axes = new_figure(3, 1, height=2.2)
    for colour, (replica, rows) in zip(COLOURS * 100, frame.groupby("replica"), strict=False):
        time = rows["time_s"]
        axes[0][0].plot(time, rows["running"], color=colour, linewidth=0.9, label=f"replica {replica}")
        axes[0][0].plot(time, rows["waiting"], color=colour, linewidth=0.9, linestyle=":")
        axes[1][0].plot(time, 100 * rows["kv_usage"], color=colour, linewidth=0.9)
        axes[2][0].plot(time, rows["power_w"], color=colour, linewidth=0.9)
    axes[0][0].set_ylabel("running, waiting (dotted)")
    axes[0][0].legend(frameon=False, ncols=4, fontsize=8, loc="upper right")
    axes[1][0].set_ylabel("KV blocks [%]")
    axes[2][0].set_ylabel("power [W]")
    axes[2][0].set_xlabel("time [s]")
    return figure


def plot_latency(result: SimulationResult, path: str | Path) -> None:
    """Write :func:`latency_figure`."""
    save(latency_figure(result), path)


def plot_timeline(result: SimulationResult, path: str | Path) -> None:
    """Write :func:`timeline_figure`."""
    save(timeline_figure(result), path)
