"""A trace as a histogram over (input, output) lengths: the cells, their rates and which request lies in which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hardware_profiles.errors import UserError
from planners.fleet.problem import Size
from workloads.trace import Trace

INPUT_TICKS = (25, 100, 250, 500, 1000, 2000, 4000, 8000, 12000, 16000, 32000, 64000, 128000)
OUTPUT_TICKS = (25, 100, 250, 500, 1000, 2000, 4000, 8000)
"""Upper ends of the cells [tokens]: the ticks of Mélange's figure 5, continued for longer contexts."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Histogram:
    """The cells that have requests."""

    sizes: tuple[Size, ...]
    cell: npt.NDArray[np.int64]
    """int64[requests]: index of each request's cell in ``sizes``."""


def open_loop_rate_per_s(trace: Trace) -> float:
    """Rate of a trace; UserError when it has none to plan for."""
    if trace.concurrency is not None:
        raise UserError(
            f"{trace.name}: a closed loop has no request rate to plan for; give --rate or a trace with times"
        )
    rate = trace.request_rate_per_s
    if not np.isfinite(rate):
        raise UserError(f"{trace.name}: all requests arrive at once, so there is no rate to plan for; give --rate")
    return rate


def cells(
    trace: Trace, input_ticks: Sequence[float] = INPUT_TICKS, output_ticks: Sequence[float] = OUTPUT_TICKS
) -> npt.NDArray[np.int64]:
    """int64[requests]: row by row, the cell of each request. Ticks are upper ends; what exceeds the last tick counts
    as the last."""
    rows = np.searchsorted(input_ticks[:-1], trace.input_tokens)
    columns = np.searchsorted(output_ticks[:-1], trace.output_tokens)
    return (rows * len(output_ticks) + columns).astype(np.int64)


def histogram(trace: Trace) -> Histogram:
    """Cells of a trace that plays in open loop; a cell stands for the mean of its requests."""
    rate = open_loop_rate_per_s(trace)
    keys, cell = np.unique(cells(trace), return_inverse=True)
    counts = np.bincount(cell)
    inputs = np.bincount(cell, weights=trace.input_tokens) / counts
    outputs = np.bincount(cell, weights=trace.output_tokens) / counts
    sizes = tuple(
        Size(
            name=_name(int(key), float(inputs[i]), float(outputs[i])),
            rate_per_s=rate * float(counts[i]) / len(trace),
            input_tokens=float(inputs[i]),
            output_tokens=float(outputs[i]),
        )
        for i, key in enumerate(keys.tolist())
    )
    return Histogram(sizes=sizes, cell=cell.astype(np.int64))


def nearest(grid: Histogram, trace: Trace) -> npt.NDArray[np.int64]:
    """int64[requests]: cell of ``grid`` whose mean is nearest to each request of another trace, by ratios of lengths."""
    means = np.log(np.array([(size.input_tokens or 1.0, size.output_tokens or 1.0) for size in grid.sizes]))
    lengths, back = np.unique(np.stack((trace.input_tokens, trace.output_tokens), axis=1), axis=0, return_inverse=True)
    cell = np.array([int(np.argmin(((means - row) ** 2).sum(axis=1))) for row in np.log(lengths)], dtype=np.int64)
    return cell[back.ravel()]


def _name(key: int, inputs: float, outputs: float) -> str:
    """By the cell's upper ends; beyond the last tick, by its mean."""
    row, column = divmod(key, len(OUTPUT_TICKS))
    first = INPUT_TICKS[row] if inputs <= INPUT_TICKS[row] else round(inputs)
    second = OUTPUT_TICKS[column] if outputs <= OUTPUT_TICKS[column] else round(outputs)
    return f"{first} in / {second} out"
