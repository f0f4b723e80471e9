"""Shares of sizes as whole slices within given instances."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from planners.fleet.problem import FULL, FleetProblem, Floats, Slices

MOVES = 400
"""Most slices moved to mend one rounding."""


def whole_slices(fleet: FleetProblem, shares: Floats) -> Slices:
    """int64[sizes, types]: the shares with whole slices, by largest remainders."""
    served = np.isfinite(fleet.loads)
    wanted = np.where(served, shares, 0.0) * fleet.slice_factor
    slices = np.floor(wanted + 1e-9).astype(np.int64)
    for b in np.flatnonzero(fleet.rates_per_s > 0).tolist():
        missing = fleet.slice_factor - int(slices[b].sum())
        rest = np.where(served[b], wanted[b] - slices[b], -np.inf)
        for j in np.argsort(-rest, kind="stable")[:missing].tolist():
            slices[b, j] += 1
    slices[fleet.rates_per_s <= 0] = 0
    return slices


def fit(fleet: FleetProblem, slices: Slices, counts: npt.NDArray[np.int64], prices: Floats) -> Slices | None:
    """The slices moved until every type's load is within its instances; None when moves one at a time do not do it.

    Each move takes a slice off an overfull type to one with room for it, the move that costs least at ``prices`` (of
    the types' capacities) per instance's worth of load taken off.
    """
    slices = slices.copy()
    served = np.isfinite(fleet.loads)
    part = np.where(served, fleet.loads, 0.0) / fleet.slice_factor
    room = counts * (1 + FULL) - (part * slices).sum(axis=0)
    for _ in range(MOVES):
        if (room >= 0).all():
            return slices
        j = int(np.argmin(room))
        may = served & (slices[:, j] > 0)[:, None] & (part <= room) & (part[:, j] > 0)[:, None]
        may[:, j] = False
        cost = (part * prices - (part[:, j] * prices[j])[:, None]) / np.minimum(part[:, j], -room[j])[:, None].clip(
            1e-300
        )
        cost = np.where(may, cost, np.inf)
        b, k = np.unravel_index(int(np.argmin(cost)), cost.shape)
        if not may[b, k]:
            return None
        slices[b, j] -= 1
        slices[b, k] += 1
        room[j] += part[b, j]
        room[k] -= part[b, k]
    return None
