"""``apex-sim load``: latency and throughput against the request rate, or the users, the knee, and what runs out."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apex_sim import options
from apex_sim.html.write import add_report

if TYPE_CHECKING:
    from simulator.result import SimulationResult


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "load",
        help="latency and throughput of one deployment at rising rates or concurrencies, and what it runs out of",
        description="Play one workload at rising request rates, or with more and more users: latency and "
        "throughput at each, the knee of the curve, the "
        "highest load that keeps the SLO, and what the deployment runs out of.",
    )
    options.add_deployment(parser)
    options.add_plan(parser)
    options.add_workload(parser)
    options.add_terms(parser)
    group = parser.add_argument_group("load")
    group.add_argument(
        "--rates",
        metavar="LIST",
        help="requests per second: 1,2,4,8, or 1:20 (ten of them), or 1:20:0.5 (from, to, step); default: ten, from a tenth "
        "to 1.4 times what is served when all requests come at once",
    )
    group.add_argument(
        "--concurrencies",
        metavar="LIST",
        help="instead: closed loops of so many users, who send when their answer has come: 1,2,4,8, or 1:64 (doubling), or "
        "1:64:x4 (from, to, factor), or 8:64:8 (from, to, step)",
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
    from apex_sim.files import prepare_figure, prepare_file
    from apex_sim.html.write import prepare_report
    from workloads.slo import parse_slo

    given = _given(args)
    slo = parse_slo(args.slo) if args.slo is not None else None
    deployment = _deployment(args)
    trace = _checked_trace(args, deployment, given)
    files = {
        name: check(path, f"--{name}")
        for name, check in (("json", prepare_file), ("csv", prepare_file), ("plot", prepare_figure))
        if (path := getattr(args, name)) is not None and (name, path) != ("json", "-")
    }
    report = prepare_report(args.report)
    if args.concurrencies is None:
        _rates_curve(args, deployment, slo, given, files, report)
    else:
        _users_curve(args, deployment, slo, given or [], trace, files, report)
    return 0


def _rates_curve(
    args: argparse.Namespace, deployment: Any, slo: Any, rates: Any, files: dict[str, Path], report: Path | None
) -> None:
    from apex_sim.html.load import load_report
    from apex_sim.load import curve_of
    from apex_sim.load_report import load_csv, load_dict, load_text
    from apex_sim.plots.load import load_figure
    from apex_sim.text import ProgressBar

    with ProgressBar("simulating rates") as progress:
        curve = curve_of(partial(_simulated, args, deployment, slo), rates, slo, _jobs(args), progress)
    kinds = {"json": load_dict, "csv": load_csv, "plot": load_figure, "text": load_text, "report": load_report}
    _write(args, curve, files, report, kinds)


def _users_curve(
    args: argparse.Namespace,
    deployment: Any,
    slo: Any,
    users: list[Any],
    trace: Any,
    files: dict[str, Path],
    report: Path | None,
) -> None:
    from apex_sim.concurrency import concurrency_curve
    from apex_sim.concurrency_report import concurrency_dict, concurrency_text
    from apex_sim.html.concurrency import concurrency_report
    from apex_sim.load_report import load_csv
    from apex_sim.plots.tradeoff import tradeoff_figure
    from apex_sim.text import ProgressBar

    run_with = partial(_simulated_loop, args, deployment, slo, trace)
    with ProgressBar("simulating users") as progress:
        curve = concurrency_curve(run_with, trace, users, slo, _jobs(args), progress)
    kinds = {"json": concurrency_dict, "csv": load_csv, "plot": tradeoff_figure, "text": concurrency_text,
             "report": concurrency_report}  # fmt: skip
    _write(args, curve, files, report, kinds)


def _write(
    args: argparse.Namespace,
    curve: Any,
    files: dict[str, Path],
    report: Path | None,
    kinds: Mapping[str, Any],
) -> None:
    """Print the curve, and write what was asked for."""
    from apex_sim.files import to_json, write_atomically, write_text
    from apex_sim.html.write import repeated
    from workloads.figure_style import save

    print(to_json(kinds["json"](curve)) if args.json == "-" else f"{kinds['text'](curve)}\n", end="")
    if "json" in files:
        write_text(files["json"], to_json(kinds["json"](curve)))
    if "csv" in files:
        write_text(files["csv"], kinds["csv"](curve))
    if "plot" in files:
        write_atomically(files["plot"], lambda path: save(kinds["plot"](curve), path))
    if report is not None:
        write_text(report, kinds["report"](curve, **repeated(args)))


def _jobs(args: argparse.Namespace) -> int:
    return int(args.jobs or os.cpu_count() or 1)


def _given(args: argparse.Namespace) -> list[float] | list[int] | None:
    """Rates, or users, that were asked for; None: the default rates."""
    from apex_sim.concurrency_report import parse_concurrencies
    from apex_sim.load_report import parse_rates
    from hardware_profiles.errors import UserError

    if args.jobs < 0:
        raise UserError(f"--jobs is {args.jobs}; it must be at least 1 (or 0 for one per core)")
    if args.concurrencies is not None:
        for flag in ("rates", "rate", "arrival", "sessions"):
            if getattr(args, flag) is not None:
                raise UserError(
                    f"--{flag} says when requests come; with --concurrencies each user sends when the answer has come: give "
                    "one of them"
                )
        return parse_concurrencies(args.concurrencies)
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


def _checked_trace(args: argparse.Namespace, deployment: Any, given: Any) -> Any:
    """The workload; its mistakes are found before anything runs."""
    from apex_sim.api import check_served
    from apex_sim.concurrency import checked
    from apex_sim.load import refuse_closed_loop

    if args.concurrencies is None:
        refuse_closed_loop(args.arrival, None)
        trace = _trace(args, 1.0)
        refuse_closed_loop(None, trace)
    else:
        closed = (
            {"arrival": "closed(concurrency=1)"} if args.trace is None else {}
        )  # a trace's own arrivals are replaced
        trace = options.workload_of(argparse.Namespace(**{**vars(args), **closed}))
        checked(given, len(trace))
    check_served(deployment, trace)
    return trace


def _simulated(args: argparse.Namespace, deployment: Any, slo: Any, rate: float) -> SimulationResult:
    from simulator.simulate import simulate_deployment

    return simulate_deployment(deployment, _trace(args, rate), slo=slo, seed=args.seed, exact_steps=args.exact_steps)


def _simulated_loop(args: argparse.Namespace, deployment: Any, slo: Any, trace: Any, users: float) -> SimulationResult:
    from apex_sim.concurrency import in_closed_loop
    from simulator.simulate import simulate_deployment

    looped = in_closed_loop(trace, int(users))
    return simulate_deployment(deployment, looped, slo=slo, seed=args.seed, exact_steps=args.exact_steps)
