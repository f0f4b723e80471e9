"""How well fitted kernel times hold: predicted against measured, family by family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from workloads.figure_style import (
    BLUE,
    GRID,
    MARKERS,
    MUTED,
    PALETTE,
    SMALL_PT,
    headline,
    new_figure,
    panel_title,
    plain_log,
    require,
)

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.figure import Figure

    from simulator.calibration.points import Points

BANDS = ((0.2, 0.55), (0.1, 0.9))
"""Half-widths around equality, and how strongly they are drawn."""


def fit_figure(points: Sequence[Points], *, title: str = "") -> Figure:
    """Predicted over measured time against the measured one [µs], a panel per family, with bands of 10 and 20 %.

    ``points``: rows with predictions of a fit that has not seen them, as :func:`apex_sim.kernel_fits` gives.
    """
    require(points, "fit_figure: points", "those of kernel_fits(...) or studies.fit_kernels(...)")
    families = list(dict.fromkeys(p.family for p in points))
    figure, axes = new_figure(len(families), 1, height=1.7)
    for axis, family in zip(axes[:, 0], families, strict=True):
        _panel(axis, family, {p.key: p for p in points if p.family == family})
    axes[-1, 0].set_xlabel("measured [µs]")
    headline(
        figure, title or "Kernel times that the fit has not seen", "Bands: within 10 and 20 % of what was measured"
    )
    return figure


def _panel(axis: Any, family: str, groups: Mapping[str, Points]) -> None:
    for width, alpha in BANDS:
        axis.axhspan(1 - width, 1 + width, color=GRID, alpha=alpha, linewidth=0, zorder=0)
    axis.axhline(1.0, color=MUTED, linewidth=0.8, zorder=1)
    axis.set(xscale="log", yscale="log")
    said = []
    for i, (key, group) in enumerate(groups.items()):
        ratio = group.predicted_s / group.measured_s
        colour = PALETTE[i % len(PALETTE)] if len(groups) > 1 else BLUE
        axis.plot(1e6 * group.measured_s, ratio, MARKERS[i % len(MARKERS)], color=colour, markersize=3.5, alpha=0.7,
                  markeredgewidth=0, zorder=3)  # fmt: skip
        said.append((f"{key}: median {100 * median_error(ratio):.0f} %, n {len(ratio)}", colour))
    every = np.concatenate([g.predicted_s / g.measured_s for g in groups.values()])
    far = 1.1 * max(1.35, float(np.exp(np.abs(np.log(every)).max())))
    axis.set_ylim(1 / far, far)
    _ratios(axis.yaxis, far)
    plain_log(axis.xaxis, axis.get_xlim())
    axis.grid(False, axis="y")
    axis.set_ylabel("predicted /\nmeasured")
    panel_title(axis, family)
    beside = len(said) > 2
    for row, (text, colour) in enumerate(said):
        axis.annotate(text, (1.0, 1.0), xycoords="axes fraction", xytext=(4 if beside else 0, 3 - 10 * row), va="bottom",
                      textcoords="offset points", ha="left" if beside else "right", fontsize=SMALL_PT,
                      color=colour)  # fmt: skip


def _ratios(axis: Any, far: float) -> None:
    """Ticks at the edges of the bands where these are most of the axis."""
    from matplotlib.ticker import FixedLocator

    plain_log(axis, (1 / far, far), most=5)
    if far < 2:
        axis.set_major_locator(FixedLocator([0.6, 0.8, 1.0, 1.2, 1.5]))


def median_error(ratio: npt.NDArray[np.float64]) -> float:
    """Median absolute relative error."""
    return float(np.median(np.abs(ratio - 1.0)))
