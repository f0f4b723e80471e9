"""The sequences that decode together when a step brings each of them its own number of tokens.

How a sequence will grow is known when it joins (:class:`~simulator.speculative.acceptance.Draws`), so the lane keeps sums of
all members for every step ahead, and spans of steps stay arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappush
from typing import Protocol

import numpy as np

from simulator.lane import Lane
from simulator.request import Request
from simulator.speculative.acceptance import Draws, Ints
from simulator.speculative.counters import Speculation

GROWN, WINDOW_GROWN, HELD, NEEDED = range(4)
"""Rows of the sums per step: tokens that come out; growth of min(length, window); growth of the blocks held between steps;
blocks that the step needs beside them."""
AHEAD = 1024
"""Steps ahead for which there is room at first."""


@dataclass(slots=True)
class Member:
    """What a sequence will do from the step it joined."""

    lengths: Ints
    """Length before each step, and after the last [tokens]."""
    accepted: Ints
    """Accepted drafts per step."""
    sums: Ints
    """Its part of the lane's sums."""


class SpeculativeLane(Lane):
    """Running sequences of a batch, each with ``queries`` tokens per step of which at least one stays.

    A step of a sequence of some length writes KV entries up to ``length - 1 + queries``; those of rejected drafts are free
    again when it ends (the engine's lookahead slots).
    """

    __slots__ = ("_begin", "_blocks", "_members", "_sums", "draws", "histogram", "longest", "queries")

    def __init__(self, block_size: int, window: int | None, *, draws: Draws, queries: int, longest: int) -> None:
        super().__init__(block_size, window)
        self.draws = draws
        self.queries = queries
        self.longest = longest
        """No sequence has KV entries beyond this [tokens]."""
        self.histogram: Ints = np.zeros(len(draws.rates) + 1, dtype=np.int64)
        """Steps of sequences that have left, by number of accepted drafts."""
        self._members: dict[Request, Member] = {}
        self._sums: Ints = np.zeros((4, AHEAD), dtype=np.int64)
        self._begin = 0
        """Step that the first column stands for."""
        self._blocks = 0
        """Private blocks held between steps."""

    # -- members ------------------------------------------------------------------------------------------------------

    def join(self, request: Request) -> None:
        """Take in a sequence that has just produced a token and has more to produce."""
        member = self._member(request)
        steps = len(member.accepted)
        self._members[request] = member
        request.joined_it = self.it
        request.finish_it = self.it + steps
        heappush(self.heap, (request.finish_it, request.admit_seq, request))
        self._columns(steps)
        at = self.it - self._begin
        self._sums[:, at : at + steps] += member.sums
        length = int(member.lengths[0])
        self.num_seqs += 1
        self.context += length
        self.private += length - 1 - request.shared
        self._blocks += self._ceil(length - 1 - request.shared)
        if self.window is not None:
            self.window_context += min(length, self.window)

    def _member(self, request: Request) -> Member:
        tokens, accepted = self.draws.steps(request.row, request.generated, request.output_tokens)
        first = request.input_tokens + request.generated
        lengths = np.concatenate([[first], first + np.cumsum(tokens)]).astype(np.int64)
        sums = np.zeros((4, len(tokens)), dtype=np.int64)
        sums[GROWN] = tokens
        if self.window is not None:
            sums[WINDOW_GROWN] = np.diff(np.minimum(lengths, self.window))
        size = self.block_size
        held = -(-(lengths - 1 - request.shared) // size)
        written = np.minimum(lengths[:-1] - 1 + self.queries, self.longest)
        sums[HELD] = np.diff(held)
        sums[NEEDED] = -(-(written - request.shared) // size) - held[:-1]
        return Member(lengths, accepted, sums)

    def _ceil(self, tokens: int) -> int:
        return -(-tokens // self.block_size)

    def _columns(self, steps: int) -> None:
        """Room for sums of so many steps ahead; what is past goes."""
        past, room = self.it - self._begin, self._sums.shape[1]
        if past + steps <= room:
            return
        kept = self._sums[:, past:]
        self._sums = np.zeros((4, max(room, 2 * steps)), dtype=np.int64)
        self._sums[:, : kept.shape[1]] = kept
        self._begin = self.it

    def length(self, request: Request) -> int:
        """Current length of a member [tokens]."""
        return int(self._members[request].lengths[self.it - request.joined_it])

    def _leave(self, request: Request, length: int) -> None:
        member = self._members.pop(request)
        done = self.it - request.joined_it
        left = member.sums[:, done:]
        at = self.it - self._begin
        self._sums[:, at : at + left.shape[1]] -= left
        self.histogram += np.bincount(member.accepted[:done], minlength=len(self.histogram))
        self.num_seqs -= 1
        self.context -= length
        self.private -= length - 1 - request.shared
        self._blocks -= self._ceil(length - 1 - request.shared)
        if self.window is not None:
            self.window_context -= min(length, self.window)

    def take_histogram(self) -> list[int]:
        """``histogram`` since the last call."""
        taken: list[int] = self.histogram.tolist()
        self.histogram = np.zeros_like(self.histogram)
        return taken

    # -- steps --------------------------------------------------------------------------------------------------------

    def ahead(self, row: int, steps: int) -> Ints:
        """One of the sums for each of the next steps."""
        self._columns(steps)
        at = self.it - self._begin
        return self._sums[row, at : at + steps]

    def advance(self, steps: int) -> None:
        """All members did ``steps`` steps."""
        at = self.it - self._begin
        grown = self._sums[:, at : at + steps].sum(axis=1)
        self.it += steps
        self.context += int(grown[GROWN])
        self.private += int(grown[GROWN])
        self.window_context += int(grown[WINDOW_GROWN])
        self._blocks += int(grown[HELD])

    def blocks(self) -> int:
        """Private KV blocks of the members, between steps."""
        return self._blocks

    def blocks_after(self, steps: int) -> int:
        """Private KV blocks of the members at the end of ``steps`` more decode steps, rejected drafts included."""
        return self._blocks + int(self.extra_blocks(steps)[-1]) if steps and self.num_seqs else self._blocks

    def blocks_for_next_step(self) -> int:
        """New blocks the next decode step needs, for all its tokens."""
        return int(self.ahead(NEEDED, 1)[0]) if self.num_seqs else 0

    def extra_blocks(self, steps: int) -> Ints:
        """Blocks beyond today's that each of the next steps needs while it runs."""
        held = self.ahead(HELD, steps)
        extra: Ints = np.cumsum(held) - held + self.ahead(NEEDED, steps)
        return extra

    def steps_within(self, free_blocks: int, limit: int) -> int:
        """Decode steps, at most ``limit``, that ``free_blocks`` blocks allow."""
        short = np.flatnonzero(self.extra_blocks(limit) > free_blocks)
        return int(short[0]) if len(short) else limit


class LaneLimits(Protocol):
    """Of :class:`simulator.core.CoreLimits`."""

    @property
    def block_size(self) -> int:
        """Tokens per KV block."""

    @property
    def max_model_len(self) -> int:
        """Longest request [tokens]."""


def speculative_lane(limits: LaneLimits, window: int | None, drafts: Speculation) -> SpeculativeLane:
    """The batch of a replica whose sequences verify ``drafts``."""
    longest = limits.max_model_len
    return SpeculativeLane(limits.block_size, window, draws=drafts.draws, queries=drafts.queries, longest=longest)
