"""Traffic between consecutive layers: local search over swaps of experts, renaming of ranks, bounds from below."""

from __future__ import annotations

import numpy as np

from planners.experts.assignment import assign
from planners.experts.balance import TINY
from planners.experts.exact import MOST_STATES, best_path, number_of_states
from planners.experts.placement import figures_of, flows
from planners.experts.spectral import kept_by_eigenvalues
from planners.experts.topology import Topology, two_level
from simulator.experts.placement import Placement
from simulator.experts.routing import Demand, Floats, Ints
from simulator.physics.sums import in_order

SUBGRADIENT_STEPS = 60


def expert_costs(demand: Demand, ranks: Ints, layer: int, topology: Topology) -> Floats:
    """float64[E, G]: traffic of each expert of ``layer`` on each rank, its neighbours where they are.

    Experts of one layer do not meet, so a layer between fixed neighbours is an assignment problem.
    """
    weights, count = topology.weights, topology.num_ranks
    cost = np.zeros((demand.num_experts, count))
    if layer > 0:
        cost += (demand.transitions[layer - 1].T @ np.eye(count)[ranks[layer - 1]]) @ weights
    if layer < demand.num_layers - 1:
        cost += (demand.transitions[layer] @ np.eye(count)[ranks[layer + 1]]) @ weights.T
    return cost


def swap_layer(cost: Floats, load: Floats, ranks: Ints, most: float) -> Ints:
    """Exchange experts of one layer, the best pair first, while traffic falls and no rank rises above ``most`` tokens.

    A rank that is above it already must not rise. The table of gains is kept: a swap changes the lines of two ranks.
    """
    ranks, experts = ranks.copy(), np.arange(len(load))
    total = np.bincount(ranks, weights=load, minlength=cost.shape[1])

    def lines(of: Ints) -> Floats:
        """What swapping each expert of ``of`` with any other gains; 0 where it may not be."""
        here, its, others = cost[experts, ranks], ranks[of][:, None], ranks[None, :]
        gain = here[of][:, None] + here[None, :] - cost[of][:, ranks] - cost[:, ranks[of]].T
        change = load[None, :] - load[of][:, None]  # what the rank of the first gains when it takes the second
        limit = np.maximum(most, total) + TINY
        allowed = (total[its] + change <= limit[its]) & (total[others] - change <= limit[others]) & (its != others)
        kept: Floats = np.where(allowed, gain, 0.0)
        return kept

    gains = lines(experts)
    while True:
        best = int(np.argmax(gains))
        if gains.flat[best] <= 1e-6:
            return ranks
        i, j = divmod(best, len(load))
        total[ranks[i]] += load[j] - load[i]
        total[ranks[j]] -= load[j] - load[i]
        ranks[i], ranks[j] = ranks[j], ranks[i]
        touched = np.flatnonzero((ranks == ranks[i]) | (ranks == ranks[j]))
        fresh = lines(touched)
        gains[touched], gains[:, touched] = fresh, fresh.T


def rename_ranks(demand: Demand, placement: Placement, topology: Topology, sweeps: int) -> Placement:
    """ILP 2 by sweeps: a layer's clusters are dealt to the ranks anew, its neighbours fixed, by one assignment problem each.

    Loads stay what they are, and traffic never grows. Two starts: the placement as it is, and a first pass that looks back
    only (exact between two layers when links are alike); sweeps then look both ways, until none helps. Few ranks (up to 6)
    have so few orders that the best of all layers together is found instead.
    """
    if number_of_states(topology.num_ranks, topology.num_ranks) <= MOST_STATES:
        return _best_names(demand, placement, topology)
    ends = [_rename(demand, placement, topology, range(first, sweeps + 1)) for first in (0, 1)]
    return min(ends, key=lambda end: figures_of(demand, end, topology).traffic)


def _best_names(demand: Demand, placement: Placement, topology: Topology) -> Placement:
    """ILP 2 exactly, over the orders of ranks in every layer."""
    if demand.num_layers < 2:
        return placement
    moves = np.stack([flows(demand, placement, layer) for layer in range(demand.num_layers - 1)])
    clusters = Demand(loads=np.ones((demand.num_layers, topology.num_ranks)), transitions=moves)
    orders, _ = best_path(clusters, topology, np.full(demand.num_layers, np.inf))
    slots = np.stack([placement.renamed(layer, order) for layer, order in enumerate(orders)])
    return Placement(slots=slots, num_experts=placement.num_experts, num_ranks=placement.num_ranks)


