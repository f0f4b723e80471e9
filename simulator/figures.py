"""Figures of a run. matplotlib without a display, imported on first use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from workloads.figure_labels import end_labels, note, vertical
from workloads.figure_style import BLUE, MUTED, ORANGE, PALETTE, SMALL_PT, headline, new_figure, plain_ticks, short_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from simulator.result import SimulationResult

COLOURS = (*PALETTE[:5], MUTED)
NAMED_REPLICAS = 6
"""Up to so many replicas get a line and a colour each; more are drawn as their mean and range."""
POWER_BINS = 240
"""Steps alternate between prefill and decode every few milliseconds; power is drawn as the mean of each bin."""
Floats = npt.NDArray[np.float64]


def latency_figure(result: SimulationResult) -> Figure:
    """Cumulative distributions of TTFT, TPOT and E2E over completed requests, with median, p95 and the SLO's limits."""
    figure, axes = new_figure(3, 1, height=1.65)
    slo = result.slo
    columns = (("ttft_s", "TTFT", 1e3, "ms"), ("tpot_s", "TPOT", 1e3, "ms"), ("e2e_s", "E2E", 1.0, "s"))
    for axis, (column, label, scale, unit) in zip(axes[:, 0], columns, strict=True):
        values = result.column(column)[result.completed]
        values = np.sort(values[~np.isnan(values)]) * scale
        axis.set_xlabel(f"{label} [{unit}]")
        axis.set_ylabel("requests [%]")
        axis.set_ylim(0, 103)
        if not len(values):
            axis.text(0.5, 0.5, "no completed requests", transform=axis.transAxes, ha="center", color=MUTED)
            continue
        limit = None if slo is None or getattr(slo, column) is None else getattr(slo, column) * scale
        _distribution(axis, values, limit, unit)
    headline(figure, _title(result), "Share of requests that are at least as fast")
    return figure


def _distribution(axis: Any, values: Floats, limit: float | None, unit: str) -> None:
    """Sorted values as a step curve; a logarithmic axis where the tail, or the limit, is far from the median."""
    share = 100 * np.arange(1, len(values) + 1) / len(values)
    axis.step(np.concatenate((values[:1], values)), np.concatenate(([0.0], share)), where="post", color=BLUE)
    ends = np.array([values[0], values[-1], np.median(values)] + ([] if limit is None else [limit]))
    if ends.max() > 10 * ends[2] or ends.min() < ends[2] / 10:
        axis.set_xscale("log")
        plain_ticks(axis)
    for percent in (50, 95):
        at = float(np.percentile(values, percent))
        axis.plot([at], [percent], "o", color=BLUE, markersize=4)
        note(axis, at, percent, f"p{percent} {_short(at)} {unit}", xytext=(6, -1), va="top")
    if limit is not None:
        good = 100 * float((values <= limit).mean())
        vertical(
            axis, limit, f"SLO {_short(limit)} {unit}\n{good:.3g} %", ORANGE, room=limit < 0.7 * axis.get_xlim()[1]
        )


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _title(result: SimulationResult) -> str:
    return f"{result.label or short_name(result.deployment.model.name)} on {result.where}, {result.trace.name}"


def timeline_figure(result: SimulationResult) -> Figure:
    """Running and waiting requests, KV blocks in use and power over time, for each replica."""
    figure, axes = new_figure(4, 1, height=1.35, sharex=True)
    frame = result.timeline
    replicas = [rows for _, rows in frame.groupby("replica")]
    for axis, column, scale in ((axes[0][0], "running", 1), (axes[1][0], "waiting", 1), (axes[2][0], "kv_usage", 100)):
        times = [rows["time_s"].to_numpy() for rows in replicas]
        _lines(axis, times, [scale * rows[column].to_numpy(dtype=np.float64) for rows in replicas])
        axis.set_ylim(0, None if axis.get_ylim()[1] > 0.1 else 1)
    powers = [_binned(rows["time_s"].to_numpy(), rows["power_w"].to_numpy()) for rows in replicas]
    _lines(axes[3][0], [edges for edges, _ in powers], [watts for _, watts in powers], result.replica_idle_w, "pre")
    axes[3][0].set_ylim(bottom=0)
    for axis, label in zip(axes[:, 0], ("running", "waiting", "KV blocks [%]", "power [W]"), strict=True):
        axis.set_ylabel(label)
    axes[1][0].yaxis.get_major_locator().set_params(integer=True)
    axes[3][0].set_xlabel("time [s]")
    if len(replicas) > NAMED_REPLICAS:
        handles = axes[0][0].get_legend_handles_labels()
        figure.legend(*handles, frameon=False, ncols=2, fontsize=SMALL_PT, loc="outside lower left")
    elif len(replicas) > 1:
        _name_ends(axes[0][0])
    headline(figure, _title(result), "Requests in the batch and waiting for it; KV memory; power")
    return figure


def _name_ends(axis: Any) -> None:
    """Names of the lines at their right ends; of lines that end alike, one above the other."""
    lines = axis.get_lines()
    end_labels(axis, [(line.get_xdata()[-1], line.get_ydata()[-1], str(line.get_label()), line.get_color())
                      for line in lines if len(line.get_xdata())])  # fmt: skip


def _lines(
    axis: Any, times: Sequence[Floats], values: Sequence[Floats], afterwards: float = 0.0, hold: str = "post"
) -> None:
    """A line per replica; beyond a handful their mean, and the range they span. ``afterwards``: when a replica is done.

    ``hold``: a value holds from its time on ("post": what a step leaves) or up to it ("pre": a mean since the sample before).
    """
    if len(times) <= NAMED_REPLICAS:
        for index, (time, value) in enumerate(zip(times, values, strict=True)):
            axis.plot(
                time, value, color=COLOURS[index], linewidth=0.9, label=f"replica {index}", drawstyle=f"steps-{hold}"
            )
        return
    grid = np.linspace(0.0, max((time[-1] for time in times if len(time)), default=1.0), 500)
    held = [_held(grid, t, v, afterwards, hold) for t, v in zip(times, values, strict=True) if len(t)]
    table = np.array(held or [np.zeros(len(grid))])
    axis.fill_between(grid, table.min(axis=0), table.max(axis=0), color=COLOURS[0], alpha=0.25, linewidth=0,
                      label=f"range of {len(times)} replicas")  # fmt: skip
    axis.plot(grid, table.mean(axis=0), color=COLOURS[0], linewidth=1.1, label="mean")


def _held(grid: Floats, time: Floats, value: Floats, afterwards: float, hold: str) -> Floats:
    """Values at ``grid`` of a step curve that starts at 0 ("post") or at its first value ("pre")."""
    before = np.searchsorted(time, grid, side="right" if hold == "post" else "left")
    first = value[:0] if hold == "pre" else np.zeros(1)
    found: Floats = np.append(np.concatenate((first, value)), afterwards)[before]
    return np.where(grid > time[-1], afterwards, found)


def _binned(time: Floats, watts: Floats) -> tuple[Floats, Floats]:
    """Mean power of equal bins of time, from means over the intervals that end at ``time``; from 0 on."""
    if len(time) <= POWER_BINS:
        return np.concatenate((time[:0] if not len(time) else np.zeros(1), time)), np.concatenate((watts[:1], watts))
    joules = np.cumsum(watts * np.diff(time, prepend=0.0))
    edges = np.linspace(0.0, time[-1], POWER_BINS + 1)
    energy = np.interp(edges, np.concatenate(([0.0], time)), np.concatenate(([0.0], joules)))
    mean = np.diff(energy) / np.diff(edges)
    return edges, np.concatenate((mean[:1], mean))
