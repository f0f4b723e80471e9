"""``apex-sim load``: latency and throughput against the request rate, the knee, and what runs out."""

from __future__ import annotations

import argparse
import os
from functools import partial
from typing import TYPE_CHECKING, Any

from apex_sim import options
from apex_sim.html.write import add_report

if TYPE_CHECKING:
    from simulator.result import SimulationResult


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "load",
        help="latency and throughput of one deployment at rising request rates, and what it runs out of",
        description="Play one workload at rising request rates: latency and throughput at each, the knee of the curve, the "
        "highest rate that keeps the SLO, and what the deployment runs out of.",
    )
    options.add_deployment(parser)
    options.add_plan(parser)
    options.add_workload(parser)
    options.add_terms(parser)
    group = parser.add_argument_group("rates")
    group.add_argument(
        "--rates",
        metavar="LIST",
        help="requests per second: 1,2,4,8, or 1:20 (ten of them), or 1:20:0.5 (from, to, step); default: ten, from a tenth "
        "to 1.4 times what is served when all requests come at once",
    )
    group.add_argument("--jobs", type=int, default=0, metavar="N", help="processes (default: one per core)")
    output = parser.add_argument_group("output")
    output.add_argument("--json", metavar="FILE", help="write the curve and each run's summary ('-': stdout)")
    output.add_argument("--csv", metavar="FILE", help="write a row per rate")
    output.add_argument("--plot", metavar="FILE", help="write the curve (.png, .svg, .pdf)")
    add_report(output)
    parser.add_argument("--exact-steps", action="store_true", help="one engine step per event: same result, slower")


def run(args: argparse.Namespace) -> int:
    """Simulate every rate, print, write."""
    from apex_sim.files import prepare_figure, prepare_file, to_json, write_atomically, write_text
    from apex_sim.html.write import prepare_report, repeated
    from apex_sim.load import curve_of
    from apex_sim.load_report import load_csv, load_dict, load_text
    from apex_sim.text import ProgressBar
    from workloads.figure_style import save
    from workloads.slo import parse_slo

    rates = _rates(args)
    slo = parse_slo(args.slo) if args.slo is not None else None
    run_at = partial(_simulated, args, _deployment(args), slo)
    _check_workload(args, run_at.args[1])
    files = {
        name: check(path, f"--{name}")
        for name, check in (("json", prepare_file), ("csv", prepare_file), ("plot", prepare_figure))
        if (path := getattr(args, name)) is not None and (name, path) != ("json", "-")
    }
    report = prepare_report(args.report)
    with ProgressBar("simulating rates") as progress:
        curve = curve_of(run_at, rates, slo, args.jobs or os.cpu_count() or 1, progress)
    print(to_json(load_dict(curve)) if args.json == "-" else f"{load_text(curve)}\n", end="")
    if "json" in files:
        write_text(files["json"], to_json(load_dict(curve)))
    if "csv" in files:
        write_text(files["csv"], load_csv(curve))
    if "plot" in files:
        from apex_sim.plots.load import load_figure

        write_atomically(files["plot"], lambda path: save(load_figure(curve), path))
    if report is not None:
        from apex_sim.html.load import load_report

        write_text(report, load_report(curve, **repeated(args)))
    return 0


def _rates(args: argparse.Namespace) -> list[float] | None:
    """What was asked for; None: the default."""
    from apex_sim.load_report import parse_rates
    from hardware_profiles.errors import UserError

    if args.jobs < 0:
        raise UserError(f"--jobs is {args.jobs}; it must be at least 1 (or 0 for one per core)")
    if args.rate is not None:
        raise UserError(f"--rate {args.rate:g} is one rate; give --rates, for example --rates 1:20, or use simulate")
    return None if args.rates is None else parse_rates(args.rates)


def _deployment(args: argparse.Namespace) -> Any:
    from apex_sim.api import build_deployment

    deployment = build_deployment(
        args.model,
        options.cluster_of(args),
        engine=args.engine,
        **{name: getattr(args, name) for name in ("tp", "pp", "dp", "ep")},
        **options.engine_settings(args),
    )
    _ = deployment.memory, deployment.step_model
    return deployment


def _trace(args: argparse.Namespace, rate: float) -> Any:
    return options.workload_of(argparse.Namespace(**{**vars(args), "rate": rate}))


def _check_workload(args: argparse.Namespace, deployment: Any) -> None:
    """Mistakes in the workload, before anything runs."""
    from apex_sim.api import check_served
    from apex_sim.load import refuse_closed_loop

    refuse_closed_loop(args.arrival, None)
    trace = _trace(args, 1.0)
    refuse_closed_loop(None, trace)
    check_served(deployment, trace)


def _simulated(args: argparse.Namespace, deployment: Any, slo: Any, rate: float) -> SimulationResult:
    from simulator.simulate import simulate_deployment

    return simulate_deployment(deployment, _trace(args, rate), slo=slo, seed=args.seed, exact_steps=args.exact_steps)
