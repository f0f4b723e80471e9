"""What a case study is: citation, set-up, and checks of published figures against runs of the simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hardware_profiles.errors import UserError

Grade = Literal["A", "B", "C"]
"""A: follows from public constants. B: needs one or two fitted efficiencies, named. C: direction only."""
Confidence = Literal["high", "med", "low"]
Compare = Literal[
    "technique",
    "technique/baseline",
    "baseline/technique",
    "1-technique/baseline",
    "technique-baseline",
]
NEUTRAL: Mapping[str, float] = {
    "technique/baseline": 1.0,
    "baseline/technique": 1.0,
    "1-technique/baseline": 0.0,
    "technique-baseline": 0.0,
}
"""What a comparison is when the technique changes nothing: where the two directions meet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation:
    """Where the figures were published."""

    title: str
    arxiv: str | None = None
    """Number of the preprint, in quotes: a bare 2405.10480 is a number to YAML."""
    venue: str | None = None
    version: str | None = None
    """Version of the text that the figures are from, where versions differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A figure, or a band of figures. Rates, ratios and shares alike, in SI units or those of ``unit``."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    direction: Literal["above", "below"] | None = None
    """Grade C, where the source has an order but no figure: on which side of neutral."""
    text: str | None = None
    """As the source words it, such as "up to 4x"."""

    @property
    def ends(self) -> tuple[float, float] | None:
        """The smallest and the largest published figure; None where only the direction is published."""
        low = self.low if self.value is None else self.value
        high = self.high if self.value is None else self.value
        return None if low is None or high is None else (low, high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How far a simulated figure may be outside the published ones, and why so far."""

    reason: str
    relative: float = 0.0
    absolute: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A physical parameter that no public constant gives: a value within bounds."""

    value: float
    low: float
    high: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run through the public settings: what kind, which settings, which figure of its result."""

    kind: str
    settings: Mapping[str, Any]
    """As written in the file, without ``kind`` and ``metric``."""
    metric: str | None = None
    """Arithmetic over the fields of the result, where it is not the check's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A published figure and the runs that should reproduce it."""

    claim: str
    grade: Grade
    metric: str = "value"
    compare: Compare = "technique"
    published: Published
    tolerance: Tolerance | None = None
    neutral: float | None = None
    """Grade C: simulated and published figures must be on the same side of it."""
    fitted: Mapping[str, Fitted] = field(default_factory=dict)
    setup: str = ""
    notes: str = ""
    baseline: Run | None = None
    technique: Run | None = None

    @property
    def middle(self) -> float | None:
        """Where the directions meet, given or known from the comparison."""
        return self.neutral if self.neutral is not None else NEUTRAL.get(self.compare)

    @property
    def upward(self) -> bool:
        """Whether the published figure is above neutral."""
        ends, middle = self.published.ends, self.middle
        return self.published.direction == "above" if ends is None else middle is not None and ends[0] > middle

    @property
    def band(self) -> tuple[float, float] | None:
        """Smallest and largest simulated figure that counts as inside; None where only the direction counts."""
        ends = self.published.ends
        if self.grade == "C" or ends is None:
            return None
        low, high = ends
        room = self.tolerance or Tolerance(reason="")
        return low * (1 - room.relative) - room.absolute, high * (1 + room.relative) + room.absolute


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One published system."""

    system: str
    """Short name, as in systems.yaml where it is listed there."""
    citation: Citation
    rows: tuple[str, ...] = ()
    """Capabilities that it exercises, R01 to R30 (docs/case_studies.md)."""
    confidence: Confidence
    evidence: str
    """Whether the published figures are from the abstract, from notes on the paper, or from memory."""
    setup: str
    notes: str = ""
    name: str = ""
    """The file's name without .yaml."""
    checks: Mapping[str, Check] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemLine:
    """A system of the literature behind the project, whether or not it has a case."""

    title: str
    group: Literal["a", "b", "c", "e"]
    """a: serving systems, b: hardware, c: planners, energy and cost, e: inference techniques."""
    rows: tuple[str, ...]
    missing: str | None = None
    """What of it the program does not express, in one line. With a case: what the case leaves out."""


def check_consistent(check: Check, place: str) -> None:
    """UserError for a check whose parts contradict each other."""
    published, low, high = check.published, check.published.low, check.published.high
    given = (published.value is not None) + (low is not None or high is not None) + (published.direction is not None)
    if given != 1 or (low is None) != (high is None):
        raise UserError(f"{place}.published: write value, or low and high, or (grade C) direction: above or below")
    if published.direction is not None and check.grade != "C":
        raise UserError(f"{place}.published.direction is for grade C; grade {check.grade} needs a figure")
    if low is not None and high is not None and low > high:
        raise UserError(f"{place}.published: low is {low:g} and high is {high:g}; swap them")
    if check.technique is None:
        raise UserError(f"{place}.technique is missing; add a run, for example {{kind: simulate, model: ...}}")
    if ("baseline" in check.compare) != (check.baseline is not None):
        what = "is missing" if check.baseline is None else "has no meaning"
        raise UserError(f"{place}.baseline {what} with compare '{check.compare}'")
    if check.grade == "C":
        if check.middle is None:
            raise UserError(f"{place}.neutral is missing; a direction needs the value at which directions meet")
        if check.tolerance is not None:
            raise UserError(f"{place}.tolerance has no meaning with grade C, which is a direction only; drop it")
        if published.ends is not None and published.ends[0] <= check.middle <= published.ends[1]:
            raise UserError(f"{place}.published holds neutral {check.middle:g} itself, which is no direction")
    elif check.tolerance is None:
        raise UserError(f"{place}.tolerance is missing; write relative or absolute, and the reason")
    for name, fit in check.fitted.items():
        if not fit.low <= fit.value <= fit.high:
            raise UserError(f"{place}.fitted.{name}: {fit.value:g} is outside {fit.low:g} to {fit.high:g}")
