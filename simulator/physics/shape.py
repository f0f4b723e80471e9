"""The sufficient statistics of a batch: what a step costs depends on these numbers only."""

from __future__ import annotations

from typing import NamedTuple


class StepShape(NamedTuple):
    """One engine step of one replica (all its sequences together)."""

    decode_seqs: int = 0
    """Sequences that produce one token each."""
    context_tokens: int = 0
    """KV entries those sequences read in full-attention layers (sum over sequences)."""
    window_tokens: int = 0
    """The same for sliding-window layers: sum of min(context, window); equals context_tokens when no layer has a window."""
    prefill_tokens: int = 0
    """Prompt tokens computed in this step."""
    prefill_pairs: int = 0
    """Query-key pairs of those tokens in full-attention layers: sum of q*p + q*(q+1)/2 for q new tokens after p cached."""
    window_pairs: int = 0
    """The same in sliding-window layers."""
    prefill_seqs: int = 0
    """Prompts (or chunks) that contribute prefill_tokens."""
    prefill_context: int = 0
    """KV entries already cached that the chunks read again (sum of p)."""
    logits_rows: int = 0
    """Rows of the LM head: sequences that sample a token in this step (decode_seqs plus prompts that complete)."""


def window_pairs(new: int, cached: int, window: int) -> int:
    """Query-key pairs of ``new`` tokens after ``cached`` ones when each sees at most ``window`` keys, itself included: the
    sum of min(cached + i, window) over i = 1 ... new."""
    ramp = min(new, max(0, window - cached))
    return ramp * cached + ramp * (ramp + 1) // 2 + (new - ramp) * window


class DecodeLine(NamedTuple):
    """Cost of a decode-only step of n sequences as a line in its context: base + context*C + window*W [s, J].

    A step takes at least ``floor_s``, when the host's launches outlast the device's work; the device then waits at ``wait_w``.
    """

    base_s: float
    context_s: float
    window_s: float
    base_j: float
    context_j: float
    window_j: float
    floor_s: float = 0.0
    wait_w: float = 0.0

    def cost(self, context: float, window: float) -> tuple[float, float]:
        """(seconds, joules) at a context."""
        seconds = self.base_s + self.context_s * context + self.window_s * window
        joules = self.base_j + self.context_j * context + self.window_j * window
        if seconds < self.floor_s:
            return self.floor_s, joules + self.wait_w * (self.floor_s - seconds)
        return seconds, joules
