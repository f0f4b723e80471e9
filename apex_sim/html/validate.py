"""The report of ``apex-sim validate``: one HTML file without network, for light and dark screens and for phones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from apex_sim.html.parts import Cell, document, table
from apex_sim.text import number
from apex_sim.validate_text import limits_text, percent
from simulator.validation.outcome import Outcome
from simulator.validation.plots import panel_metrics, range_of, tick_values
from simulator.validation.score import Aggregate, Residual

SIDE, LEFT, BOTTOM = 260, 58, 34
"""Plot area and margins [px of the viewBox]."""
SHAPES = ("circle", "square", "triangle", "diamond")


def report_html(outcome: Outcome, by: Sequence[str], version: str) -> str:
    """The whole document; the same bytes for the same outcome."""
    parts = [_head(outcome, version)]
    if outcome.goals:
        parts += ["<h2>Goals</h2>", _goals(outcome)]
    if outcome.residuals:
        parts += ["<h2>Predicted against measured</h2>", '<p class="soft">Bands are 10 and 20 %.</p>', _plots(outcome)]
        parts += ["<h2>Measured figures inside the 80 % interval of their prediction</h2>", _coverage(outcome)]
        parts += [f"<h2>Error by {escape(', '.join(by))}</h2>", _aggregates(outcome.aggregates(by), by)]
        parts += [
            "<h2>Every run and metric</h2>",
            '<input id="find" type="search" placeholder="Filter rows" aria-label="filter rows">',
        ]
        parts.append(_runs(outcome))
    if outcome.failures:
        rows = [[_text(p.run.source), _long(p.run.id), _long(p.failure or "")] for p in outcome.failures]
        parts += ["<h2>Could not be simulated</h2>", table(("source", "run", "reason"), rows)]
    if outcome.skipped:
        rows = [[_text(run.source), _long(run.id), _long(run.skip or "")] for run in outcome.skipped]
        parts += ["<h2>Skipped</h2>", table(("source", "run", "reason"), rows, tall=True)]
    return document("apex-sim validate", parts)


def _head(outcome: Outcome, version: str) -> str:
    predicted = len(outcome.predictions) - len(outcome.failures)
    met = sum(goal.met for goal in outcome.goals)
    tiles = [
        ("measured runs", str(len(outcome.runs))),
        ("predicted", str(predicted)),
        ("failed", str(len(outcome.failures))),
        ("skipped", str(len(outcome.skipped))),
        ("figures compared", f"{len(outcome.residuals):,}"),
    ]
    if outcome.goals:
        tiles.append(("goals met", f"{met} of {len(outcome.goals)}"))
    shown = "".join(f'<div class="tile"><b>{value}</b><span class="soft">{name}</span></div>' for name, value in tiles)
    return (
        "<h1>Predictions against measured runs</h1>"
        f'<p class="soft">apex-sim {escape(version)}. Errors are predicted / measured - 1; median, mean and p90 are of the '
        f'absolute error.</p><div class="tiles">{shown}</div>'
    )


# -- tables -----------------------------------------------------------------------------------------------------------


def _text(text: str) -> Cell:
    return (text, None, "")


def _long(text: str) -> Cell:
    return (text, None, "id")


def _share(value: float, sign: bool = False) -> Cell:
    return (percent(value, sign=sign), value, "n")


def _amount(value: float) -> Cell:
    return (number(value, 4), value, "n")


def _goals(outcome: Outcome) -> str:
    rows = [
        [_text(g.goal.source), _text(g.goal.metric), ("met", None, "good") if g.met else ("not met", None, "bad"),
         _text(limits_text(g.goal)), _share(g.reached.median), _share(g.reached.p90), _share(g.reached.worst),
         (str(g.reached.n), g.reached.n, "n"), (str(g.failures), g.failures, "n")]
        for g in outcome.goals
    ]  # fmt: skip
    return table(("source", "metric", "goal", "at most", "median", "p90", "worst", "n", "failed"), rows)


def _coverage(outcome: Outcome) -> str:
    rows = [
        [_text(c.family), _share(c.share), (f"x{c.width:.2f}", c.width, "n"), (str(c.total), c.total, "n")]
        for c in outcome.coverage
    ]
    return table(("metrics", "inside", "median width", "n"), rows)


def _aggregates(groups: Sequence[Aggregate], by: Sequence[str]) -> str:
    rows = [
        [
            *map(_text, g.key),
            (str(g.n), g.n, "n"),
            _share(g.median),
            _share(g.mean),
            _share(g.p90),
            _share(g.signed, True),
        ]
        for g in groups
    ]
    return table((*by, "n", "median", "mean", "p90", "bias"), rows)


def _runs(outcome: Outcome) -> str:
    rows = [
        [_text(r.run.source), _long(r.run.id), _text(r.run.device), _text(r.run.model.rpartition("/")[2]),
         _text(r.metric), _amount(r.predicted), _amount(r.measured), _share(r.error, True), _share(abs(r.error)),
         _text("" if r.spread is None else f"{number(r.spread[0], 4)} to {number(r.spread[1], 4)}"),
         _text(", ".join(r.classes.values()))]
        for r in outcome.residuals
    ]  # fmt: skip
    header = (
        "source",
        "run",
        "device",
        "model",
        "metric",
        "predicted",
        "measured",
        "error",
        "|error|",
        "over seeds",
        "class",
    )
    return table(header, rows, tall=True, name="runs")


# -- plots ------------------------------------------------------------------------------------------------------------


def _plots(outcome: Outcome) -> str:
    sources = list(dict.fromkeys(r.run.source for r in outcome.residuals))
    panels = [
        _panel([r for r in outcome.residuals if r.metric == metric], metric, sources)
        for metric in panel_metrics(outcome.residuals)
    ]
    return f'<div class="plots">{"".join(panels)}</div>'


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
    for tick in tick_values(low, high):
        x, y = place(tick, tick)
        label = f"{tick:,.10g}"
        parts.append(f'<text x="{x:.1f}" y="{30 + SIDE + 14}" text-anchor="middle">{label}</text>')
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
