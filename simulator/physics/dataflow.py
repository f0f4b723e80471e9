"""Stages of a spatial design (FPGA, processing in memory): every product is a pipeline of streams and arrays.

A product of ``rows`` inputs with a matrix of W weights passes three stages at once and takes as long as the slowest:

    t = max(W * bytes / (bandwidth_share * bandwidth), W / (busy_share * weight_elements_per_s),
            2 * rows * W / (busy_share * dense FLOP/s))

that is: the weights stream in from memory, they enter the arrays, and the arrays multiply each with every row (FlightLLM,
arXiv:2401.03868, section 3.2.2, has the first and the last). Products of one step depend on each other and follow one another.
Activations stay on chip; norms, softmax and the like run in units of their own meanwhile; the program is laid out in advance,
so nothing is launched. Attention of decode rows is a product with the KV cache: per entry the slowest of the same three, so a
step stays a line in its context.
"""

from __future__ import annotations

import math
from dataclasses import replace

from hardware_profiles.schema import Dataflow
from simulator.engine import EngineProfile
from simulator.physics.coefficients import AttentionCoefficients
from simulator.physics.cost import Bound, Cost
from simulator.physics.kernels import gemm_flop
from simulator.physics.layout import RankExperts, StageLayout
from simulator.physics.moe_load import ExpertLoad
from simulator.physics.precision import KernelFormat
from simulator.physics.stage import Limit, Stage
from simulator.physics.stage_context import StageContext


def without_launches(engine: EngineProfile) -> EngineProfile:
    """The engine's host on a device whose program is laid out in advance: time between steps stays, launches and padding go."""
    return replace(engine, cuda_graphs="none", launch_layer_s=0.0, piece_layer_s=0.0, prompt_launch_layer_s=None)


def stage_of(layout: StageLayout, context: StageContext, limit: Limit | None = None) -> Stage:
    """The stage as the device computes it: kernel by kernel, or as a pipeline of streams and arrays."""
    return Stage(layout, context, limit) if context.device.dataflow is None else DataflowStage(layout, context, limit)


class DataflowStage(Stage):
    """A pipeline stage on a spatial design; see the module."""

    def __init__(self, stage: StageLayout, context: StageContext, limit: Limit | None = None) -> None:
        super().__init__(stage, context, limit)
        assert context.device.dataflow is not None
        self._design: Dataflow = context.device.dataflow
        self.attention = tuple(self._on_chip(c) for c in self.attention)

    def _enter_s(self, elements: float) -> float:
        """Weights, or entries of the KV cache, on their way into the arrays [s]."""
        return elements / (self._design.busy_share * self._design.weight_elements_per_s)

    def _slowest(self, elements: float, nbytes: float, flop: float, peak_flop_per_s: float) -> tuple[float, Bound]:
        """(seconds, bound) of a product."""
        stream_s = nbytes / (self._design.bandwidth_share * self._bandwidth)
        arrays_s = max(self._enter_s(elements), flop / (self._design.busy_share * peak_flop_per_s))
        return max(stream_s, arrays_s), "memory" if stream_s >= arrays_s else "compute"

    def _gemm(self, name: str, tokens: float, n: int, k: int, fmt: KernelFormat, count: int) -> Cost:
        flop, moved = gemm_flop(tokens, n, k), float(n * k * fmt.weight_bytes)
        seconds, bound = self._slowest(float(n * k), moved, flop, fmt.peak_flop_per_s)
        return Cost(name, seconds * count, bound, flop / fmt.peak_flop_per_s * count, flop * count, moved * count)

    def _experts(self, experts: RankExperts, load: ExpertLoad, count: int) -> Cost:
        cost = super()._experts(experts, load, count)
        enter_s = self._enter_s(cost.nbytes / experts.format.weight_bytes)
        return cost if cost.seconds >= enter_s else cost._replace(seconds=enter_s, bound="compute")

    def _elementwise(self, tokens: int) -> Cost:
        return Cost("elementwise", 0.0, "latency")

    def _on_chip(self, c: AttentionCoefficients) -> AttentionCoefficients:
        """Attention whose queries and outputs stay on chip; the KV cache is streamed as weights are."""
        if c.kind == "linear":
            return replace(c, token_bytes=0.0, prefill_token_s=c.token_flop / self._attention_rate())
        element = self._context.precision.kv_bytes
        slope_s, bound = self._slowest(
            c.decode_bytes / element, c.decode_bytes, c.decode_flop, self._context.precision.attention_peak_flop_per_s
        )
        written = c.decode_seq_bytes
        return replace(
            c,
            decode_context_s=slope_s,
            mixed_context_s=slope_s,
            decode_is_compute=bound == "compute",
            token_bytes=written,
            prefill_token_s=written / (self._design.bandwidth_share * self._bandwidth),
        )

    def _attention_rate(self) -> float:
        rate = self._design.busy_share * self._context.precision.attention_peak_flop_per_s
        assert math.isfinite(rate) and rate > 0
        return rate
