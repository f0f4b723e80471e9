"""From GPU names and a trace to a fleet that keeps its promise in the simulator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hardware_profiles.errors import UserError
from hardware_profiles.schema import Site, Terms
from planners.fleet.capacity import Capacity
from planners.fleet.check import Checked, check
from planners.fleet.grid import Histogram, nearest
from planners.fleet.idle import Idle
from planners.fleet.ilp import plan_fleet
from planners.fleet.instance import Candidate, Serving
from planners.fleet.problem import Fleet, FleetProblem, Floats, type_loads
from workloads.trace import Trace

ROUNDS = 24
"""Of buying headroom."""
STEP = 1.1
"""A type that missed its promise has its throughputs divided by this for the next round."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Round:
    """One fleet and what became of it."""

    problem: FleetProblem
    fleet: Fleet
    headroom: Floats
    """float64[types]: by how much the type's throughputs were divided."""
    checked: Checked
    redrawn: tuple[float, ...] = ()
    """Attainment on other draws of the workload."""
    idle_attainment: float | None = None
    """Share of the requests that would meet the SLO if each had an idle instance of its type; None where not looked at."""


def measure(
    serving: Serving,
    candidates: Sequence[Candidate],
    grid: Histogram,
    capacity: Capacity,
    progress: Callable[[int, int], None] | None = None,
) -> Floats:
    """float64[sizes, types]: MaxTput of every pair [1/s]."""
    tput = np.zeros((len(grid.sizes), len(candidates)))
    for j, candidate in enumerate(candidates):
        plain = replace(candidate.cluster, terms=Terms(), site=Site())  # throughputs depend on neither
        deployment = serving.deployment(replace(candidate, cluster=plain), 1)
        try:
            fits = deployment.memory.num_blocks > 0
        except UserError:  # the model does not fit this type: it serves nothing
            fits = False
        for b, size in enumerate(grid.sizes):
            if fits:
                assert size.input_tokens is not None and size.output_tokens is not None
                tput[b, j] = capacity.max_tput(deployment, round(size.input_tokens), round(size.output_tokens))
            if progress is not None:
                progress(j * len(grid.sizes) + b + 1, tput.size)
    return tput


def keep_promise(
    problem: FleetProblem,
    serving: Serving,
    candidates: Sequence[Candidate],
    grid: Histogram,
    trace: Trace,
    capacity: Capacity,
    *,
    gap: float | None,
    time_limit_s: float | None,
    rounds: int = ROUNDS,
    redraws: Sequence[Trace] = (),
) -> list[Round]:
    """Plan, simulate and, while the SLO's share is missed, plan again with headroom on the types that missed it.

    Mixed sizes disturb each other and arrivals come in bursts, which a throughput per size does not know; the paper
    over-provisions by scaling the rate. A size whose requests miss the SLO even on an idle instance of its type, its mean
    notwithstanding, goes to other types. It ends where idle instances would miss the share as well, or where limits leave
    no room. The last round is the plan. ``redraws``: of the same workload, on which the promise must hold too.
    """
    headroom = np.ones(len(candidates))
    idle = Idle(serving, candidates, grid.cell, trace, capacity)
    done: list[Round] = []
    share, others = capacity.slo.attainment, [(nearest(grid, other), other) for other in redraws]
    for _ in range(rounds + 1):
        eased = replace(problem, max_tput_per_s=problem.max_tput_per_s / headroom)
        try:
            fleet = plan_fleet(eased, gap=gap, time_limit_s=time_limit_s)
        except UserError:
            if not done:
                raise
            break
        deployments = [serving.deployment(c, n) if n else None for c, n in zip(candidates, fleet.counts, strict=True)]
        checked = check(fleet.slices, deployments, grid.cell, trace, capacity.slo, capacity.seed)
        redrawn = [check(fleet.slices, deployments, *pair, capacity.slo, capacity.seed) for pair in others]
        found = Round(problem=eased, fleet=fleet, headroom=headroom, checked=checked)
        done.append(replace(found, redrawn=tuple(other.attainment for other in redrawn)))
        missed = np.any([_missed(one, share) for one in (checked, *redrawn)], axis=0)
        if not missed.any() or not rounds:
            break
        best = idle.attainment(checked)
        done[-1] = replace(done[-1], idle_attainment=best)
        tput = idle.without_hopeless(problem, missed)
        if (tput == problem.max_tput_per_s).all():
            if best < share:
                break
            headroom = np.where(missed, _next(problem, fleet, headroom), headroom)
        problem = replace(problem, max_tput_per_s=tput)
    return done


def _missed(checked: Checked, share: float) -> list[bool]:
    """Per type, where the fleet misses its promise; none where it keeps it."""
    kept = checked.attainment >= share
    return [not kept and result is not None and result.attainment < share for result in checked.results]


def _next(problem: FleetProblem, fleet: Fleet, headroom: Floats) -> Floats:
    """Headroom that fills at least the slack that rounding up had left."""
    eased = replace(problem, max_tput_per_s=problem.max_tput_per_s / headroom)
    loads = np.maximum(type_loads(eased, fleet.slices), 1e-9)
    slack: Floats = np.clip(np.array(fleet.counts) / loads, 1.0, 1.5)
    return headroom * np.maximum(STEP, slack * 1.001)
