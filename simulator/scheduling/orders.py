"""Orders of service: who is next among waiting and swapped requests, and who gives way. Decisions only; no books, no clock."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from simulator.core import EngineCore
from simulator.replica import FOREVER
from simulator.request import Request

Floats = npt.NDArray[np.float64]
Key = tuple[float, ...]

MASK = (1 << 64) - 1


class Order(Protocol):
    """What :class:`simulator.scheduling.queue.Ordered` needs of an order."""

    preempts: bool
    """Somebody who waits takes the place of somebody of a lower class who runs."""
    gives_way: bool
    """When KV blocks run out the last in this order is preempted; else the request admitted last."""

    def look(self, core: EngineCore, step: int) -> bool:
        """The engine is about to decide on its ``step``-th step. True when keys have changed since the last look."""

    def key(self, request: Request) -> Key:
        """Smaller ones are served first. May change in :meth:`look` only."""

    def rank(self, request: Request) -> float:
        """Class of a request: only a lower value pushes another request out."""

    def steps_left(self, step: int) -> int:
        """Steps from ``step`` on for which keys stand if nobody comes or goes."""

    def begun(self, core: EngineCore) -> None:
        """The step has been decided: ``core.batch`` is what it computes."""


class Static:
    """An order by a value that every request has from the start."""

    preempts = False
    gives_way = False

    def __init__(self, values: Floats) -> None:
        self._values: list[float] = values.tolist()

    def look(self, core: EngineCore, step: int) -> bool:
        """Nothing changes."""
        return False

    def key(self, request: Request) -> Key:
        """By value, then first come first served."""
        return (self._values[request.row], request.arrival_tick, request.row)

    def rank(self, request: Request) -> float:
        """The value."""
        return self._values[request.row]

    def steps_left(self, step: int) -> int:
        """For ever."""
        return FOREVER

    def begun(self, core: EngineCore) -> None:
        """Nothing to note."""


class Priority(Static):
    """vLLM's ``--scheduling-policy priority``: lower values first, and the last in this order is preempted when KV blocks run
    out. With ``preempt`` a request that waits also pushes out those of lower classes that run, until it fits (vLLM v0,
    FastSwitch). With ``period`` every request's priority is drawn anew, uniformly, every so many steps of the engine
    (FastSwitch, arXiv 2411.18424: frequencies of 0.02 and 0.04 updates per step)."""

    gives_way = True

    def __init__(self, values: Floats, *, preempt: bool = False, period: int = 0, seed: int = 0) -> None:
        super().__init__(values)
        self.preempts = preempt
        self._period, self._seed = period, seed
        self._epoch = 0

    def look(self, core: EngineCore, step: int) -> bool:
        """A new period has new priorities."""
        if not self._period:
            return False
        epoch, self._epoch = self._epoch, step // self._period
        return epoch != self._epoch

    def rank(self, request: Request) -> float:
        """The priority, now."""
        if not self._period:
            return super().rank(request)
        return drawn(self._seed, self._epoch, request.row)

    def key(self, request: Request) -> Key:
        """By priority, then first come first served."""
        return (self.rank(request), request.arrival_tick, request.row)

    def steps_left(self, step: int) -> int:
        """To the end of the period."""
        return self._period - step % self._period if self._period else FOREVER


class TokenCounters:
    """Fairness among clients: the virtual token counter of Sheng et al. (OSDI 2024, arXiv 2401.00588).

    A client's counter grows by ``input`` per prompt token admitted and by ``output`` per token generated (1 and 2 there);
    the waiting client with the smallest counter is served next, first come first served within a client. The counter
    of a client that comes back after it had nothing waiting is raised to the smallest of those who wait. Preemption goes by
    admission.
    """

    preempts = False
    gives_way = False

    def __init__(
        self, clients: npt.NDArray[np.int64], *, input_weight: float = 1.0, output_weight: float = 2.0
    ) -> None:
        self._clients = clients.tolist()
        self._weights = (input_weight, output_weight)
        self._tokens: dict[int, tuple[int, int]] = {}
        """Client -> (prompt tokens admitted, tokens generated)."""
        self._lift: dict[int, float] = {}
        self._noted: dict[Request, int] = {}
        """Requests that run -> generated tokens that count already."""
        self._waited: set[int] = set()
        """Clients with requests that were left waiting by the last decision."""
        self._places: dict[int, int] = {}

    def _counter(self, client: int) -> float:
        prompt, generated = self._tokens.get(client, (0, 0))
        return self._weights[0] * prompt + self._weights[1] * generated + self._lift.get(client, 0.0)

    def _count(self, request: Request, prompt: int, generated: int) -> None:
        client = self._clients[request.row]
        before = self._tokens.get(client, (0, 0))
        self._tokens[client] = (before[0] + prompt, before[1] + generated)

    def _note_generated(self, core: EngineCore) -> None:
        """Tokens since the last look: of those that run, and of those that have left since."""
        running = {r: lane.length(r) - r.input_tokens for lane in core.lanes for _, _, r in lane.heap}
        running |= {r: r.generated for lane in core.lanes for r in lane.prefilling}
        for request, before in self._noted.items():
            gone = request.generated if request.admit_seq < 0 else request.output_tokens
            self._count(request, 0, running.get(request, gone) - before)
        self._noted = running

    def look(self, core: EngineCore, step: int) -> bool:
        """Counters as of now, clients that have come back lifted, and everybody's place in the queue."""
        self._note_generated(core)
        queues: dict[int, list[Request]] = {}
        for request in sorted(core.waiting, key=lambda r: (r.arrival_tick, r.row)):
            queues.setdefault(self._clients[request.row], []).append(request)
        old = [self._counter(client) for client in sorted(queues) if client in self._waited]
        if old:
            for client in sorted(queues):
                if client not in self._waited:
                    self._lift[client] = self._lift.get(client, 0.0) + max(0.0, min(old) - self._counter(client))
        self._places = self._in_turn(queues)
        return True

    def _in_turn(self, queues: dict[int, list[Request]]) -> dict[int, int]:
        """Row -> place, as if each were admitted in turn."""
        from heapq import heapify, heappop, heapreplace

        heads = [(self._counter(client), client, 0) for client in queues]
        heapify(heads)
        places: dict[int, int] = {}
        while heads:
            counter, client, index = heads[0]
            request = queues[client][index]
            places[request.row] = len(places)
            if index + 1 < len(queues[client]):
                heapreplace(heads, (counter + self._weights[0] * request.prompt_left, client, index + 1))
            else:
                heappop(heads)
        return places

    def key(self, request: Request) -> Key:
        """The place; those who came since the last look are behind."""
        return (self._places.get(request.row, FOREVER), request.arrival_tick, request.row)

    def rank(self, request: Request) -> float:
        """No classes."""
        return 0.0

    def steps_left(self, step: int) -> int:
        """Counters grow with every step."""
        return 1

    def begun(self, core: EngineCore) -> None:
        """Prompts that start now count in full, once; and who still waits."""
        self._waited = {self._clients[request.row] for request in core.waiting}
        for request, _ in core.batch:
            if request not in self._noted:
                self._count(request, 0 if request.num_preemptions else request.prompt_left, 0)
                self._noted[request] = request.generated


def drawn(seed: int, epoch: int, row: int) -> float:
    """Uniform number of a request in a period, in [0, 1): SplitMix64 (Steele et al., OOPSLA 2014) of the three."""
    state = (seed * 0x9E3779B97F4A7C15 + epoch * 0xD1B54A32D192ED03 + row * 0x8CB92BA72F3D8DD7) & MASK
    state = (state + 0x9E3779B97F4A7C15) & MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return (state ^ (state >> 31)) / (MASK + 1)
