"""Fleets that change over the day: brute force, what a static fleet costs, windows of a trace."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planners.fleet.ilp import plan_fleet
from planners.fleet.problem import FleetProblem, GpuType, Size, instances, type_loads
from planners.fleet.schedule import Day, started, stopped, windows_of
from planners.fleet.schedule_ilp import plan_day, window_of
from workloads.trace import Trace

TPUT = np.array([[1.0, 3.1], [0.4, 2.0]])
PRICES = (1.0, 2.3)


def windows(day, **options):
    return [window_of(problem, **options) for problem in day.windows]


def _window(rates, tput=TPUT, slices=2, limits=(None, None)):
    types = tuple(
        GpuType(name=f"g{j}", usd_per_hour=p, limit=k) for j, (p, k) in enumerate(zip(PRICES, limits, strict=True))
    )
    sizes = tuple(Size(name=f"s{b}", rate_per_s=rate) for b, rate in enumerate(rates))
    return FleetProblem(types=types, sizes=sizes, max_tput_per_s=tput, slice_factor=slices)


def _day(rates, startup_s, hours=None, **options):
    hours = np.ones(len(rates)) if hours is None else np.array(hours)
    parts = tuple(_window(row, **options) for row in rates)
    return Day(windows=parts, starts_s=np.cumsum(hours) - hours, hours=hours, startup_s=startup_s)


def _enough(problem):
    """Sets of instances that serve a window, none larger than needed in both types."""
    one = [s for s in itertools.product(range(problem.slice_factor + 1), repeat=2) if sum(s) == problem.slice_factor]
    zero = [(0, 0)]
    splits = [one if rate > 0 else zero for rate in problem.rates_per_s.tolist()]
    found = set()
    for plan in itertools.product(*splits):
        slices = np.array(plan)
        if np.isfinite(problem.loads[slices > 0]).all():
            found.add(tuple(instances(load) for load in type_loads(problem, slices).tolist()))
    return found


def _brute(day):
    """Dynamic programme over windows: counts are any that hold a set that is enough."""
    enough = [_enough(w) for w in day.windows]
    most = max(max(c) for sets in enough for c in sets)
    every = list(itertools.product(range(most + 1), repeat=2))
    prices = day.windows[0].usd_per_hour
    best: dict[tuple[int, ...], float] = {}
    for w, sets in enumerate(enough):
        served = [c for c in every if any(c[0] >= s[0] and c[1] >= s[1] for s in sets)]
        run = {c: float(day.hours[w] * (prices @ c)) for c in served}
        if w:
            ahead = {
                c: min(
                    cost + day.startup_hours * float(prices @ np.maximum(np.array(c) - np.array(before), 0))
                    for before, cost in best.items()
                )
                for c in served
            }
            run = {c: run[c] + ahead[c] for c in served}
        best = run
    return min(best.values())


RATES = st.sampled_from([0.0, 0.4, 1.3, 2.9])


@given(
    rates=st.lists(st.tuples(RATES, RATES), min_size=1, max_size=4),
    startup_s=st.sampled_from([0.0, 300.0, 3600.0, 36000.0]),
    half=st.booleans(),
)
@settings(max_examples=20, deadline=None)
def test_the_day_costs_what_brute_force_finds(rates, startup_s, half):
    hours = [1.0] * (len(rates) - 1) + [0.5 if half else 1.0]
    day = _day(rates, startup_s, hours)
    parts = windows(day, gap=None, time_limit_s=30)
    static = plan_day(day, parts, static=True)
    plan = plan_day(day, parts, start=static)
    best = _brute(day)
    assert plan.usd == pytest.approx(best, abs=1e-6)
    assert plan.bound_usd == pytest.approx(best, abs=1e-5)
    assert plan.usd <= static.usd + 1e-9
    assert (static.counts == static.counts[0]).all()
    alone = sum(h * p.alone.usd_per_hour for h, p in zip(hours, parts, strict=True))
    assert alone <= plan.usd + 1e-9
    for problem, counts, slices in zip(day.windows, plan.counts, plan.slices, strict=True):
        assert (type_loads(problem, slices) <= counts + 1e-7).all()


def test_dear_starts_keep_instances_through_a_dip_and_free_ones_do_not():
    rates = [(2.9, 2.9), (0.4, 0.0), (2.9, 2.9)]
    dear, free = _day(rates, 36000.0), _day(rates, 0.0)
    kept = plan_day(dear, windows(dear, gap=None, time_limit_s=30))
    let_go = plan_day(free, windows(free, gap=None, time_limit_s=30))
    assert not started(kept.counts).any() and not stopped(kept.counts[:2]).any()
    assert started(let_go.counts)[2].sum() == stopped(let_go.counts)[1].sum() > 0
    assert let_go.usd == pytest.approx(sum(plan_fleet(w).usd_per_hour for w in free.windows))


def test_windows_hold_every_request_and_the_last_may_be_short():
    arrivals = np.arange(0.0, 90.0, 1.0) + 5.0
    ones = np.ones(90, dtype=np.int64)
    trace = Trace(arrival_s=arrivals, input_tokens=ones, output_tokens=ones, name="t")
    of, lengths = windows_of(trace, 40.0)
    assert np.bincount(of).tolist() == [40, 40, 10]
    assert lengths.tolist() == pytest.approx([40.0, 40.0, 10.0])
