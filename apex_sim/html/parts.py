"""What reports are made of: tables that sort, tiles, figures, texts to copy. Everything is escaped here."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape as escape
from typing import TYPE_CHECKING, Any

from apex_sim.html.style import SCRIPT, STYLE
from apex_sim.text import number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_SVG = 400_000
"""Characters of an SVG; above, a figure is pixels."""
FILTER = '<label>Filter: <input id="find" type="search" placeholder="words"></label>'
"""Above the table named ``runs``: shows its rows that have these words."""

Cell = tuple[str, float | None, str]
"""Text, number to sort by, class."""


def text(value: object) -> Cell:
    """Words."""
    return (str(value), None, "")


def wide(value: object) -> Cell:
    """Words that may wrap."""
    return (str(value), None, "wide")


def amount(value: float | None, shown: str | None = None) -> Cell:
    """A number, as ``shown`` where given; nothing sorts below everything."""
    if value is None or value != value:
        return ("-" if shown is None else shown, -math.inf, "n")
    return (number(value, 4) if shown is None else shown, value, "n")


def spread(low: float | None, high: float | None, shown: str) -> Cell:
    """A range, sorted by its lower end; ``shown`` also where there is none."""
    if low is None or high is None or low != low or high != high:
        return (shown, -math.inf, "")
    return (shown, low, "")


def verdict(good: bool, yes: str = "yes", no: str = "no") -> Cell:
    """Good or bad, in colour and in words."""
    return (yes, 1.0, "good") if good else (no, 0.0, "bad")


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    tall: bool = False,
    name: str = "",
    about: str = "",
) -> str:
    """A table whose columns sort when their heading is pressed. ``name``: id; ``about``: what a screen reader says it is."""
    rows = list(rows)
    kinds = [kind for _, _, kind in rows[0]] if rows else [""] * len(header)
    head = "".join(
        f"<th{' class=n' if kind.startswith('n') else ''}><button>{escape(title)}</button></th>"
        for title, kind in zip(header, kinds, strict=True)
    )
    lines = [f"<tr>{''.join(_cell(*cell) for cell in row)}</tr>" for row in rows]
    mark = (f' id="{name}"' if name else "") + (f' aria-label="{escape(about)}"' if about else "")
    body = "\n".join(lines)
    return (
        f'<div class="{"wrap tall" if tall else "wrap"}" tabindex="0"><table{mark}><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _cell(shown: str, value: float | None, kind: str) -> str:
    attributes = f' class="{kind}"' if kind else ""
    if value is not None:
        value = -math.inf if value != value else value
        attributes += f' data-v="{float(value)!r}"'.replace("inf", "Infinity")
    return f"<td{attributes}>{escape(shown)}</td>"


def facts(rows: Iterable[tuple[str, str]], about: str) -> str:
    """Names and what is said of them."""
    lines = "\n".join(f'<tr><th scope="row">{escape(k)}</th><td class="wide">{linked(v)}</td></tr>' for k, v in rows)
    return (
        f'<div class="wrap"><table class="facts" aria-label="{escape(about)}"><tbody>\n{lines}\n</tbody></table></div>'
    )


def linked(words: str) -> str:
    """Escaped, with addresses as links."""
    parts = re.split(r"(https?://[^\s,;()<>\"']*[\w/#=-])", words)
    return "".join(
        f'<a href="{escape(part)}" rel="noreferrer">{escape(part)}</a>' if place % 2 else escape(part)
        for place, part in enumerate(parts)
    )


def tiles(values: Mapping[str, str]) -> str:
    """The figures that matter, large."""
    shown = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span class="soft">{escape(name)}</span></div>'
        for name, value in values.items()
    )
    return f'<div class="tiles">{shown}</div>'


def section(title: str, *content: str) -> str:
    """A heading and what is under it; nothing when there is nothing."""
    inside = "\n".join(part for part in content if part)
    anchor = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    return (
        f'<section aria-labelledby="{anchor}"><h2 id="{anchor}">{escape(title)}</h2>\n{inside}</section>'
        if inside
        else ""
    )


def note(words: str) -> str:
    """Small print."""
    return f'<p class="soft">{linked(words)}</p>'


def warnings_box(words: Iterable[str]) -> str:
    """What to be careful about."""
    lines = "".join(f"<p>{linked(line)}</p>" for line in dict.fromkeys(words))
    return f'<div class="warn" role="note">{lines}</div>' if lines else ""


def folded(title: str, content: str) -> str:
    """Shown when asked for."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def copied(words: str, name: str, label: str) -> str:
    """A text with a button that copies it."""
    return (
        f'<button class="copy" type="button" data-of="{name}" aria-label="copy {escape(label)}">copy</button>'
        f'<pre id="{name}" tabindex="0">{escape(words)}</pre>'
    )


def figure(drawn: Figure, name: str, alt: str, caption: str = "") -> str:
    """A figure as SVG that follows the page's colours; its ids are made its own. ``alt``: what it shows, in words."""
    from workloads.figure_style import svg_text

    svg = re.sub(r'\bd="[^"]+"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg_text(drawn))
    if len(svg) > MOST_SVG:
        return _pixels(drawn, alt, caption)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1)
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{svg}{below}</figure>"


def _pixels(drawn: Figure, alt: str, caption: str) -> str:
    """A figure with too many points for an SVG, on its own paper."""
    from base64 import b64encode

    from workloads.figure_style import png_bytes

    data = b64encode(png_bytes(drawn)).decode("ascii")
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img class="figure" alt="{escape(alt)}" src="data:image/png;base64,{data}">{below}</figure>'


def figures(drawn: Sequence[str]) -> str:
    """Figures beside or below each other."""
    return f'<div class="figures">{"".join(drawn)}</div>' if drawn else ""


def scalars(values: Mapping[str, Any], path: str = "") -> list[tuple[str, Any]]:
    """All plain values of nested mappings, with their places."""
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        name = f"{path}{key}"
        if isinstance(value, Mapping):
            found += scalars(value, f"{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for place, item in enumerate(value):
                found += scalars(item, f"{name}[{place}].")
        elif not isinstance(value, list) or len(value) <= 8:
            found.append((name, value))
    return found


def _with_contents(body: Sequence[str]) -> list[str]:
    """Links to the sections before the first of them, where there are some."""
    places = [place for place, part in enumerate(body) if part.startswith("<section")]
    found = [match for place in places if (match := re.search(r'<h2 id="([^"]+)">(.*?)</h2>', body[place]))]
    if len(found) < 3:
        return list(body)
    links = "".join(f'<a href="#{match[1]}">{match[2]}</a>' for match in found)
    return [*body[: places[0]], f'<nav aria-label="sections">{links}</nav>', *body[places[0] :]]


def document(title: str, body: Sequence[str]) -> str:
    """The whole file; the same bytes for the same content."""
    inside = "\n".join([*_with_contents([part for part in body if part])])
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" content="light dark">'
        '<link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><main>\n{inside}\n</main><script>{SCRIPT}</script></body></html>\n"
    )
