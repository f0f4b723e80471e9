"""Figures of a run. matplotlib without a display, imported on first use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from simulator.result import SimulationResult

COLOURS = ("#2f6db3", "#d1703c", "#3a8f5c", "#8a5aa8", "#b0413e", "#6b6b6b")
NAMED_REPLICAS = 6
"""Up to so many replicas get a line and a colour each; more are drawn as their mean and range."""
POWER_BINS = 240
"""Steps alternate between prefill and decode every few milliseconds; power is drawn as the mean of each bin."""
Floats = npt.NDArray[np.float64]


def new_figure(rows: int, columns: int, width: float = 11.0, height: float = 3.2, **options: Any) -> tuple[Figure, Any]:
    """A figure that needs no display, and its axes (2-d array); ``options`` go to ``Figure.subplots``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for axis in axes.flat:
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save(figure: Figure, path: str | Path) -> None:
    """Write a PNG (or what the suffix says) without a time stamp, so that equal runs give equal bytes."""
    dateless = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    figure.savefig(path, dpi=110, metadata=dateless.get(Path(path).suffix))


def plain_ticks(axis: Any) -> None:
    """Ticks of a logarithmic x axis as 200, 500, 1000 instead of powers of ten, as many as fit; call after plotting."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axis.get_xlim()
    decades = np.log10(high / low)
    steps = (1, 1.5, 2, 3, 5, 7) if decades < 0.8 else (1, 2, 5) if decades < 2.5 else (1,)
    axis.xaxis.set_major_locator(LogLocator(subs=steps, numticks=99))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def latency_figure(result: SimulationResult) -> Figure:
    """Cumulative distributions of TTFT, TPOT and E2E over completed requests, with median, p95 and the SLO's limits."""
    figure, axes = new_figure(1, 3, height=3.6, sharey=True)
    slo = result.slo
    columns = (("ttft_s", "TTFT", 1e3, "ms"), ("tpot_s", "TPOT", 1e3, "ms"), ("e2e_s", "E2E", 1.0, "s"))
    for axis, (column, label, scale, unit) in zip(axes[0], columns, strict=True):
        values = result.column(column)[result.completed]
        values = np.sort(values[~np.isnan(values)]) * scale
        axis.set_xlabel(f"{label} [{unit}]")
        if not len(values):
            axis.text(0.5, 0.5, "no completed requests", transform=axis.transAxes, ha="center", color=COLOURS[5])
            continue
        limit = None if slo is None or getattr(slo, column) is None else getattr(slo, column) * scale
        _distribution(axis, values, limit, unit)
    axes[0][0].set_ylabel("requests [%]")
    axes[0][0].set_ylim(0, 101)
    figure.suptitle(_title(result), fontsize=11)
    return figure


def _distribution(axis: Any, values: Floats, limit: float | None, unit: str) -> None:
    """Sorted values as a step curve; a logarithmic axis where the tail, or the limit, is far from the median."""
    share = 100 * np.arange(1, len(values) + 1) / len(values)
    axis.step(np.concatenate((values[:1], values)), np.concatenate(([0.0], share)), where="post", color=COLOURS[0])
    for percent, style in ((50, (0, (1, 1))), (95, (0, (4, 2)))):
        at = float(np.percentile(values, percent))
        axis.axvline(at, color=COLOURS[5], linestyle=style, linewidth=1, label=f"p{percent} {_short(at)} {unit}")
    if limit is not None:
        axis.axvline(limit, color=COLOURS[1], linewidth=1.3, label=f"SLO {_short(limit)} {unit}")
    ends = np.array([values[0], values[-1], np.median(values)] + ([] if limit is None else [limit]))
    if ends.max() > 10 * ends[2] or ends.min() < ends[2] / 10:
        axis.set_xscale("log")
        plain_ticks(axis)
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0.0, 1.16), ncols=3, handlelength=1.6,
                columnspacing=1.0)  # fmt: skip


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _title(result: SimulationResult) -> str:
    return f"{result.deployment.model.name} on {result.where}, {result.trace.name}"


def timeline_figure(result: SimulationResult) -> Figure:
    """Running and waiting requests, KV blocks in use and power over time, for each replica."""
    figure, axes = new_figure(4, 1, height=1.8, sharex=True)
    frame = result.timeline
    replicas = [rows for _, rows in frame.groupby("replica")]
    for axis, column, scale in ((axes[0][0], "running", 1), (axes[1][0], "waiting", 1), (axes[2][0], "kv_usage", 100)):
        times = [rows["time_s"].to_numpy() for rows in replicas]
        _lines(axis, times, [scale * rows[column].to_numpy(dtype=np.float64) for rows in replicas])
        axis.set_ylim(bottom=0)
    powers = [_binned(rows["time_s"].to_numpy(), rows["power_w"].to_numpy()) for rows in replicas]
    _lines(axes[3][0], [edges for edges, _ in powers], [watts for _, watts in powers], result.replica_idle_w)
    axes[3][0].set_ylim(bottom=0)
    for axis, label in zip(axes[:, 0], ("running", "waiting", "KV blocks [%]", "power [W]"), strict=True):
        axis.set_ylabel(label)
    axes[1][0].yaxis.get_major_locator().set_params(integer=True)
    axes[3][0].set_xlabel("time [s]")
    if len(replicas) > 1:
        figure.legend(
            *axes[0][0].get_legend_handles_labels(), frameon=False, ncols=7, fontsize=8, loc="outside upper right"
        )
    figure.suptitle(_title(result), fontsize=11, x=0.01, ha="left")
    return figure


def _lines(axis: Any, times: Sequence[Floats], values: Sequence[Floats], afterwards: float = 0.0) -> None:
    """A line per replica; beyond a handful their mean, and the range they span. ``afterwards``: when a replica is done."""
    if len(times) <= NAMED_REPLICAS:
        for index, (time, value) in enumerate(zip(times, values, strict=True)):
            axis.plot(time, value, color=COLOURS[index], linewidth=0.9, label=f"replica {index}")
        return
    grid = np.linspace(0.0, max((time[-1] for time in times if len(time)), default=1.0), 500)
    table = np.array([np.interp(grid, t, v, right=afterwards) for t, v in zip(times, values, strict=True) if len(t)])
    axis.fill_between(grid, table.min(axis=0), table.max(axis=0), color=COLOURS[0], alpha=0.25, linewidth=0,
                      label=f"range of {len(times)} replicas")  # fmt: skip
    axis.plot(grid, table.mean(axis=0), color=COLOURS[0], linewidth=1.1, label="mean")


def _binned(time: Floats, watts: Floats) -> tuple[Floats, Floats]:
    """Mean power of equal bins of time, from means over the intervals that end at ``time``."""
    if len(time) <= POWER_BINS:
        return time, watts
    joules = np.cumsum(watts * np.diff(time, prepend=0.0))
    edges = np.linspace(0.0, time[-1], POWER_BINS + 1)
    energy = np.interp(edges, np.concatenate(([0.0], time)), np.concatenate(([0.0], joules)))
    return edges[1:], np.diff(energy) / np.diff(edges)
