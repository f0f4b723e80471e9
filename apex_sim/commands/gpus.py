"""``apex-sim gpus``: the cheapest mix of GPU types for a workload within an SLO (Mélange)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from apex_sim import gpus_inputs as inputs
from apex_sim import options
from apex_sim.html.write import add_report, prepare_report, repeated


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "gpus",
        help="find the cheapest mix of GPU types for a workload within an SLO",
        description="Choose how many instances of which GPU type to rent (Mélange): throughput per request size from the "
        "simulator or a table, an integer programme, and the fleet simulated with a router by size.",
        epilog="Example: apex-sim gpus --model llama-3.1-8b --gpus h100-sxm,a100-sxm-80gb,l4 --rate 8 "
        "--input-len 'lognormal(median=500,sigma=1)' --output-len 150 --slo tpot=60ms,ttft=2s",
    )
    options.add_deployment(parser, fixed=False)
    parser.set_defaults(routing=inputs.ROUTING)
    options.add_workload(parser)
    group = parser.add_argument_group("fleet")
    group.add_argument("--gpus", metavar="LIST", help="types of instances: DEVICE or DEVICE:TP, comma-separated")
    group.add_argument("--profile", metavar="FILE", help="JSON table of throughput per GPU and size (docs/gpus.md)")
    group.add_argument("--price", action="append", default=[], metavar="NAME=USD", help="$/h of an instance")
    group.add_argument("--limit", action="append", default=[], metavar="NAME=N", help="most instances to be had")
    group.add_argument("--slice-factor", type=int, metavar="N", help="parts a size may be split in (default 8)")
    group.add_argument("--skip-unserved", action="store_true", help="plan without the sizes no type serves")
    group.add_argument(
        "--gap", type=float, default=0.0, metavar="SHARE", help="stop within this of the bound (0: exact)"
    )
    group.add_argument("--time-limit", type=float, default=60.0, metavar="S", help="of each solve (default 60)")
    group.add_argument(
        "--no-headroom", action="store_true", help="keep the plan even when its simulation misses the SLO"
    )
    group.add_argument("--cache", metavar="DIR", help="where throughputs are kept (default ~/.cache/apex-sim/fleet)")
    group.add_argument("--no-cache", action="store_true", help="measure every throughput anew, keep none")
    options.add_terms(parser, fixed=False)
    day = parser.add_argument_group("fleet that changes over the day")
    day.add_argument("--autoscale", metavar="WINDOW", help="plan each window of the trace, for example 1h")
    day.add_argument("--startup", metavar="TIME", help="paid for every start of an instance (default 300s)")
    day.add_argument("--plot", metavar="FILE", help="write the day as a figure (.png, .svg, .pdf)")
    add_report(parser)
    parser.add_argument("--json", metavar="FILE", help="write the plan ('-': stdout)")
    parser.add_argument("--export", metavar="DIR", help="write launch commands, manifests and benchmarks of every type")


def run(args: argparse.Namespace) -> int:
    """Plan, print, write."""
    from apex_sim.files import prepare_figure, prepare_file
    from hardware_profiles.errors import UserError

    if not 0 <= args.gap < 1:
        raise UserError(f"--gap is {args.gap:g}; it must be a share of at least 0 and below 1, for example 0.01")
    if not 0 < args.time_limit < float("inf"):
        raise UserError(f"--time-limit is {args.time_limit:g}; it must be a number of seconds above 0")
    for name in ("startup", "plot"):
        if args.autoscale is None and getattr(args, name) is not None:
            raise UserError(f"--{name} has no meaning without --autoscale; give a window, for example --autoscale 1h")
    if args.export is not None and args.profile is not None:
        raise UserError(
            "--export: a table of --profile does not say which model and limits the servers have; give --model and --gpus "
            "in its place"
        )
    if args.export is not None and args.autoscale is not None:
        raise UserError(
            "--export writes a fixed number of servers, --autoscale changes it every window; leave --autoscale out, and "
            "give your autoscaler the counts of --json"
        )
    file = prepare_file(args.json, "--json") if args.json not in (None, "-") else None
    prepare_report(args.report)
    figure = None if args.plot is None else prepare_figure(args.plot, "--plot")
    return _from_profile(args, file, figure) if args.profile is not None else _from_simulator(args, file, figure)


def _from_profile(args: argparse.Namespace, file: Path | None, figure: Path | None) -> int:
    """Throughputs from a table, sizes and rate too unless there is a workload; no simulation."""
    import numpy as np

    from apex_sim.gpus_day import emit_day
    from apex_sim.gpus_report import emit
    from hardware_profiles.errors import UserError
    from planners.fleet.day import plan as plan_day
    from planners.fleet.ilp import plan_fleet
    from planners.fleet.profile import read_profile
    from planners.fleet.schedule import day_of

    inputs.refuse_beside_table(args)
    if args.rate is not None and not 0 <= args.rate < float("inf"):
        raise UserError(f"--rate is {args.rate:g}; it must be a number of requests per second of at least 0")
    profile, rate, cell, trace, beyond = read_profile(Path(args.profile)), args.rate, None, None, 0
    if any(getattr(args, name) is not None for name in ("trace", "input_len", "output_len")):
        trace, rate = options.workload_of(args), None
        profile, cell, beyond = profile.of_trace(trace)
    names = tuple(profile.usd_per_hour)
    prices, limits = inputs.pairs(args.price, "--price", names), inputs.pairs(args.limit, "--limit", names)
    whole = {name: int(value) for name, value in limits.items()}
    problem, skipped = inputs.served(profile.problem(rate, args.slice_factor, prices, whole), args.skip_unserved)
    if args.autoscale is not None:
        if trace is None or cell is None:
            raise UserError("--autoscale needs arrivals over time; give --trace FILE, or --arrival with --input-len")
        day, _ = day_of(problem, cell, trace, *inputs.window_of(args, trace))
        ones = np.ones((len(day.windows), len(problem.types)))
        plan = plan_day(day, ones, [None] * len(ones), gap=args.gap or None, time_limit_s=args.time_limit)
        return _reported(args, emit_day(plan, inputs.notes(problem, skipped, beyond), None, args.json, file, figure))
    fleet = plan_fleet(problem, gap=args.gap or None, time_limit_s=args.time_limit)
    return _reported(args, emit(problem, fleet, skipped, None, args.json, file, beyond))


def _from_simulator(args: argparse.Namespace, file: Path | None, figure: Path | None) -> int:
    """Throughputs from the simulator, and the fleet simulated."""
    from apex_sim.exporting import check_exportable, write_export
    from apex_sim.gpus_day import emit_day
    from apex_sim.gpus_export import export_of_fleet, export_values
    from apex_sim.gpus_report import emit
    from apex_sim.text import ProgressBar
    from hardware_profiles.errors import UserError
    from planners.fleet.account import day_account, fleet_account, fleet_span_s
    from planners.fleet.capacity import Capacity
    from planners.fleet.day import keep_day_promise
    from planners.fleet.grid import histogram
    from planners.fleet.instance import Serving
    from planners.fleet.problem import FleetProblem
    from planners.fleet.schedule import day_of
    from planners.fleet.simulated import ROUNDS, keep_promise, measure
    from workloads.catalog import load_model
    from workloads.slo import parse_slo

    for name, example in (("model", "llama-3.1-8b"), ("gpus", "h100-sxm,l4"), ("slo", "ttft=1s,tpot=50ms")):
        if getattr(args, name) is None:
            raise UserError(f"--{name} is missing (or give a table with --profile); for example --{name} {example}")
    slo = parse_slo(args.slo)
    settings = options.engine_settings(args)
    serving = Serving(model=load_model(args.model), engine=args.engine, settings=settings)
    candidates = inputs.candidates_of(args)
    if args.export is not None:
        for candidate in candidates:
            check_exportable(args.engine, candidate.cluster.device, args.export)
    trace = options.workload_of(args)
    grid = histogram(trace)
    window = None if args.autoscale is None else inputs.window_of(args, trace)
    capacity = Capacity(slo=slo, seed=args.seed, folder=None if args.no_cache else inputs.cache_folder(args.cache))
    with ProgressBar("throughputs") as progress:
        tput = measure(serving, candidates, grid, capacity, progress)
    full = FleetProblem(
        types=tuple(c.kind for c in candidates),
        sizes=grid.sizes,
        max_tput_per_s=tput,
        slice_factor=8 if args.slice_factor is None else args.slice_factor,
    )
    problem, skipped = inputs.served(full, args.skip_unserved)
    most, limits = 0 if args.no_headroom else ROUNDS, {"gap": args.gap or None, "time_limit_s": args.time_limit}
    if window is not None:
        day, of = day_of(problem, grid.cell, trace, *window)
        plan = keep_day_promise(day, of, serving, candidates, grid.cell, trace, capacity, rounds=most, **limits)
        notes = inputs.notes(problem, skipped, 0)
        data = emit_day(plan, notes, slo, args.json, file, figure, day_account(candidates, plan))
        return _reported(args, data, (serving.model, candidates, trace))
    redraws = inputs.redraws_of(args)
    rounds = keep_promise(problem, serving, candidates, grid, trace, capacity, rounds=most, redraws=redraws, **limits)
    last = rounds[-1]
    span_s = fleet_span_s(last.checked, trace)
    account = fleet_account(candidates, last.fleet.counts, last.checked, span_s), span_s
    extra = export_values(serving, candidates, last, slo, args.seed) if args.json is not None else {}
    data = emit(problem, last.fleet, skipped, (slo, rounds), args.json, file, account=account, extra=extra)
    if args.export is not None:
        names = write_export(export_of_fleet(serving, candidates, last, slo, args.seed), args.export)
        if args.json != "-":
            print(f"\nwrote {', '.join(names)} to {args.export}")
    return _reported(args, data, (serving.model, candidates, trace))


def _reported(args: argparse.Namespace, data: dict[str, Any], simulated: tuple[Any, ...] | None = None) -> int:
    """Write the report that was asked for; ``simulated``: model, candidates and trace that throughputs come from."""
    if args.report is not None:
        from apex_sim.files import write_text
        from apex_sim.html.gpus import fleet_report
        from apex_sim.html.provenance import Simulated

        basis = None
        if simulated is not None:
            model, candidates, trace = simulated
            basis = Simulated(model, args.engine, [candidate.cluster.device for candidate in candidates], trace)
        write_text(Path(args.report), fleet_report(data, **repeated(args), simulated=basis))
    return 0
