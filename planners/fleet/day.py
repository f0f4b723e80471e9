"""A day planned, and simulated window by window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from hardware_profiles.errors import UserError
from planners.fleet.capacity import Capacity
from planners.fleet.check import Checked, check
from planners.fleet.idle import Idle
from planners.fleet.instance import Candidate, Serving
from planners.fleet.problem import Fleet, FleetProblem, Floats, type_loads
from planners.fleet.schedule import Day, Schedule
from planners.fleet.schedule_ilp import Window, plan_day, window_of
from planners.fleet.simulated import STEP
from workloads.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DayPlan:
    """Three ways through a day, and what became of the first."""

    day: Day
    """With the throughputs planned with, headroom taken off."""
    schedule: Schedule
    static: Schedule
    """The best fleet that never changes."""
    alone: tuple[Fleet, ...]
    """Every window re-solved by itself, as if starts were free."""
    headroom: Floats
    """float64[windows, types]: by how much throughputs were divided."""
    checked: tuple[Checked | None, ...] | None = None
    """Per window; None without requests, or where nothing was simulated."""


def plan(
    day: Day, headroom: Floats, known: list[Window | None], *, gap: float | None, time_limit_s: float | None
) -> DayPlan:
    """Plan a day with ``headroom``. ``known``: windows planned already, in place; None where to plan (again)."""
    eased = tuple(
        replace(w, max_tput_per_s=w.max_tput_per_s / row) for w, row in zip(day.windows, headroom, strict=True)
    )
    for w, problem in enumerate(eased):
        if known[w] is None:
            try:
                known[w] = window_of(problem, gap=gap, time_limit_s=time_limit_s)
            except UserError as error:
                raise UserError(f"window from hour {day.starts_s[w] / 3600:.2f}: {error}") from None
    parts = [part for part in known if part is not None]
    day = replace(day, windows=eased)
    static = plan_day(day, parts, static=True, gap=gap, time_limit_s=time_limit_s)
    schedule = plan_day(day, parts, start=static, gap=gap, time_limit_s=time_limit_s)
    alone = tuple(part.alone for part in parts)
    return DayPlan(day=day, schedule=schedule, static=static, alone=alone, headroom=headroom)


def keep_day_promise(
    day: Day,
    of: npt.NDArray[np.int64],
    serving: Serving,
    candidates: Sequence[Candidate],
    cell: npt.NDArray[np.int64],
    trace: Trace,
    capacity: Capacity,
    *,
    gap: float | None,
    time_limit_s: float | None,
    rounds: int,
) -> DayPlan:
    """Plan, simulate and, while a window misses the SLO's share, plan again with headroom on the types that missed it
    there, as far as limits leave room. Windows are simulated apart: what one leaves in its queues is not carried to the
    next."""
    headroom = np.ones((len(day.windows), len(candidates)))
    known: list[Window | None] = [None] * len(day.windows)
    idle = Idle(serving, candidates, cell, trace, capacity)
    rows = [np.flatnonzero(of == w) for w in range(len(day.windows))]
    simulated: dict[tuple[int, bytes, bytes], Checked | None] = {}
    found: DayPlan | None = None
    for left in range(rounds, -1, -1):
        try:
            found = plan(day, headroom, known, gap=gap, time_limit_s=time_limit_s)
        except UserError:
            if found is None:
                raise
            break  # limits leave no room for the headroom
        checked = []
        for w, (counts, slices) in enumerate(zip(found.schedule.counts, found.schedule.slices, strict=True)):
            key = (w, counts.tobytes(), slices.tobytes())
            if key not in simulated:
                simulated[key] = simulate_window(found, w, rows[w], serving, candidates, cell, trace, capacity)
            checked.append(simulated[key])
        found = replace(found, checked=tuple(checked))
        missed = [_missed(result, capacity.slo.attainment, len(candidates)) for result in checked]
        if not left or not any(any(row) for row in missed):
            break
        headroom, changed = headroom.copy(), False
        tput = idle.without_hopeless(day.windows[0], np.any(missed, axis=0).tolist())
        if (tput != day.windows[0].max_tput_per_s).any():
            day = replace(day, windows=tuple(replace(window, max_tput_per_s=tput) for window in day.windows))
            known = [None] * len(day.windows)
            continue
        for w, (row, result) in enumerate(zip(missed, checked, strict=True)):
            if any(row) and result is not None and idle.attainment(result, rows[w]) >= capacity.slo.attainment:
                headroom[w] = np.where(row, _more(found, w), headroom[w])
                known[w], changed = None, True
        if not changed:
            break
    assert found is not None
    return found


def simulate_window(
    plan: DayPlan,
    w: int,
    rows: npt.NDArray[np.int64],
    serving: Serving,
    candidates: Sequence[Candidate],
    cell: npt.NDArray[np.int64],
    trace: Trace,
    capacity: Capacity,
) -> Checked | None:
    """The requests of one window on that window's instances."""
    if not len(rows):
        return None
    part = Trace(
        arrival_s=trace.arrival_s[rows] - plan.day.starts_s[w],
        input_tokens=trace.input_tokens[rows],
        output_tokens=trace.output_tokens[rows],
        name=trace.name,
        source=trace.source,
    )
    counts, slices = plan.schedule.counts[w].tolist(), plan.schedule.slices[w]
    deployments = [serving.deployment(c, n) if n else None for c, n in zip(candidates, counts, strict=True)]
    return check(slices, deployments, cell[rows], part, capacity.slo, capacity.seed)


def _missed(checked: Checked | None, share: float, types: int) -> list[bool]:
    if checked is None or checked.attainment >= share:
        return [False] * types
    return [result is not None and result.attainment < share for result in checked.results]


def _more(plan: DayPlan, w: int) -> Floats:
    """Headroom that fills at least the slack that rounding up had left."""
    problem: FleetProblem = plan.day.windows[w]
    loads = np.maximum(type_loads(problem, plan.schedule.slices[w]), 1e-9)
    slack: Floats = np.clip(plan.schedule.counts[w] / loads, 1.0, 1.5)
    more: Floats = plan.headroom[w] * np.maximum(STEP, slack * 1.001)
    return more
