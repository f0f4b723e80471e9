"""What a request asks for by name: its adapter and its model. Columns of trace files, and draws for generated traces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hardware_profiles.errors import UserError
from workloads.streams import stream

if TYPE_CHECKING:
    from workloads.tables import Table

IntArray = npt.NDArray[np.int64]
ASSIGN = ("request", "session", "turn")
"""Who draws an adapter: every request, every session, or the turns of a session one after the other (agents in a row)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterDraw:
    """Adapters of a generated workload."""

    count: int
    popularity: str = "uniform"
    """How requests choose: ``uniform``, or ``zipf(s)`` (adapter k with weight k^-s)."""
    assign: str = "request"

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UserError(f"adapters.count is {self.count}; it must be at least 1")
        if self.assign not in ASSIGN:
            raise UserError(f"adapters.assign is '{self.assign}'; use one of {', '.join(ASSIGN)}")


def zipf_shares(count: int, exponent: float) -> npt.NDArray[np.float64]:
    """float64[count], summing to 1: adapter k (from 1) with weight k^-exponent."""
    weights = np.exp(-exponent * np.log(np.arange(1, count + 1, dtype=np.float64)))
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def draw_shares(shares: npt.NDArray[np.float64], n: int, seed: int, what: str) -> IntArray:
    """int64[n]: independent draws of an index with these shares, from the seed's stream named ``what``."""
    drawn = np.searchsorted(np.cumsum(shares), stream(seed, what).random(n), side="right")
    return np.minimum(drawn, len(shares) - 1).astype(np.int64)


def turn_numbers(previous: IntArray | None, n: int) -> IntArray:
    """int64[n]: how many turns of its session come before each request."""
    turns = np.zeros(n, dtype=np.int64)
    if previous is not None:
        for row, before in enumerate(previous.tolist()):  # earlier rows only, so they are known
            if before >= 0:
                turns[row] = turns[before] + 1
    return turns


def read_labels(table: Table) -> tuple[dict[str, IntArray], tuple[str, ...]]:
    """Columns ``adapter`` and ``model`` of a plain file, where there are any, and the names of the models."""
    found: dict[str, IntArray] = {}
    model_names: tuple[str, ...] = ()
    if "adapter" in table.columns:
        found["adapter"] = _adapters(table)
    if "model" in table.columns:
        names = table.texts("model")
        for row, name in enumerate(names):
            if not name:
                raise UserError(f"{table.place(row)}: model is missing; every row needs it")
        found["model"], model_names = _codes(names)
    return found, model_names


def _adapters(table: Table) -> IntArray:
    """Whole numbers as they are (empty or -1: none), names numbered in the order of their first appearance."""
    names = table.texts("adapter")
    try:
        numbers = [-1 if name == "" else float(name) for name in names]
    except ValueError:
        return _codes(names)[0]
    for row, number in enumerate(numbers):
        if number < -1 or number != int(number):
            raise table.error(row, "adapter", f"{number:g}", "it must be a name, or a whole number from 0 (-1: none)")
    return np.array(numbers, dtype=np.int64)


def _codes(names: list[str]) -> tuple[IntArray, tuple[str, ...]]:
    known: dict[str, int] = {}
    codes = [known.setdefault(name, len(known)) if name else -1 for name in names]
    return np.array(codes, dtype=np.int64), tuple(known)
