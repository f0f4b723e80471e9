"""Reads measured kernel tables (CSV) into columns; knows the files' names for dtypes, nothing about fitting."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hardware_profiles.errors import UserError

Column = npt.NDArray[Any]
FloatColumn = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

SOURCE = "NVIDIA AIConfigurator operator tables, commit 095f58a (Apache-2.0)"
PROFILE_SOURCE = "LLMServingSim per-layer profiles of vLLM 0.19 (MIT)"
EAGER_PROFILE_SOURCE = "LLMServingSim per-layer torch profiles, v0 (MIT)"


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of one CSV file in file order; numeric columns are float64 with NaN for blanks, others are strings."""

    name: str
    columns: Mapping[str, Column]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def __getitem__(self, column: str) -> Column:
        try:
            return self.columns[column]
        except KeyError:
            raise UserError(f"{self.name}: has no column '{column}'; give the table this reader was made for") from None

    def where(self, mask: Mask) -> Table:
        """The rows for which ``mask`` is true."""
        return Table(self.name, {name: values[mask] for name, values in self.columns.items()})

    def select(self, **equals: str | float | Sequence[str] | Sequence[float]) -> Table:
        """The rows whose columns equal the given value, or one of the given values."""
        mask = np.ones(len(self), dtype=bool)
        for column, wanted in equals.items():
            values = [wanted] if isinstance(wanted, (str, int, float)) else list(wanted)
            mask &= np.isin(self[column], np.array(values))
        return self.where(mask)

    def distinct(self, column: str) -> list[Any]:
        """Sorted distinct values of a column."""
        return sorted(set(self[column].tolist()))

    def describe(self, *columns: str) -> str:
        """Distinct combinations of some columns, for a fit's source: 'vllm 0.24.0, trtllm 1.3.0rc20'."""
        rows = zip(*(self[c].tolist() for c in columns), strict=True)
        return ", ".join(" ".join(str(v) for v in row) for row in sorted(set(rows)))


def read_table(path: Path) -> Table:
    """Read a CSV file with a header line. A column is numeric when every non-blank value in it is."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            rows = [row for row in reader if row]
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); give the folder with the kernel tables as --data"
        ) from error
    return Table(path.name, {name: _column([row[i] for row in rows]) for i, name in enumerate(header)})


def joined(first: Table, second: Table) -> Table:
    """Rows of both, in the columns they share."""
    shared = [name for name in first.columns if name in second.columns]
    columns = {name: np.concatenate([first[name], second[name]]) for name in shared}
    return Table(f"{first.name}, {second.name}", columns)


def _column(texts: list[str]) -> Column:
    try:
        return np.array([float(t) if t else np.nan for t in texts], dtype=np.float64)
    except ValueError:
        return np.array(texts, dtype=np.str_)
