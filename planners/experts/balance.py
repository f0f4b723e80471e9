"""Equal token load in one layer: longest processing time, swaps, and bounds that say how close that is."""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations

import numpy as np
import numpy.typing as npt

from simulator.experts.routing import Floats, Ints

TINY = 1e-9
"""Loads are counts of tokens: differences below this are rounding."""
MOST_SPLIT = 8
"""Experts per rank up to which two ranks are split in all ways: 6,435 of 16 experts."""


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


@lru_cache(maxsize=8)
def _halves(size: int) -> npt.NDArray[np.bool_]:
    """bool[splits, 2 size]: every way to deal 2 ``size`` experts to two ranks, the first expert always to the first."""
    chosen = np.array([(0, *others) for others in combinations(range(1, 2 * size), size - 1)])
    halves = np.zeros((len(chosen), 2 * size), dtype=bool)
    np.put_along_axis(halves, chosen, True, axis=1)
    return halves


def split_pairs(load: Floats, ranks: Ints, num_ranks: int, target: float) -> Ints:
    """Deal the experts of the busiest rank and of another to both anew, at best, while that lowers it; stop at ``target``.

    Every split of the two is tried, so that two ranks alone are then at their optimum. Left as they are with more than
    MOST_SPLIT experts per rank.
    """
    size = len(load) // num_ranks
    if size > MOST_SPLIT:
        return ranks
    ranks, halves = ranks.copy(), _halves(size)
    while True:
        total = np.bincount(ranks, weights=load, minlength=num_ranks)
        top = int(np.argmax(total))
        if total[top] <= target + TINY:
            return ranks
        best, most = None, total[top] - TINY
        for other in np.delete(np.arange(num_ranks), top):
            held = np.flatnonzero((ranks == top) | (ranks == other))
            first = halves @ load[held]
            higher = np.maximum(first, total[top] + total[other] - first)
            split = int(np.argmin(higher))
            if higher[split] < most:
                most, best = float(higher[split]), (held, np.where(halves[split], top, other))
        if best is None:
            return ranks
        ranks[best[0]] = best[1]


def best_split(load: Floats, num_ranks: int) -> Ints | None:
    """int64[E] with the least busiest rank of all, or None where it is not known how without a solver.

    Two experts per rank: the hottest with the coldest, and so on inwards. Two ranks: all splits. Four ranks of up to four
    experts: all splits into halves, each half split at best.
    """
    size = len(load) // num_ranks
    if size <= 2:
        return longest_first(load, num_ranks, size)
    if num_ranks == 2 and size <= MOST_SPLIT:
        return split_pairs(load, np.repeat(np.arange(2), size), 2, 0.0)
    if num_ranks != 4 or 2 * size > MOST_SPLIT:
        return None
    whole, half = _halves(2 * size), _halves(size)
    sides = np.stack([whole, ~whole])
    held = load[np.nonzero(sides)[2].reshape(2, len(whole), 2 * size)]
    first = held @ half.T.astype(np.float64)
    higher = np.maximum(first, held.sum(axis=2, keepdims=True) - first)
    chosen = int(np.argmin(higher.min(axis=2).max(axis=0)))
    ranks = np.empty(len(load), dtype=np.int64)
    for side in range(2):
        split = half[int(np.argmin(higher[side, chosen]))]
        ranks[np.flatnonzero(sides[side, chosen])] = 2 * side + np.where(split, 0, 1)
    return ranks


def balanced(load: Floats, num_ranks: int) -> Ints:
    """Longest first, then swaps and splits of two ranks towards the bound."""
    bound = balance_bound(load, num_ranks)
    first = swap_down(load, longest_first(load, num_ranks, len(load) // num_ranks), num_ranks, bound)
    return split_pairs(load, first, num_ranks, bound)


def busiest(load: Floats, ranks: Ints, num_ranks: int) -> float:
    """Tokens of the busiest rank."""
    return float(np.bincount(ranks, weights=load, minlength=num_ranks).max())
