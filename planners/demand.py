"""What a workload asks of a replica, request by request: tokens, attention pairs and context to read, at the very least."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from workloads.trace import FloatArray, IntArray, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Arrays over the requests that are served (not refused for their length), in trace order."""

    inputs: IntArray
    outputs: IntArray
    """Cut to what the longest allowed request leaves."""
    computed: FloatArray
    """Prompt tokens that no prefix cache can save."""
    pairs: FloatArray
    """Query-key pairs of those tokens in full-attention layers."""
    window_pairs: FloatArray
    """The same in windowed layers."""
    decode_tokens: FloatArray
    decode_context: FloatArray
    """Sum over decode steps of the KV entries read."""
    window_context: FloatArray
    """The same in windowed layers."""
    arrival_s: FloatArray
    """Since the first arrival of the trace [s]; all 0 for closed loops and sessions."""
    shares_prefixes: bool
    rows: IntArray
    """Of the requests in the trace."""
    queries: float = 1.0
    """Tokens that each of the ``decode_tokens`` puts through the matrices; more than 1 where drafts are verified."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WorkloadStats:
    """A trace as the bounds see it."""

    arrivals_s: FloatArray
    """Since the first; all 0 for closed loops and sessions."""
    inputs: IntArray
    outputs: IntArray
    duration_s: float
    """From the first arrival to the last [s]; 0 for closed loops and sessions, whose arrivals depend on the system."""
    exclusive: FloatArray | None
    """Prompt tokens per request that no other request has; None: nothing is shared."""
    exclusive_pairs: FloatArray | None
    seed: int = 0
    """Of accepted drafts."""
    steps: dict[Any, FloatArray] = field(default_factory=dict)
    """What planners.draft_bounds has drawn."""

    @property
    def requests(self) -> int:
        """Requests in the trace."""
        return len(self.inputs)

    @classmethod
    def of(cls, trace: Trace, seed: int = 0) -> WorkloadStats:
        """Statistics of a trace; ``seed``: of accepted drafts."""
        open_loop = trace.concurrency is None and trace.previous is None
        exclusive = exclusive_tokens(trace)
        return cls(
            arrivals_s=trace.arrival_s - trace.arrival_s[0] if open_loop else np.zeros(len(trace)),
            inputs=trace.input_tokens,
            outputs=trace.output_tokens,
            duration_s=trace.duration_s if open_loop else 0.0,
            exclusive=None if exclusive is None else exclusive[0],
            exclusive_pairs=None if exclusive is None else exclusive[1],
            seed=seed,
        )

    def demand(self, max_model_len: int, window: int | None, prefix_caching: bool) -> Demand:
        """What requests shorter than ``max_model_len`` need; ``window``: of the sliding-window layers [tokens]."""
        rows = np.flatnonzero(self.inputs < max_model_len)
        inputs = self.inputs[rows]
        outputs = np.minimum(self.outputs[rows], max_model_len - inputs)
        steps = outputs - 1.0
        full = inputs * (inputs + 1.0) / 2
        computed, pairs, shared = inputs.astype(np.float64), full, False
        near = full if window is None else _window_sum(np.ones(len(inputs)), inputs.astype(np.float64), window)
        if prefix_caching and self.exclusive is not None and self.exclusive_pairs is not None:
            computed, pairs, shared = self.exclusive[rows], self.exclusive_pairs[rows], True
            near = pairs if window is None else np.minimum(pairs, computed)
        context = steps * (inputs + 1) + steps * (steps - 1) / 2
        return Demand(
            inputs=inputs,
            outputs=outputs,
            computed=computed,
            pairs=pairs,
            window_pairs=near,
            decode_tokens=steps,
            decode_context=context,
            window_context=context if window is None else _window_sum((inputs + 1).astype(np.float64), steps, window),
            arrival_s=self.arrivals_s[rows],
            shares_prefixes=shared,
            rows=rows,
        )


def _window_sum(first: FloatArray, count: FloatArray, window: int) -> FloatArray:
    """Sum of min(L, window) over L = first, first + 1 ... (``count`` values)."""
    short = np.clip(window - first + 1.0, 0.0, count)
    total: FloatArray = short * (2 * first + short - 1.0) / 2 + (count - short) * window
    return total


def exclusive_tokens(trace: Trace) -> tuple[FloatArray, FloatArray] | None:
    """(tokens, query-key pairs) per request of prompt pieces whose identity occurs once in the whole trace, and of what
    lies behind the last identity; at least one token each. None when the trace has no identities.

    Pieces that reach into the output do not count: the output may have been there before.
    """
    ids, offsets, size = trace.prefix_ids, trace.prefix_offsets, trace.prefix_block_tokens
    if ids is None or offsets is None:
        return None
    counts = np.diff(offsets)
    rows = np.repeat(np.arange(len(trace), dtype=np.int64), counts)
    position = np.arange(len(ids), dtype=np.int64) - np.repeat(offsets[:-1], counts)
    _, inverse, times = np.unique(ids, return_inverse=True, return_counts=True)
    alone = (times[inverse] == 1) & ((position + 1) * size <= trace.input_tokens[rows])
    rows, position = rows[alone], position[alone].astype(np.float64)
    begin = np.minimum(counts * size, trace.input_tokens).astype(np.float64)
    tail = trace.input_tokens - begin
    tokens = np.bincount(rows, minlength=len(trace)) * float(size) + tail
    pairs = np.bincount(rows, weights=position * size * size + size * (size + 1) / 2, minlength=len(trace))
    pairs = pairs + tail * begin + tail * (tail + 1) / 2
    return np.maximum(tokens, 1.0), np.maximum(pairs, 1.0)
