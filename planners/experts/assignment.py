"""The linear assignment problem, exactly: shortest augmenting paths."""

from __future__ import annotations

import numpy as np

from simulator.experts.routing import Floats, Ints


def assign(cost: Floats) -> tuple[Ints, float]:
    """(column of each row, least total cost) of a square matrix; O(n^3).

    Successive shortest paths with potentials (Jonker and Volgenant, Computing 38, 1987), without their initialisation.
    """
    n = len(cost)
    row_of = np.full(n + 1, -1)
    u, v = np.zeros(n), np.zeros(n + 1)
    for row in range(n):
        row_of[n] = row
        column, way = n, np.full(n, n)
        least, used = np.full(n, np.inf), np.zeros(n + 1, dtype=bool)
        while row_of[column] >= 0:
            used[column] = True
            at = int(row_of[column])
            reduced = cost[at] - u[at] - v[:n]
            better = ~used[:n] & (reduced < least)
            least[better], way[better] = reduced[better], column
            open_least = np.where(used[:n], np.inf, least)
            following = int(np.argmin(open_least))
            step = open_least[following]
            u[row_of[np.flatnonzero(used)]] += step
            v[used] -= step
            least[~used[:n]] -= step
            column = following
        while column != n:
            before = int(way[column])
            row_of[column] = row_of[before]
            column = before
    order = np.empty(n, dtype=np.int64)
    order[row_of[:n]] = np.arange(n)
    return order, float(cost[np.arange(n), order].sum())
