"""From a deployment to an answer: the budget of the row, the plan, what control makes of it, and the search over thresholds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hardware_profiles.errors import UserError
from planners.oversubscribe.controller import ControlRun, clock_mhz, control
from planners.oversubscribe.ilp import Option, RowPlan, RowProblem, ServerClass, plan_row
from planners.oversubscribe.impact import Impact, impacts
from planners.oversubscribe.library import LEVELS, Library, build_library, server_w
from planners.oversubscribe.policy import BRAKE_SHARE, Policy
from planners.oversubscribe.row import DAY_S, LoadShape, Row, build_row, largest_rise_w, load_of, locked_peak_w
from planners.oversubscribe.services import PRIORITIES, SLOS, Priority, Service, allot
from simulator.deployment import Deployment
from simulator.physics.frequency import dynamic_share, max_clock_mhz
from simulator.physics.power import idle_w_of

PEAK_LEVEL = LEVELS.index(1.0)
WEIGHTS: dict[Priority, float] = {"high": 10.0, "low": 1.0}
"""Worth of throughput in the plan: high priority first (any ratio well above 1 does)."""
MOST_EXTRA = 1.0
"""Servers that the plan may add, as a share of those that are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The row and its work. Seeds and shapes decide everything that is drawn."""

    deployment: Deployment
    """One server."""
    services: tuple[Service, ...]
    num_servers: int
    """What the budget was made for."""
    shape: LoadShape
    peak_load: float
    """Rate of a server at the day's peak, as a share of what it completes with its queue full."""
    peak_utilisation: float
    """Highest power of the row of ``num_servers``, as a share of the budget (POLCA's row: 0.79)."""
    budget_w: float | None = None
    """The budget itself [W], instead."""
    seconds: int = DAY_S
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One policy on one row."""

    num_servers: int
    policy: Policy
    row: Row
    run: ControlRun
    impacts: tuple[Impact, ...]
    uncapped_peak: float
    """Shares of the budget: highest power without control, and with it its highest and its mean."""
    peak: float
    mean: float
    brakes_per_day: float
    capped_share: dict[Priority, float]
    """Part of the time with a clock below the largest."""

    @property
    def holds(self) -> bool:
        """No brake, and every service within its SLO."""
        return self.run.num_brakes == 0 and all(i.meets_slo for i in self.impacts)


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticPlan:
    """The ILP's answer with fixed clocks, and its promise checked on the row."""

    problem: RowProblem
    plan: RowPlan
    peak: float | None
    """Highest power of the planned row over the run, as a share of the budget."""


@dataclass(eq=False)
class Study:
    """What was simulated once for a setting; rows are made when asked for."""

    setting: Setting
    library: Library
    clocks_mhz: dict[Priority, tuple[float, ...]]
    load: npt.NDArray[np.float64]
    budget_w: float
    base_peak_w: float
    base_mean_w: float
    base_rise_w: float
    """Largest rise of the row as it was within the time of one command [W]."""
    brake_server_w: float
    _rows: dict[int, Row] = field(default_factory=dict)

    def row(self, num_servers: int) -> Row:
        """The row with so many servers; the last one is kept."""
        if num_servers not in self._rows:
            s = self.setting
            self._rows = {
                num_servers: build_row(self.library, s.services, num_servers, self.load, self.clocks_mhz, s.seed)
            }
        return self._rows[num_servers]


def prepare(
    setting: Setting, policies: tuple[Policy, ...], progress: Callable[[int, int], None] | None = None
) -> Study:
    """Simulate the servers at every clock the policies use, and the row as it was."""
    max_mhz = max_clock_mhz(setting.deployment.cluster.device)
    shares = {p: {c for policy in policies for c in policy.clock_shares(p)} | {1.0} for p in PRIORITIES}
    clocks = {p: tuple(sorted((clock_mhz(c, max_mhz) for c in shares[p]), reverse=True)) for p in PRIORITIES}
    library = build_library(
        setting.deployment,
        setting.services,
        {str(p): c for p, c in clocks.items()},
        peak_load=setting.peak_load,
        seed=setting.seed,
        progress=progress,
    )
    load = load_of(setting.shape, setting.seconds, setting.seed)
    row = build_row(library, setting.services, setting.num_servers, load, clocks, setting.seed)
    power_w = row.uncapped_w(max_mhz)
    study = Study(
        setting=setting,
        library=library,
        clocks_mhz=clocks,
        load=load,
        budget_w=setting.budget_w or float(power_w.max()) / setting.peak_utilisation,
        base_peak_w=float(power_w.max()),
        base_mean_w=float(power_w.mean()),
        base_rise_w=largest_rise_w(power_w, policies[0].command_s),
        brake_server_w=_brake_server_w(setting.deployment),
    )
    if study.base_peak_w > study.budget_w:
        raise UserError(
            f"--budget-kw is {study.budget_w / 1e3:g}: the row of {setting.num_servers} servers already peaks at "
            f"{study.base_peak_w / 1e3:.0f} kW; give more, or fewer --servers"
        )
    return study


