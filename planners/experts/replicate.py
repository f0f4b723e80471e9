"""Redundant experts: copies of the hottest, packed onto ranks (the scheme of DeepSeek's EPLB, MIT, commit d52c72d5)."""

from __future__ import annotations

import numpy as np

from planners.experts.balance import longest_first
from planners.experts.placement import Placement
from planners.experts.routing import Floats, Ints


def copies_of(load: Floats, slots: int) -> Ints:
    """int64[E]: copies per expert; every slot beyond one each goes to the expert with the most tokens per copy.

    Greedy is optimal for the largest load of a copy: no other choice lowers the maximum.
    """
    copies = np.ones(len(load), dtype=np.int64)
    for _ in range(slots - len(load)):
        copies[int(np.argmax(load / copies))] += 1
    return copies


def replicated_layer(load: Floats, num_ranks: int, slots: int) -> Ints:
    """int64[S]: the expert in each slot of one layer; copies packed longest first, equally many slots per rank."""
    copies = copies_of(load, slots)
    expert = np.repeat(np.arange(len(load)), copies)
    ranks = longest_first((load / copies)[expert], num_ranks, slots // num_ranks)
    return np.asarray(expert[np.argsort(ranks, kind="stable")], dtype=np.int64)


def replicated(loads: Floats, num_ranks: int, slots: int) -> Placement:
    """EPLB's global policy for all layers. Two copies of an expert may meet on a rank, as in EPLB."""
    rows = np.stack([replicated_layer(load, num_ranks, slots) for load in loads])
    return Placement(slots=rows, num_experts=loads.shape[1], num_ranks=num_ranks)


def replica_bound(load: Floats, num_ranks: int, slots: int) -> float:
    """No placement with that many copies has a busiest rank below this: the mean, or the largest load of a copy [tokens]."""
    return max(float(load.sum()) / num_ranks, float((load / copies_of(load, slots)).max()))
