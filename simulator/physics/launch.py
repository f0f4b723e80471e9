"""What the host's launches cost: steps that are not replayed from CUDA graphs, and the padding of those that are."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Literal

from simulator.engine import EngineProfile

Mode = Literal["graph", "pieces", "eager"]

FINE_STEP, COARSE_STEP, COARSE_FROM = 8, 16, 256
"""Sizes that vLLM captures: 1, 2, 4, then every 8 up to 256, every 16 above (vllm/config, cudagraph_capture_sizes)."""


def capture_sizes(largest: int) -> list[int]:
    """Batch sizes with a CUDA graph, ascending, up to ``largest`` tokens."""
    sizes = [1, 2, 4, *range(FINE_STEP, COARSE_FROM, FINE_STEP), *range(COARSE_FROM, largest + 1, COARSE_STEP)]
    return [size for size in sizes if size <= largest]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launches:
    """How the engine launches a step. Times are already those of the cluster's host."""

    engine: EngineProfile
    slowness: float
    sizes: tuple[int, ...]

    def mode(self, tokens: int, prompts: bool) -> Mode:
        """What a step of ``tokens`` runs as; ``prompts``: it has prefill work."""
        graphs = self.engine.cuda_graphs
        if graphs == "none" or not self.sizes or tokens > self.sizes[-1]:
            return "eager"
        if graphs == "piecewise" or (prompts and graphs == "full-and-piecewise"):
            return "pieces"
        return "eager" if prompts else "graph"

    def padded(self, tokens: int, prompts: bool) -> int:
        """Tokens that the kernels of a step see: captured steps run at the next captured size."""
        if self.mode(tokens, prompts) == "eager":
            return tokens
        return self.sizes[bisect_left(self.sizes, tokens)]

    def seconds(self, tokens: int, prompts: bool, layers: float) -> float:
        """Host time to launch ``layers`` layers (in layers of Llama) of a step [s]; the device's work hides behind it, or it
        behind that."""
        mode = self.mode(tokens, prompts)
        if mode == "graph":
            return 0.0
        if mode == "pieces":
            per_layer_s = self.engine.piece_layer_s
        else:
            prompt_s = self.engine.prompt_launch_layer_s
            per_layer_s = prompt_s if prompts and prompt_s is not None else self.engine.launch_layer_s
        return per_layer_s * layers * self.slowness


def launches_of(engine: EngineProfile, slowness: float) -> Launches:
    """``slowness``: time a thread of the host takes, relative to the host the engine's constants were measured on."""
    return Launches(engine=engine, slowness=slowness, sizes=tuple(capture_sizes(engine.max_cudagraph_capture_size)))
