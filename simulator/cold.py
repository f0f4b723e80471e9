"""A server that has just started: kernels it compiles when a step first needs them. No clock, no physics."""

from __future__ import annotations

from dataclasses import dataclass, field

TUNED_SIZES = (512, 1024, 1536, 2048, 3072, 4096)
"""Numbers of tokens for which vLLM's fused-MoE kernels have a configuration of their own (its tuned JSON tables; smaller ones
are compiled while CUDA graphs are captured). A step uses the nearest."""
ALIGNMENT = 16
"""Triton compiles a kernel again when an integer argument is, or is no longer, a multiple of 16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdStart:
    """Which steps of a fresh server wait for a compiler, and how long."""

    compile_s: float
    """One new variant of the kernels of an MoE layer [s]."""
    experts_per_token: int
    captured_tokens: int
    """Steps up to this size were compiled at start, with the CUDA graphs."""
    profiled_tokens: int
    """So was the size of the engine's profile run."""


@dataclass(slots=True)
class ColdKernels:
    """Variants that one replica has compiled so far."""

    start: ColdStart
    known: set[tuple[int, bool, bool]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.known.add(self._variant(self.start.profiled_tokens))

    def wait_s(self, tokens: int) -> float:
        """Compile time of a step of ``tokens`` [s]; 0 the next time."""
        if tokens <= self.start.captured_tokens:
            return 0.0
        variant = self._variant(tokens)
        if variant in self.known:
            return 0.0
        self.known.add(variant)
        return self.start.compile_s

    def _variant(self, tokens: int) -> tuple[int, bool, bool]:
        """Nearest tuned size, and whether tokens and routed rows are multiples of 16: the kernels' integer arguments."""
        size = min(TUNED_SIZES, key=lambda tuned: abs(tuned - tokens))
        return size, tokens % ALIGNMENT == 0, tokens * self.start.experts_per_token % ALIGNMENT == 0
