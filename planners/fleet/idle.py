"""What more instances cannot mend: requests that miss the SLO even on an idle instance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from planners.fleet.capacity import Capacity
from planners.fleet.check import Checked, good_alone
from planners.fleet.instance import Candidate, Serving
from planners.fleet.problem import FleetProblem, Floats
from workloads.trace import Trace


class Idle:
    """Which requests of a trace meet the SLO on an idle instance of a type; simulated when first asked for."""

    def __init__(
        self,
        serving: Serving,
        candidates: Sequence[Candidate],
        cell: npt.NDArray[np.int64],
        trace: Trace,
        capacity: Capacity,
    ) -> None:
        self._serving, self._candidates, self._cell = serving, candidates, cell
        self._trace, self._capacity = trace, capacity
        self._good: dict[int, npt.NDArray[np.bool_]] = {}

    def good(self, j: int) -> npt.NDArray[np.bool_]:
        """bool[requests]."""
        if j not in self._good:
            deployment = self._serving.deployment(self._candidates[j], 1)
            self._good[j] = good_alone(deployment, self._trace, self._capacity.slo, self._capacity.seed)
        return self._good[j]

    def attainment(self, checked: Checked, rows: npt.NDArray[np.int64] | None = None) -> float:
        """Share of the requests dealt to types; ``rows``: which of the trace were simulated, all by default."""
        rows = np.arange(len(self._trace)) if rows is None else rows
        dealt = [(j, rows[checked.types == j]) for j in np.unique(checked.types[checked.types >= 0]).tolist()]
        good = sum(int(self.good(j)[mine].sum()) for j, mine in dealt)
        return good / max(1, sum(len(mine) for _, mine in dealt))

    def without_hopeless(self, problem: FleetProblem, missed: Sequence[bool]) -> Floats:
        """float64[sizes, types]: MaxTput, 0 where too few of a size's requests meet the SLO on an idle instance of a type
        that missed it, and another type does better."""
        tput = problem.max_tput_per_s.copy()
        for j in np.flatnonzero(missed).tolist():
            for b in np.flatnonzero(tput[:, j]).tolist():
                rows = self._cell == b
                mine = float(self.good(j)[rows].mean()) if rows.any() else 1.0
                if mine >= self._capacity.slo.attainment:
                    continue
                others = [k for k in np.flatnonzero(tput[b]).tolist() if k != j and problem.types[k].limit != 0]
                if any(float(self.good(k)[rows].mean()) > mine for k in others):
                    tput[b, j] = 0.0
        return tput
