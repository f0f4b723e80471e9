"""Loads, copies and tails of a routing trace under a placement: what the step model takes in place of random routing."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from hardware_profiles.schema import Cluster
from simulator.experts.placement import Placement
from simulator.experts.routing import Ints, Routing
from simulator.physics.collectives import Interconnect
from simulator.physics.efficiency import efficiency_of
from simulator.physics.moe import ExpertRouting

Exchange = Literal["home", "onward"]
"""home: tokens return to their own rank after every layer (vLLM, SGLang, TensorRT-LLM, Megatron-LM: dispatch and combine).
onward: they go on from expert to expert, one all-to-all per layer (ExFlow's context-coherent parallelism, arXiv 2401.08383;
the traffic that MoETuner minimises)."""


def slots_used(routing: Routing, placement: Placement) -> Ints:
    """int64[T, L, k]: the rank that serves each choice; of several copies, tokens use one after the other in turn."""
    used = np.empty_like(routing.experts)
    turn = np.arange(routing.num_tokens)[:, None]
    ranks = placement.rank_of_slot
    for layer, row in enumerate(placement.slots):
        copies = np.bincount(row, minlength=placement.num_experts)
        order = np.argsort(row, kind="stable")
        first = np.concatenate([[0], np.cumsum(copies)[:-1]])
        chosen = routing.experts[:, layer]
        used[:, layer] = ranks[order[first[chosen] + turn % copies[chosen]]]
    return used


def group_sizes(cluster: Cluster, ranks: int) -> tuple[int, ...]:
    """Devices per group at each tier that ``ranks`` devices span, innermost first: 1, those of a node ..."""
    interconnect = Interconnect(cluster, efficiency_of(cluster.device))
    tiers = [tier.ranks for tier in interconnect.tiers(ranks)]
    return tuple(math.prod(tiers[:level]) for level in range(len(tiers)))


def _home(ranks: Ints, size: int, num_ranks: int) -> tuple[float, float]:
    """(mean distinct groups per token and layer, busiest group's copies over the mean's)."""
    groups = -(-num_ranks // size)
    hit = np.zeros((ranks.shape[0], groups), dtype=bool)
    received = np.zeros((ranks.shape[1], groups))
    for layer in range(ranks.shape[1]):
        hit[:] = False
        np.put_along_axis(hit, ranks[:, layer] // size, True, axis=1)
        received[layer] = hit.sum(axis=0)
    copies = received.sum() / (ranks.shape[0] * ranks.shape[1])
    return float(copies), float(received.max(axis=1).sum() / received.mean(axis=1).sum())


def _onward(ranks: Ints, size: int, num_ranks: int) -> tuple[float, float]:
    """The same when a choice goes on to the next layer's: k^2 pairs of weight 1/k per token, of which some change the group.

    The collective counts (n-1)/n of its buffer as sent, so that crossings are scaled by n/(n-1).
    """
    groups, group = -(-num_ranks // size), ranks // size
    crossed, received = 0.0, np.zeros((max(1, ranks.shape[1] - 1), groups))
    for layer in range(ranks.shape[1] - 1):
        moved = group[:, layer, :, None] != group[:, layer + 1, None, :]
        to = np.broadcast_to(group[:, layer + 1, None, :], moved.shape)
        received[layer] = np.bincount(to[moved], minlength=groups) / ranks.shape[2]
        crossed += float(received[layer].sum())
    pairs = ranks.shape[0] * max(1, ranks.shape[1] - 1)
    tail = received.max(axis=1).sum() / received.mean(axis=1).sum() if crossed else 1.0
    return crossed / pairs * groups / max(1, groups - 1), float(tail)


def measure(
    routing: Routing, placement: Placement, sizes: tuple[int, ...], exchange: Exchange = "home"
) -> ExpertRouting:
    """Loads, copies and tails of a trace under a placement; ``sizes`` as group_sizes."""
    used = slots_used(routing, placement)
    layers = range(routing.num_layers)
    rows = np.stack([np.bincount(used[:, layer].ravel(), minlength=placement.num_ranks) for layer in layers])
    count = _home if exchange == "home" else _onward
    parts = [count(used, size, placement.num_ranks) for size in sizes]
    return ExpertRouting(
        busiest_rank=float(rows.max(axis=1).sum() / rows.mean(axis=1).sum()),
        copies=tuple(copies for copies, _ in parts),
        tail=tuple(tail for _, tail in parts),
        exchanges=2 if exchange == "home" else 1,
    )
