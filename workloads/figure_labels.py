"""Text inside figures: notes at points, lines with their value, names at the ends of curves and beside points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from workloads.figure_style import INK, MUTED, PAPER, SMALL_PT

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def note(axis: Axes, x: float, y: float, text: str, colour: str = INK, **options: Any) -> Any:
    """Text at a point of the data, with a rim of paper so that lines do not cut it; ``options`` as ``Axes.annotate``."""
    from matplotlib.patheffects import withStroke

    given: dict[str, Any] = {"textcoords": "offset points", "xytext": (0, 0), "fontsize": SMALL_PT, "color": colour}
    rim = [withStroke(linewidth=2.5, foreground=PAPER)]
    return axis.annotate(text, (x, y), path_effects=rim, **{"parse_math": False, **given, **options})


def vertical(
    axis: Axes, x: float, text: str, colour: str = MUTED, style: str = "--", *, room: bool = True, low: bool = False
) -> None:
    """An upright line across the axis with its label beside its upper (``low``: lower) end; ``room``: right of it is space."""
    from matplotlib.patheffects import withStroke

    axis.axvline(x, color=colour, linestyle=style, linewidth=1.0, zorder=1.5)
    if text:
        side, shift = ("left", 3) if room else ("right", -3)
        axis.annotate(text, (x, 0.0 if low else 1.0), xycoords=axis.get_xaxis_transform(), ha=side, fontsize=SMALL_PT,
                      xytext=(shift, 2 if low else -1), va="bottom" if low else "top", textcoords="offset points",
                      color=colour, path_effects=[withStroke(linewidth=2.5, foreground=PAPER)])  # fmt: skip


def level(axis: Axes, y: float, text: str, colour: str = MUTED, style: str = "--", *, at: float = 0.0) -> None:
    """A level line across the axis with its label on it, starting at this share of the width; no label outside the axis."""
    from matplotlib.patheffects import withStroke

    axis.axhline(y, color=colour, linestyle=style, linewidth=1.0, zorder=1.5)
    if text:
        axis.annotate(text, (at, y), xycoords=axis.get_yaxis_transform(), va="bottom", xytext=(3, 1.5), ha="left",
                      textcoords="offset points", fontsize=SMALL_PT, color=colour, annotation_clip=True,
                      path_effects=[withStroke(linewidth=2.5, foreground=PAPER)])  # fmt: skip


def free_start(axis: Axes, y: float, text: str) -> float:
    """Where on a level line its label covers no curve, as a share of the width; 0 where it does so everywhere.

    Call when curves are drawn and the limits of the axis are final.
    """
    figure: Any = axis.figure
    box = axis.get_position()
    size = np.asarray(figure.get_size_inches()) * 72 * np.array([box.width, box.height])
    transform = axis.transScale + axis.transLimits
    low = float(transform.transform((axis.get_xlim()[0], y))[1]) * size[1] - 3.0
    grid = np.linspace(0.0, size[0], 400)
    curves = [transform.transform(np.asarray(line.get_xydata())) * size for line in axis.get_lines()]
    curves = [c for c in curves if len(c) > 2 or (len(c) > 1 and c[0, 0] != c[1, 0] and c[0, 1] != c[1, 1])]
    heights = [np.interp(grid, c[:, 0], c[:, 1], left=-np.inf, right=-np.inf) for c in curves]
    wide, high = 0.6 * SMALL_PT * len(text) + 6.0, 1.3 * SMALL_PT + 3.0
    for start in (0.0, 0.2, 0.4, 0.6, 0.8):
        under = (grid >= start * size[0]) & (grid <= start * size[0] + wide)
        if start * size[0] + wide <= size[0] and not any(((h > low) & (h < low + high))[under].any() for h in heights):
            return start
    return 0.0


def end_labels(axis: Axes, series: Sequence[tuple[float, float, str, str]], *, gap: float = 1.25) -> None:
    """Names beside the right ends of lines: (x, y, text, colour), moved apart where they would overlap.

    Call when the limits of the axis are final. ``gap``: least distance of baselines, in heights of the text.
    """
    from matplotlib.patheffects import withStroke

    if not series:
        return
    figure: Any = axis.figure
    height = float(figure.get_size_inches()[1]) * 72 * axis.get_position().height
    transform = axis.transScale + axis.transLimits
    at = [float(np.clip(transform.transform((x, y))[1], 0, 1)) * height for x, y, _, _ in series]
    placed = spread(at, gap * SMALL_PT, height)
    for (x, y, text, colour), before, after in zip(series, at, placed, strict=True):
        shown = float(axis.transScale.transform((x, y))[1])
        inside = 0 <= (axis.transLimits.transform((0, shown))[1]) <= 1
        y = y if inside else axis.get_ylim()[1]
        axis.annotate(text, (x, y), xytext=(5, after - before), textcoords="offset points", va="center", ha="left",
                      fontsize=SMALL_PT, color=colour, annotation_clip=False,
                      path_effects=[withStroke(linewidth=2.5, foreground=PAPER)])  # fmt: skip


def spread(at: Sequence[float], least: float, top: float) -> list[float]:
    """The places nearest to ``at``, in the same order, at least ``least`` apart, and within 0 to ``top`` if they can be."""
    order = np.argsort(at, kind="stable")
    steps = least * np.arange(len(at))
    wanted = np.asarray(at, dtype=np.float64)[order] - steps
    level_ = _isotonic(wanted)
    placed = np.clip(level_, 0.0, max(0.0, top - float(steps[-1]))) + steps
    found = np.empty(len(at))
    found[order] = placed
    return [float(value) for value in found]


def _isotonic(values: Any) -> Any:
    """Least-squares non-decreasing sequence (pool adjacent violators)."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        mean, count = float(value), 1
        while blocks and blocks[-1][0] > mean:
            before, number = blocks.pop()
            mean, count = (mean * count + before * number) / (count + number), count + number
        blocks.append((mean, count))
    return np.concatenate([np.full(count, mean) for mean, count in blocks])


