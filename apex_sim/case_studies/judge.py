"""From results of runs to verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from apex_sim.case_studies.formulas import evaluate
from apex_sim.case_studies.schema import Case, Check, Run
from hardware_profiles.errors import UserError

Verdict = Literal["inside", "OUTSIDE", "right", "WRONG"]
"""Of a band (grades A and B), or of a direction (grade C)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One check, done."""

    case: Case
    name: str
    check: Check
    simulated: float
    verdict: Verdict

    @property
    def title(self) -> str:
        """Case and check."""
        return f"{self.case.name}/{self.name}"

    @property
    def ratio(self) -> float | None:
        """Simulated over the nearest published figure; None where that is 0 or not published."""
        if self.check.published.ends is None:
            return None
        low, high = self.check.published.ends
        nearest = min(max(self.simulated, low), high)
        return self.simulated / nearest if nearest else None

    @property
    def failed(self) -> bool:
        """Whether it counts against the program: a figure outside its band. A wrong direction is only shown."""
        return self.verdict == "OUTSIDE"


def judge(case: Case, name: str, results: Mapping[str, Mapping[str, Any]]) -> Outcome:
    """The verdict of a check; ``results``: of its runs, ``technique`` and perhaps ``baseline``."""
    check = case.checks[name]
    place = f"{case.name}.yaml: checks.{name}"
    figures = {
        which: evaluate(run.metric or check.metric, results[which], f"{place}.{which}.metric")
        for which, run in runs_of(check).items()
    }
    simulated = _compared(check, figures, place)
    return Outcome(case=case, name=name, check=check, simulated=simulated, verdict=_verdict(check, simulated))


def runs_of(check: Check) -> dict[str, Run]:
    """Its runs by name."""
    pairs = (("baseline", check.baseline), ("technique", check.technique))
    return {name: run for name, run in pairs if run is not None}


def _compared(check: Check, figures: Mapping[str, float], place: str) -> float:
    technique, baseline = figures["technique"], figures.get("baseline", 0.0)
    if check.compare == "technique":
        return technique
    if check.compare == "technique-baseline":
        return technique - baseline
    below = technique if check.compare == "baseline/technique" else baseline
    if below == 0:
        raise UserError(f"{place}: {check.compare} divides by a figure that is 0; choose another metric")
    if check.compare == "baseline/technique":
        return baseline / technique
    return technique / baseline if check.compare == "technique/baseline" else 1 - technique / baseline


def _verdict(check: Check, simulated: float) -> Verdict:
    if check.band is not None:
        low, high = check.band
        return "inside" if low <= simulated <= high else "OUTSIDE"
    middle = check.middle
    assert middle is not None
    return "right" if simulated != middle and (simulated > middle) == check.upward else "WRONG"
