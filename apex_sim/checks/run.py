"""Running a suite: simulate every case, compare, or write a new baseline."""

from __future__ import annotations

import dataclasses
import fnmatch
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from apex_sim.checks.baseline import Stored, baseline_text, read_baseline
from apex_sim.checks.compare import CaseResult, CheckResult, changed_files, compare_case
from apex_sim.checks.metrics import DEFAULT_KEY, Tolerance, values_of
from apex_sim.checks.plan_case import run_plan
from apex_sim.checks.question_case import run_question
from apex_sim.checks.suite import Case, Suite, read_suite
from apex_sim.setting_words import as_fields
from hardware_profiles.errors import UserError

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Ran:
    """What simulating a case gave."""

    values: dict[str, float]
    failure: str | None = None
    ours: bool = False
    """Whether the failure is this package's own fault."""
    plan: str = ""
    """What the planner chose, where the case lets it."""


class Updated(NamedTuple):
    """What writing a baseline did, by the names of the cases."""

    changed: list[str]
    removed: list[str]


def run_case(case: Case) -> Ran:
    """Simulate one case; a deployment that cannot be built or serves nothing is a failure, not an exception."""
    from apex_sim.api import simulate

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if "plan" in case.settings:
                metrics, plan = run_plan(case.settings)
                return Ran(values_of(metrics, case.metrics), plan=plan)
            if case.question is not None:
                metrics, plan = run_question(case.question, case.settings)
                return Ran(values_of(metrics, case.metrics), plan=plan)
            return Ran(values_of(simulate(**case.settings).summary, case.metrics))
        except UserError as error:
            return Ran({}, as_fields(str(error)))
        except Exception as error:  # our own fault: the case is named, the others are not lost
            return Ran({}, f"internal error: {error!r}", ours=True)


def run_cases(cases: Sequence[Case], *, jobs: int = 1, progress: Progress | None = None) -> list[Ran]:
    """All cases, in their order; the result does not depend on ``jobs``."""
    from simulator.workers import Workers

    found: list[Ran] = []

    def note(ran: Ran) -> None:
        found.append(ran)
        if progress is not None:
            progress(len(found), len(cases))

    if jobs <= 1 or len(cases) < 2:
        for case in cases:
            note(run_case(case))
        return found
    with Workers(min(jobs, len(cases))) as workers:
        for ran in workers.map(run_case, cases):
            note(ran)
    return found


def check(
    suite: str | Path,
    *,
    baseline: str | Path | None = None,
    match: str | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    strict: bool = False,
    jobs: int = 1,
    progress: Progress | None = None,
) -> CheckResult:
    """Compare a suite's predictions with its baseline.

    match: only cases whose name has it (or fits it, with ``*``). rtol, atol: the default tolerance, instead of the suite's.
    strict: improvements and left-over baseline entries fail too. Raises UserError for a suite or a baseline that cannot be
    read, or a case that cannot be simulated and never was; one that once was is a failing case.
    """
    loaded = selected(read_suite(suite, baseline=baseline), match)
    stored = read_baseline(loaded.baseline)
    cases = [_with_default(case, rtol, atol) for case in loaded.cases]
    results = [
        _result(case, ran, stored.get(case.name), loaded.path)
        for case, ran in zip(cases, run_cases(cases, jobs=jobs, progress=progress), strict=True)
    ]
    stale = () if match is not None else tuple(name for name in stored if name not in {c.name for c in loaded.cases})
    return CheckResult(suite=loaded.path, baseline=loaded.baseline, cases=results, strict=strict, stale=stale)


def update(
    suite: str | Path,
    reason: str,
    *,
    baseline: str | Path | None = None,
    match: str | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Updated:
    """Write the values of today as the baseline; names of the cases whose entry changed or is gone with its case.

    Entries whose values and settings are the same keep their reason. Raises UserError, and writes nothing, when a case
    cannot be simulated.
    """
    from apex_sim.files import prepare_file, write_text

    reason = " ".join(reason.split())
    if not reason:
        raise UserError("--reason is empty; say in a line why the values change (it is stored beside them)")
    loaded = selected(read_suite(suite, baseline=baseline), match)
    target = prepare_file(loaded.baseline, "baseline")
    stored = read_baseline(target)
    entries = dict(stored)
    if match is None:
        entries = {case.name: stored[case.name] for case in loaded.cases if case.name in stored}
    for case, ran in zip(loaded.cases, run_cases(loaded.cases, jobs=jobs, progress=progress), strict=True):
        if ran.failure is not None:
            raise UserError(f"{loaded.path}: case {case.name!r}: {ran.failure}")
        _check_metrics(case, ran, {}, loaded.path)
        new = Stored(digest=case.digest, reason=reason, values=ran.values, plan=ran.plan, files=case.files)
        old = stored.get(case.name)
        same = old is not None and dataclasses.replace(new, reason=old.reason) == old
        entries[case.name] = old if same and old is not None else new
    changed = sorted(name for name in entries if entries[name] != stored.get(name))
    removed = sorted(name for name in stored if name not in entries)
    if changed or removed or not target.exists():
        write_text(target, baseline_text(entries))
    return Updated(changed, removed)


def selected(suite: Suite, match: str | None) -> Suite:
    """The suite with only the cases whose name has ``match`` in it."""
    if match is None:
        return suite
    pattern = match if "*" in match else f"*{match}*"
    cases = tuple(case for case in suite.cases if fnmatch.fnmatchcase(case.name, pattern))
    if not cases:
        raise UserError(f"--match {match!r}: none of {len(suite.cases)} cases of {suite.path} has it in its name")
    return dataclasses.replace(suite, cases=cases)


def _with_default(case: Case, rtol: float | None, atol: float | None) -> Case:
    if rtol is None and atol is None:
        return case
    known = case.tolerances.get(DEFAULT_KEY, Tolerance())
    default = Tolerance(rel=known.rel if rtol is None else rtol, abs=known.abs if atol is None else atol)
    return dataclasses.replace(case, tolerances={**case.tolerances, DEFAULT_KEY: default})


def _result(case: Case, ran: Ran, entry: Stored | None, path: Path) -> CaseResult:
    """What was simulated with these settings before and cannot be now is a regression; anything else a mistake of the suite."""
    if ran.failure is not None:
        if not ran.ours and (entry is None or entry.digest != case.digest):
            raise UserError(f"{path}: case {case.name!r}: {ran.failure}")
        changed = changed_files(case.files, {} if entry is None else entry.files)
        failed = CaseResult(name=case.name, line=case.line, values={}, status="failed", failure=ran.failure)
        return dataclasses.replace(failed, changed=changed)
    _check_metrics(case, ran, {} if entry is None else entry.values, path)
    return compare_case(
        case.name,
        ran.values,
        entry,
        digest=case.digest,
        metrics=case.metrics,
        tolerances=case.tolerances,
        attainment=case.attainment,
        line=case.line,
        plan=ran.plan,
        files=case.files,
    )


def _check_metrics(case: Case, ran: Ran, stored: Mapping[str, float], path: Path) -> None:
    """A metric that the suite names and neither side has would be compared with nothing."""
    missing = [name for name in case.metrics if name not in ran.values and name not in stored]
    if case.named and missing:
        raise UserError(
            f"{path}: case {case.name!r}: metrics: its run has no {', '.join(missing)}; leave it out, or give what it needs "
            "(slo_attainment an SLO, costs a price, energy a power model)"
        )
