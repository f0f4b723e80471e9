"""``apex-sim several``: several models on one cluster, in turns or in a cascade."""

from __future__ import annotations

import argparse
import sys

from apex_sim import options
from apex_sim.commands.simulate_timeline import add_timeline, timeline_file
from apex_sim.html.write import add_report


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "several",
        help="predict how several models share one cluster: in turns, side by side, or in a cascade",
        description="Predict how several models on one cluster serve a workload (docs/several_models.md).",
        epilog="Example: apex-sim several models.yaml --rate 4 --input-len 200 --output-len 100",
    )
    parser.add_argument("models", metavar="FILE", help="YAML with models, cluster, switch, cascade")
    parser.add_argument("--cluster", metavar="NAME", help="replaces the file's")
    parser.add_argument("--engine", metavar="NAME", help="replaces the file's")
    options.add_workload(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--json", metavar="FILE", help="write the summary ('-': stdout)")
    add_report(output)
    add_timeline(output)
    output.add_argument("--requests", metavar="FILE", help="write the table of requests as CSV")
    parser.add_argument("--exact-steps", action="store_true", help="one engine step per event: same result, slower")


def run(args: argparse.Namespace) -> int:
    """Simulate, print, write."""
    from pathlib import Path

    from apex_sim.files import prepare_file, to_json, write_atomically, write_text
    from apex_sim.html.write import prepare_report, repeated
    from apex_sim.several import check_all_served, several_text
    from apex_sim.text import ProgressBar
    from simulator.several.build import build_several
    from simulator.several.simulate import simulate_several
    from workloads.slo import parse_slo

    slo = parse_slo(args.slo) if args.slo is not None else None
    several = build_several(Path(args.models), cluster=args.cluster, engine=args.engine)
    trace = options.workload_of(args)
    check_all_served(several, trace)
    json_file = prepare_file(args.json, "--json") if args.json not in (None, "-") else None
    table = prepare_file(args.requests, "--requests") if args.requests is not None else None
    report, timeline = prepare_report(args.report), timeline_file(args)
    with ProgressBar("simulating") as progress:
        result = simulate_several(
            several,
            trace,
            slo=slo,
            seed=args.seed,
            exact_steps=args.exact_steps,
            progress=progress,
            watch=None if timeline is None else timeline.watch,
        )
    print(to_json(result.summary) if args.json == "-" else several_text(result), end="" if args.json == "-" else "\n")
    if json_file is not None:
        write_text(json_file, to_json(result.summary))
    if table is not None:
        assert result.trace.model is not None
        names = [result.trace.model_names[i] for i in result.trace.model.tolist()]
        frame = result.requests.assign(model=names)
        write_atomically(table, lambda path: frame.to_csv(path, index=False))
    if report is not None:
        from apex_sim.html.several import several_report

        write_text(report, several_report(result, **repeated(args)))
    if timeline is not None:
        print(timeline.write(result), file=sys.stderr if args.json == "-" else sys.stdout)
    return 0