def _brake_server_w(deployment: Deployment) -> float:
    """Wall power of a braked server at full work [W]: idle, and the rest up to the TDP at the brake's clock."""
    device = deployment.cluster.device
    idle_w, tdp_w = idle_w_of(device), device.tdp_w or 0.0
    devices_w = deployment.plan.devices_per_replica * (idle_w + (tdp_w - idle_w) * dynamic_share(BRAKE_SHARE))
    return float(server_w(deployment, np.array([devices_w]))[0])


def evaluate(study: Study, num_servers: int, policy: Policy) -> Outcome:
    """Run a policy on a row of so many servers."""
    row, max_mhz = study.row(num_servers), study.library.max_mhz
    run = control(row, policy, budget_w=study.budget_w, brake_w=study.brake_server_w * num_servers, max_mhz=max_mhz)
    return Outcome(
        num_servers=num_servers,
        policy=policy,
        row=row,
        run=run,
        impacts=impacts(study.library, study.setting.services, row, run),
        uncapped_peak=float(row.uncapped_w(max_mhz).max()) / study.budget_w,
        peak=float(run.power_w.max()) / study.budget_w,
        mean=float(run.power_w.mean()) / study.budget_w,
        brakes_per_day=run.num_brakes * DAY_S / row.seconds,
        capped_share={p: float((run.clock_mhz[p] < max_mhz).mean()) for p in PRIORITIES},
    )


def row_problem(study: Study, spike_reserve: float = 0.0) -> RowProblem:
    """The ILP's data from the simulated servers at the day's peak.

    P_cf: mean power of a server, times the row's highest power over the sum of these means (servers do not peak
    together, bursts lift all); T_cf: what clients that wait for each answer get; lambda_cf: the increase of the 99th
    percentile, which the SLO of that percentile limits.
    """
    setting, library = study.setting, study.library
    counts = allot(setting.num_servers, setting.services)
    entries = {
        (s.label, mhz): library.entry(s, mhz, PEAK_LEVEL)
        for s in setting.services
        for mhz in study.clocks_mhz[s.priority]
    }
    means = [float(entries[s.label, library.max_mhz].power_w.mean()) for s in setting.services]
    peak_factor = study.base_peak_w / sum(n * w for n, w in zip(counts, means, strict=True))
    classes = []
    for service, count in zip(setting.services, counts, strict=True):
        free = entries[service.label, library.max_mhz]
        options = []
        for mhz in study.clocks_mhz[service.priority]:
            entry = entries[service.label, mhz]
            options.append(
                Option(
                    mhz=mhz,
                    power=float(entry.power_w.mean()) * peak_factor,
                    throughput=float(free.e2e_s.mean() / entry.e2e_s.mean()),
                    latency_factor=float(np.quantile(entry.e2e_s, 0.99) / np.quantile(free.e2e_s, 0.99)),
                )
            )
        classes.append(
            ServerClass(
                name=service.label,
                count=count,
                weight=WEIGHTS[service.priority],
                slo_latency_factor=1 + SLOS[service.priority].p99,
                options=tuple(options),
                max_count=count + int(MOST_EXTRA * count),
            )
        )
    return RowProblem(classes=tuple(classes), budget=study.budget_w, spike_reserve=spike_reserve, keep_mix=True)


def plan_static(study: Study, spike_reserve: float = 0.0) -> StaticPlan:
    """Solve the planning ILP and run its row over the whole time at the planned clocks."""
    problem = row_problem(study, spike_reserve)
    plan = plan_row(problem)
    peak = None
    if plan.counts:
        setting = study.setting
        peak = locked_peak_w(study.library, setting.services, plan.counts, study.load, setting.seed) / study.budget_w
    return StaticPlan(problem=problem, plan=plan, peak=peak)


def search(
    study: Study,
    extras: tuple[int, ...],
    policies: tuple[Policy, ...],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, list[Outcome]]:
    """Every policy with every number of extra servers, by the policy's name."""
    found: dict[str, list[Outcome]] = {policy.name: [] for policy in policies}
    for done, extra in enumerate(extras):
        for policy in policies:
            found[policy.name].append(evaluate(study, study.setting.num_servers + extra, policy))
        if progress is not None:
            progress(done + 1, len(extras))
    return found


def most_servers(outcomes: list[Outcome]) -> Outcome | None:
    """The longest row that holds, and all shorter ones of the list with it; None when not even the first does."""
    best = None
    for outcome in outcomes:
        if not outcome.holds:
            return best
        best = outcome
    return best
