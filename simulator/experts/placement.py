"""A placement of experts on ranks, and how its parts are named."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.experts.routing import Floats, Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """``slots[l, s]``: the logical expert in physical slot s of layer l; rank g holds slots g S/G to (g+1) S/G.

    The shape that engines call physical_to_logical_map (vLLM's and SGLang's EPLB). Without replication S = E.
    """

    slots: Ints
    num_experts: int
    num_ranks: int

    @property
    def rank_of_slot(self) -> Ints:
        """int64[S]: the rank that holds each slot."""
        count = int(self.slots.shape[1])
        ranks: Ints = np.repeat(np.arange(self.num_ranks), count // self.num_ranks)
        return ranks

    def copies(self) -> Ints:
        """int64[L, E]: how many slots hold each expert."""
        return np.stack([np.bincount(row, minlength=self.num_experts) for row in self.slots])

    def shares(self, layer: int) -> Floats:
        """float64[E, G]: share of an expert's tokens that each rank serves; copies share them evenly."""
        shares = np.zeros((self.num_experts, self.num_ranks))
        np.add.at(shares, (self.slots[layer], self.rank_of_slot), 1.0)
        held: Floats = shares / shares.sum(axis=1, keepdims=True)
        return held

    def renamed(self, layer: int, order: Ints) -> Ints:
        """The layer's slots when what rank g holds moves to rank order[g]."""
        groups = self.slots[layer].reshape(self.num_ranks, -1)
        moved: Ints = np.empty_like(groups)
        moved[order] = groups
        return np.ravel(moved)


def from_ranks(ranks: Ints, num_ranks: int) -> Placement:
    """From int64[L, E], the rank of each expert, equally many on each."""
    slots = np.argsort(ranks, axis=1, kind="stable").astype(np.int64)
    return Placement(slots=slots, num_experts=ranks.shape[1], num_ranks=num_ranks)


def to_ranks(placement: Placement) -> Ints:
    """int64[L, E]: the rank of each expert of a placement without copies."""
    assert placement.slots.shape[1] == placement.num_experts
    ranks = np.empty_like(placement.slots)
    np.put_along_axis(ranks, placement.slots, np.broadcast_to(placement.rank_of_slot, ranks.shape), axis=1)
    return ranks


def linear_ranks(num_layers: int, num_experts: int, num_ranks: int) -> Ints:
    """What engines do by default: expert e on rank e // (E/G), in every layer."""
    one = np.arange(num_experts) // (num_experts // num_ranks)
    return np.tile(one, (num_layers, 1)).astype(np.int64)
