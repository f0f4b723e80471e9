"""What one replica did, step by step: slices of time, queue lengths and KV blocks, kept when a run is watched."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

MOST_SLICES = 1_000_000
"""Slices that are kept, all replicas of a pool together: about 130 MB."""


class Kind(IntEnum):
    """What a step did."""

    DECODE = 0
    PREFILL = 1
    MIXED = 2
    LOST = 3
    """Under way when its replica failed."""


class Slice(NamedTuple):
    """A step, or several equal ones in a row, on one thread of a replica: a pipeline stage, or a phase of its own."""

    begin: float
    """[ticks], as the next."""
    end: float
    thread: int
    kind: int
    steps: int
    seqs: int
    """Sequences in the batch that decode."""
    prompts: int
    prompt_tokens: int
    output_tokens: int
    """Tokens of the decoding sequences, all steps together; first tokens, which end prompts, are not among them."""
    joules: float
    draft_ticks: float = 0.0
    """Of a step with speculative decoding: the draft's part."""
    wait_ticks: float = 0.0
    """The devices wait: for swapped KV, or for compilers when the server is cold."""
    swap_tokens: int = 0
    """KV entries that move to or from host memory before the step."""


END = Slice._fields.index("end")


class Load(NamedTuple):
    """KV that comes from a memory below the devices', for one request."""

    begin: float
    end: float
    row: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Watch:
    """A run is watched: what to keep."""

    window_s: tuple[float, float] | None = None
    """Slices that overlap it; None: all."""
    most_slices: int = MOST_SLICES

    def log(self, replicas: int, ticks_per_s: int) -> StepLog:
        """The log of one of several replicas."""
        begin, end = (0.0, float("inf")) if self.window_s is None else self.window_s
        return StepLog(begin * ticks_per_s, end * ticks_per_s, max(1, self.most_slices // replicas))


class StepLog:
    """Slices and samples of one replica, in the order in which they ended."""

    WIDTH = len(Slice._fields)

    def __init__(self, begin: float, end: float, most: int) -> None:
        self.rows = array("d")
        self.queue = array("d")
        """(tick, running, waiting), where either changed."""
        self.blocks = array("d")
        """(tick, KV blocks in use), at ends of slices."""
        self.loads: list[Load] = []
        self.left_out = 0
        """Slices beyond the limit."""
        self._begin, self._end, self._most = begin, end, most
        self._places: dict[int, int] = {}
        """Thread -> place of its latest slice in ``rows``."""
        self._open: set[int] = set()
        """Threads to whose latest slice further steps may be added."""
        self._thread = -1
        self._blocks_from = 0
        """Where samples of the latest slice begin; ``_thread`` is whose it is."""
        self._peak = 0
        self._state = (0, 0)

    def add(self, piece: Slice, used_blocks: int | None = None, peak_blocks: int = 0) -> None:
        """A slice has ended, with so many KV blocks in use from now on; a peak may have been reached just before. Decode
        steps that follow each other with the same sequences become one slice, however far the event loop jumped."""
        grows = self._joins(piece)
        if not grows and piece.begin > self._end:
            return
        if grows:
            self._extend(self._places[piece.thread], piece)
            if self._thread == piece.thread:
                del self.blocks[self._blocks_from :]
        elif not self._append(piece):
            return
        self._thread, self._blocks_from = piece.thread, len(self.blocks)
        if piece.wait_ticks or piece.draft_ticks or piece.kind != Kind.DECODE:
            self.close(piece.thread)
        self.sample_blocks(piece.end, used_blocks, peak_blocks)

    def _append(self, piece: Slice) -> bool:
        """Keep a slice, in the place of the one before when that ended before the window; False when there is no room."""
        at = self._places.get(piece.thread)
        if at is not None and self.rows[at + END] < self._begin:
            self.rows[at : at + self.WIDTH] = array("d", piece)
        elif len(self.rows) >= self.WIDTH * self._most:
            self.left_out += 1
            return False
        else:
            self._places[piece.thread] = len(self.rows)
            self.rows.extend(piece)
        self._open.add(piece.thread)
        return True

    def close(self, thread: int) -> None:
        """Nothing is added to the latest slice of a thread."""
        self._open.discard(thread)

    def sample_blocks(self, tick: float, used_blocks: int | None, peak_blocks: int) -> None:
        """So many KV blocks are in use; a new peak is kept, too."""
        if tick < self._begin:  # the latest value alone counts
            del self.blocks[:]
            self._blocks_from = 0
        if peak_blocks > self._peak:
            self._peak = peak_blocks
            self.blocks.extend((tick, peak_blocks))
            self._blocks_from = len(self.blocks)
        if used_blocks is not None:
            self.blocks.extend((tick, used_blocks))

    def note(self, tick: int, running: int, waiting: int) -> None:
        """Requests in the batch and in the queue."""
        if (running, waiting) != self._state:
            self._state = (running, waiting)
            if tick < self._begin:
                del self.queue[:]
            self.queue.extend((tick, running, waiting))

    def slices(self) -> npt.NDArray[np.float64]:
        """float64[slices, fields of Slice]."""
        return np.frombuffer(self.rows).reshape(-1, self.WIDTH)

    def _joins(self, piece: Slice) -> bool:
        at = self._places.get(piece.thread, 0)
        if piece.thread not in self._open or piece.kind != Kind.DECODE or piece.wait_ticks or piece.draft_ticks:
            return False
        last = Slice._make(self.rows[at : at + self.WIDTH])
        same = last.seqs == piece.seqs and last.output_tokens * piece.steps == piece.output_tokens * last.steps
        return same and last.end == float(piece.begin)

    def _extend(self, at: int, piece: Slice) -> None:
        self.rows[at + END] = piece.end
        for name in ("steps", "output_tokens", "joules"):
            self.rows[at + Slice._fields.index(name)] += getattr(piece, name)
