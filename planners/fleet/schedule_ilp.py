"""The programme over all windows of a day: build, solve, decode.

min sum_w sum_j c_j (h_w B_wj + u s_wj), s_wj >= B_wj - B_(w-1)j, s >= 0, with h_w the window's hours and u those of a
start; every window serves its load. As for one fleet, first in the space of counts (a window's rows, planners.fleet.
counts, are in its own B), then, where whole slices leave a gap and the day is small, with all slices as variables.
``static``: the same B in all windows, which makes the best fixed fleet.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from planners.fleet.carry import Carrier
from planners.fleet.counts import SCALE, slices_within, strong_row
from planners.fleet.ilp import plan_fleet
from planners.fleet.problem import FULL, Fleet, FleetProblem, Floats, Slices
from planners.fleet.schedule import Day, Schedule
from planners.solver import relative_gap, solve

ROUNDS = 40
NODES = 2_000
WHOLE = 1_500
"""Pairs of window, size and type up to which slices are variables of one programme."""
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A window with what is known about it."""

    problem: FleetProblem
    alone: Fleet
    """The cheapest fleet of the window by itself."""
    carrier: Carrier | None
    """None without requests."""
    rows: list[Floats]
    known: dict[bytes, Slices | None]
    """Plans tried, by counts."""


@dataclass(frozen=True, slots=True)
class Model:
    """The programme and its variables."""

    problem: Any
    B: list[list[Any]]
    n: dict[tuple[int, int, int], Any]
    """Slices by window, size and type; empty in the space of counts."""


def window_of(problem: FleetProblem, *, gap: float | None, time_limit_s: float | None) -> Window:
    """A window planned by itself, with the rows that came of it."""
    alone = plan_fleet(problem, gap=gap, time_limit_s=time_limit_s)
    carrier = Carrier(problem) if (problem.rates_per_s > 0).any() else None
    rows = list(alone.rows)
    if alone.bound_usd_per_hour:
        rows.append(problem.usd_per_hour / alone.bound_usd_per_hour)
    return Window(problem, alone, carrier, rows, {})


def build(day: Day, parts: list[Window], *, static: bool, whole: bool) -> Model:
    """The programme; ``whole``: with the slices of all windows."""
    import pulp

    problem, prices = pulp.LpProblem("day", pulp.LpMinimize), day.windows[0].usd_per_hour.tolist()
    types = day.windows[0].types
    B: list[list[Any]] = []
    dollars = []
    for w, hours in enumerate(day.hours.tolist()):
        if static and w:
            B.append(B[0])
        else:
            B.append([problem.add_variable(f"B_{w}_{j}", 0, t.limit, pulp.LpInteger) for j, t in enumerate(types)])
        dollars += [price * hours * B[w][j] for j, price in enumerate(prices)]
    rows = []
    for w in range(0 if static else 1, 0 if static else len(B)):
        for j, price in enumerate(prices):
            start = problem.add_variable(f"s_{w}_{j}", 0)
            dollars.append(price * day.startup_hours * start)
            rows.append((start >= B[w][j] - B[w - 1][j], f"starts_of_type_{j}_for_window_{w}"))
    problem += pulp.lpSum(dollars), "usd"
    for row, name in rows:
        problem += row, name
    n: dict[tuple[int, int, int], Any] = {}
    for w, part in enumerate(parts):
        for i, values in enumerate(part.rows):
            held = pulp.lpSum(SCALE * value * B[w][j] for j, value in enumerate(values.tolist()) if value > 0)
            problem += held >= SCALE * (1 - FULL), f"capacity_of_window_{w}_at_prices_{i}"
        if whole:
            _slices(problem, part.problem, w, B[w], n)
    return Model(problem, B, n)


def _slices(problem: Any, fleet: FleetProblem, w: int, B: list[Any], n: dict[tuple[int, int, int], Any]) -> None:
    """Equations (2) and (3) of one window."""
    import pulp

    loads, slices = fleet.loads, fleet.slice_factor
    for b in np.flatnonzero(fleet.rates_per_s > 0).tolist():
        for j in np.flatnonzero(np.isfinite(loads[b])).tolist():
            n[w, b, j] = problem.add_variable(f"n_{w}_{b}_{j}", 0, slices, pulp.LpInteger)
        served = pulp.lpSum(n[w, b, j] for j in range(len(B)) if (w, b, j) in n)
        problem += served == slices, f"every_slice_of_size_{b}_in_window_{w}_is_served"
    for j, count in enumerate(B):
        load = pulp.lpSum(SCALE * float(loads[b, j]) / slices * v for (x, b, k), v in n.items() if (x, k) == (w, j))
        problem += load <= SCALE * count, f"load_of_type_{j}_in_window_{w}_within_its_instances"


def decode(model: Model) -> Counts:
    """int64[windows, types]."""
    return np.array([[round(v.value() or 0.0) for v in row] for row in model.B], dtype=np.int64)


