"""``apex-sim validate``: measured runs beside their simulation."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from apex_sim.html.write import add_report

if TYPE_CHECKING:
    from simulator.validation.outcome import Outcome
    from simulator.validation.score import Goal

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
    from apex_sim.validate_text import outcome_text
    from hardware_profiles.errors import UserError, unknown_name
    from simulator.validation.files import check_unique, cited_runs, read_runs
    from simulator.validation.metrics import metric_names
    from simulator.validation.outcome import Outcome, select, to_dict
    from simulator.validation.replay import Options, predict_all
    from simulator.validation.score import check_labels

    if args.seeds < 1:
        raise UserError(f"--seeds is {args.seeds}; it must be at least 1")
    if args.jobs < 0:
        raise UserError(f"--jobs is {args.jobs}; it must be at least 1 (or 0 for one per core)")
    for name in args.metric or ():
        if name not in metric_names():
            raise unknown_name("metric", name, metric_names())
    runs = [run for file in args.files for run in read_runs(file)] if args.files else cited_runs()
    check_unique(runs)
    runs = select(runs, metrics=args.metric, match=args.match)
    goals = _goals(args.goals)
    if args.check and not any((g.source, g.metric) in {(r.source, m) for r in runs for m in r.measured} for g in goals):
        raise UserError("--check: no goal is about these runs and metrics; give --goals FILE (docs/validation.md)")
    by = tuple(name.strip() for name in args.by.split(",") if name.strip())
    check_labels(by, runs)
    json_file = prepare_file(args.json, "--json") if args.json not in (None, "-") else None
    report = prepare_report(args.report)
    plot = prepare_figure(args.plot, "--plot") if args.plot is not None else None
    targets = [path.resolve() for path in (json_file, report, plot) if path is not None]
    if len(set(targets)) < len(targets):
        raise UserError("--json, --report and --plot name one file twice; give each a name of its own")
    with ProgressBar("replaying") as progress:
        predictions = predict_all(
            runs,
            Options(seeds=args.seeds, fast=args.fast),
            jobs=args.jobs or os.cpu_count() or 1,
            progress=progress,
        )
    outcome = Outcome(runs, predictions, goals)
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


def _goals(file: str | None) -> tuple[Goal, ...]:
    from hardware_profiles.errors import UserError
    from simulator.validation.score import goals_from_yaml, load_goals

    if file is None:
        return load_goals()
    try:
        text = Path(file).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--goals {file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return goals_from_yaml(text, file)


def _draw(outcome: Outcome, path: Path) -> None:
    from apex_sim.files import write_atomically
    from simulator.validation.plots import accuracy_figure
    from workloads.figure_style import save

    if not outcome.residuals:
        print("nothing to plot: no run could be simulated", file=sys.stderr)
        return
    figure = accuracy_figure(outcome.residuals)
    write_atomically(path, lambda temporary: save(figure, temporary))
