"""The table of a sweep: a row per point in the order of the design, the same bytes whatever the way there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apex_sim.files import write_atomically
from apex_sim.sweeps.design import Point
from apex_sim.sweeps.spec import OWN_COLUMNS

if TYPE_CHECKING:
    import pandas as pd


def columns_of(points: Sequence[Point], rows: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Column -> values of the points that have a row: settings that vary, status and reason, fields of ``summary``."""
    present = [point for point in points if point.key in rows]
    names = list(points[0].chosen) if points else []
    columns: dict[str, list[Any]] = {name: [point.chosen[name] for point in present] for name in names}
    columns |= {"key": [point.key for point in present]}
    for name in OWN_COLUMNS[1:]:
        columns[name] = [rows[point.key].get(name) for point in present]
    summaries = [rows[point.key].get("summary", {}) for point in present]
    for field in dict.fromkeys(field for summary in summaries for field in summary):
        if field not in columns:
            columns[field] = [summary.get(field) for summary in summaries]
    return {name: _uniform(values) for name, values in columns.items()}


def _uniform(values: list[Any]) -> list[Any]:
    """One kind of value per column: numbers, booleans or text; lists and mappings become JSON."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int} or kinds <= {bool} or kinds <= {str}:
        return values
    if kinds <= {int, float}:
        return [None if value is None else float(value) for value in values]
    return [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]


def frame_of(columns: Mapping[str, list[Any]]) -> pd.DataFrame:
    """The same as a frame; columns of numbers are numbers, missing ones NaN."""
    import pandas as pd

    def series(values: list[Any]) -> pd.Series:
        known = [value for value in values if value is not None]
        if known and all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
            return pd.Series(values, dtype=float if len(known) < len(values) or isinstance(known[0], float) else int)
        return pd.Series(
            values, dtype=bool if known and len(known) == len(values) and known[0] in (True, False) else object
        )

    return pd.DataFrame({name: series(values) for name, values in columns.items()})


def write_tables(folder: Path, stem: str, columns: Mapping[str, list[Any]]) -> list[Path]:
    """``stem.csv``, and ``stem.parquet`` where pyarrow is there; each replaces the one before in one step."""
    csv = folder / f"{stem}.csv"
    write_atomically(csv, lambda path: _csv(path, columns))
    parquet = folder / f"{stem}.parquet"
    if find_spec("pyarrow") is None:
        parquet.unlink(missing_ok=True)
        return [csv]
    write_atomically(parquet, lambda path: _parquet(path, columns))
    return [parquet, csv]


def _csv(path: Path, columns: Mapping[str, list[Any]]) -> None:
    import csv

    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(columns)
        out.writerows(zip(*columns.values(), strict=True))


def _parquet(path: Path, columns: Mapping[str, list[Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = {name: pa.array(values, type=_arrow(values, pa)) for name, values in columns.items()}
    pq.write_table(pa.table(fields), path)


def _arrow(values: list[Any], pa: Any) -> Any:
    """Type of a column; one that is empty everywhere is text."""
    kind = next((type(value) for value in values if value is not None), str)
    return {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: pa.string()}[kind]
