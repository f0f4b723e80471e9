"""What one component of a step costs on one rank, and what it waits for."""

from __future__ import annotations

from typing import Literal, NamedTuple

Bound = Literal["compute", "memory", "link", "host", "latency", "power"]


class Cost(NamedTuple):
    """One component on one rank, summed over the blocks of a stage."""

    name: str
    seconds: float
    bound: Bound
    peak_s: float = 0.0
    """FLOP over the peak of their dtype [s]."""
    flop: float = 0.0
    nbytes: float = 0.0
    link_bytes: float = 0.0


class Total(NamedTuple):
    """Sum over components that depend on one number."""

    seconds: float
    joules: float
    flop: float
    nbytes: float


def gemm_bound(seconds: float, compute_s: float, memory_s: float) -> Bound:
    """What a kernel waits for: the larger of its two roofs, or its launch when that exceeds both."""
    roof = max(compute_s, memory_s)
    if seconds - roof > roof:
        return "latency"
    return "compute" if compute_s >= memory_s else "memory"
