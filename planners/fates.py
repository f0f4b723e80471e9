"""What became of each candidate once the winner is known: its status, and the reason in words."""

from __future__ import annotations

from dataclasses import dataclass, field

from planners import reasons
from planners.outcome import OBJECTIVES, Entry, Objective, front_of, missing
from planners.pool import RATE_TOLERANCE
from planners.space import Candidate
from workloads.slo import Slo


@dataclass(slots=True)
class Fates:
    """Statuses and reasons of one search."""

    objective: Objective
    slo: Slo | None
    where: str
    """What a screening ran on, in words; nothing when that was the whole trace."""
    stretch_rate: dict[Candidate, float] = field(default_factory=dict)
    """Highest rates within the SLO on the busiest stretch [1/s]."""

    def both(self) -> str:
        """What figures of two screenings are of: not those of the table."""
        return f"{self.where}(the table has the whole trace) " if self.where else ""

    def settle(self, entries: list[Entry], best: Entry, by_rate: bool) -> None:
        """Fill in statuses and reasons; ``by_rate``: the winner is the one with the highest rate within the SLO."""
        front = front_of(entries, self.slo)
        for entry in entries:
            if entry.status in ("unfit", "bounded"):
                continue
            if entry.measured is not None:
                self._full(entry, best, any(entry is other for other in front), by_rate)
            else:
                self._screened(entry, best)

    def _full(self, entry: Entry, best: Entry, on_front: bool, by_rate: bool) -> None:
        """Status and reason of a fully simulated entry."""
        assert entry.measured is not None and best.measured is not None
        if entry is best and not missing(entry.measured, self.slo):
            entry.status, entry.reason = "best", f"best by {OBJECTIVES[self.objective][2]}"
            if by_rate:
                entry.reason = f"highest rate within the SLO: {reasons.figure(entry.max_rate_per_s)} req/s"
        elif missing(entry.measured, self.slo):
            entry.status, entry.reason = "missed", reasons.missed(entry.measured)
        else:
            entry.status = "pareto" if on_front else "met"
            words = reasons.compare(entry.measured, best.measured, self.objective)
            entry.reason = self._slower(entry, best) if by_rate else words

    def _slower(self, entry: Entry, best: Entry) -> str:
        """Why an entry is not the one with the highest rate."""
        where, mine, top = "", entry.max_rate_per_s, best.max_rate_per_s
        if mine is None:
            where = self.where
            mine, top = self.stretch_rate.get(entry.candidate), self.stretch_rate.get(best.candidate)
        if mine is None or top is None:
            return entry.reason or reasons.compare(entry.measured, best.measured, self.objective)  # type: ignore[arg-type]
        if mine * (1 + RATE_TOLERANCE) >= top:
            return (
                f"{where}ties within the search's {RATE_TOLERANCE:.0%}: {reasons.figure(mine)} req/s within the SLO against "
                f"{reasons.figure(top)}"
            )
        return f"{where}its highest rate within the SLO is {reasons.figure(mine)} req/s against {reasons.figure(top)}"

    def _screened(self, entry: Entry, best: Entry) -> None:
        """Reason of an entry that was run on the busiest stretch only."""
        assert entry.screen is not None and best.measured is not None
        stretch = self.where
        if missing(entry.screen, self.slo):
            entry.reason = reasons.missed(entry.screen, stretch)
        elif entry.candidate in self.stretch_rate:
            entry.reason = self._slower(entry, best)
        elif not entry.reason and best.screen is not None:
            entry.reason = self.both() + reasons.compare(entry.screen, best.screen, self.objective)
