"""What the fleet planner decides about: sizes with rates, GPU types with prices, and how much of a size a GPU serves."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hardware_profiles.errors import UserError

Floats = npt.NDArray[np.float64]
Slices = npt.NDArray[np.int64]
FULL = 1e-8
"""Loads are sums of floats: a GPU filled to 1 within this is not two GPUs."""
MAX_SLICES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuType:
    """One rentable instance: a GPU, or a tensor-parallel group of them."""

    name: str
    usd_per_hour: float
    limit: int | None = None
    """Most instances to be had; None: as many as wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Requests of one cell of the histogram of (input, output) lengths, as the planner sees them."""

    name: str
    rate_per_s: float
    input_tokens: float | None = None
    """Mean over the cell's requests; None when a profile does not say."""
    output_tokens: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FleetProblem:
    """Sizes, types and the throughput of every pair."""

    types: tuple[GpuType, ...]
    sizes: tuple[Size, ...]
    max_tput_per_s: Floats
    """float64[sizes, types]: MaxTput(G, s, SLO), highest rate of one instance within the SLO [1/s]; 0: it cannot."""
    slice_factor: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.slice_factor <= MAX_SLICES:
            raise UserError(f"slice factor is {self.slice_factor}; it must be from 1 to {MAX_SLICES} (Mélange uses 8)")
        assert self.max_tput_per_s.shape == (len(self.sizes), len(self.types))

    @property
    def rates_per_s(self) -> Floats:
        """float64[sizes]."""
        return np.array([size.rate_per_s for size in self.sizes], dtype=np.float64)

    @property
    def usd_per_hour(self) -> Floats:
        """float64[types]."""
        return np.array([kind.usd_per_hour for kind in self.types], dtype=np.float64)

    @property
    def loads(self) -> Floats:
        """float64[sizes, types]: instances that all requests of a size fill, rate / MaxTput; infinite: it cannot serve."""
        rates = self.rates_per_s[:, None]
        loads = np.full(self.max_tput_per_s.shape, math.inf)
        np.divide(rates, self.max_tput_per_s, out=loads, where=self.max_tput_per_s > 0)
        loads[self.rates_per_s == 0] = 0.0
        return loads

    @property
    def unserved(self) -> tuple[int, ...]:
        """Sizes with requests that no type serves within the SLO."""
        return tuple(np.flatnonzero(~np.isfinite(self.loads).any(axis=1)).tolist())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fleet:
    """A solved problem."""

    counts: tuple[int, ...]
    """Instances per type."""
    slices: npt.NDArray[np.int64]
    """int64[sizes, types]: of slice_factor slices of a size, how many each type serves."""
    usd_per_hour: float
    bound_usd_per_hour: float | None
    """No fleet (at this slice factor) is cheaper; None when nothing was proven."""
    gap: float | None
    optimal: bool
    """Proven within the gap asked for."""
    solver: str
    seconds: float
    """Wall clock of all solves; never part of a printed plan."""
    rows: tuple[Floats, ...] = ()
    """Each float64[types]: every fleet that serves all has row @ counts >= 1 (planners.fleet.counts)."""


def instances(load: float) -> int:
    """Whole instances that hold a load; one for the smallest load."""
    return max(math.ceil(load - FULL * max(1.0, load)), int(load > 0))


def cost_of(fleet: FleetProblem, slices: Slices) -> float:
    """Of the instances that a plan fills [$/h]."""
    return float(np.dot(fleet.usd_per_hour, counts_of(fleet, slices)))


def counts_of(fleet: FleetProblem, slices: Slices) -> tuple[int, ...]:
    """Instances of each type that a plan fills."""
    return tuple(instances(load) for load in type_loads(fleet, slices).tolist())


def size_shares(problem: FleetProblem, fleet: Fleet, size: int) -> dict[str, float]:
    """Which share of the requests of a size goes to which type; those without a share are left out."""
    counts = zip(problem.types, fleet.slices[size].tolist(), strict=True)
    return {kind.name: int(n) / problem.slice_factor for kind, n in counts if n}


def type_loads(fleet: FleetProblem, slices: Slices) -> Floats:
    """float64[types]: instances' worth of load on each type."""
    loads = np.where(slices > 0, fleet.loads, 0.0)
    total: Floats = (loads * slices / fleet.slice_factor).sum(axis=0)
    return total
