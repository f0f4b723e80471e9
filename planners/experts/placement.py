"""What a placement of experts costs under a demand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planners.experts.topology import Topology
from simulator.experts.placement import Placement
from simulator.experts.routing import Demand, Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a placement costs under a demand."""

    imbalance: float
    """Sum over layers of the busiest rank's tokens, over that of the mean rank: what all layers together wait for."""
    worst_imbalance: float
    """The same of the worst layer."""
    cross_gpu: float
    """Share of the transitions between consecutive layers that change the rank; NaN with one layer."""
    cross_node: float
    """Share that changes the node."""
    traffic: float
    """Transitions times the weight of their link, summed over layers [tokens on the fastest link]."""
    tail: float
    """Sum over layers of the busiest pair of ranks, weighted: the objective (8) of MoETuner, in the same unit."""


def flows(demand: Demand, placement: Placement, layer: int) -> Floats:
    """float64[G, G]: tokens from rank to rank between ``layer`` and the next: C of MoETuner (9), with ranks as clusters."""
    flow: Floats = placement.shares(layer).T @ demand.transitions[layer] @ placement.shares(layer + 1)
    return flow


def figures_of(demand: Demand, placement: Placement, topology: Topology) -> Figures:
    """Load and traffic of a placement."""
    layers = range(demand.num_layers)
    load = np.stack([demand.loads[layer] @ placement.shares(layer) for layer in layers])
    crossing = np.zeros((topology.num_ranks, topology.num_ranks))
    tail = 0.0
    for layer in range(demand.num_layers - 1):
        flow = flows(demand, placement, layer)
        crossing += flow
        tail += float((flow * topology.weights).max())
    total = crossing.sum() or np.nan
    other_node = topology.node_of[:, None] != topology.node_of[None, :]
    return Figures(
        imbalance=float(load.max(axis=1).sum() / load.mean(axis=1).sum()),
        worst_imbalance=float((load.max(axis=1) / load.mean(axis=1)).max()),
        cross_gpu=float(1.0 - np.trace(crossing) / total),
        cross_node=float(crossing[other_node].sum() / total),
        traffic=float((crossing * topology.weights).sum()),
        tail=tail,
    )
