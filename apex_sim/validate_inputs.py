"""What the arguments of ``apex-sim validate`` mean: measured runs, goals, labels; and their replay."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apex_sim.command_arguments import Bar
    from simulator.validation.outcome import Outcome
    from simulator.validation.run import MeasuredRun
    from simulator.validation.score import Goal


@dataclass(frozen=True, slots=True)
class Asked:
    """What is compared."""

    runs: list[MeasuredRun]
    goals: tuple[Goal, ...]
    by: tuple[str, ...]
    """Labels to aggregate by."""


def asked_of(args: argparse.Namespace) -> Asked:
    """Runs, goals and labels, checked."""
    from hardware_profiles.errors import UserError, unknown_name
    from simulator.validation.files import check_unique, cited_runs, read_runs
    from simulator.validation.metrics import metric_names
    from simulator.validation.outcome import select
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
    return Asked(runs, goals, by)


def outcome_of(asked: Asked, args: argparse.Namespace, bar: Bar) -> Outcome:
    """Replay the runs."""
    from simulator.validation.outcome import Outcome
    from simulator.validation.replay import Options, predict_all

    options = Options(seeds=args.seeds, fast=args.fast)
    with bar("replaying") as progress:
        predictions = predict_all(asked.runs, options, jobs=args.jobs or os.cpu_count() or 1, progress=progress)
    return Outcome(asked.runs, predictions, asked.goals)


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
