"""What the arguments of ``apex-sim power`` mean, and the row that answers them."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apex_sim.command_arguments import Bar
    from planners.oversubscribe.planning import StaticPlan
    from planners.oversubscribe.policy import Policy
    from planners.oversubscribe.study import Outcome, Setting, Study
    from simulator.deployment import Deployment

SEARCHED = ((0.75, 0.85), (0.80, 0.89), (0.85, 0.95))
"""Pairs of thresholds that ``--search`` tries beside the given one (POLCA's, from memory of the paper)."""
CAP_SHARES = (7 / 8, 3 / 4)
"""Of the TDP: 350 and 300 W of 400 (POLCA sweeps A100 caps of 325 to 400 W)."""
SEARCH_STEP, SEARCH_END = 0.05, 0.40
"""Servers added in the search, as shares of the row: steps up to the end."""


def _check(args: argparse.Namespace) -> None:
    """Refuse values that mean nothing, before any work."""
    from hardware_profiles.errors import UserError

    limits = {
        "extra": (0, 1),
        "peak_utilisation": (0.01, 1),
        "load": (0.05, 0.8),
        "valley": (0, 1),
        "burst": (0, 1),
        "days": (0.05, 60),
        "t1": (0.01, 1),
        "t2": (0.01, 1),
        "hysteresis": (0, 0.5),
        "reserve": (0, 0.9),
    }
    for name, (low, high) in limits.items():
        value = getattr(args, name)
        if not (math.isfinite(value) and low <= value <= high):
            raise UserError(f"--{name.replace('_', '-')} is {value:g}; it must be between {low:g} and {high:g}")
    if args.servers < 1 or args.servers > 10_000:
        raise UserError(f"--servers is {args.servers}; it must be between 1 and 10000")
    if args.seed < 0:
        raise UserError(f"--seed is {args.seed}; it must be at least 0")
    if args.budget_kw is not None and not (math.isfinite(args.budget_kw) and args.budget_kw > 0):
        raise UserError(f"--budget-kw is {args.budget_kw:g}; it must be above 0")
    if not 1 <= args.racks <= args.servers:
        raise UserError(f"--racks is {args.racks}; it must be between 1 and the {args.servers} --servers")
    if args.rack_budget_kw is not None:
        if args.racks == 1:
            raise UserError("--rack-budget-kw needs racks; give --racks")
        if not (math.isfinite(args.rack_budget_kw) and args.rack_budget_kw > 0):
            raise UserError(f"--rack-budget-kw is {args.rack_budget_kw:g}; it must be above 0")
    if args.t1 >= args.t2:
        raise UserError(f"--t1 is {args.t1:g} and --t2 is {args.t2:g}; the first threshold must be below the second")


def _caps_w(text: str | None, deployment: Deployment) -> tuple[float, ...]:
    """The power caps that the ILP may use [W]; refused as one line when the device cannot be set to one."""
    from dataclasses import replace

    from hardware_profiles.errors import UserError
    from simulator.physics.powercap import check_power

    device = deployment.cluster.device
    if text is None:
        tdp_w, least_w = device.tdp_w or 0.0, device.min_cap_w
        return tuple(share * tdp_w for share in CAP_SHARES if least_w is not None and share * tdp_w >= least_w)
    if text.strip().lower() == "none":
        return ()
    caps = []
    for part in text.split(","):
        try:
            cap_w = float(part)
        except ValueError:
            raise UserError(f"--caps has {part.strip()!r}; write watts such as 350,300, or none") from None
        try:
            check_power(device, replace(deployment.plan, power_cap_w=cap_w))
        except UserError as error:
            raise UserError(str(error).replace("--power-cap is", "--caps has")) from None
        caps.append(cap_w)
    return tuple(sorted(set(caps), reverse=True))


@dataclass(frozen=True, slots=True)
class PowerAnswer:
    """A row, simulated."""

    study: Study
    static: StaticPlan
    """Fixed settings that an ILP chooses."""
    outcomes: list[Outcome]
    """Of the policy that is asked for, then of those it is compared with."""
    searched: dict[str, list[Outcome]] | None
    """Of pairs of thresholds, with more and more servers."""


def answer_of(setting: Setting, args: argparse.Namespace, bar: Bar) -> PowerAnswer:
    """Simulate, plan."""
    from planners.oversubscribe.planning import plan_static
    from planners.oversubscribe.policy import baselines, polca
    from planners.oversubscribe.study import evaluate, prepare

    chosen = polca(args.t1, args.t2, hysteresis=args.hysteresis)
    policies = (chosen, *baselines(args.t2, hysteresis=args.hysteresis))
    with bar("servers") as progress:
        study = prepare(setting, policies, progress)
    num_servers = args.servers + round(args.extra * args.servers)
    outcomes = [evaluate(study, num_servers, policy) for policy in policies]
    static = plan_static(study, args.reserve, first=args.high_first)
    return PowerAnswer(study, static, outcomes, _searched(study, args, bar) if args.search else None)


def _searched(study: Study, args: argparse.Namespace, bar: Bar) -> dict[str, list[Outcome]]:
    from dataclasses import replace

    from planners.oversubscribe.policy import polca
    from planners.oversubscribe.study import search

    pairs = sorted({(args.t1, args.t2), *SEARCHED})
    steps = round(SEARCH_END / SEARCH_STEP)
    extras = tuple(dict.fromkeys(round(i * SEARCH_STEP * args.servers) for i in range(steps + 1)))
    tried = [polca(t1, t2, hysteresis=args.hysteresis) for t1, t2 in pairs]
    named: tuple[Policy, ...] = tuple(
        replace(p, name=f"polca {t1:g}-{t2:g}") for p, (t1, t2) in zip(tried, pairs, strict=True)
    )
    with bar("search") as progress:
        return search(study, extras, named, progress)


def setting_of(args: argparse.Namespace) -> Setting:
    """The row that the arguments describe, checked."""
    _check(args)
    from apex_sim.api import load_cluster
    from hardware_profiles.terms import with_terms
    from planners.oversubscribe.row import DAY_S, LoadShape
    from planners.oversubscribe.services import PAPER_MIX, read_services
    from planners.oversubscribe.study import Setting
    from simulator.build import build_deployment

    services = PAPER_MIX if args.services is None else read_services(args.services)
    cluster = with_terms(
        load_cluster(args.cluster),
        grid=args.grid,
        pue=args.pue,
        usd_per_kwh=args.usd_per_kwh,
        lifetime_years=args.lifetime_years,
    )
    deployment = build_deployment(
        args.model, cluster, engine=args.engine, tp=cluster.num_devices, max_model_len=args.max_model_len
    )
    return Setting(
        deployment=deployment,
        services=services,
        num_servers=args.servers,
        shape=LoadShape(valley=args.valley, burst=args.burst),
        peak_load=args.load,
        peak_utilisation=args.peak_utilisation,
        budget_w=None if args.budget_kw is None else 1e3 * args.budget_kw,
        racks=args.racks,
        rack_budget_w=None if args.rack_budget_kw is None else 1e3 * args.rack_budget_kw,
        caps_w=_caps_w(args.caps, deployment),
        seconds=round(args.days * DAY_S),
        seed=args.seed,
    )
