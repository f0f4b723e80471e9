"""What became of the drafts of one replica, and what the event loop is told of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from simulator.speculative.acceptance import Draws


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """Drafts as the event loop sees them."""

    draws: Draws
    queries: int
    """Tokens of a sequence that a step verifies."""


@dataclass(slots=True)
class SpeculativeCounters:
    """Sums over the steps of one replica."""

    seq_steps: int = 0
    """Steps of sequences: each emits at least one token."""
    emitted_tokens: int = 0
    """Tokens out of those steps."""
    histogram: list[int] = field(default_factory=list)
    """seq_steps by number of accepted drafts."""
    draft_ticks: float = 0.0
    """Time of the draft, its part of prompts included."""
    busy_ticks: int = 0
    """Time of all steps."""

    def count(self, steps: list[int]) -> None:
        """More steps of sequences, by number of accepted drafts."""
        known = self.histogram or [0] * len(steps)
        self.histogram = [a + b for a, b in zip(known, steps, strict=True)]
