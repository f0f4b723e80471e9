"""Throughput of a device against what a user sees, with more and more users."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workloads.figure_labels import note, vertical
from workloads.figure_style import BLUE, INK, MUTED, headline, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from apex_sim.concurrency import ConcurrencyCurve


def tradeoff_figure(curve: ConcurrencyCurve) -> Figure:
    """Output tokens per second and GPU against output tokens per second that a user sees; a point per number of users."""
    figure, axes = new_figure(1, 1, height=3.4)
    axis, table = axes[0, 0], curve.table
    x = table["output_throughput_per_user"].to_numpy(dtype=np.float64)
    y = table["output_throughput_per_gpu"].to_numpy(dtype=np.float64)
    axis.set_xlabel("output tokens/s per user (1 / median TPOT)")
    axis.set_ylabel("output tokens/s per GPU")
    axis.set_ylim(0, 1.12 * float(y.max()) if y.max() > 0 else 1.0)
    if not np.isfinite(x).any():
        axis.set_xticks([])
        axis.text(0.5, 0.5, "no answer has a second token", transform=axis.transAxes, ha="center", color=MUTED)
    else:
        axis.plot(x, y, color=BLUE, marker="o", markersize=4, linewidth=1.5)
        axis.set_xlim(0, 1.12 * float(np.nanmax(x)))
        _name_points(curve, x, y, axis)
    slo = next(iter(curve.results.values())).slo
    if slo is not None and slo.tpot_s:
        needed = 1 / slo.tpot_s
        if needed <= axis.get_xlim()[1]:
            vertical(axis, needed, f"TPOT {1e3 * slo.tpot_s:,.10g} ms", MUTED)
    reached = f" Limit: with {max(curve.results):,} users {curve.limit.why}" if curve.limit.reached else ""
    headline(figure, curve.title, f"Closed loops; users at the points.{reached}")
    return figure


def _name_points(curve: ConcurrencyCurve, x: np.ndarray, y: np.ndarray, axis: object) -> None:
    """Users at both ends, and at each point between that is far enough from those named."""
    span = np.array([1.12 * np.nanmax(x), 1.12 * max(float(y.max()), 1e-9)])
    named: list[np.ndarray] = []
    for place in sorted(range(len(x)), key=lambda i: (i not in (0, len(x) - 1), -i)):
        at = np.array([x[place], y[place]]) / span
        if not np.isfinite(at).all() or any(
            np.abs(at - other)[1] < 0.06 and np.abs(at - other)[0] < 0.08 for other in named
        ):
            continue
        named.append(at)
        users = int(curve.table.index[place])
        text = f"{users:,}" + (" users" if not len(named) - 1 else "") + (" (knee)" if users == curve.knee else "")
        note(axis, float(x[place]), float(y[place]), text, INK, xytext=(5, 4))  # type: ignore[arg-type]
