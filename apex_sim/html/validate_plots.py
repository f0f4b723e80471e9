"""Predicted against measured as SVG that follows the page's colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from apex_sim.text import number
from apex_sim.validate_text import percent
from simulator.validation.outcome import Outcome
from simulator.validation.plots import panel_metrics, range_of, tick_values
from simulator.validation.score import Aggregate, Residual

SIDE, LEFT, BOTTOM = 260, 58, 34
"""Plot area and margins [px of the viewBox]."""
DIGIT = 6.2
"""Width of a digit of a tick's label [px of the viewBox]."""
SHAPES = ("circle", "square", "triangle", "diamond")


def panels(outcome: Outcome) -> str:
    """One panel per metric."""
    sources = list(dict.fromkeys(r.run.source for r in outcome.residuals))
    drawn = [
        _panel([r for r in outcome.residuals if r.metric == metric], metric, sources)
        for metric in panel_metrics(outcome.residuals)
    ]
    return f'<div class="plots">{"".join(drawn)}</div>'


def _panel(residuals: Sequence[Residual], metric: str, sources: Sequence[str]) -> str:
    low, high = range_of(residuals)
    span = math.log(high / low)

    def at(value: float) -> float:
        return SIDE * math.log(max(value, low) / low) / span

    def place(measured: float, predicted: float) -> tuple[float, float]:
        return LEFT + at(measured), 30 + SIDE - min(SIDE, at(predicted))

    parts = [f'<text class="t" x="{LEFT}" y="18">{escape(metric)}</text>']
    for width, colour in ((0.2, "--band2"), (0.1, "--band1")):
        up, down = SIDE * math.log(1 + width) / span, -SIDE * math.log(1 - width) / span
        end, base = LEFT + SIDE, 30 + SIDE
        parts.append(
            f'<path d="M{LEFT} {base}L{LEFT} {base - up:.1f}L{end - up:.1f} {base - SIDE}L{end} {base - SIDE}'
            f'L{end} {base - SIDE + down:.1f}L{LEFT + down:.1f} {base}Z" fill="var({colour})"/>'
        )
    parts.append(f'<rect x="{LEFT}" y="30" width="{SIDE}" height="{SIDE}" fill="none" stroke="var(--line)"/>')
    free = 0.0
    for tick in tick_values(low, high):
        x, y = place(tick, tick)
        label = f"{tick:,.10g}"
        half = DIGIT * len(label) / 2
        if x - half >= free:  # no label over another
            parts.append(f'<text x="{x:.1f}" y="{30 + SIDE + 14}" text-anchor="middle">{label}</text>')
            free = x + half + 3
        parts.append(f'<text x="{LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{label}</text>')
    parts.append(f'<text x="{LEFT + SIDE / 2}" y="{30 + SIDE + 29}" text-anchor="middle">measured</text>')
    middle = 30 + SIDE / 2
    parts.append(f'<text x="11" y="{middle}" text-anchor="middle" transform="rotate(-90 11 {middle})">predicted</text>')
    for r in residuals:
        x, y = place(r.measured, r.predicted)
        title = f"{r.run.id}: predicted {number(r.predicted, 4)}, measured {number(r.measured, 4)} ({percent(r.error, True)})"
        parts.append(_mark(sources.index(r.run.source), x, y, escape(title)))
    shown = [name for name in sources if any(r.run.source == name for r in residuals)]
    for row, name in enumerate(shown):
        group = Aggregate.of((name,), [r.error for r in residuals if r.run.source == name])
        line = 44 + 15 * row
        parts.append(_mark(sources.index(name), LEFT + 11, line - 3.5, ""))
        colour = f"var(--s{sources.index(name) % 8})"
        label = f"{escape(name)}: {percent(group.median)} (n {group.n})"
        parts.append(f'<text x="{LEFT + 20}" y="{line}" style="fill:{colour}">{label}</text>')
    box = f"0 0 {LEFT + SIDE + 20} {30 + SIDE + BOTTOM}"
    return f'<svg viewBox="{box}" role="img" aria-label="{escape(metric)}">{"".join(parts)}</svg>'


def _mark(index: int, x: float, y: float, title: str) -> str:
    """A point: colour and shape say the source."""
    style = f'fill="var(--s{index % 8})" fill-opacity=".7"'
    inner = f"<title>{title}</title>" if title else ""
    shape = SHAPES[index % len(SHAPES)]
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.9" {style}>{inner}</circle>'
    points = {
        "square": ((-2.6, -2.6), (2.6, -2.6), (2.6, 2.6), (-2.6, 2.6)),
        "triangle": ((0, -3.4), (3.2, 2.6), (-3.2, 2.6)),
        "diamond": ((0, -3.6), (3.6, 0), (0, 3.6), (-3.6, 0)),
    }[shape]
    path = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in points)
    return f'<polygon points="{path}" {style}>{inner}</polygon>'
