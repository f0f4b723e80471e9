"""Where requests come from: the open-loop replay of a trace, and requests that follow other requests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import simpy

from simulator.clock import EXTERNAL, Clock, to_ticks

Deliver = Callable[[list[int], int], None]
"""Called with (rows, tick) of the requests that reach the engines at one instant."""

CHUNK = 1 << 16


class OpenLoop:
    """Delivers rows at fixed times; one event in the queue at any time, one per distinct instant."""

    def __init__(self, clock: Clock, rows: npt.NDArray[np.int64], times_s: npt.NDArray[np.float64], deliver: Deliver):
        order = np.argsort(times_s, kind="stable")
        self._rows = rows[order]
        self._times = times_s[order]
        self._clock = clock
        self._deliver = deliver
        self._next_chunk = 0
        self._position = 0
        self._row_list: list[int] = []
        self._tick_list: list[int] = []
        self._load()

    def _load(self) -> None:
        begin, end = self._next_chunk, min(self._next_chunk + CHUNK, len(self._rows))
        self._next_chunk = end
        self._position = 0
        self._row_list = self._rows[begin:end].tolist()
        self._tick_list = [to_ticks(t) for t in self._times[begin:end].tolist()]
        if self._row_list:
            self._clock.at(self._tick_list[0], EXTERNAL, 0, self._arrive)

    def _arrive(self, event: simpy.Event) -> None:
        position, ticks = self._position, self._tick_list
        tick = ticks[position]
        end = position + 1
        size = len(ticks)
        while end < size and ticks[end] == tick:
            end += 1
        rows = self._row_list[position:end]
        self._position = end
        if end < size:
            self._clock.at(ticks[end], EXTERNAL, 0, self._arrive)
        else:
            self._load()
        self._deliver(rows, tick)


class Followers:
    """Delivers a row a while after another one has finished: closed loops and sessions."""

    def __init__(self, clock: Clock, deliver: Deliver) -> None:
        self._clock = clock
        self._deliver = deliver

    def send(self, row: int, tick: int) -> None:
        """Let ``row`` reach the engines at ``tick``."""
        self._clock.at(tick, EXTERNAL, row + 1, lambda event: self._deliver([row], tick))
