"""When the co-tenants of one replica are active: the same ticks for the same seed, however the run looks at them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heapreplace

import numpy as np

from simulator.clock import to_ticks
from simulator.physics.tenants import ALONE, Factors
from simulator.sharing.tenants import Tenant

STREAM = 0x54454E41
"""Of random numbers: bursts of co-tenants."""
NEVER = 1 << 200
"""Beyond every moment of a run: ticks have no largest number (2^62 of them would be 77 minutes)."""


class Timetable:
    """What slows a replica down at any tick, extended as far as somebody asks."""

    def __init__(self, tenants: Sequence[Tenant], seed: int, replica: int) -> None:
        self._tenants = [t for t in tenants if t.replicas is None or replica in t.replicas]
        self._edges = [
            _edges(tenant, np.random.default_rng([seed, STREAM, replica, number]))
            for number, tenant in enumerate(self._tenants)
        ]
        self._active = [False] * len(self._tenants)
        self._next = [(next(edges), number) for number, edges in enumerate(self._edges)]
        heapify(self._next)
        self._begins, self._factors = [-1], [ALONE]

    def at(self, tick: int) -> tuple[Factors, int]:
        """(factors at ``tick``, when they change next)."""
        begins = self._begins
        while begins[-1] <= tick and self._next and self._next[0][0] < NEVER:
            self._extend()
        index = bisect_right(begins, tick) - 1
        return self._factors[index], begins[index + 1] if index + 1 < len(begins) else NEVER

    def _extend(self) -> None:
        """Append the next tick at which somebody comes or goes."""
        heap, tick = self._next, self._next[0][0]
        while heap and heap[0][0] == tick:
            number = heap[0][1]
            self._active[number] = not self._active[number]
            following = next(self._edges[number], None)
            if following is None:
                heappop(heap)
            else:
                heapreplace(heap, (following, number))
        factors = ALONE
        for tenant, active in zip(self._tenants, self._active, strict=True):
            if active:
                factors = factors.times(tenant.factors)
        self._begins.append(tick)
        self._factors.append(factors)


def _edges(tenant: Tenant, draws: np.random.Generator) -> Iterator[int]:
    """Ticks at which a co-tenant comes and goes in turn; bursts begin ``off_s`` after it came."""
    tick, end = to_ticks(tenant.from_s), NEVER if tenant.until_s is None else to_ticks(tenant.until_s)
    if tenant.on_s is None or tenant.off_s is None:
        yield tick
        yield end
        return
    active = False
    while True:
        tick += max(1, to_ticks(float(draws.exponential(tenant.on_s if active else tenant.off_s))))
        if tick >= end:
            break
        yield tick
        active = not active
    yield end if active else NEVER
