"""Tables of text: rows whose cells are read with their unit's care and whose errors say file, row and column."""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hardware_profiles.errors import UserError

_EMPTY = {"", "nan", "none", "null", "n/a", "-"}
_LEADING = re.compile(r"\s*(-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)(?:\s|$|\()")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table."""

    cells: Mapping[str, str]
    place: str
    """File and line, for messages."""

    def text(self, column: str, default: str = "") -> str:
        """The cell's text, trimmed; ``default`` where it is empty."""
        value = (self.cells.get(column) or "").strip()
        return default if value.lower() in _EMPTY else value

    def number(self, column: str) -> float | None:
        """A finite number, or None where the cell is empty."""
        value = self.text(column)
        if not value:
            return None
        try:
            number = float(value)
        except ValueError:
            raise UserError(f"{self.place}: {column} is {value!r}; it must be a number") from None
        if not math.isfinite(number):
            raise UserError(f"{self.place}: {column} is {value}; it must be a finite number")
        return number

    def leading_number(self, column: str) -> float | None:
        """The number a cell begins with ('0.9 (default)'); None where it begins with words ('not recorded')."""
        found = _LEADING.match(self.text(column))
        return float(found.group(1)) if found else None

    def whole(self, column: str) -> int | None:
        """A whole number, or None where the cell is empty."""
        number = self.number(column)
        if number is not None and number != int(number):
            raise UserError(f"{self.place}: {column} is {number:g}; it must be a whole number")
        return None if number is None else int(number)

    def need(self, column: str) -> float:
        """A number that must be there."""
        number = self.number(column)
        if number is None:
            raise UserError(f"{self.place}: {column} is empty; the run cannot be replayed without it")
        return number

    def flag(self, column: str) -> bool | None:
        """true/false, yes/no, on/off, enabled/disabled (words after it are ignored); None for anything else."""
        word = self.text(column).lower().partition(" ")[0].partition("(")[0]
        if word in ("true", "yes", "on", "enabled", "1"):
            return True
        return False if word in ("false", "no", "off", "disabled", "0") else None


def read_rows(path: Path) -> tuple[list[str], list[Row]]:
    """Column names and rows of a CSV file (also gzipped)."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except gzip.BadGzipFile:
        raise UserError(f"{path}: is not gzipped; leave .gz out of its name, or compress it") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, EOFError, zlib.error):
        raise UserError(f"{path}: is not UTF-8 text; save it as CSV in UTF-8") from None
    return _parsed(path, text)


def _parsed(path: Path, text: str) -> tuple[list[str], list[Row]]:
    reader = csv.DictReader(io.StringIO(text))
    try:
        columns = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        cells_of_rows = [(reader.line_num, cells) for cells in reader]
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num}: is no CSV: {error}; is a quote left open?") from None
    if not columns:
        raise UserError(f"{path}: is empty; it needs a header and a row per run (docs/validation.md)")
    twice = [name for name, count in Counter(columns).items() if name and count > 1]
    if twice:
        raise UserError(f"{path}: column {twice[0]} occurs twice; keep one of them")
    if len(columns) == 1 and re.search(r"[;\t]", columns[0]):
        raise UserError(f"{path}: cells are not separated by commas; save it as CSV with commas (and decimal points)")
    rows = []
    for line, cells in cells_of_rows:
        place = f"{path}: line {line}"
        if None in cells:
            raise UserError(f"{place}: has more cells than the header; quote cells that contain commas")
        rows.append(Row({name: value or "" for name, value in cells.items()}, place))
    if not rows:
        raise UserError(f"{path}: has a header but no rows")
    return columns, rows
