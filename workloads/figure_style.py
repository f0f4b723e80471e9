"""The style of every figure: palette, axes, labels at the lines, and files that are the same for equal figures.

It lies in the lowest package because all packages draw. Colours are those of Okabe and Ito ("Color Universal Design",
jfly.uni-koeln.de/color), told apart with any colour vision and on light and dark grounds; ink, grid and paper are variables
of the SVG, which follow the reader's colour scheme.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sized
from functools import partial
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardware_profiles.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PINK = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
SKY, AMBER = "#56b4e9", "#e69f00"
INK, MUTED, GRID, PAPER = "#1c2733", "#667380", "#dbe1e6", "#fefefe"
"""Text; what matters less; lines behind; the ground. No figure uses these four for anything else."""
ON_LIGHT, ON_DARK = "#10181f", "#ffffff"
"""Text on filled colours, in either scheme."""
PALETTE = (BLUE, ORANGE, GREEN, PINK, AMBER, SKY)
"""Colours of series, in order."""
MARKERS = ("o", "s", "^", "D", "v", "P")
"""Series differ in shape too."""
WIDTH_IN = 5.2
"""A text column. At 8 cm the smallest text has 4.9 points."""
TEXT_PT, SMALL_PT = 9.0, 8.0
DPI = 110
DARK = {INK: "#e8ecef", MUTED: "#9aa7b3", GRID: "#3a444e", PAPER: "#14181c"}
NAMES = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper"}


def new_figure(
    rows: int = 1, columns: int = 1, width: float = WIDTH_IN, height: float = 2.9, **options: Any
) -> tuple[Figure, Any]:
    """A figure that needs no display, and its axes (2-d array). ``height`` is that of a row [in]; ``options`` go to
    ``Figure.subplots``. It shows itself as the last line of a notebook's cell."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height * rows), layout="constrained", dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for axis in axes.flat:
        dress(axis)
    setattr(figure, "_repr_png_", partial(png_bytes, figure))  # noqa: B010 (no field of the class)
    return figure, axes


def dress(axis: Axes) -> None:
    """Two spines, a faint grid, text in ink."""
    axis.set_facecolor("none")
    axis.set_axisbelow(True)
    axis.grid(color=GRID, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(MUTED)
    axis.tick_params(which="both", color=MUTED, labelcolor=INK, labelsize=SMALL_PT)
    for label in (axis.xaxis.label, axis.yaxis.label, axis.title):
        label.set_fontsize(TEXT_PT)
        label.set_color(INK)


def panel_title(axis: Axes, text: str) -> None:
    """What one of several panels shows, above its left end."""
    axis.set_title(text, loc="left", fontsize=TEXT_PT, color=INK, pad=4)


def headline(figure: Figure, title: str, below: str = "") -> None:
    """Title at the left, and what it means below it, smaller; both are wrapped to the width."""
    wide = float(figure.get_size_inches()[0])
    lines = [*_wrapped(title, int(13.4 * wide)), *_wrapped(below, int(13.4 * wide))]
    text = figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=TEXT_PT, color=INK)
    text.set_linespacing(1.35)
    text.set_parse_math(False)


def short_name(model: str) -> str:
    """A model without the name of who published it, for titles."""
    return model.rpartition("/")[2]


def _wrapped(text: str, characters: int) -> list[str]:
    from textwrap import wrap

    text = text.replace(" %", "\u00a0%")
    return [line for part in text.split("\n") if part for line in wrap(part, characters)]


def plain_ticks(axis: Axes) -> None:
    """Ticks of a logarithmic x axis as 200, 500, 1000 instead of powers of ten, as many as fit; call after plotting."""
    plain_log(axis.xaxis, axis.get_xlim())


