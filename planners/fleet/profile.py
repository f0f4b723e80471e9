"""Reads a table of MaxTput per GPU and size: the JSON of the published solver, and of the cases made with it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardware_profiles.errors import UserError
from planners.fleet.problem import FleetProblem, Floats, GpuType, Size


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Profile:
    """What the file says: ``workload_distribution`` (weights, not normalised), ``total_request_rate`` [1/s],
    ``slice_factor``, ``gpu_info`` {name: {cost [$/h], tputs [1/s]}}, and the ticks of the grid where it has them."""

    place: str
    weights: Floats
    """float64[rows, columns]."""
    rate_per_s: float
    slice_factor: int
    usd_per_hour: dict[str, float]
    tputs: dict[str, Floats]
    names: tuple[str, ...]
    """Of the cells, row by row."""

    def problem(
        self, rate_per_s: float | None, slice_factor: int | None, prices: dict[str, float], limits: dict[str, int]
    ) -> FleetProblem:
        """The planning problem, with whatever the caller overrides."""
        rate = self.rate_per_s if rate_per_s is None else rate_per_s
        types = tuple(
            GpuType(name=name, usd_per_hour=prices.get(name, cost), limit=limits.get(name))
            for name, cost in self.usd_per_hour.items()
        )
        sizes = zip(self.names, (self.weights * rate).ravel().tolist(), strict=True)
        return FleetProblem(
            types=types,
            sizes=tuple(Size(name=name, rate_per_s=value) for name, value in sizes),
            max_tput_per_s=np.stack([self.tputs[t.name].ravel() for t in types], axis=1),
            slice_factor=self.slice_factor if slice_factor is None else slice_factor,
        )


def read_profile(path: Path) -> Profile:
    """Read and check the file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--profile {path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"--profile {path}: is not JSON: {error}") from None
    place = path.name
    if not isinstance(data, dict):
        raise UserError(f"{place}: holds a {type(data).__name__}; it must be an object with gpu_info (docs/gpus.md)")
    weights = _grid(data, "workload_distribution", place)
    info = data.get("gpu_info")
    if not isinstance(info, dict) or not info:
        raise UserError(f"{place}: gpu_info is {_shown(info)}; it must map GPU names to cost and tputs")
    costs, tputs = {}, {}
    for name, entry in info.items():
        where = f"{place}: gpu_info.{name}"
        if not isinstance(entry, dict):
            raise UserError(f"{where} is {_shown(entry)}; it must hold cost and tputs")
        costs[name] = _number(entry, "cost", where)
        tputs[name] = _grid(entry, "tputs", where)
        if tputs[name].shape != weights.shape:
            shapes = " x ".join(map(str, tputs[name].shape)), " x ".join(map(str, weights.shape))
            raise UserError(f"{where}.tputs is {shapes[0]}; workload_distribution is {shapes[1]}: they must agree")
    factor = data.get("slice_factor", 8)
    if isinstance(factor, bool) or not isinstance(factor, int):
        raise UserError(f"{place}: slice_factor is {_shown(factor)}; it must be a whole number, such as 8")
    return Profile(
        place=place,
        weights=weights,
        rate_per_s=_number(data, "total_request_rate", place),
        slice_factor=factor,
        usd_per_hour=costs,
        tputs=tputs,
        names=_names(data, weights.shape),
    )


def _names(data: dict[str, Any], shape: tuple[int, ...]) -> tuple[str, ...]:
    """Cells by the ticks of the grid, else by row and column."""
    rows, columns = data.get("input_ticks"), data.get("output_ticks")
    ticks = isinstance(rows, list) and isinstance(columns, list) and (len(rows), len(columns)) == shape
    first = rows if ticks and rows is not None else [f"row {i}" for i in range(shape[0])]
    second = columns if ticks and columns is not None else [f"column {i}" for i in range(shape[1])]
    join = " in / {} out" if ticks else ", {}"
    return tuple(f"{a}{join.format(b)}" for a in first for b in second)


def _grid(data: dict[str, Any], field: str, where: str) -> Floats:
    value = data.get(field)
    rows = value if isinstance(value, list) and value and all(isinstance(row, list) and row for row in value) else None
    if rows is None or len({len(row) for row in rows}) != 1:
        raise UserError(f"{where}: {field} is {_shown(value)}; it must be rows of numbers, all of one length")
    for i, row in enumerate(rows):
        for k, cell in enumerate(row):
            if isinstance(cell, bool) or not isinstance(cell, int | float) or not 0 <= cell < math.inf:
                raise UserError(f"{where}: {field}[{i}][{k}] is {_shown(cell)}; it must be a number of at least 0")
    return np.array(rows, dtype=np.float64)


def _number(data: dict[str, Any], field: str, where: str) -> float:
    value = data.get(field)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise UserError(f"{where}: {field} is {_shown(value)}; it must be a number of at least 0")
    return float(value)


def _shown(value: object) -> str:
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
