"""Runs of many checks, each distinct one once, on several processes; results do not depend on how many."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from apex_sim.case_studies.judge import Outcome, judge, runs_of
from apex_sim.case_studies.kinds import execute
from apex_sim.case_studies.schema import Case, Run
from hardware_profiles.errors import UserError

LONG_FIRST = ("power", "plan", "gpus", "experts", "simulate")
"""Kinds that take longest start first, so that the last process is not left alone with one of them."""


def pick(cases: Sequence[Case], only: str | None) -> list[tuple[Case, str]]:
    """Checks of the cases, all or those of a grade (A, B, C) or of a row (R07)."""
    checks = [(case, name) for case in cases for name in case.checks]
    if only is None:
        return checks
    wanted = only.upper()
    if wanted in ("A", "B", "C"):
        return [(case, name) for case, name in checks if case.checks[name].grade == wanted]
    found = [(case, name) for case, name in checks if wanted in case.rows]
    if not found:
        raise UserError(f"--only is {only!r}; no case has that grade or row. Use A, B, C, or a row such as R07")
    return found


def run_checks(
    checks: Sequence[tuple[Case, str]], jobs: int, progress: Callable[[int, int], None] | None = None
) -> list[Outcome]:
    """Verdicts in the order of the checks."""
    tasks: dict[str, tuple[Run, str]] = {}
    for case, name in checks:
        for which, run in runs_of(case.checks[name]).items():
            tasks.setdefault(_key(run), (run, f"{case.name}.yaml: checks.{name}.{which}"))
    order = sorted(tasks, key=lambda key: _rank(tasks[key][0]))
    results: dict[str, Mapping[str, Any]] = {}
    for key, (values, complaint) in zip(order, _results([tasks[key] for key in order], jobs), strict=True):
        if complaint is not None:
            raise UserError(complaint)
        results[key] = values
        if progress is not None:
            progress(len(results), len(tasks))
    return [
        judge(case, name, {which: results[_key(run)] for which, run in runs_of(case.checks[name]).items()})
        for case, name in checks
    ]


def _results(tasks: Sequence[tuple[Run, str]], jobs: int) -> Iterator[tuple[Mapping[str, Any], str | None]]:
    if jobs == 1 or len(tasks) < 2:
        yield from map(_execute, tasks)
        return
    from simulator.workers import Workers

    with Workers(min(jobs, len(tasks))) as workers:
        yield from workers.map(_execute, tasks)


def _execute(task: tuple[Run, str]) -> tuple[Mapping[str, Any], str | None]:
    run, place = task
    try:
        return execute(run.kind, run.settings), None
    except UserError as error:
        return {}, f"{place}: {error}"


def _key(run: Run) -> str:
    """Equal for runs that are the same, whatever is read off them."""
    return json.dumps([run.kind, run.settings], sort_keys=True, default=str)


def _rank(run: Run) -> int:
    return LONG_FIRST.index(run.kind) if run.kind in LONG_FIRST else len(LONG_FIRST)
