"""The wall clock of a run, in the simulator's ticks."""

from __future__ import annotations

import time

from simulator.clock import TICKS_PER_S

TICKS_PER_NS = TICKS_PER_S // 10**9
SPIN_NS = 300_000
"""Last stretch of a wait that is spent looking at the clock: a sleep may last this much longer than asked (Linux timer slack
and scheduling, seen on shared machines)."""


class RealClock:
    """Ticks since the object was made."""

    def __init__(self) -> None:
        self._origin_ns = time.perf_counter_ns()

    def now(self) -> int:
        """Ticks since the run began."""
        return (time.perf_counter_ns() - self._origin_ns) * TICKS_PER_NS

    def sleep_until(self, tick: int) -> None:
        """Sleep, then spin."""
        target_ns = self._origin_ns + -(-tick // TICKS_PER_NS)
        while (left_ns := target_ns - time.perf_counter_ns()) > 0:
            if left_ns > SPIN_NS:
                time.sleep((left_ns - SPIN_NS) * 1e-9)