def plan_day(
    day: Day,
    parts: list[Window],
    *,
    static: bool = False,
    start: Schedule | None = None,
    gap: float | None = None,
    time_limit_s: float | None = None,
) -> Schedule:
    """The cheapest schedule; ``static``: of one fleet for all windows. ``start``: a schedule not to fall behind."""
    started, best = time.perf_counter(), _first(day, parts, static)
    if start is not None and start.usd < best[0]:
        best = start.usd, start.counts, start.slices
    bounds = np.array([part.alone.bound_usd_per_hour for part in parts])
    bound = float(day.hours.sum() * bounds.max() if static else day.hours @ bounds)
    for aim in sorted({max(gap or 0.0, 0.01), gap or 0.0}, reverse=True):
        for _ in range(ROUNDS):
            left = None if time_limit_s is None else time_limit_s - (time.perf_counter() - started)
            if relative_gap(best[0], bound) <= aim or (left is not None and left <= 0):
                break
            model = build(day, parts, static=static, whole=False)
            run = solve(model.problem, gap=aim / 4 or None, time_limit_s=left, max_nodes=NODES, cuts=aim > 0)
            if not run.has_solution:
                break
            bound = max(bound, min(run.bound or 0.0, best[0]))
            counts, learned = decode(model), False
            plan = _serve(parts, counts)
            if plan is None:
                learned = _learn(parts, counts)
                counts = _mend(day, parts, counts, static)
                plan = _serve(parts, counts)
            if plan is not None and day.usd(counts) < best[0]:
                best = (day.usd(counts), counts, plan)
            if not learned:
                break
    if relative_gap(best[0], bound) > (gap or 0.0) and sum(p.problem.max_tput_per_s.size for p in parts) <= WHOLE:
        left = None if time_limit_s is None else max(1.0, time_limit_s - (time.perf_counter() - started))
        best, bound = _whole(day, parts, static, best, bound, gap, left)
    bound = min(bound, best[0])
    return Schedule(counts=best[1], slices=best[2], usd=best[0], bound_usd=bound, gap=relative_gap(best[0], bound))


Plan = tuple[float, Counts, tuple[Slices, ...]]


def _first(day: Day, parts: list[Window], static: bool) -> Plan:
    """Per-window fleets one after another, or the most of each type any window wants."""
    counts = np.array([part.alone.counts for part in parts], dtype=np.int64)
    most = np.tile(counts.max(axis=0), (len(parts), 1))
    if static or day.usd(most) < day.usd(counts):
        counts = most
    return day.usd(counts), counts, tuple(part.alone.slices for part in parts)


def _serve(parts: list[Window], counts: Counts) -> tuple[Slices, ...] | None:
    """Whole slices of all windows within the counts; None when one does not fit."""
    plans = []
    for part, row in zip(parts, counts, strict=True):
        plan = _fits(part, row)
        if plan is None:
            return None
        plans.append(plan)
    return tuple(plans)


def _fits(part: Window, counts: Counts) -> Slices | None:
    if part.carrier is None or (counts >= part.alone.counts).all():
        return part.alone.slices
    key = counts.tobytes()
    if key not in part.known:
        part.known[key] = slices_within(part.problem, part.carrier, counts)
    return part.known[key]


def _learn(parts: list[Window], counts: Counts) -> bool:
    """A row for every window whose counts carry too little; whether there was any."""
    learned = False
    for part, row in zip(parts, counts, strict=True):
        if part.carrier is not None and _fits(part, row) is None:
            carried = strong_row(part.carrier, row.astype(np.float64))
            if carried is not None and not carried.all and carried.row @ row < 1 - FULL:
                part.rows.append(carried.row)
                learned = True
    return learned


def _mend(day: Day, parts: list[Window], counts: Counts, static: bool) -> Counts:
    """Counts with what windows lack: one instance, the cheapest that is enough, or else the window's own fleet."""
    counts, prices = counts.copy(), day.windows[0].usd_per_hour
    order = np.argsort(prices, kind="stable").tolist()
    for w, part in enumerate(parts):
        if _fits(part, counts[w]) is not None:
            continue
        limits = [np.inf if t.limit is None else t.limit for t in part.problem.types]
        more = [counts[w] + np.eye(len(order), dtype=np.int64)[j] for j in order if counts[w, j] < limits[j]]
        own = np.maximum(counts[w], part.alone.counts)
        mended = next((row for row in more if _fits(part, row) is not None), own)
        if static:
            counts[:] = np.maximum(counts, mended)
        else:
            counts[w] = min((mended, own, np.array(part.alone.counts)), key=lambda row: float(row @ prices))
    return counts


def _whole(
    day: Day, parts: list[Window], static: bool, best: Plan, bound: float, gap: float | None, limit_s: float | None
) -> tuple[Plan, float]:
    """With all slices as variables."""
    model = build(day, parts, static=static, whole=True)
    for check in (False, True):  # CBC is wrong at times, with cutting planes or without
        run = solve(model.problem, gap=gap, time_limit_s=limit_s, cuts=check)
        if run.has_solution:
            plans = [np.zeros(part.problem.max_tput_per_s.shape, dtype=np.int64) for part in parts]
            for (w, b, j), variable in model.n.items():
                plans[w][b, j] = round(variable.value() or 0.0)
            counts = decode(model)
            if day.usd(counts) < best[0]:
                best = (day.usd(counts), counts, tuple(plans))
            if run.bound is not None and run.bound <= best[0] * (1 + 1e-6):
                bound = max(bound, run.bound)
        if run.solver != "CBC":
            break
    return best, bound