def plain_log(axis: Axis, limits: tuple[float, float], most: int = 6) -> None:
    """Plain numbers on a logarithmic axis, about ``most`` of them."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axis.set_major_locator(FixedLocator(round_values(*limits, most)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def round_values(low: float, high: float, most: int) -> list[float]:
    """Round numbers from ``low`` to ``high``, evenly spread on a logarithmic axis: at most ``most`` if decades suffice."""
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    found: list[float] = []
    for parts, every in (((1, 1.5, 2, 3, 4, 5, 6, 8), 1), ((1, 2, 3, 5, 7), 1), ((1, 2, 5), 1), ((1, 3), 1), ((1,), 1),
                         ((1,), 2), ((1,), 3), ((1,), 4)):  # fmt: skip
        ticks = [s * 10.0**p for p in range(first, last + 1) if p % every == 0 for s in parts]
        found = [tick for tick in ticks if low <= tick <= high * (1 + 1e-9)]
        if len(found) <= most:
            break
    return found


def hours_axis(axis: Axis, first: float, last: float) -> None:
    """Ticks of hours at whole parts of a day, ten at most."""
    from matplotlib.ticker import MultipleLocator

    steps = (0.25, 0.5, 1.0, 2.0, 3.0, 6.0, 12.0, 24.0, 48.0, 168.0)
    axis.set_major_locator(MultipleLocator(next((s for s in steps if last - first <= 9 * s), 24.0 * (last // 216 + 1))))


def require(things: Sized, what: str, example: str) -> None:
    """UserError where there is nothing to draw."""
    if not len(things):
        raise UserError(f"{what} is empty: nothing to draw; give {example}")


def lay_out(figure: Figure) -> None:
    """Give the axes the places that they will have, for labels that are moved apart; call when titles and ticks are set."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)


def settle(figure: Figure) -> None:
    """Lay the figure out once for all: the layout is found by iteration, so that drawing twice would move it a little."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def save(figure: Figure, path: str | Path) -> None:
    """Write a PNG (or what the suffix says) without a time stamp, so that equal figures give equal bytes."""
    if Path(path).suffix.lower() == ".svg":
        Path(path).write_text(svg_text(figure), encoding="utf-8")
        return
    settle(figure)
    dateless = {".png": {"Software": None}, ".pdf": {"CreationDate": None}}
    figure.savefig(path, dpi=DPI, metadata=dateless.get(Path(path).suffix))


def png_bytes(figure: Figure) -> bytes:
    """The figure as PNG of 256 colours, a third of the size of all colours; equal figures give equal bytes."""
    from PIL import Image

    settle(figure)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi, metadata={"Software": None})
    image = Image.open(buffer).convert("RGB").quantize(colors=256, dither=Image.Dither.NONE)
    small = BytesIO()
    image.save(small, format="PNG", optimize=True)
    return small.getvalue()


def svg_text(figure: Figure) -> str:
    """The figure as an SVG element that scales, with text as text, a clear ground, and ink that follows a dark scheme.

    In HTML, ``--apex-ink``, ``--apex-muted``, ``--apex-grid`` and ``--apex-paper`` of the page win over the scheme.
    """
    import matplotlib

    settle(figure)
    buffer = StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "apex-sim"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for colour, name in NAMES.items():
        text = re.sub(colour, f"var(--apex-{name}, var(--apex-own-{name}))", text, flags=re.IGNORECASE)
    rules = _rules(NAMES, lambda colour: colour)
    dark = _rules(NAMES, lambda colour: DARK[colour])
    style = (
        f"<style>svg.apex{{{rules}font-family:system-ui,'DejaVu Sans',sans-serif}}"
        f"@media (prefers-color-scheme:dark){{svg.apex{{{dark}}}}}</style>"
    )
    head, rest = text.split(">", 1)
    head = re.sub(r' (?:width|height)="[^"]*"', "", head) + ' class="apex" width="100%"'
    return f"{head}>{style}{rest}"


def _rules(names: dict[str, str], value: Callable[[str], str]) -> str:
    return "".join(f"--apex-own-{name}:{value(colour)};" for colour, name in names.items())
