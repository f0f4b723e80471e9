"""Files as columns of numbers, with errors that name file, line, column and value: CSV, JSON lines and Parquet."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from hardware_profiles.errors import UserError
from workloads.trace import FloatArray

MISSING = ("", "nan", "none", "null", "na", "n/a")
"""Spellings, in lower case, of a cell without a value."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """Columns of one file. ``place(row)`` says where row 0, 1, ... stands (``FILE: line 17``); it may read the file."""

    path: Path
    columns: Mapping[str, Any]
    """pandas Series by name, in file order."""
    num_rows: int
    place: Callable[[int], str]

    def numbers(self, column: str) -> FloatArray:
        """float64[num_rows]; a cell that is empty, not a number or not finite is an error."""
        import pandas as pd

        series = self.columns[column]
        if series.dtype.kind in "iuf":
            values = series.to_numpy(dtype=np.float64)
        elif series.dtype.kind == "b":
            values = np.full(self.num_rows, np.nan)
        else:
            values = pd.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64)
        self._check_cells(column, np.isfinite(values), "a finite number")
        return np.asarray(values, dtype=np.float64)

    def optional_numbers(self, column: str, default: float) -> FloatArray:
        """float64[num_rows]; empty cells are ``default``."""
        series = self.columns[column]
        filled = Table(
            path=self.path,
            columns={column: series.where(~_missing(series), default)},
            num_rows=self.num_rows,
            place=self.place,
        )
        return filled.numbers(column)

    def times(self, column: str, unit_s: float) -> tuple[FloatArray, bool]:
        """Seconds, and whether the column held dates (ISO 8601; then counted from the earliest)."""
        if not self.holds_dates(column):
            return self.numbers(column) * unit_s, False
        import pandas as pd

        series = self.columns[column]
        stamps = pd.to_datetime(series, format="ISO8601", utc=True, errors="coerce")
        self._check_cells(column, stamps.notna().to_numpy(), "a date and time such as 2023-11-16 18:15:46.68")
        nanoseconds = stamps.to_numpy(dtype="datetime64[ns]").astype(np.int64)
        return (nanoseconds - nanoseconds.min()) / 1e9, True

    def texts(self, column: str) -> list[str]:
        """Cells as text; an empty cell is the empty string."""
        series = self.columns[column]
        return [str(cell) for cell in series.astype(object).where(~_missing(series), "").tolist()]

    def error(self, row: int, column: str, value: object, rule: str) -> UserError:
        """The error (to raise) for one cell."""
        return UserError(f"{self.place(row)}: {column} is {value}; {rule}")

    def holds_dates(self, column: str) -> bool:
        """Whether the first cell looks like a date and time."""
        series = self.columns[column]
        if series.dtype.kind in "iufb" or self.num_rows == 0:
            return False
        first = str(series.iloc[0])
        return "-" in first[1:] and ":" in first

    def _check_cells(self, column: str, ok: np.ndarray[Any, np.dtype[np.bool_]], rule: str) -> None:
        if ok.all():
            return
        row = int(np.argmin(ok))
        series = self.columns[column]
        if _missing(series.iloc[row : row + 1]).any():
            raise UserError(f"{self.place(row)}: {column} is missing; every row needs it")
        value = series.iloc[row]
        raise self.error(row, column, f"'{value}'" if isinstance(value, str) else value, f"it must be {rule}")


def open_text(path: Path) -> TextIO:
    """Text of a plain or .gz file; the errors a user can make are one line."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file in it")
    try:
        if path.suffix == ".gz":
            return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
        return path.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror or error}") from error


def first_line(path: Path) -> str:
    """First line with anything in it; an empty file is an error."""
    with open_text(path) as file:
        try:
            for line in file:
                if line.strip():
                    return line.strip()
        except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
            raise UserError(f"{path}: is not a text file ({error}); give CSV, JSON lines or Parquet") from error
    raise UserError(f"{path}: is empty; a trace needs at least one request")