def _rename(demand: Demand, placement: Placement, topology: Topology, sweeps: range) -> Placement:
    for sweep in sweeps:
        changed = False
        for layer in range(1 if sweep == 0 else 0, demand.num_layers):
            cost = np.zeros((topology.num_ranks, topology.num_ranks))
            if layer > 0:
                cost += flows(demand, placement, layer - 1).T @ topology.weights
            if sweep > 0 and layer < demand.num_layers - 1:
                cost += flows(demand, placement, layer) @ topology.weights.T
            order, least = assign(cost)
            if least < np.trace(cost) - 1e-6:
                slots = placement.slots.copy()
                slots[layer] = placement.renamed(layer, order)
                placement = Placement(slots=slots, num_experts=placement.num_experts, num_ranks=placement.num_ranks)
                changed = True
        if sweep > 0 and not changed:
            break
    return placement


def sweep_experts(demand: Demand, ranks: Ints, topology: Topology, most: Floats, sweeps: int) -> Ints:
    """Local search over all layers, forwards and backwards in turn, under at most ``most[l]`` tokens per rank."""
    ranks = ranks.copy()
    for sweep in range(sweeps):
        before = ranks.copy()
        order = range(demand.num_layers) if sweep % 2 == 0 else range(demand.num_layers - 1, -1, -1)
        for layer in order:
            cost = expert_costs(demand, ranks, layer, topology)
            ranks[layer] = swap_layer(cost, demand.loads[layer], ranks[layer], float(most[layer]))
        if (ranks == before).all():
            break
    return ranks


def most_kept(flow: Floats, group: int) -> float:
    """No placement keeps more of these transitions inside groups of ``group`` experts per layer.

    Every expert keeps at most its ``group`` strongest successors, and every successor as many predecessors. The bound relaxes
    the second with multipliers v >= 0: sum_f group v_f + sum_e (group largest of (R_ef - v_f)+), which holds for any v;
    steps down its subgradient (Held, Wolfe and Crowder, 1974) look for a good one, from the side that binds more.
    """
    if group >= len(flow):
        return float(flow.sum())
    return min(_relaxed(flow, group), _relaxed(flow.T, group))


def _relaxed(flow: Floats, group: int) -> float:
    price = np.zeros(len(flow))
    best, scale = np.inf, 1.0
    for step in range(SUBGRADIENT_STEPS):
        left = flow - price
        top = np.argpartition(-left, group - 1, axis=1)[:, :group]
        kept = np.maximum(np.take_along_axis(left, top, axis=1), 0.0)
        value = float(group * price.sum() + kept.sum())
        if value < best - 1e-12:
            best = value
        elif step % 5 == 4:
            scale /= 2
        taken = np.bincount(top[kept > 0], minlength=len(flow))
        slope = group - taken
        norm = float((slope * slope).sum())
        if norm == 0:
            break
        price = np.maximum(0.0, price - scale * 0.1 * best / norm * slope)
    return best


def node_paths(demand: Demand, topology: Topology, most: Floats | None = None) -> tuple[Ints, float] | None:
    """(node of each expert, transitions between nodes) of the placement on nodes with the fewest; None when too large.

    ``most[l]``: tokens a rank may have; a node then has at most that times its ranks.
    """
    nodes = topology.num_nodes
    if number_of_states(demand.num_experts, nodes) > MOST_STATES:
        return None
    limit = np.full(demand.num_layers, np.inf) if most is None else most * (topology.num_ranks // nodes)
    return best_path(demand, two_level(nodes, nodes, 1.0), limit)


def nodes_first(demand: Demand, topology: Topology) -> Ints | None:
    """A start for the search, int64[L, E]: experts dealt to nodes exactly, then in order to the ranks of their node."""
    found = node_paths(demand, topology) if topology.num_nodes > 1 else None
    if found is None:
        return None
    per_rank, ranks = demand.num_experts // topology.num_ranks, np.empty_like(found[0])
    for row, nodes in zip(ranks, found[0], strict=True):
        row[np.argsort(nodes, kind="stable")] = np.arange(demand.num_experts) // per_rank
    return ranks


def traffic_bound(demand: Demand, topology: Topology, most: Floats | None = None, *, slots: int | None = None) -> float:
    """No placement has less traffic [tokens on the fastest link] of those whose ranks have at most ``most[l]`` tokens.

    What leaves ranks costs at least 1, and what leaves nodes the rest of the network's weight; both over all layers at once
    where that is tighter than pair by pair. ``slots``: of a placement with copies, whose experts share their tokens
    evenly: a group then holds as many experts as slots at most, which is all that the bound per pair asks for.
    """
    copies = slots is not None
    count = demand.num_experts if slots is None else slots
    total = float(demand.transitions.sum())

    def leaving(groups: int) -> float:
        limit = None if most is None else most * (topology.num_ranks // groups)
        pairs = in_order(min(float(flow.sum()), most_kept(flow, count // groups)) for flow in demand.transitions)
        return max(0.0, total - min(pairs, kept_by_eigenvalues(demand, groups, limit, copies=copies)))

    bound = leaving(topology.num_ranks)
    if topology.num_nodes == 1:
        return bound
    found = None if copies else node_paths(demand, topology, most)
    between = found[1] if found is not None else leaving(topology.num_nodes)
    return bound + (topology.network_weight - 1.0) * between
