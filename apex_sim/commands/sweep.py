"""``apex-sim sweep``: many simulations or plans of one file, recorded as they finish, and what is best among them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apex_sim.sweeps.account import cell, counts, listing, report

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 12
"""Rows of a table on the terminal."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "sweep",
        help="run a grid or a random design of simulations; goes on where it was stopped",
        description="Simulate every point of a design over settings, or plan it (command: plan, gpus or power in the file; "
        "docs/sweeps.md). Every finished run is on the disk at "
        "once; stopped or killed, the same command goes on where it was.",
        epilog="Examples: apex-sim sweep sweep.yaml --out results; apex-sim sweep results "
        "--pareto usd_per_million_output_tokens,p95_tpot_ms --where 'p95_ttft_ms < 500' --figure front.png",
    )
    parser.add_argument("sweep", metavar="FILE|DIR", help="YAML of the sweep; or a folder of results, to look at only")
    parser.add_argument(
        "--out", metavar="DIR", help="folder of the results (default: FILE without its ending, then -results)"
    )
    parser.add_argument("--list", action="store_true", help="print the points and run nothing")
    work = parser.add_argument_group("work")
    work.add_argument("--jobs", type=int, metavar="N", help="processes (default: all cores)")
    work.add_argument("--backend", default="local", metavar="NAME", help="local (default), ray or dask")
    work.add_argument("--address", metavar="ADDRESS", help="of a Ray or Dask cluster (default: one on this machine)")
    work.add_argument("--shard", metavar="I/N", help="carry out the I-th of N parts, for several machines")
    work.add_argument("--merge", nargs="+", metavar="DIR", help="take over the finished runs of these folders (shards)")
    work.add_argument("--timeout", type=float, metavar="S", help="most seconds of a run; longer ones are given up")
    work.add_argument("--retry-failed", action="store_true", help="carry out runs again that were refused")
    result = parser.add_argument_group("results")
    result.add_argument("--pareto", metavar="X,Y[,...]", help="print the rows that none beats in these columns")
    result.add_argument("--where", metavar="CONDITION", help="only rows such as 'slo_attainment >= 0.99'")
    result.add_argument("--lines", metavar="X,Y[,BY]", help="with --figure: the best Y along X over all other settings")
    result.add_argument("--figure", metavar="FILE", help="draw --pareto or --lines (.png, .svg, .pdf)")
    result.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write counts and the front ('-' or none: stdout)"
    )


def run(args: argparse.Namespace) -> int:
    """Carry out, print, write."""
    from apex_sim.files import prepare_figure, prepare_file
    from hardware_profiles.errors import UserError

    if (args.figure or args.where) and not (args.pareto or args.lines):
        raise UserError(f"--{'figure' if args.figure else 'where'} goes with --pareto; add --pareto X,Y")
    if args.lines and (args.pareto or not args.figure):
        raise UserError("--lines goes with --figure FILE and without --pareto; draw one figure at a time")
    figure = prepare_figure(args.figure, "--figure") if args.figure else None
    json_file = prepare_file(args.json, "--json") if args.json not in (None, "-") else None
    _check_results(args)
    if args.list:
        return _list(args)
    columns, names, total, paths = _look(args) if Path(args.sweep).is_dir() else _carry_out(args)
    return _show(args, columns, names, total, paths, figure, json_file)


def _check_results(args: argparse.Namespace) -> None:
    """Mistakes that need no run to be seen; which columns there are is known with the first rows."""
    from apex_sim.sweeps.expressions import parse
    from apex_sim.sweeps.figures import parse_lines
    from apex_sim.sweeps.pareto import split_goals
    from hardware_profiles.errors import UserError

    if args.pareto:
        split_goals(args.pareto)
    if args.lines:
        parse_lines(args.lines)
    if args.where:
        parse(args.where, "--where")
    if Path(args.sweep).is_dir():
        given = [flag for flag, value in _work_of(args).items() if value not in (None, False, "local")]
        if given:
            raise UserError(f"{args.sweep}: a folder is only looked at; {given[0]} goes with the YAML file of a sweep")


def _work_of(args: argparse.Namespace) -> dict[str, object]:
    names = ("out", "list", "jobs", "backend", "address", "shard", "merge", "timeout", "retry_failed")
    return {f"--{name.replace('_', '-')}": getattr(args, name) for name in names}


def _list(args: argparse.Namespace) -> int:
    from apex_sim.sweeps.design import points_of
    from apex_sim.sweeps.folder import parse_shard
    from apex_sim.sweeps.spec import load_sweep

    points = parse_shard(args.shard).part(points_of(load_sweep(args.sweep)))
    rows = [[cell(value) for value in point.chosen.values()] for point in points]
    print(listing(list(points[0].chosen), rows) if points else "no points in this shard")
    print(f"{len(points):,} points")
    return 0


