"""``apex-sim gpus``: the cheapest mix of GPU types for a workload within an SLO (Mélange)."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from apex_sim import gpus_inputs as inputs
from apex_sim import options
from apex_sim.html.write import add_report, prepare_report, repeated

if TYPE_CHECKING:
    from pathlib import Path

    from apex_sim.gpus_shortage import NoFleet


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
    from apex_sim.files import prepare_figure, prepare_file, to_json, write_atomically, write_text
    from apex_sim.gpus_answer import answer_of, check
    from apex_sim.gpus_day import day_text
    from apex_sim.gpus_report import fleet_text
    from apex_sim.gpus_shortage import NoFleet
    from apex_sim.progress import is_quiet
    from apex_sim.text import ProgressBar

    check(args)
    _check_outputs(args)
    file = prepare_file(args.json, "--json") if args.json not in (None, "-") else None
    report = prepare_report(args.report)
    figure = None if args.plot is None else prepare_figure(args.plot, "--plot")
    try:
        found = answer_of(args, ProgressBar, export=args.json is not None)
    except NoFleet as lost:
        _write_shortage(args, lost, file, report)
        raise
    data = found.data
    if args.json == "-":
        print(to_json(data), end="")
    else:
        print(day_text(data) if "windows" in data else fleet_text(data))
    if file is not None:
        write_text(file, to_json(data))
    if figure is not None:
        from apex_sim.plots.fleet_day import fleet_day_figure
        from workloads.figure_style import save

        drawn = fleet_day_figure(data)
        write_atomically(figure, lambda path: save(drawn, path))
    if found.solver is not None and not is_quiet():
        print(found.solver, file=sys.stderr)
    if args.export is not None and found.export is not None:
        from apex_sim.exporting import write_export

        names = write_export(found.export(), args.export)
        if args.json != "-":
            print(f"\nwrote {', '.join(names)} to {args.export}")
    if report is not None:
        from apex_sim.html.gpus import fleet_report

        write_text(report, fleet_report(data, **repeated(args), simulated=found.simulated))
    return 0


def _write_shortage(args: argparse.Namespace, lost: NoFleet, file: Path | None, report: Path | None) -> None:
    """What was found where no fleet serves the workload; nothing that starts servers, no figure of a day."""
    from apex_sim.files import to_json, write_text
    from apex_sim.gpus_shortage import shortage_text

    print(to_json(lost.data) if args.json == "-" else shortage_text(lost.data) + "\n", end="")
    if file is not None:
        write_text(file, to_json(lost.data))
    if report is not None:
        from apex_sim.html.gpus_shortage import shortage_report

        write_text(report, shortage_report(lost.data, **repeated(args), simulated=lost.simulated))


def _check_outputs(args: argparse.Namespace) -> None:
    """Files that these arguments cannot have."""
    from hardware_profiles.errors import UserError

    if args.autoscale is None and args.plot is not None:
        raise UserError("--plot has no meaning without --autoscale; give a window, for example --autoscale 1h")
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
