"""The rows of a sweep that nothing beats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from apex_sim.sweeps.expressions import parse
from hardware_profiles.errors import UserError, unknown_name

if TYPE_CHECKING:
    import pandas as pd

MORE_IS_BETTER = (
    "throughput",
    "goodput",
    "attainment",
    "mfu",
    "utilisation",
    "hit_rate",
    "completed",
    "rate",
    "acceptance_length",
)
"""Columns that end so are better when they are larger; the others when they are smaller."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A column and whether more of it is better."""

    column: str
    more: bool


def split_goals(text: str | Sequence[str]) -> list[tuple[str, str]]:
    """min, max or nothing, and the column, for every part."""
    parts = [part.strip() for part in (text.split(",") if isinstance(text, str) else text)]
    if len(parts) < 2:
        raise UserError(f"--pareto is {text!r}; name two columns or more, for example p95_tpot_ms,output_throughput")
    found: list[tuple[str, str]] = []
    for part in parts:
        way, name = split_way(part, "--pareto")
        if any(name == other for _, other in found):
            raise UserError(f"--pareto: {name!r} is named twice; leave it once")
        found.append((way, name))
    return found


def split_way(part: str, flag: str) -> tuple[str, str]:
    """``max:rate`` is max and rate; without a direction the first is empty."""
    way, colon, name = part.partition(":")
    if not colon:
        return "", part
    if way not in ("min", "max"):
        raise UserError(f"{flag}: {part!r} begins with {way!r}; use min: or max:")
    return way, name


def parse_goals(text: str | Sequence[str], columns: Sequence[str]) -> list[Goal]:
    """``usd_per_hour,max:output_throughput``: columns with their direction, which is known for most."""
    return [goal_of(way, name, columns) for way, name in split_goals(text)]


def goal_of(way: str, name: str, columns: Sequence[str]) -> Goal:
    """A column that exists; ``way`` is min, max or nothing where the name tells it."""
    if name not in columns:
        raise unknown_name("column", name, columns)
    more = name.endswith(MORE_IS_BETTER) or name.removesuffix("_per_gpu").endswith(MORE_IS_BETTER)
    return Goal(name, more if not way else way == "max")


def good_rows(frame: pd.DataFrame, condition: str | None) -> pd.DataFrame:
    """Rows that succeeded and meet a condition such as ``slo_attainment >= 0.99``."""
    good = frame[frame["status"] == "ok"]
    if condition is None:
        return good
    test = parse(condition, "--where", lambda name: name in frame.columns)
    rows = good.astype(object).where(good.notna(), None).to_dict("records")
    return good[[_holds(test, {str(k): v for k, v in row.items()}) for row in rows]]


def _holds(test: Any, row: dict[str, Any]) -> bool:
    """A row that lacks a figure the condition compares does not meet it."""
    try:
        return bool(test.holds(row))
    except UserError:
        if any(row.get(name) is None for name in test.names):
            return False
        raise


def front_of(frame: pd.DataFrame, goals: Sequence[Goal]) -> pd.DataFrame:
    """Rows that no other row equals or beats in every goal and beats in one, best in the first goal first."""
    import numpy as np

    for goal in goals:
        if frame[goal.column].map(type).isin((str, list)).any():
            raise UserError(f"--pareto: column {goal.column!r} is text; name a column of numbers")
    table = frame[[goal.column for goal in goals]].astype(float)
    known = frame[table.notna().all(axis=1)]
    signs = np.array([-1.0 if goal.more else 1.0 for goal in goals])
    costs = table.loc[known.index].to_numpy() * signs
    order = np.lexsort([np.arange(len(costs)), *costs.T[::-1]])
    kept: list[int] = []
    front = np.empty((0, len(goals)))
    for i in order:
        no_worse = (front <= costs[i]).all(axis=1)
        if not (no_worse & (front < costs[i]).any(axis=1)).any():
            kept.append(int(i))
            front = np.vstack([front, costs[i]])
    return known.iloc[kept]


def sweep_front(frame: pd.DataFrame, pareto: str | Sequence[str], where: str | None = None) -> pd.DataFrame:
    """Rows of a sweep's frame that no other beats in the columns of ``pareto``, ``"usd_per_hour,max:output_throughput"``;
    ``where``: only among rows that meet a condition, ``"slo_attainment >= 0.99"``."""
    return front_of(good_rows(frame, where), parse_goals(pareto, list(frame.columns)))
