"""The sequences that decode together: kept as aggregates, so that a step costs the same for one or a thousand of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from heapq import heapify, heappop, heappush
from operator import mul

from simulator.request import Request


@lru_cache(maxsize=16)
def paddings(block_size: int) -> list[list[int]]:
    """[it mod block_size][phase] -> free places in the last block of a sequence."""
    return [[-(phase + it) % block_size for phase in range(block_size)] for it in range(block_size)]


class Lane:
    """Running sequences of one batch (a replica has one lane per pipeline stage).

    A sequence's *length* is its prompt plus what it has generated; a decode step reads ``length`` KV entries, has
    ``length - 1`` of them cached before, and makes the length grow by one. Every member advances by one token per decode
    step, so the sum of lengths and the count per (length mod block) follow by arithmetic.
    """

    __slots__ = (
        "block_size",
        "context",
        "crossings",
        "flying",
        "growing",
        "heap",
        "hold",
        "it",
        "last_decode_tick",
        "num_seqs",
        "padded_at",
        "padding",
        "paddings",
        "phases",
        "pledged",
        "prefilling",
        "private",
        "window",
        "window_context",
    )

    def __init__(self, block_size: int, window: int | None, hold: bool = False) -> None:
        self.block_size = block_size
        self.hold = hold
        """Static batching: finished members keep costing until the lane is empty."""
        self.last_decode_tick = -1
        """End of the last decode step [ticks]; kept by the driver."""
        self.window = window
        self.it = 0
        """Decode steps done so far."""
        self.num_seqs = 0
        self.context = 0
        """Sum of lengths [tokens]."""
        self.private = 0
        """Sum of cached tokens (length - 1) that lie outside shared prefix blocks."""
        self.phases = [0] * block_size
        """Sequences per (length - 1 - it) mod block_size: those with phase == -it need a block for the next step."""
        self.paddings = paddings(block_size)
        self.padding = 0
        """Free places in the last blocks of all sequences when ``it`` is ``padded_at``; unknown otherwise."""
        self.padded_at = -1
        self.heap: list[tuple[int, int, Request]] = []
        """(step count at which it finishes, admission number, request)."""
        self.prefilling: list[Request] = []
        """Admitted requests whose prompt is not complete, oldest first."""
        self.window_context = 0
        """Sum of min(length, window)."""
        self.growing = 0
        """Sequences still shorter than the window."""
        self.crossings: list[tuple[int, int, Request]] = []
        self.flying: list[tuple[Request, int]] = []
        """Prefill work of the batch in flight (pipelines)."""
        self.pledged = 0
        """KV blocks that the decode rows of the batch in flight will fill (pipelines)."""

    def length(self, request: Request) -> int:
        """Current length of a member [tokens]."""
        return request.input_tokens + request.output_tokens - (request.finish_it - self.it)

    def join(self, request: Request) -> None:
        """Take in a sequence that has just produced a token and has more to produce."""
        it = self.it
        length = request.input_tokens + request.generated
        request.joined_it = it
        request.finish_it = it + request.output_tokens - request.generated
        heappush(self.heap, (request.finish_it, request.admit_seq, request))
        self.num_seqs += 1
        self.context += length
        self.private += length - 1 - request.shared
        phase = (length - 1 - it) % self.block_size
        request.phase = phase
        self.phases[phase] += 1
        self.padded_at = -1
        window = self.window
        if window is not None:
            if length < window:
                request.crossing = it + window - length
                heappush(self.crossings, (request.crossing, request.admit_seq, request))
                self.growing += 1
                self.window_context += length
            else:
                request.crossing = -1
                self.window_context += window

    def advance(self, steps: int) -> None:
        """All members produced ``steps`` tokens; no window is crossed in the middle (see :meth:`steps_to_crossing`)."""
        grown = self.num_seqs * steps
        self.it += steps
        self.context += grown
        self.private += grown
        if self.window is not None:
            self.window_context += self.growing * steps
            self._settle_crossings()

    def _settle_crossings(self) -> None:
        crossings = self.crossings
        while crossings and (crossings[0][0] <= self.it or crossings[0][2].crossing != crossings[0][0]):
            tick, _, request = heappop(crossings)
            if request.crossing == tick:
                request.crossing = -1
                self.growing -= 1

    def steps_to_crossing(self, limit: int) -> int:
        """Steps, at most ``limit``, in which the growth of the window sum stays the same."""
        if self.crossings:
            return min(limit, self.crossings[0][0] - self.it)
        return limit

    def pop_finished(self) -> Request | None:
        """Remove and return a sequence whose last token has been produced, or None."""
        heap = self.heap
        if not heap or heap[0][0] > self.it:
            return None
        request = heappop(heap)[2]
        if not self.hold:
            self._leave(request, request.input_tokens + request.output_tokens)
        elif not heap:
            self._clear()
        return request

    def _clear(self) -> None:
        self.num_seqs = self.context = self.private = self.window_context = self.growing = 0
        self.phases = [0] * self.block_size
        self.padded_at = -1
        self.crossings = []

    def remove(self, request: Request) -> int:
        """Take out a member (preemption); O(n). Returns its length [tokens]."""
        length = self.length(request)
        self.heap = [entry for entry in self.heap if entry[2] is not request]
        heapify(self.heap)
        self._leave(request, length)
        return length

    def _leave(self, request: Request, length: int) -> None:
        self.num_seqs -= 1
        self.context -= length
        self.private -= length - 1 - request.shared
        self.phases[request.phase] -= 1
        if self.padded_at == self.it:
            self.padding -= self.paddings[self.it % self.block_size][request.phase]
        window = self.window
        if window is not None:
            self.window_context -= min(length, window)
            if request.crossing >= 0:
                request.crossing = -1
                self.growing -= 1
                self._settle_crossings()

    def last_token_tick(self, request: Request) -> int:
        """When a member produced its last token [ticks]."""
        return request.joined_tick if request.joined_it == self.it else self.last_decode_tick

    def newest(self) -> Request | None:
        """The member admitted last; O(n)."""
        return max(self.heap, key=lambda entry: entry[1])[2] if self.heap else None

    def last(self, line: Callable[[Request], tuple[float, ...]]) -> Request | None:
        """The member that comes last in an order of service; O(n)."""
        return max((entry[2] for entry in self.heap), key=line, default=None)

    def blocks_bound(self) -> int:
        """At least the private KV blocks of the members; O(1)."""
        size = self.block_size
        return (self.private + self.num_seqs * (size - 1)) // size

    def blocks(self) -> int:
        """Private KV blocks of the members, exactly: sum of ceil(tokens / block_size); O(block_size) once per step."""
        size, it = self.block_size, self.it
        if self.padded_at != it:
            self.padding = sum(map(mul, self.phases, self.paddings[it % size]))
            self.padded_at = it
        return (self.private + self.padding) // size

    def blocks_after(self, steps: int) -> int:
        """Private KV blocks of the members when they have done ``steps`` more decode steps; O(block_size)."""
        size = self.block_size
        padding: int = sum(map(mul, self.phases, self.paddings[(self.it + steps) % size]))
        return (self.private + self.num_seqs * steps + padding) // size

    def blocks_for_next_step(self) -> int:
        """New blocks the next decode step needs."""
        return self.phases[-self.it % self.block_size]

    def needs_block(self, request: Request) -> bool:
        """Whether the next decode step of a member begins a new block."""
        return (request.phase + self.it) % self.block_size == 0

    def steps_within(self, free_blocks: int, limit: int) -> int:
        """Decode steps, at most ``limit``, that ``free_blocks`` blocks allow."""
        size, n = self.block_size, self.num_seqs
        if n * ((limit + size - 1) // size) <= free_blocks:
            return limit
        cycles, left = divmod(free_blocks, n)
        steps = cycles * size
        phases, it = self.phases, self.it
        while steps < limit:
            need = phases[-(it + steps) % size]
            if need > left:
                break
            left -= need
            steps += 1
        return min(steps, limit)
