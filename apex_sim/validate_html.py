"""The report of ``apex-sim validate``: one HTML file without network, for light and dark screens and for phones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from apex_sim.text import number
from apex_sim.validate_text import limits_text, percent
from simulator.validation.outcome import Outcome
from simulator.validation.plots import panel_metrics, range_of, tick_values
from simulator.validation.score import Aggregate, Residual

SIDE, LEFT, BOTTOM = 260, 58, 34
"""Plot area and margins [px of the viewBox]."""
SHAPES = ("circle", "square", "triangle", "diamond")

STYLE = """
:root {
  --bg: #fff; --fg: #1b232b; --soft: #5d6975; --line: #dce2e8; --card: #f5f7f9; --band1: #c9d6e2; --band2: #e6ecf2;
  --good: #00734f; --bad: #b4430a;
  --s0: #0072b2; --s1: #c24e00; --s2: #00805c; --s3: #b0568a; --s4: #a87400; --s5: #2e8fc4; --s6: #4d4d4d; --s7: #7a5f00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --bg: #12171c; --fg: #e4e9ee; --soft: #9aa7b3; --line: #2c353e; --card: #1a2128; --band1: #2c3a48; --band2: #202a34;
    --good: #3fc796; --bad: #ff9860;
    --s0: #5aaee6; --s1: #ff8a45; --s2: #35c494; --s3: #e59cc6; --s4: #f0b43c; --s5: #8fd0f5; --s6: #c4c4c4;
    --s7: #d9c06a;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 1180px; padding: 1.2rem; background: var(--bg); color: var(--fg);
  font: 15px/1.5 system-ui, sans-serif;
}
h1 { font-size: 1.4rem; margin: .2rem 0; }
h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; }
p { margin: .3rem 0; max-width: 75ch; }
.soft { color: var(--soft); }
.tiles { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1rem 0; }
.tile { background: var(--card); border-radius: 8px; padding: .6rem .9rem; min-width: 7rem; }
.tile b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.wrap { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; }
.tall { max-height: 75vh; overflow: auto; }
table { border-collapse: collapse; width: 100%; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .6rem; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--line); }
tr:last-child td { border-bottom: 0; }
th { position: sticky; top: 0; background: var(--card); padding: 0; }
th button {
  all: unset; box-sizing: border-box; width: 100%; cursor: pointer; padding: .4rem .6rem; display: block; font-weight: 600;
}
th button:focus-visible { outline: 2px solid var(--s0); }
th[aria-sort=ascending] button::after { content: " \\25B2"; }
th[aria-sort=descending] button::after { content: " \\25BC"; }
.n { text-align: right; }
.id { white-space: normal; min-width: 15rem; overflow-wrap: anywhere; }
td.good { color: var(--good); font-weight: 600; }
td.bad { color: var(--bad); font-weight: 600; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(290px, 1fr)); gap: 1rem; }
.plots svg { width: 100%; height: auto; background: var(--card); border-radius: 8px; }
svg text { fill: var(--soft); font-size: 10.5px; }
svg .t { fill: var(--fg); font-size: 12px; font-weight: 600; }
input {
  font: inherit; padding: .35rem .6rem; margin: .2rem 0 .6rem; width: min(26rem, 100%);
  border: 1px solid var(--line); border-radius: 6px; background: var(--bg); color: var(--fg);
}
"""

SCRIPT = """
for (const table of document.querySelectorAll('table')) {
  table.querySelectorAll('th').forEach((th, i) => th.firstElementChild.addEventListener('click', () => {
    const down = th.getAttribute('aria-sort') !== 'descending';
    table.querySelectorAll('th').forEach(other => other.removeAttribute('aria-sort'));
    th.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    const key = row => {
      const cell = row.cells[i];
      return cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v);
    };
    const compare = (x, y) => typeof x === 'number' && typeof y === 'number' ? x - y : String(x).localeCompare(String(y));
    const body = table.tBodies[0];
    [...body.rows].sort((a, b) => (down ? -1 : 1) * compare(key(a), key(b))).forEach(row => body.append(row));
  }));
}
const box = document.querySelector('#find');
if (box) box.addEventListener('input', () => {
  const words = box.value.toLowerCase().split(/\\s+/);
  for (const row of document.querySelectorAll('#runs tbody tr')) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every(word => text.includes(word));
  }
});
"""

Cell = tuple[str, float | None, str]
"""Text, number to sort by, class."""


def report_html(outcome: Outcome, by: Sequence[str], version: str) -> str:
    """The whole document; the same bytes for the same outcome."""
    parts = [_head(outcome, version)]
    if outcome.goals:
        parts += ["<h2>Goals</h2>", _goals(outcome)]
    if outcome.residuals:
        parts += ["<h2>Predicted against measured</h2>", '<p class="soft">Bands are 10 and 20 %.</p>', _plots(outcome)]
        parts += ["<h2>Measured figures inside the 80 % interval of their prediction</h2>", _coverage(outcome)]
        parts += [f"<h2>Error by {escape(', '.join(by))}</h2>", _aggregates(outcome.aggregates(by), by)]
        parts += ["<h2>Every run and metric</h2>", '<input id="find" type="search" placeholder="Filter rows">']
        parts.append(_runs(outcome))
    if outcome.failures:
        rows = [[_text(p.run.source), _long(p.run.id), _long(p.failure or "")] for p in outcome.failures]
        parts += ["<h2>Could not be simulated</h2>", _table(("source", "run", "reason"), rows)]
    if outcome.skipped:
        rows = [[_text(run.source), _long(run.id), _long(run.skip or "")] for run in outcome.skipped]
        parts += ["<h2>Skipped</h2>", _table(("source", "run", "reason"), rows, tall=True)]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>apex-sim validate</title><style>{STYLE}</style></head>\n"
        f"<body>\n{body}\n<script>{SCRIPT}</script></body></html>\n"
    )


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


def _table(header: Sequence[str], rows: Iterable[Sequence[Cell]], *, tall: bool = False, name: str = "") -> str:
    rows = list(rows)
    kinds = [kind for _, _, kind in rows[0]] if rows else [""] * len(header)
    head = "".join(
        f"<th{' class=n' if kind == 'n' else ''}><button>{escape(title)}</button></th>"
        for title, kind in zip(header, kinds, strict=True)
    )
    lines = []
    for row in rows:
        cells = []
        for text, value, kind in row:
            attributes = f' class="{kind}"' if kind else ""
            if value is not None:
                attributes += f' data-v="{value:.6g}"'
            cells.append(f"<td{attributes}>{escape(text)}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    style = "wrap tall" if tall else "wrap"
    mark = f' id="{name}"' if name else ""
    body = "\n".join(lines)
    return f'<div class="{style}"><table{mark}><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _goals(outcome: Outcome) -> str:
    rows = [
        [_text(g.goal.source), _text(g.goal.metric), ("met", None, "good") if g.met else ("not met", None, "bad"),
         _text(limits_text(g.goal)), _share(g.reached.median), _share(g.reached.p90), _share(g.reached.worst),
         (str(g.reached.n), g.reached.n, "n"), (str(g.failures), g.failures, "n")]
        for g in outcome.goals
    ]  # fmt: skip
    return _table(("source", "metric", "goal", "at most", "median", "p90", "worst", "n", "failed"), rows)


def _coverage(outcome: Outcome) -> str:
    rows = [
        [_text(c.family), _share(c.share), (f"x{c.width:.2f}", c.width, "n"), (str(c.total), c.total, "n")]
        for c in outcome.coverage
    ]
    return _table(("metrics", "inside", "median width", "n"), rows)


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
    return _table((*by, "n", "median", "mean", "p90", "bias"), rows)


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
    return _table(header, rows, tall=True, name="runs")


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