def _carry_out(args: argparse.Namespace) -> tuple[dict[str, list[Any]], list[str], int, list[Path]]:
    """Run what is missing; columns of the table, names of the settings that vary, points in all, files."""
    import sys

    from apex_sim.files import prepare_folder
    from apex_sim.sweeps.backends import open_backend
    from apex_sim.sweeps.design import points_of
    from apex_sim.sweeps.folder import parse_shard
    from apex_sim.sweeps.progress import SweepProgress
    from apex_sim.sweeps.run import run_sweep
    from apex_sim.sweeps.spec import load_sweep

    sweep, shard = load_sweep(args.sweep), parse_shard(args.shard)
    points_of(sweep)
    backend = open_backend(args.backend, args.jobs, args.address, _timeout(args.timeout))
    folder = prepare_folder(args.out if args.out is not None else Path(args.sweep).with_suffix("").name + "-results")
    try:
        with SweepProgress() as bar:
            outcome = run_sweep(
                sweep,
                folder,
                lambda: backend,
                shard=shard,
                retry_failed=args.retry_failed,
                merge=args.merge or (),
                report=bar.start,
            )
    except KeyboardInterrupt:
        print(f"apex-sim: finished runs are in {folder}; the same command goes on with the rest", file=sys.stderr)
        raise
    return outcome.columns, list(outcome.points[0].chosen), len(outcome.points), outcome.paths


def _timeout(seconds: float | None) -> float | None:
    from hardware_profiles.errors import UserError

    if seconds is not None and not 0 < seconds < 1e9:
        raise UserError(f"--timeout is {seconds:g}; give seconds above 0")
    return seconds


def _look(args: argparse.Namespace) -> tuple[dict[str, list[Any]], list[str], int, list[Path]]:
    """What a folder of results holds, also while a sweep is at work there."""
    from apex_sim.sweeps.design import points_of
    from apex_sim.sweeps.folder import read_manifest, sweep_of
    from apex_sim.sweeps.journal import read_journal
    from apex_sim.sweeps.table import columns_of
    from hardware_profiles.errors import UserError

    folder = Path(args.sweep)
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder}: is not the folder of a sweep; give one, or the YAML file of a sweep")
    points = points_of(sweep_of(manifest))
    return columns_of(points, read_journal(folder)), list(points[0].chosen), len(points), []


def _show(
    args: argparse.Namespace,
    columns: dict[str, list[Any]],
    names: list[str],
    total: int,
    paths: list[Path],
    figure: Path | None,
    json_file: Path | None,
) -> int:
    """Print counts, reasons and the front; write what was asked for."""
    import sys

    from apex_sim.files import to_json, write_text
    from apex_sim.sweeps.table import frame_of
    from hardware_profiles.errors import UserError

    frame = frame_of(columns)
    summary: dict[str, Any] = {"points": total, **counts(columns["status"]), "files": [str(path) for path in paths]}
    lines = report(columns, summary, paths)
    if args.pareto:
        try:
            text, summary["pareto"] = _front(args, frame, names)
        except UserError:
            print("\n".join(lines), file=sys.stderr if args.json == "-" else sys.stdout, flush=True)
            raise
        lines += ["", text]
    if figure is not None:
        _draw(args, frame, figure)
    print(to_json(summary) if args.json == "-" else "\n".join(lines), end="" if args.json == "-" else "\n")
    if json_file is not None:
        write_text(json_file, to_json(summary))
    return 1 if summary["crashed"] or summary["error"] else 0


def _draw(args: argparse.Namespace, frame: pd.DataFrame, path: Path) -> None:
    from apex_sim.files import write_atomically
    from apex_sim.sweeps.figures import sweep_figure, sweep_lines
    from workloads.figure_style import save

    figure = (sweep_figure if args.pareto else sweep_lines)(frame, args.pareto or args.lines, args.where)
    write_atomically(path, lambda temporary: save(figure, temporary))


def _front(args: argparse.Namespace, frame: pd.DataFrame, names: list[str]) -> tuple[str, list[dict[str, Any]]]:
    from apex_sim.sweeps.pareto import front_of, good_rows, parse_goals
    from hardware_profiles.errors import UserError

    goals = parse_goals(args.pareto, list(frame.columns))
    rows = good_rows(frame, args.where)
    front = front_of(rows, goals)
    if front.empty:
        raise UserError(
            f"--pareto {args.pareto}: no run has these figures" + (" and meets --where" if args.where else "")
        )
    shown = list(dict.fromkeys([*names, *(goal.column for goal in goals)]))
    cells = [[str(i), *map(cell, row)] for i, row in enumerate(front[shown].itertuples(index=False), 1)]
    words = ", ".join(f"{'most' if goal.more else 'least'} {goal.column}" for goal in goals)
    more = f"\n... {len(cells) - SHOWN:,} more; --json FILE has all" if len(cells) > SHOWN else ""
    shown_rows = listing(["", *shown], cells[:SHOWN])
    text = f"{len(cells):,} of {len(rows):,} runs are beaten by none ({words}):\n{shown_rows}{more}"
    plain = front[shown].astype(object).where(front[shown].notna(), None)
    return text, [{str(k): v for k, v in row.items()} for row in plain.to_dict("records")]
