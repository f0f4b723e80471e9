"""``apex-sim power``: how many more servers a row's power budget carries."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from apex_sim.html.write import add_report

if TYPE_CHECKING:
    from simulator.deployment import Deployment

SEARCHED = ((0.75, 0.85), (0.80, 0.89), (0.85, 0.95))
"""Pairs of thresholds that ``--search`` tries beside the given one (POLCA's, from memory of the paper)."""
CAP_SHARES = (7 / 8, 3 / 4)
"""Of the TDP: 350 and 300 W of 400 (POLCA sweeps A100 caps of 325 to 400 W)."""
SEARCH_STEP, SEARCH_END = 0.05, 0.40
"""Servers added in the search, as shares of the row: steps up to the end."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "power",
        help="oversubscribe the power of a row of servers (POLCA)",
        description="Simulate a row of servers over days, add servers beyond what its power budget was made for, and let "
        "POLCA's manager lock clocks (low priority first) to stay within it: brakes, latency, and how many fit.",
        epilog="Example: apex-sim power --servers 40 --extra 0.3 --t1 0.80 --t2 0.89 --plot row.png",
    )
    row = parser.add_argument_group("row")
    row.add_argument("--model", default="bloom-176b", metavar="NAME", help="served model (default bloom-176b, POLCA's)")
    row.add_argument("--cluster", default="a100-sxm:8", metavar="SPEC", help="one server (default a100-sxm:8)")
    row.add_argument("--engine", default="vllm-v1", help="engine profile (default vllm-v1)")
    row.add_argument("--max-model-len", type=int, default=12288, metavar="TOKENS", help="longest request")
    row.add_argument(
        "--servers", type=int, default=40, metavar="N", help="servers the budget was made for (default 40)"
    )
    row.add_argument("--extra", type=float, default=0.30, metavar="SHARE", help="servers to add (default 0.30)")
    row.add_argument(
        "--services", metavar="FILE", help="YAML list of services (docs/oversubscribe.md; default POLCA's mix)"
    )
    budget = row.add_mutually_exclusive_group()
    budget.add_argument("--budget-kw", type=float, metavar="KW", help="power budget of the row")
    budget.add_argument(
        "--peak-utilisation", type=float, default=0.79, metavar="SHARE", help="peak of the row as it is, of the budget"
    )
    row.add_argument("--racks", type=int, default=1, metavar="N", help="racks that the servers stand in, in turn")
    row.add_argument(
        "--rack-budget-kw", type=float, metavar="KW", help="power budget of each rack (default: its share of the row's)"
    )
    load = parser.add_argument_group("load")
    load.add_argument(
        "--load", type=float, default=0.25, metavar="SHARE", help="peak rate, of a server's capacity (default 0.25)"
    )
    load.add_argument("--valley", type=float, default=0.5, metavar="SHARE", help="load at night, of the peak")
    load.add_argument("--burst", type=float, default=0.2, metavar="SHARE", help="largest burst, of the peak")
    load.add_argument("--days", type=float, default=1.0, metavar="N", help="time to simulate (default 1)")
    load.add_argument("--seed", type=int, default=0, metavar="N", help="of arrivals, bursts and who plays what")
    policy = parser.add_argument_group("policy")
    policy.add_argument("--t1", type=float, default=0.80, metavar="SHARE", help="first threshold (default 0.80)")
    policy.add_argument("--t2", type=float, default=0.89, metavar="SHARE", help="second threshold (default 0.89)")
    policy.add_argument("--hysteresis", type=float, default=0.05, metavar="SHARE", help="release so far below")
    policy.add_argument("--reserve", type=float, default=0.0, metavar="SHARE", help="budget the ILP keeps free")
    policy.add_argument(
        "--caps",
        metavar="LIST",
        help="power caps [W] the ILP may use beside the clocks, or none (default 7/8, 3/4 of TDP)",
    )
    policy.add_argument(
        "--high-first", action="store_true", help="ILP: all that high priority can have, then low, instead of 10 to 1"
    )
    policy.add_argument("--search", action="store_true", help="try pairs of thresholds with 0 to 40 %% more servers")
    site = parser.add_argument_group("energy and carbon (docs/costs.md)")
    site.add_argument("--grid", metavar="NAME|G", help="grid, such as fr or us-tx, or gCO2e per kWh (default world)")
    site.add_argument("--pue", type=float, metavar="RATIO", help="power usage effectiveness of the site (default 1.56)")
    site.add_argument("--usd-per-kwh", type=float, metavar="USD", help="price of electricity")
    site.add_argument("--lifetime-years", type=float, metavar="YEARS", help="over which manufacture counts (default 5)")
    output = parser.add_argument_group("output")
    output.add_argument("--json", metavar="FILE", help="write everything ('-': stdout)")
    add_report(output)
    output.add_argument("--plot", metavar="FILE", help="write power and clocks over time (.png, .svg, .pdf)")


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


def run(args: argparse.Namespace) -> int:
    """Simulate, plan, print, write."""
    _check(args)
    from dataclasses import replace

    from apex_sim.files import prepare_figure, prepare_file, to_json, write_atomically, write_text
    from apex_sim.html.write import prepare_report, repeated
    from apex_sim.power_figure import power_figure
    from apex_sim.power_report import power_dict, power_text
    from apex_sim.text import ProgressBar
    from hardware_profiles.cluster import parse_cluster
    from hardware_profiles.terms import with_terms
    from planners.oversubscribe.planning import plan_static
    from planners.oversubscribe.policy import baselines, polca
    from planners.oversubscribe.row import DAY_S, LoadShape
    from planners.oversubscribe.services import PAPER_MIX, read_services
    from planners.oversubscribe.study import Setting, evaluate, prepare, search
    from simulator.build import build_deployment
    from workloads.figure_style import save

    services = PAPER_MIX if args.services is None else read_services(args.services)
    cluster = with_terms(
        parse_cluster(args.cluster),
        grid=args.grid,
        pue=args.pue,
        usd_per_kwh=args.usd_per_kwh,
        lifetime_years=args.lifetime_years,
    )
    deployment = build_deployment(
        args.model, cluster, engine=args.engine, tp=cluster.num_devices, max_model_len=args.max_model_len
    )
    json_file = None if args.json in (None, "-") else prepare_file(args.json, "--json")
    report = prepare_report(args.report)
    plot_file = None if args.plot is None else prepare_figure(args.plot, "--plot")
    setting = Setting(
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
    chosen = polca(args.t1, args.t2, hysteresis=args.hysteresis)
    policies = (chosen, *baselines(args.t2, hysteresis=args.hysteresis))
    with ProgressBar("servers") as progress:
        study = prepare(setting, policies, progress)
    num_servers = args.servers + round(args.extra * args.servers)
    outcomes = [evaluate(study, num_servers, policy) for policy in policies]
    static = plan_static(study, args.reserve, first=args.high_first)
    searched = None
    if args.search:
        pairs = sorted({(args.t1, args.t2), *SEARCHED})
        steps = round(SEARCH_END / SEARCH_STEP)
        extras = tuple(dict.fromkeys(round(i * SEARCH_STEP * args.servers) for i in range(steps + 1)))
        tried = [polca(t1, t2, hysteresis=args.hysteresis) for t1, t2 in pairs]
        named = tuple(replace(p, name=f"polca {t1:g}-{t2:g}") for p, (t1, t2) in zip(tried, pairs, strict=True))
        with ProgressBar("search") as progress:
            searched = search(study, extras, named, progress)
    data = to_json(power_dict(study, static, outcomes, searched))
    print(
        data if args.json == "-" else power_text(study, static, outcomes, searched),
        end="" if args.json == "-" else "\n",
    )
    if json_file is not None:
        write_text(json_file, data)
    if report is not None:
        from apex_sim.html.power import power_report

        write_text(report, power_report(study, static, outcomes, searched, **repeated(args)))
    if plot_file is not None:
        figure = power_figure(study, outcomes[0])
        write_atomically(plot_file, lambda path: save(figure, path))
    return 0
