"""Verdicts: every metric of every case beside its baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from apex_sim.checks.baseline import Stored
from apex_sim.checks.metrics import Tolerances, direction_of, tolerance_of

Verdict = Literal["same", "within", "better", "worse", "gone", "new"]
"""same: equal as stored; within: moved, less than the tolerance; gone: the baseline has it, the run does not; new: the
reverse."""
FAILING: tuple[Verdict, ...] = ("worse", "gone", "new")
Status = Literal["passed", "regression", "improved", "no baseline", "other settings", "other plan", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One metric."""

    metric: str
    baseline: float | None
    value: float | None
    allowed: float
    """Change that does not count, in the metric's unit."""
    verdict: Verdict

    @property
    def change(self) -> float | None:
        """Relative change; None where one of the two is missing, infinite from zero."""
        if self.baseline is None or self.value is None:
            return None
        if self.value == self.baseline:
            return 0.0
        return math.copysign(math.inf, self.value) if self.baseline == 0 else self.value / self.baseline - 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """A case, simulated and compared."""

    name: str
    line: int = 1
    values: Mapping[str, float]
    differences: Sequence[Difference] = ()
    failure: str | None = None
    """Why it could not be simulated, or has nothing to be compared with."""
    status: Status
    changed: Sequence[str] = ()
    """Files that the case names and that are not as they were when its values were stored."""

    def fails(self, strict: bool) -> bool:
        """Whether the check fails because of this case; ``strict``: improvements do not pass either, because the baseline
        no longer says what is."""
        if strict and any(d.verdict == "better" for d in self.differences):
            return True
        return self.status not in ("passed", "improved")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """All cases of a suite."""

    suite: Path
    baseline: Path
    cases: Sequence[CaseResult]
    strict: bool = False
    stale: Sequence[str] = ()
    """Names in the baseline that the suite no longer has."""

    @property
    def failing(self) -> list[CaseResult]:
        """Cases because of which the check fails."""
        return [case for case in self.cases if case.fails(self.strict)]

    @property
    def passed(self) -> bool:
        """No case fails, and under ``strict`` no entry of the baseline is left over."""
        return not self.failing and not (self.strict and self.stale)


def compare_values(
    baseline: Mapping[str, float],
    values: Mapping[str, float],
    metrics: Sequence[str],
    tolerances: Tolerances,
    attainment: float | None = None,
) -> list[Difference]:
    """One difference per metric that either side has, in the order of ``metrics``.

    ``attainment``: share of the requests that must be good; the SLO is met with it and missed without, whatever the tolerance.
    """
    wanted = [name for name in metrics if name in baseline or name in values]
    found = [_difference(name, baseline.get(name), values.get(name), tolerances) for name in wanted]
    return [replace(d, verdict="worse") if _misses(d, attainment) else d for d in found]


def _misses(difference: Difference, attainment: float | None) -> bool:
    """Whether this is an SLO that was met and no longer is."""
    now, before = difference.value, difference.baseline
    if difference.metric != "slo_attainment" or attainment is None or now is None or before is None:
        return False
    return now < attainment <= before


def _difference(metric: str, baseline: float | None, value: float | None, tolerances: Tolerances) -> Difference:
    if baseline is None or value is None:
        verdict: Verdict = "new" if baseline is None else "gone"
        return Difference(metric=metric, baseline=baseline, value=value, allowed=0.0, verdict=verdict)
    allowed = tolerance_of(metric, tolerances).allowed(baseline)
    moved, direction = value - baseline, direction_of(metric)
    if moved == 0:
        verdict = "same"
    elif abs(moved) <= allowed * (1 + 1e-9):
        verdict = "within"
    elif direction == "same" or (moved > 0) == (direction == "lower"):
        verdict = "worse"
    else:
        verdict = "better"
    return Difference(metric=metric, baseline=baseline, value=value, allowed=allowed, verdict=verdict)


def compare_case(
    name: str,
    values: Mapping[str, float],
    entry: Stored | None,
    *,
    digest: str,
    metrics: Sequence[str],
    tolerances: Tolerances,
    attainment: float | None = None,
    line: int = 1,
    plan: str = "",
    files: Mapping[str, str] | None = None,
) -> CaseResult:
    """A simulated case beside its entry of the baseline."""
    if entry is None:
        why = "nothing is stored for it yet"
        return CaseResult(name=name, line=line, values=values, status="no baseline", failure=why)
    if entry.digest != digest:
        why = "its settings are not those that the baseline was written for"
        return CaseResult(name=name, line=line, values=values, status="other settings", failure=why)
    differences = compare_values(entry.values, values, metrics, tolerances, attainment)
    verdicts = {difference.verdict for difference in differences}
    status: Status = "passed"
    if verdicts & set(FAILING):
        status = "regression"
    elif "better" in verdicts:
        status = "improved"
    failure = None
    if plan != entry.plan:
        status, failure = "other plan", f"the planner now chooses {plan or 'none'}, and chose {entry.plan or 'none'}"
    found = CaseResult(name=name, line=line, values=values, differences=differences, status=status, failure=failure)
    return replace(found, changed=changed_files(files or {}, entry.files))


def changed_files(now: Mapping[str, str], stored: Mapping[str, str]) -> tuple[str, ...]:
    """Names of files that are not as stored; without stored ones nothing is known."""
    if not stored:
        return ()
    return tuple(sorted(name for name in {*now, *stored} if now.get(name) != stored.get(name)))