def read_csv(path: Path) -> Table:
    """All columns of a CSV file with a header (naming some would make pandas pass over rows with stray commas)."""
    import pandas as pd

    first_line(path)
    _check_width(path)
    try:
        frame = pd.read_csv(
            path,
            engine="c",
            low_memory=False,
            encoding="utf-8-sig",
            skipinitialspace=True,
            **_exact_floats(pd.__version__),
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError, ValueError) as error:
        reason = " ".join(str(error).replace("Error tokenizing data. C error: ", "").split())
        raise UserError(f"{path}: is not a well-formed CSV file: {reason}") from error
    frame.columns = [column.strip() for column in frame.columns]
    return Table(
        path=path,
        columns={column: frame[column] for column in frame.columns},
        num_rows=len(frame),
        place=lambda row: f"{path}: line {_csv_line(path, row)}",
    )


def read_jsonl(path: Path) -> Table:
    """One JSON object per line; columns are the keys of the first object, absent keys are empty cells."""
    import pandas as pd

    first_line(path)
    objects: list[dict[str, Any]] = []
    lines: list[int] = []
    for line_number, item in json_lines(path):
        objects.append(item)
        lines.append(line_number)
    keys = dict.fromkeys(key for item in objects[:1000] for key in item)
    return Table(
        path=path,
        columns={key: _series(pd, [item.get(key) for item in objects]) for key in keys},
        num_rows=len(objects),
        place=lambda row: f"{path}: line {lines[row]}",
    )


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of every line that is not blank."""
    with open_text(path) as file:
        for line_number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                item = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{path}: line {line_number}: is not JSON: {error.msg} at column {error.colno}"
                ) from None
            if not isinstance(item, dict):
                raise UserError(f"{path}: line {line_number}: is not a JSON object; write one {{...}} per line")
            yield line_number, item


def read_parquet(path: Path) -> Table:
    """All columns of a Parquet file."""
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except ImportError as error:
        raise UserError(f"{path}: Parquet needs pyarrow; pip install 'apex-sim[parquet]', or convert to CSV") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is not a readable Parquet file: {' '.join(str(error).split())}") from error
    return Table(
        path=path,
        columns={str(column): frame[column] for column in frame.columns},
        num_rows=len(frame),
        place=lambda row: f"{path}: row {row + 1}",
    )


def _check_width(path: Path) -> None:
    """Refuse a first row longer than the header: pandas would take its first cell for an index and shift the rest."""
    with open_text(path) as file:
        reader = csv.reader(file)
        filled = (cells for cells in reader if cells)
        header, row = next(filled, []), next(filled, [])
        if len(row) > len(header):
            raise UserError(
                f"{path}: line {reader.line_num}: {len(row)} cells, the header has {len(header)}; look for stray commas"
            )


def _exact_floats(pandas_version: str) -> dict[str, str]:
    """From 3.1 on pandas reads floats exactly by default and deprecates the argument."""
    major, minor = (int(part) for part in pandas_version.split(".")[:2])
    return {} if (major, minor) >= (3, 1) else {"float_precision": "round_trip"}


def _series(pd: Any, cells: list[Any]) -> Any:
    if cells and isinstance(cells[0], int | float) and not isinstance(cells[0], bool):
        try:
            return pd.Series(np.array(cells, dtype=np.float64))
        except (TypeError, ValueError):
            pass
    return pd.Series(cells, dtype=object)


def _missing(series: Any) -> Any:
    """Mask of the cells without a value."""
    empty = series.isna()
    if series.dtype.kind in "iufb":
        return empty
    return empty | series.map(lambda cell: isinstance(cell, str) and cell.strip().lower() in MISSING).astype(bool)


def _csv_line(path: Path, row: int) -> int:
    """Line of data row ``row`` as an editor counts it: the header and blank lines count."""
    with open_text(path) as file:
        reader = csv.reader(file)
        filled = (reader.line_num for cells in reader if cells)
        next(filled, None)
        for index, line in enumerate(filled):
            if index == row:
                return line
    return row + 2
