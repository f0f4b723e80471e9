"""Small instances, exactly: all placements of a layer as states, the cheapest path through the layers (Viterbi)."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np

from planners.experts.balance import TINY
from planners.experts.topology import Topology
from simulator.experts.routing import Demand, Floats, Ints

MOST_STATES = 3000
"""Placements of a layer up to which the path is searched: 2,520 for 8 experts on 4 ranks; the work grows with the square."""


def number_of_states(num_experts: int, num_ranks: int) -> int:
    """Ways to place E experts on G ranks, E/G each: E! / ((E/G)!)^G."""
    size, count = num_experts // num_ranks, 1
    for rank in range(num_ranks):
        count *= comb(num_experts - rank * size, size)
    return count


def all_states(num_experts: int, num_ranks: int) -> Ints:
    """int64[states, E]: the rank of each expert, for every placement of a layer."""
    size = num_experts // num_ranks
    states = np.full((1, num_experts), num_ranks - 1, dtype=np.int64)
    for rank in range(num_ranks - 1):
        grown = []
        for state in states:
            free = np.flatnonzero(state == num_ranks - 1)
            for chosen in combinations(free, size):
                child = state.copy()
                child[list(chosen)] = rank
                grown.append(child)
        states = np.stack(grown)
    return states


def allowed_states(states: Ints, load: Floats, num_ranks: int, most: float) -> Ints:
    """Those whose busiest rank has at most ``most`` tokens."""
    held = np.stack([(states == rank) @ load for rank in range(num_ranks)], axis=1)
    fitting: Ints = states[held.max(axis=1) <= most + TINY]
    return fitting


def _indicator(states: Ints, num_ranks: int) -> Floats:
    """float64[states, E * G]: one where the expert is on the rank."""
    return np.eye(num_ranks)[states].reshape(len(states), -1)


def best_path(demand: Demand, topology: Topology, most: Floats) -> tuple[Ints, float]:
    """(int64[L, E] ranks, traffic) of the placement with the least traffic under ``most[l]`` tokens per rank; a proof.

    cost(s, t) = sum R_ef w(s_e, t_f) is bilinear in the indicators of the two states: one matrix product per pair of layers.
    """
    ranks = topology.num_ranks
    states = all_states(demand.num_experts, ranks)
    layers = [allowed_states(states, demand.loads[i], ranks, float(most[i])) for i in range(demand.num_layers)]
    assert all(len(layer) for layer in layers), "the caller knows a placement within the limit"
    cost, back = np.zeros(len(layers[0])), []
    for index, flow in enumerate(demand.transitions):
        step = np.einsum("ef,gh->egfh", flow, topology.weights).reshape(flow.shape[0] * ranks, -1)
        reach = _indicator(layers[index], ranks) @ step @ _indicator(layers[index + 1], ranks).T
        reach += cost[:, None]
        back.append(np.argmin(reach, axis=0))
        cost = np.min(reach, axis=0)
    at = int(np.argmin(cost))
    least, path = float(cost[at]), [at]
    for choice in reversed(back):
        path.append(int(choice[path[-1]]))
    return np.stack([layers[i][state] for i, state in enumerate(reversed(path))]), least
