"""Settings for good instead of a manager: the planning ILP fed by the simulated servers, its row run over the whole time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planners.oversubscribe.ilp import Option, RowPlan, RowProblem, ServerClass, plan_row
from planners.oversubscribe.library import LEVELS, Entry
from planners.oversubscribe.row import planned_w, readings
from planners.oversubscribe.services import SLOS, Priority, Service, allot
from planners.oversubscribe.study import Study
from simulator.physics.sums import in_order

PEAK_LEVEL = LEVELS.index(1.0)
WEIGHTS: dict[Priority, float] = {"high": 10.0, "low": 1.0}
"""Worth of throughput in the plan: high priority first (any ratio well above 1 does)."""
MOST_EXTRA = 1.0
"""Servers that the plan may add, as a share of those that are there."""
PERIOD_S = 2
"""Of the readings that the simulated plan is judged by, as the manager's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticPlan:
    """The ILP's answer, and its promise checked on the row."""

    problem: RowProblem
    plan: RowPlan
    peak: float | None = None
    """Highest power of the planned row in any second, as a share of the budget."""
    rack_peak: float | None = None
    """Highest reading of any rack, as a share of a rack's budget; None without racks."""


def plan_static(study: Study, spike_reserve: float = 0.0, *, first: bool = False) -> StaticPlan:
    """Solve the planning ILP and run its row over the whole time at the planned settings. ``first``: high priority first,
    then low, in place of weights."""
    problem = row_problem(study, spike_reserve)
    plan = plan_row(problem, first=first)
    if not plan.counts:
        return StaticPlan(problem=problem, plan=plan)
    options = tuple(c.options for c in problem.classes)
    setting = study.setting
    racks_w = planned_w(study.library, setting.services, options, plan.rack_counts, study.load, setting.seed)
    rack_budget_w = study.rack_budget_w
    return StaticPlan(
        problem=problem,
        plan=plan,
        peak=float(racks_w.sum(axis=0).max()) / study.budget_w,
        rack_peak=None if rack_budget_w is None else float(readings(racks_w, PERIOD_S).max()) / rack_budget_w,
    )


def row_problem(study: Study, spike_reserve: float = 0.0) -> RowProblem:
    """The ILP's data from the simulated servers at the day's peak.

    P_cf: mean power of a server, times the row's highest power over the sum of these means (servers do not peak
    together, bursts lift all); T_cf: what clients that wait for each answer get; lambda_cf: the increase of the 99th
    percentile, which the SLO of that percentile limits.
    """
    setting, library = study.setting, study.library
    counts = allot(setting.num_servers, setting.services)
    free = [library.entry(s, library.max_mhz, PEAK_LEVEL) for s in setting.services]
    means = [float(entry.power_w.mean()) for entry in free]
    peak_factor = study.base_peak_w / in_order(n * w for n, w in zip(counts, means, strict=True))
    classes = tuple(
        ServerClass(
            name=service.label,
            count=count,
            weight=WEIGHTS[service.priority],
            slo_latency_factor=1 + SLOS[service.priority].p99,
            slo_median_factor=1 + SLOS[service.priority].p50,
            options=_options(study, service, entry, peak_factor),
            max_count=count + int(MOST_EXTRA * count),
        )
        for service, count, entry in zip(setting.services, counts, free, strict=True)
    )
    return RowProblem(
        classes=classes,
        budget=study.budget_w,
        spike_reserve=spike_reserve,
        keep_mix=True,
        racks=setting.racks,
        rack_budget=None if study.rack_budget_w is None else study.rack_budget_w * peak_factor / _rack_factor(study),
    )


def _rack_factor(study: Study) -> float:
    """As the row's factor, of the racks: fewer servers peak together more often. Highest reading of a rack of the row as it
    was over the sum of its servers' means; the largest over the racks."""
    setting, library = study.setting, study.library
    row = study.row(setting.num_servers)
    peaks_w = readings(row.uncapped_rack_w(library.max_mhz), PERIOD_S).max(axis=1)
    means_w, placed = np.zeros(setting.racks), 0
    for service, count in zip(setting.services, row.counts, strict=True):
        mean_w = float(library.entry(service, library.max_mhz, PEAK_LEVEL).power_w.mean())
        for _ in range(count):
            means_w[placed % setting.racks] += mean_w
            placed += 1
    return float((peaks_w / means_w).max())


def _options(study: Study, service: Service, free: Entry, peak_factor: float) -> tuple[Option, ...]:
    library = study.library
    clocks = [(mhz, None, library.entry(service, mhz, PEAK_LEVEL)) for mhz in study.clocks_mhz[service.priority]]
    caps = [
        (library.max_mhz, cap_w, library.capped[service.lengths, cap_w, PEAK_LEVEL])
        for cap_w in sorted(study.setting.caps_w, reverse=True)
    ]
    return tuple(
        Option(
            mhz=mhz,
            cap_w=cap_w,
            power=float(entry.power_w.mean()) * peak_factor,
            throughput=float(free.e2e_s.mean() / entry.e2e_s.mean()),
            latency_factor=float(np.quantile(entry.e2e_s, 0.99) / np.quantile(free.e2e_s, 0.99)),
            median_factor=float(np.median(entry.e2e_s) / np.median(free.e2e_s)),
        )
        for mhz, cap_w, entry in (*clocks, *caps)
    )
