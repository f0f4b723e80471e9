"""Reads a table of MaxTput per GPU and size: the JSON of the published solver, and of the cases made with it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hardware_profiles.errors import UserError
from planners.fleet.grid import cells, open_loop_rate_per_s
from planners.fleet.problem import FleetProblem, Floats, GpuType, Size
from workloads.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticks:
    """Upper ends of the cells [tokens]."""

    inputs: tuple[float, ...]
    outputs: tuple[float, ...]
    inputs_in_rows: bool
    """False: rows are output lengths, columns input lengths."""


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
    ticks: Ticks | str
    """What is wrong with them, when there are none to use."""

    def of_trace(self, trace: Trace) -> tuple[Profile, npt.NDArray[np.int64], int]:
        """(the same table with a trace's sizes and rate, int64[requests] cell of each, requests beyond the grid)."""
        if isinstance(self.ticks, str):
            raise UserError(
                f"{self.place}: {self.ticks}, so no trace can be put on its grid; give input_ticks and output_ticks, "
                "rising token counts, one for each row and column"
            )
        inputs, outputs = self.ticks.inputs, self.ticks.outputs
        rate, cell = open_loop_rate_per_s(trace), cells(trace, inputs, outputs)
        if not self.ticks.inputs_in_rows:
            cell = cell % len(outputs) * len(inputs) + cell // len(outputs)
        weights = np.bincount(cell, minlength=self.weights.size).reshape(self.weights.shape) / len(trace)
        beyond = int(((trace.input_tokens > inputs[-1]) | (trace.output_tokens > outputs[-1])).sum())
        return replace(self, weights=weights, rate_per_s=rate), cell, beyond

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
    ticks = _ticks(data, weights.shape)
    return Profile(
        place=place,
        weights=weights,
        rate_per_s=_number(data, "total_request_rate", place),
        slice_factor=factor,
        usd_per_hour=costs,
        tputs=tputs,
        names=_names(ticks, weights.shape),
        ticks=ticks,
    )


def _ticks(data: dict[str, Any], shape: tuple[int, ...]) -> Ticks | str:
    """Of a grid with input lengths in rows, or (when only that fits) in columns; else what is wrong with them."""
    found = []
    for field in ("input_ticks", "output_ticks"):
        value = data.get(field)
        if value is None:
            return "has no ticks"
        if not (
            isinstance(value, list)
            and value
            and all(not isinstance(v, bool) and isinstance(v, int | float) and 0 < v < math.inf for v in value)
            and all(a < b for a, b in pairwise(value))
        ):
            return f"{field} is {_shown(value)}, not rising token counts"
        found.append(tuple(value))
    inputs, outputs = found
    lengths = (len(inputs), len(outputs))
    if shape not in (lengths, lengths[::-1]):
        return f"{lengths[0]} input_ticks and {lengths[1]} output_ticks do not fit a grid of {shape[0]} x {shape[1]}"
    return Ticks(inputs=inputs, outputs=outputs, inputs_in_rows=shape == lengths)


def _names(ticks: Ticks | str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Cells by the ticks of the grid, else by row and column."""
    if isinstance(ticks, str):
        return tuple(f"row {i}, column {k}" for i in range(shape[0]) for k in range(shape[1]))
    if ticks.inputs_in_rows:
        return tuple(f"{a} in / {b} out" for a in ticks.inputs for b in ticks.outputs)
    return tuple(f"{a} in / {b} out" for b in ticks.outputs for a in ticks.inputs)


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
