"""Tables of an HTML report as values, to compare with the JSON of the same run."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

SCALES = (1.0, 1e3)
"""Milliseconds of seconds; everything else is as in the JSON."""
UNITS = {"ms": 1.0, "s": 1e3, "%": 0.01}


@dataclass
class Found:
    """One table: headings, and rows of what is shown and what is sorted by."""

    header: list[str] = field(default_factory=list)
    rows: list[list[tuple[str, float | None]]] = field(default_factory=list)

    def column(self, title: str) -> list[float | None]:
        """What a column is sorted by; the first one of that name."""
        return [row[self.header.index(title)][1] for row in self.rows]


class Tables(HTMLParser):
    """All tables that sort, by their label, and the tiles."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: dict[str, Found] = {}
        self.tiles: dict[str, str] = {}
        self._table: Found | None = None
        self._value: float | None = None
        self._words: list[str] | None = None
        self._tile: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "table" and given.get("class") != "facts":
            self._table = Found()
            same = sum(label.split(" #")[0] == given["aria-label"] for label in self.tables)
            self.tables[f"{given['aria-label']} #{same + 1}" if same else str(given["aria-label"])] = self._table
        if tag == "tr" and self._table is not None:
            self._table.rows.append([])
        if tag in ("td", "th", "b") or given.get("class") in ("tile", "soft"):
            value = given.get("data-v")
            self._words, self._value = [], None if value is None else float(value.replace("Infinity", "inf"))

    def handle_data(self, data: str) -> None:
        if self._words is not None:
            self._words.append(data)

    def handle_endtag(self, tag: str) -> None:
        words = "".join(self._words or ())
        if tag == "td" and self._table is not None:
            self._table.rows[-1].append((words, self._value))
        elif tag == "th" and self._table is not None:
            self._table.header.append(words)
        elif tag == "table" and self._table is not None:
            self._table.rows, self._table = [row for row in self._table.rows if row], None
        elif tag == "b":
            self._tile = [words]
        elif tag == "span" and self._tile:
            self.tiles[words] = self._tile.pop()


def leaves(data: Any) -> list[float]:
    """Every number of a JSON value."""
    if isinstance(data, dict):
        return [number for item in data.values() for number in leaves(item)]
    if isinstance(data, list):
        return [number for item in data for number in leaves(item)]
    return [float(data)] if isinstance(data, int | float) and not isinstance(data, bool) else []


def strangers(table: Found, data: Any, skip: tuple[str, ...] = ()) -> list[tuple[str, str, float]]:
    """Cells whose number the JSON does not have, in its own unit or in milliseconds; not of columns to ``skip``."""
    known = sorted({scale * value for value in leaves(data) for scale in SCALES})
    found = []
    for row in table.rows:
        for title, (shown, value) in zip(table.header, row, strict=True):
            if value is None or math.isinf(value) or title in skip:
                continue
            if not any(math.isclose(value, other, rel_tol=1e-12, abs_tol=1e-15) for other in known):
                found.append((title, shown, value))
    return found


def misprints(table: Found) -> list[tuple[str, str, float]]:
    """Cells that show another number than they are sorted by, beyond rounding."""
    found = []
    for row in table.rows:
        for title, (shown, value) in zip(table.header, row, strict=True):
            match = re.match(r"(?:x )?\$?([+-]?[\d,]*\.?\d+(?:e[+-]?\d+)?) ?(ms|s|%)?", shown)
            if value is None or match is None or math.isinf(value) or title.endswith("(h)"):
                continue
            said = float(match[1].replace(",", "")) * UNITS.get(match[2] or "", 1.0)
            said = said / 1e3 if match[2] == "s" and not math.isclose(said, value, rel_tol=0.06) else said
            if not math.isclose(said, value, rel_tol=0.02, abs_tol=0.0006 if match[2] == "%" else 0.006):
                found.append((title, shown, value))
    return found
