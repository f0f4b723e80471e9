"""From a deployment to an answer: the budget of the row, what control makes of it, and the search over thresholds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hardware_profiles.errors import UserError
from planners.oversubscribe.account import Day, day_of
from planners.oversubscribe.controller import ControlRun, clock_mhz, control, rack_power_w
from planners.oversubscribe.impact import Impact, impacts
from planners.oversubscribe.library import Library, build_library, server_w
from planners.oversubscribe.policy import BRAKE_SHARE, Policy
from planners.oversubscribe.row import DAY_S, LoadShape, Row, build_row, largest_rise_w, load_of, readings
from planners.oversubscribe.services import PRIORITIES, Priority, Service, allot
from simulator.deployment import Deployment
from simulator.physics.frequency import dynamic_share, max_clock_mhz
from simulator.physics.power import idle_w_of

Floats = npt.NDArray[np.float64]


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
    racks: int = 1
    rack_budget_w: float | None = None
    """Of each rack; None: its share of the row's, where there are racks."""
    caps_w: tuple[float, ...] = ()
    """Power caps of a device that the plan may use beside the clocks [W]."""
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
    rack_w: Floats | None = None
    """Power of each rack, float64[rack, second]; None without racks."""
    rack_peak: float | None = None
    """Highest reading of any rack, as a share of a rack's budget."""
    rack_over_s: int = 0
    """Seconds of readings with a rack above its budget."""
    day: Day

    @property
    def holds(self) -> bool:
        """No brake, no rack above its budget, and every service within its SLO."""
        return self.run.num_brakes == 0 and not self.rack_over_s and all(i.meets_slo for i in self.impacts)


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
    base_day: Day
    """Account of the row as it was."""
    rack_budget_w: float | None = None
    _rows: dict[int, Row] = field(default_factory=dict)

    def row(self, num_servers: int) -> Row:
        """The row with so many servers; the last one is kept."""
        if num_servers not in self._rows:
            s = self.setting
            self._rows = {
                num_servers: build_row(
                    self.library, s.services, num_servers, self.load, self.clocks_mhz, s.seed, s.racks
                )
            }
        return self._rows[num_servers]


def prepare(
    setting: Setting, policies: tuple[Policy, ...], progress: Callable[[int, int], None] | None = None
) -> Study:
    """Simulate the servers at every clock the policies use, and the row as it was."""
    for service, count in zip(setting.services, allot(setting.num_servers, setting.services), strict=True):
        if not count:
            raise UserError(
                f"--servers is {setting.num_servers}: service {service.label} gets none of them; give more servers, or a "
                "larger share in --services"
            )
    max_mhz = max_clock_mhz(setting.deployment.cluster.device)
    shares = {p: {c for policy in policies for c in policy.clock_shares(p)} | {1.0} for p in PRIORITIES}
    clocks = {p: tuple(sorted((clock_mhz(c, max_mhz) for c in shares[p]), reverse=True)) for p in PRIORITIES}
    library = build_library(
        setting.deployment,
        setting.services,
        {str(p): c for p, c in clocks.items()},
        peak_load=setting.peak_load,
        seed=setting.seed,
        caps_w=setting.caps_w,
        progress=progress,
    )
    load = load_of(setting.shape, setting.seconds, setting.seed)
    row = build_row(library, setting.services, setting.num_servers, load, clocks, setting.seed, setting.racks)
    power_w = row.uncapped_w(max_mhz)
    budget_w = setting.budget_w or float(power_w.max()) / setting.peak_utilisation
    study = Study(
        setting=setting,
        library=library,
        clocks_mhz=clocks,
        load=load,
        budget_w=budget_w,
        base_peak_w=float(power_w.max()),
        base_mean_w=float(power_w.mean()),
        base_rise_w=largest_rise_w(power_w, policies[0].command_s),
        brake_server_w=_brake_server_w(setting.deployment),
        base_day=day_of(setting.deployment, library, setting.services, row, power_w),
        rack_budget_w=(setting.rack_budget_w or budget_w / setting.racks) if setting.racks > 1 else None,
    )
    if study.rack_budget_w is not None:
        peak_w = float(readings(row.uncapped_rack_w(max_mhz), policies[0].telemetry_period_s).max())
        if peak_w > study.rack_budget_w:
            raise UserError(
                f"--rack-budget-kw is {study.rack_budget_w / 1e3:.4g}: a rack of the row of {setting.num_servers} servers "
                f"already peaks at {peak_w / 1e3:.1f} kW; give more, or more --racks"
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
    brake_w = study.brake_server_w * num_servers
    run = control(row, policy, budget_w=study.budget_w, brake_w=brake_w, max_mhz=max_mhz)
    rack_w = rack_power_w(row, run, brake_w) if row.rack_w else None
    rack_peak, rack_over_s = _racks(study, rack_w, policy.telemetry_period_s)
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
        rack_w=rack_w,
        rack_peak=rack_peak,
        rack_over_s=rack_over_s,
        day=day_of(study.setting.deployment, study.library, study.setting.services, row, run.power_w, run.braked),
    )


def _racks(study: Study, rack_w: Floats | None, period_s: int) -> tuple[float | None, int]:
    """(highest reading of any rack as a share of its budget, seconds with one above it); readings are means."""
    if rack_w is None or study.rack_budget_w is None:
        return None, 0
    shares = readings(rack_w, period_s) / study.rack_budget_w
    return float(shares.max()), period_s * int((shares.max(axis=0) > 1).sum())


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
