"""Predicted against measured, one panel per metric. matplotlib is imported on first use."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.validation.score import Aggregate, Residual
from workloads.figure_style import GRID, MUTED, PALETTE, SMALL_PT, TEXT_PT, headline, new_figure, require
from workloads.figure_style import MARKERS as SHAPES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = 6
FIRST = ("ttft_mean_ms", "tpot_mean_ms", "e2e_mean_ms", "itl_p50_ms", "output_tok_s", "implied_tok_s_per_gpu")
"""Metrics that come first where there is a choice; then those with the most figures."""
COLOURS = (*PALETTE, MUTED, "#8c6d00")
MARKERS = (*SHAPES, "X", "*")
EVEN_UP_TO = 2.5
"""Ratio of the ends of an axis from which even steps would crowd its upper end."""
PARTS_OF_A_DECADE = (1, 1.5, 2, 3, 5, 7)
MOST_TICKS = 7
BANDS = ((0.2, 0.55), (0.1, 0.9))
"""Half-widths, and how strongly they are drawn."""


def panel_metrics(residuals: Sequence[Residual], limit: int = PANELS) -> list[str]:
    """The metrics to draw: the usual ones first, then by number of figures."""
    count = Counter(r.metric for r in residuals)
    usual = [name for name in FIRST if name in count]
    rest = [name for name, _ in count.most_common() if name not in FIRST]
    return [*usual, *rest][:limit]


def range_of(residuals: Sequence[Residual]) -> tuple[float, float]:
    """Common limits of both axes, a little wider than the figures."""
    values = [v for r in residuals for v in (r.predicted, r.measured) if v > 0]
    low, high = min(values), max(values)
    margin = max(1.25, (high / low) ** 0.06)
    return low / margin, high * margin


def tick_values(low: float, high: float) -> list[float]:
    """A few round numbers for a logarithmic axis: even steps where it is short, else parts of decades or decades."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if high < EVEN_UP_TO * low:
        steps = (s * 10.0**p for p in range(first - 2, last + 1) for s in (1, 2, 5))
        step = next(s for s in steps if (high - low) / s < MOST_TICKS)
        return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
    parts = PARTS_OF_A_DECADE if high < 15 * low else (1, 2, 5) if high < 300 * low else (1,)
    every = 1 + (last - first) // MOST_TICKS
    ticks = [s * 10.0**p for p in range(first, last + 1) if p % every == 0 for s in parts]
    return [tick for tick in ticks if low <= tick <= high]


def accuracy_figure(residuals: Sequence[Residual]) -> Figure:
    """Log-log panels with bands of 10 and 20 %; colour and marker are the source."""
    require(residuals, "accuracy_figure: residuals", "runs with measured figures")
    metrics = panel_metrics(residuals)
    columns = min(3, len(metrics))
    rows = math.ceil(len(metrics) / columns)
    figure, axes = new_figure(rows, columns, width=3.6 * columns, height=3.7)
    sources = list(dict.fromkeys(r.run.source for r in residuals))
    for axis, metric in zip(axes.flat, metrics, strict=False):
        _panel(axis, [r for r in residuals if r.metric == metric], metric, sources)
    for axis in axes.flat[len(metrics) :]:
        axis.set_visible(False)
    headline(figure, "Predicted against measured; bands are 10 and 20 %")
    return figure


def _panel(axis: Any, residuals: Sequence[Residual], metric: str, sources: Sequence[str]) -> None:
    low, high = range_of(residuals)
    line = np.array([low, high])
    for width, alpha in BANDS:
        axis.fill_between(line, line * (1 - width), line * (1 + width), color=GRID, alpha=alpha, linewidth=0, zorder=0)
    axis.plot(line, line, color=MUTED, linewidth=0.8, zorder=1)
    shown = [name for name in sources if any(r.run.source == name for r in residuals)]
    for row, name in enumerate(shown):
        index = sources.index(name) % len(COLOURS)
        mine = [r for r in residuals if r.run.source == name]
        group = Aggregate.of((name,), [r.error for r in mine])
        axis.scatter([r.measured for r in mine], [r.predicted for r in mine], s=16, alpha=0.65, zorder=2,
                     color=COLOURS[index], marker=MARKERS[index], linewidths=0)  # fmt: skip
        axis.scatter([0.045], [0.945 - 0.062 * row], s=22, transform=axis.transAxes, color=COLOURS[index],
                     marker=MARKERS[index], linewidths=0, clip_on=False, zorder=4)  # fmt: skip
        axis.text(0.08, 0.945 - 0.062 * row, f"{name}: {100 * group.median:.1f} % (n {group.n})",
                  transform=axis.transAxes, color=COLOURS[index], fontsize=SMALL_PT, va="center", zorder=4)  # fmt: skip
    axis.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    axis.set_title(metric, fontsize=TEXT_PT, loc="left")
    axis.set_xlabel("measured")
    axis.set_ylabel("predicted")
    for ticks in (axis.xaxis, axis.yaxis):
        _ticks(ticks, tick_values(low, high))


def _ticks(axis: Any, values: Sequence[float]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axis.set_major_locator(FixedLocator(values))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_tick_params(labelsize=SMALL_PT)
