"""The fleet meets its workload: a router by size, one simulated deployment per type of instance."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from planners.fleet.problem import Slices
from simulator.deployment import Deployment
from simulator.result import SimulationResult
from simulator.simulate import simulate_deployment
from workloads.slo import Slo
from workloads.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checked:
    """What the simulation of a fleet said."""

    attainment: float
    """Share of the requests that met the SLO, those of sizes left out not counted; 0 when all are left out."""
    left_out: int
    """Requests of sizes that the plan leaves out."""
    types: npt.NDArray[np.int64]
    """int64[requests]: type of each, -1 where left out."""
    results: tuple[SimulationResult | None, ...]
    """Per type; None where it has no requests."""


def route(cell: npt.NDArray[np.int64], slices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """int64[requests]: type of each request, -1 where its size is left out.

    The requests of a size go to the types in proportion to its slices, dealt out in turn (largest arrears first), so
    that every type's share of a size is even over time.
    """
    types = np.full(len(cell), -1, dtype=np.int64)
    for size in range(len(slices)):
        rows = np.flatnonzero(cell == size)
        total = int(slices[size].sum())
        if total:
            pattern = _turns(slices[size], total)
            types[rows] = pattern[np.arange(len(rows)) % total]
    return types


def _turns(slices: npt.NDArray[np.int64], total: int) -> npt.NDArray[np.int64]:
    """One round of ``total`` turns: each goes to the type furthest behind its share (the first of equals)."""
    given = np.zeros(len(slices))
    turns = np.empty(total, dtype=np.int64)
    for turn in range(total):
        behind = slices * (turn + 1.0) / total - given
        turns[turn] = int(np.argmax(behind))
        given[turns[turn]] += 1
    return turns


def check(
    slices: Slices,
    deployments: Sequence[Deployment | None],
    cell: npt.NDArray[np.int64],
    trace: Trace,
    slo: Slo,
    seed: int,
) -> Checked:
    """Simulate every type's share of the trace on its instances (``deployments``: with that many replicas).

    ``slices``: int64[sizes, types] of the plan.
    """
    types = route(cell, slices)
    good, results = 0, []
    for j, deployment in enumerate(deployments):
        rows = np.flatnonzero(types == j)
        result = None
        if len(rows) and deployment is not None:
            result = simulate_deployment(deployment, _part(trace, rows), slo=slo, seed=seed)
            good += int(result.good.sum())
        results.append(result)
    left_out = int((types < 0).sum())
    attainment = good / max(1, len(trace) - left_out)
    return Checked(attainment=attainment, left_out=left_out, types=types, results=tuple(results))


def good_alone(deployment: Deployment, trace: Trace, slo: Slo, seed: int) -> npt.NDArray[np.bool_]:
    """bool[requests]: those that meet the SLO one at a time on an otherwise idle instance; more instances help no other."""
    part = dataclasses.replace(_part(trace, np.arange(len(trace))), concurrency=1)
    return simulate_deployment(deployment, part, slo=slo, seed=seed).good


def _part(trace: Trace, rows: npt.NDArray[np.int64]) -> Trace:
    return Trace(
        arrival_s=trace.arrival_s[rows],
        input_tokens=trace.input_tokens[rows],
        output_tokens=trace.output_tokens[rows],
        name=trace.name,
        source=trace.source,
    )