def place_labels(axis: Axes, labels: Sequence[tuple[float, float, str]], points: Sequence[tuple[float, float]]) -> None:
    """Names of points, (x, y, text): above, below, right or left, where they cover no other name and fewest points.

    Call when the limits of the axis are final.
    """
    figure: Any = axis.figure
    box = axis.get_position()
    size = np.asarray(figure.get_size_inches()) * 72 * np.array([box.width, box.height])
    transform = axis.transScale + axis.transLimits
    dots = transform.transform(np.array(points, dtype=np.float64).reshape(-1, 2)) * size
    taken: list[tuple[float, float, float, float]] = []
    for x, y, text in labels:
        here = transform.transform((x, y)) * size
        wide, high = 0.6 * SMALL_PT * len(text), 1.1 * SMALL_PT
        places = [((0.0, 8.0), "center", "bottom"), ((0.0, -8.0), "center", "top"), ((8.0, 0.0), "left", "center"),
                  ((-8.0, 0.0), "right", "center"), ((0.0, 20.0), "center", "bottom")]  # fmt: skip
        scored: list[tuple[int, int, tuple[float, float, float, float]]] = []
        for shift, across, upright in places:
            left = here[0] + shift[0] - {"left": 0.0, "center": wide / 2, "right": wide}[across]
            low = here[1] + shift[1] - {"bottom": 0.0, "center": high / 2, "top": high}[upright]
            area = (left, low, left + wide, low + high)
            names = sum(_overlap(area, other) for other in taken)
            covered = sum(bool(area[0] < px < area[2] and area[1] < py < area[3]) for px, py in dots)
            outside = left < 0 or low < 0 or area[2] > size[0] or area[3] > 1.08 * size[1]
            scored.append((10 * names + covered + 5 * outside, len(scored), area))
        _, chosen, area = min(scored)
        taken.append(area)
        shift, across, upright = places[chosen]
        note(axis, x, y, text, xytext=shift, ha=across, va=upright)


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
