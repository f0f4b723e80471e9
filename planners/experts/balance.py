"""Equal token load in one layer: longest processing time, swaps, and bounds that say how close that is."""

from __future__ import annotations

import numpy as np

from planners.experts.routing import Floats, Ints

TINY = 1e-9
"""Loads are counts of tokens: differences below this are rounding."""


def balance_bound(load: Floats, num_ranks: int, per_rank: int | None = None) -> float:
    """No placement of E/G experts per rank has a busiest rank below this [tokens].

    The mean; the hottest expert with the E/G - 1 coldest; and by pigeonhole, of the (t-1) G + 1 hottest experts one rank holds
    t, at least the t coldest of these, filled up with the coldest of all. ``per_rank`` 0: ranks may hold any number.
    """
    size = len(load) // num_ranks if per_rank is None else per_rank
    ordered = np.sort(load)[::-1]
    coldest = np.concatenate([[0.0], np.cumsum(ordered[::-1])])
    bound = float(load.sum() / num_ranks)
    for t in range(1, max(1, size or -(-len(load) // num_ranks)) + 1):
        hottest = (t - 1) * num_ranks + 1
        if hottest > len(load):
            break
        fill = coldest[max(0, size - t)] if size else 0.0
        bound = max(bound, float(ordered[hottest - t : hottest].sum() + fill))
    return bound


def longest_first(load: Floats, num_ranks: int, per_rank: int) -> Ints:
    """int64[E]: the hottest expert left goes to the least loaded rank with room (Graham, 1969, with equal numbers)."""
    ranks = np.empty(len(load), dtype=np.int64)
    total, room = np.zeros(num_ranks), np.full(num_ranks, per_rank)
    for expert in np.argsort(-load, kind="stable"):
        rank = int(np.argmin(np.where(room > 0, total, np.inf)))
        ranks[expert] = rank
        total[rank] += load[expert]
        room[rank] -= 1
    return ranks


def swap_down(load: Floats, ranks: Ints, num_ranks: int, target: float) -> Ints:
    """Exchange an expert of the busiest rank for one elsewhere while that lowers the larger of the two; stop at ``target``."""
    ranks = ranks.copy()
    total = np.bincount(ranks, weights=load, minlength=num_ranks)
    while True:
        top = int(np.argmax(total))
        if total[top] <= target + TINY:
            return ranks
        mine, others = np.flatnonzero(ranks == top), np.flatnonzero(ranks != top)
        gain = load[mine][:, None] - load[others][None, :]
        worse = np.maximum(total[top] - gain, total[ranks[others]][None, :] + gain)
        best = int(np.argmin(worse))
        if worse.flat[best] >= total[top] - TINY:
            return ranks
        i, j = mine[best // len(others)], others[best % len(others)]
        moved = load[i] - load[j]
        total[top] -= moved
        total[ranks[j]] += moved
        ranks[i], ranks[j] = ranks[j], ranks[i]


def balanced(load: Floats, num_ranks: int) -> Ints:
    """Longest first, then swaps towards the bound."""
    first = longest_first(load, num_ranks, len(load) // num_ranks)
    return swap_down(load, first, num_ranks, balance_bound(load, num_ranks))


def busiest(load: Floats, ranks: Ints, num_ranks: int) -> float:
    """Tokens of the busiest rank."""
    return float(np.bincount(ranks, weights=load, minlength=num_ranks).max())
