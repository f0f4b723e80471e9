"""``apex-sim validate``: measured runs beside their simulation."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from apex_sim.html.write import add_report

if TYPE_CHECKING:
    from simulator.validation.outcome import Outcome

DEFAULT_BY = "source,metric"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "validate",
        help="compare predictions with measured serving runs",
        description="Replay measured runs and print predicted, measured and error. Files: runs in our own YAML or CSV "
        "(docs/validation.md) or a published table that is known; without files, the cited figures that come along.",
        epilog="Example: apex-sim validate my_runs.yaml --by device,metric --report accuracy.html",
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help="measured runs (.yaml, .csv); default: cited figures")
    parser.add_argument(
        "--by",
        default=DEFAULT_BY,
        metavar="LABELS",
        help="aggregate by these: device, model, tp, workload, engine, version, source, split, metric, provenance, "
        f"experts, load, or a tag of the runs (default {DEFAULT_BY})",
    )
    parser.add_argument("--all", action="store_true", help="print every run and metric, not only the worst")
    parser.add_argument("--metric", action="append", metavar="NAME", help="only this metric (may be repeated)")
    parser.add_argument("--match", metavar="TEXT", help="only runs whose id contains this")
    replay = parser.add_argument_group("replay")
    replay.add_argument("--fast", action="store_true", help="shorten long runs at the same rates and batches")
    replay.add_argument("--seeds", type=int, default=3, metavar="N", help="replays where only distributions are known")
    replay.add_argument("--jobs", type=int, default=0, metavar="N", help="processes (default: one per core)")
    output = parser.add_argument_group("output")
    output.add_argument("--json", metavar="FILE", help="write everything: runs, residuals, goals ('-': stdout)")
    add_report(output)
    output.add_argument("--plot", metavar="FILE", help="write predicted against measured (.png, .svg, .pdf)")
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 when a goal is missed or a run cannot be simulated"
    )
    parser.add_argument(
        "--goals", metavar="FILE", help="goals of your own (.yaml, docs/validation.md) instead of the project's"
    )


def run(args: argparse.Namespace) -> int:
    """Read, replay, print, write."""
    from apex_sim.files import prepare_figure, prepare_file, to_json, write_text
    from apex_sim.html.validate import report_html
    from apex_sim.html.write import prepare_report, repeated
    from apex_sim.text import ProgressBar
    from apex_sim.validate_inputs import asked_of, outcome_of
    from apex_sim.validate_text import outcome_text
    from simulator.validation.outcome import to_dict

    asked = asked_of(args)
    by = asked.by
    json_file = prepare_file(args.json, "--json") if args.json not in (None, "-") else None
    report = prepare_report(args.report)
    plot = prepare_figure(args.plot, "--plot") if args.plot is not None else None
    outcome = outcome_of(asked, args, ProgressBar)
    if args.json == "-":
        print(to_json(to_dict(outcome, by)), end="")
    else:
        print(outcome_text(outcome, by, everything=args.all))
    if json_file is not None:
        write_text(json_file, to_json(to_dict(outcome, by)))
    if report is not None:
        write_text(report, report_html(outcome, by, **repeated(args)))
    if plot is not None:
        _draw(outcome, plot)
    return 1 if args.check and not outcome.passed else 0


def _draw(outcome: Outcome, path: Path) -> None:
    from apex_sim.files import write_atomically
    from simulator.validation.plots import accuracy_figure
    from workloads.figure_style import save

    if not outcome.residuals:
        print("nothing to plot: no run could be simulated", file=sys.stderr)
        return
    figure = accuracy_figure(outcome.residuals)
    write_atomically(path, lambda temporary: save(figure, temporary))
