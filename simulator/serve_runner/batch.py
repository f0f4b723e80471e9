"""What one step computes: the pieces of sequences that the scheduler has chosen, and who may compute them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from simulator.physics.shape import StepShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Successive tokens of one sequence."""

    row: int
    """Identity of the sequence: its row in the trace."""
    start: int
    """Tokens of it whose KV entries exist already."""
    tokens: tuple[int, ...]
    """Vocabulary ids to compute now."""
    samples: bool
    """The last of them yields the sequence's next token."""

    @property
    def end(self) -> int:
        """KV entries of the sequence after the step."""
        return self.start + len(self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBatch:
    """One step: one-token pieces of decoding sequences, then chunks of prompts."""

    decode: tuple[Piece, ...]
    prefill: tuple[Piece, ...]

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """All pieces in the order in which they are computed."""
        return (*self.decode, *self.prefill)

    @property
    def shape(self) -> StepShape:
        """The statistics that the simulator's physics sees of this step."""
        context = sum(p.end for p in self.decode)
        tokens = sum(len(p.tokens) for p in self.prefill)
        pairs = sum(len(p.tokens) * p.start + len(p.tokens) * (len(p.tokens) + 1) // 2 for p in self.prefill)
        return StepShape(
            decode_seqs=len(self.decode),
            context_tokens=context,
            window_tokens=context,
            prefill_tokens=tokens,
            prefill_pairs=pairs,
            window_pairs=pairs,
            prefill_seqs=len(self.prefill),
            prefill_context=sum(p.start for p in self.prefill),
            logits_rows=sum(p.samples for p in self.pieces),
        )


class Worker(Protocol):
    """Computes steps."""

    def execute(self, batch: StepBatch) -> list[int]:
        """Compute a step to its end; the sampled token of every piece with ``samples``, in the order of ``pieces``."""

    def release(self, row: int) -> None:
        """Forget the KV entries of a sequence (finished or preempted); unknown rows are ignored."""


class WallClock(Protocol):
    """Time that passes by itself [ticks]."""

    def now(self) -> int:
        """Ticks since the run began."""

    def sleep_until(self, tick: int) -> None:
        """Return at ``tick`` or as soon after it as the machine allows."""
