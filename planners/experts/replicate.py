"""Redundant experts: copies of the hottest, packed onto ranks (the scheme of DeepSeek's EPLB, MIT, commit d52c72d5)."""

from __future__ import annotations

import numpy as np

from planners.experts.balance import longest_first
from simulator.experts.placement import Placement
from simulator.experts.routing import Demand, Floats, Ints


def copied(load: Floats, slots: int) -> Ints:
    """int64[S]: every expert once, then further copies, each of the expert with the most tokens per copy so far.

    Greedy is optimal for the largest load of a copy: no other choice lowers the maximum.
    """
    copies = np.ones(len(load), dtype=np.int64)
    further = np.empty(slots - len(load), dtype=np.int64)
    for slot in range(len(further)):
        further[slot] = np.argmax(load / copies)
        copies[further[slot]] += 1
    return np.concatenate([np.arange(len(load)), further])


def copy_loads(load: Floats, expert: Ints) -> Floats:
    """float64[S]: tokens of each slot when copies share their expert's evenly."""
    shared: Floats = (load / np.bincount(expert, minlength=len(load)))[expert]
    return shared


def replicated_layer(load: Floats, num_ranks: int, slots: int) -> Ints:
    """int64[S]: the expert in each slot of one layer; copies packed longest first, equally many slots per rank."""
    expert = copied(load, slots)
    ranks = longest_first(copy_loads(load, expert), num_ranks, slots // num_ranks)
    return np.asarray(expert[np.argsort(ranks, kind="stable")], dtype=np.int64)


def hierarchical_layer(load: Floats, num_ranks: int, slots: int, *, num_groups: int, num_nodes: int) -> Ints:
    """int64[S]: EPLB's policy for models that route by expert groups: groups are dealt to nodes, each node then copies and
    packs its own experts. The group of expert e is e // (E / groups)."""
    size = len(load) // num_groups
    node_of = longest_first(load.reshape(num_groups, size).sum(axis=1), num_nodes, num_groups // num_nodes)
    parts = []
    for node in range(num_nodes):
        experts = np.concatenate([np.arange(g * size, (g + 1) * size) for g in np.flatnonzero(node_of == node)])
        parts.append(experts[replicated_layer(load[experts], num_ranks // num_nodes, slots // num_nodes)])
    return np.concatenate(parts)


def replicated(loads: Floats, num_ranks: int, slots: int) -> Placement:
    """EPLB's global policy for all layers. Two copies of an expert may meet on a rank, as in EPLB."""
    rows = np.stack([replicated_layer(load, num_ranks, slots) for load in loads])
    return Placement(slots=rows, num_experts=loads.shape[1], num_ranks=num_ranks)


def by_groups_fits(num_groups: int, num_nodes: int, slots: int) -> bool:
    """Whether groups and slots divide over the nodes; with one node nothing is gained by groups."""
    return num_nodes > 1 and num_groups % num_nodes == 0 and slots % num_nodes == 0


def replicated_by_groups(loads: Floats, num_ranks: int, slots: int, num_groups: int, num_nodes: int) -> Placement:
    """EPLB's policy by groups for all layers."""
    rows = [hierarchical_layer(load, num_ranks, slots, num_groups=num_groups, num_nodes=num_nodes) for load in loads]
    return Placement(slots=np.stack(rows), num_experts=loads.shape[1], num_ranks=num_ranks)


def slot_demand(demand: Demand, placement: Placement) -> Demand:
    """The demand of the slots of a placement, each with its share: copies then are experts of their own.

    Row l of the placement numbers the slots of layer l, so that slot s lies on rank s // (S/G).
    """
    rows, share = placement.slots, 1.0 / placement.copies()
    loads = np.stack([copy_loads(load, row) for load, row in zip(demand.loads, rows, strict=True)])
    flows = [
        (flow * share[i][:, None] * share[i + 1][None, :])[np.ix_(rows[i], rows[i + 1])]
        for i, flow in enumerate(demand.transitions)
    ]
    size = rows.shape[1]
    return Demand(loads=loads, transitions=np.stack(flows) if flows else np.zeros((0, size, size)))


def moved(placement: Placement, ranks: Ints) -> Placement:
    """The placement when slot s of layer l goes to rank ``ranks[l, s]``."""
    slots = np.take_along_axis(placement.slots, np.argsort(ranks, axis=1, kind="stable"), axis=1)
    return Placement(slots=slots, num_experts=placement.num_experts, num_ranks=placement.num_ranks)


def replica_bound(load: Floats, num_ranks: int, slots: int) -> float:
    """No placement with that many copies has a busiest rank below this: the mean, or the largest load of a copy [tokens]."""
    return max(float(load.sum()) / num_ranks, float(copy_loads(load, copied(load, slots)).max()))
