"""The whole plan: balance first, then traffic under that balance, beside the usual placements, each with its bounds."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hardware_profiles.errors import UserError
from planners.experts.balance import balance_bound, balanced, best_split, busiest
from planners.experts.balance_ilp import solve_balance
from planners.experts.exact import MOST_STATES, best_path, number_of_states
from planners.experts.layer_ilp import IlpWork, improve_layers
from planners.experts.placement import Figures, figures_of
from planners.experts.replicate import (
    by_groups_fits,
    moved,
    replica_bound,
    replicated,
    replicated_by_groups,
    slot_demand,
)
from planners.experts.topology import Topology
from planners.experts.traffic import nodes_first, rename_ranks, sweep_experts, traffic_bound
from planners.solver import relative_gap
from simulator.experts.placement import Placement, from_ranks, linear_ranks, to_ranks
from simulator.experts.routing import Demand, Floats, Ints

SLACK = 0.01
"""Tokens that the busiest rank may have above the bound, in favour of traffic."""
MOST_BINARIES = 128
"""Experts times ranks of a layer up to which ILP 1 is solved when splits and swaps do not meet its bound."""
NEAR, MOST_NODES = 2e-3, 2000
"""ILP 1 starts from a gap of NEAR and stops at half of it, or at a number of nodes: never at a time, which would make plans
depend on the machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A placement and what it costs on the routing it was planned for."""

    name: str
    placement: Placement
    figures: Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertPlan:
    """The chosen placement first among ``candidates``, and what no placement can beat."""

    chosen: Candidate
    candidates: tuple[Candidate, ...]
    """Linear first; the chosen one last."""
    balance_bound: float
    """Least imbalance of any placement with as many slots (sum of the layers' busiest ranks over that of the means)."""
    limits: Floats
    """float64[L]: tokens that the busiest rank of a layer may have."""
    traffic_bound: float
    """Least traffic of any placement with as many slots within these limits [tokens on the fastest link]."""
    traffic_proven: bool
    """The chosen placement has that traffic."""
    ilp: IlpWork = field(default_factory=IlpWork)
    """What sub-problems of ILP 2 gained after the local search."""

    @property
    def balance_gap(self) -> float:
        """Share of the imbalance that a better placement might still remove."""
        return relative_gap(self.chosen.figures.imbalance, self.balance_bound)

    @property
    def traffic_gap(self) -> float:
        """The same of the traffic."""
        return (
            0.0 if self.chosen.figures.traffic == 0 else relative_gap(self.chosen.figures.traffic, self.traffic_bound)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSettings:
    """``slack``: imbalance traded for traffic, as a share of the bound; ``redundant``: extra slots per layer.

    ``groups``: expert groups of the routing, for EPLB by groups; ``ilp_steps``: sub-problems of ILP 2.
    """

    slack: float = SLACK
    redundant: int = 0
    sweeps: int = 6
    groups: int | None = None
    ilp_steps: int = 24


def check_instance(num_experts: int, topology: Topology, settings: SearchSettings) -> None:
    """UserError for numbers that do not divide or make no sense."""
    ranks = topology.num_ranks
    if not 0 <= settings.slack <= 10:
        raise UserError(
            f"--slack is {settings.slack:g}; it must be at least 0 and at most 10 (0.01: 1 % above the bound)"
        )
    if settings.ilp_steps < 0:
        raise UserError(f"--ilp-steps is {settings.ilp_steps}; it must be at least 0")
    if settings.groups is not None and (settings.groups < 1 or num_experts % settings.groups):
        raise UserError(
            f"--expert-groups is {settings.groups}; it must divide the {num_experts} experts of a layer, for example 8"
        )
    if settings.redundant < 0:
        raise UserError(f"--redundant is {settings.redundant}; it must be at least 0")
    if (num_experts + settings.redundant) % ranks:
        valid = -(-num_experts // ranks) * ranks - num_experts
        remedy = f"Use --redundant {valid + ranks if settings.redundant > valid else valid}"
        if not settings.redundant:
            divisors = [str(g) for g in range(2, num_experts + 1) if num_experts % g == 0]
            remedy = f"Use --ep {', '.join(divisors)}, or --redundant {valid}"
        raise UserError(
            f"{num_experts + settings.redundant} experts per layer do not divide by {ranks} ranks, each of which holds "
            f"equally many. {remedy}"
        )


def balance_layers(demand: Demand, ranks: int) -> tuple[Ints, Floats]:
    """(int64[L, E] ranks, float64[L] bound of the busiest rank): the best of all where it is known how to find it, else splits
    and swaps, then ILP 1 where a small layer's bound is not met."""
    placed, bounds = [], np.empty(demand.num_layers)
    for layer, load in enumerate(demand.loads):
        best, bound = best_split(load, ranks), balance_bound(load, ranks)
        if best is not None:
            bound = busiest(load, best, ranks)
        else:
            best = balanced(load, ranks)
            if busiest(load, best, ranks) > bound * (1.0 + NEAR) and len(load) * ranks <= MOST_BINARIES:
                best, bound = _by_ilp(load, best, bound, ranks)
        placed.append(best)
        bounds[layer] = bound
    return np.stack(placed), bounds


def _by_ilp(load: Floats, best: Ints, bound: float, ranks: int) -> tuple[Ints, float]:
    """ILP 1 of one layer: the better placement and the higher bound."""
    proven = solve_balance(load, ranks, gap=NEAR / 2, max_nodes=MOST_NODES)
    if proven.ranks is not None and busiest(load, proven.ranks, ranks) < busiest(load, best, ranks):
        best = proven.ranks
    if proven.result.bound is not None:
        bound = max(bound, min(proven.result.bound, busiest(load, best, ranks)))
    return best, bound


def _tuned(demand: Demand, balanced: Ints, renamed: Ints, topology: Topology, most: Floats, sweeps: int) -> Ints:
    """Local search under the limit of balance from the balanced placement as it is and renamed, and from exact nodes where
    these keep the limit."""
    starts, ranks = [renamed, balanced], topology.num_ranks
    nodes = nodes_first(demand, topology)
    if nodes is not None:
        dealt = to_ranks(rename_ranks(demand, from_ranks(nodes, ranks), topology, sweeps))
        loads = zip(demand.loads, dealt, most, strict=True)
        if all(busiest(load, row, ranks) <= limit + 1e-6 for load, row, limit in loads):
            starts.append(dealt)
    ends = [sweep_experts(demand, start, topology, most, sweeps) for start in starts]
    ends = [to_ranks(rename_ranks(demand, from_ranks(end, ranks), topology, sweeps)) for end in ends]
    return min(ends, key=lambda end: figures_of(demand, from_ranks(end, ranks), topology).traffic)


def _candidate(name: str, placement: Placement, demand: Demand, topology: Topology) -> Candidate:
    return Candidate(name=name, placement=placement, figures=figures_of(demand, placement, topology))


def plan_experts(demand: Demand, topology: Topology, settings: SearchSettings) -> ExpertPlan:
    """Place the experts of all layers. Deterministic: no limit is a time."""
    check_instance(demand.num_experts, topology, settings)
    if settings.redundant:
        return _with_copies(demand, topology, settings)
    ranks = topology.num_ranks
    linear = linear_ranks(demand.num_layers, demand.num_experts, ranks)
    lpt, bounds = balance_layers(demand, ranks)
    least = np.array([busiest(load, row, ranks) for load, row in zip(demand.loads, lpt, strict=True)])
    most = np.maximum(least, bounds * (1.0 + settings.slack))
    free = np.full(demand.num_layers, np.inf)
    renamed = to_ranks(rename_ranks(demand, from_ranks(lpt, ranks), topology, settings.sweeps))
    tuned = _tuned(demand, lpt, renamed, topology, most, settings.sweeps)
    proven = number_of_states(demand.num_experts, ranks) <= MOST_STATES
    work = IlpWork()
    if proven:
        tuned, _ = best_path(demand, topology, most)
        affinity, _ = best_path(demand, topology, free)
    else:
        tuned, work = improve_layers(demand, tuned, topology, most, settings.ilp_steps)
        ends = [sweep_experts(demand, start, topology, free, settings.sweeps) for start in (linear, tuned)]
        affinity = min(ends, key=lambda end: figures_of(demand, from_ranks(end, ranks), topology).traffic)
    named = {"linear": linear, "greedy balance": lpt, "affinity only": affinity, "balance, renamed": renamed}
    candidates = [_candidate(n, from_ranks(r, ranks), demand, topology) for n, r in named.items()]
    chosen = _candidate("tuned", from_ranks(tuned, ranks), demand, topology)
    mean = float(demand.loads.sum()) / ranks
    return ExpertPlan(
        chosen=chosen,
        candidates=(*candidates, chosen),
        balance_bound=float(bounds.sum()) / mean,
        limits=most,
        traffic_bound=chosen.figures.traffic if proven else traffic_bound(demand, topology, most),
        traffic_proven=proven,
        ilp=work,
    )


def _with_copies(demand: Demand, topology: Topology, settings: SearchSettings) -> ExpertPlan:
    """Copies of the hottest experts, packed per layer; then slots move for traffic as experts do without copies."""
    ranks, slots = topology.num_ranks, demand.num_experts + settings.redundant
    candidates = []
    if demand.num_experts % ranks == 0:
        linear = from_ranks(linear_ranks(demand.num_layers, demand.num_experts, ranks), ranks)
        candidates.append(_candidate("linear", linear, demand, topology))
    copied = replicated(demand.loads, ranks, slots)
    candidates.append(_candidate("replicated (EPLB)", copied, demand, topology))
    if settings.groups is not None and by_groups_fits(settings.groups, topology.num_nodes, slots):
        grouped = replicated_by_groups(demand.loads, ranks, slots, settings.groups, topology.num_nodes)
        candidates.append(_candidate("EPLB by groups", grouped, demand, topology))
    bounds = np.array([replica_bound(load, ranks, slots) for load in demand.loads])
    job, held = slot_demand(demand, copied), linear_ranks(demand.num_layers, slots, ranks)
    least = np.array([busiest(load, row, ranks) for load, row in zip(job.loads, held, strict=True)])
    most = np.maximum(least, bounds * (1.0 + settings.slack))
    renamed = to_ranks(rename_ranks(job, from_ranks(held, ranks), topology, settings.sweeps))
    tuned = _tuned(job, held, renamed, topology, most, settings.sweeps)
    tuned, work = improve_layers(job, tuned, topology, most, settings.ilp_steps)
    chosen = _candidate("tuned", moved(copied, tuned), demand, topology)
    return ExpertPlan(
        chosen=chosen,
        candidates=(*candidates, chosen),
        balance_bound=float(bounds.sum()) / (float(demand.loads.sum()) / ranks),
        limits=most,
        traffic_bound=traffic_bound(demand, topology, most, slots=slots),
        traffic_proven=False,
        ilp=work,
    )
