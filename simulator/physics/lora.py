"""Low-rank adapters: how many distinct ones a batch has, what their products cost, and the memory of their slots."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from simulator.physics.layout import RankMatrix, StageLayout
from simulator.physics.precision import KernelFormat
from simulator.plan import ParallelPlan
from simulator.techniques import Lora

ELEMENT_BYTES = 2.0
"""Adapters are kept in 16 bits."""
DISTINCT_S = 0.43e-6
SGMV_MEMORY = 0.66
"""Punica's segmented kernel (arXiv:2310.18547; A100, 4096 x 4096, 64 sequences): 72 to 118 us at ranks 8 to 64 with 64 distinct
adapters are a slope of 1.28 TB/s in the adapters' bytes; 37 to 116 us from 1 to 64 distinct adapters (as if of rank 64, where
the two series meet) leave 0.43 us for each adapter."""
KERNELS = 2
"""Shrink and expand, per projection; each starts like a 16-bit GEMM. The 37 us of the kernel alone include its launch from the
host, which a server hides or replays from a graph."""
SLICES = {"qkv_proj": 3, "gate_up_proj": 2}
"""Fused projections have an input factor for each part."""


@lru_cache(maxsize=4096)
def distinct_adapters(seqs: int, lora: Lora) -> float:
    """Expected number of distinct adapters of ``seqs`` requests: sum of 1 - (1 - p_i)^n, at most the slots.

    Requests draw adapters independently, p_i falling as rank^-skew.
    """
    popularity = np.arange(1, lora.adapters + 1, dtype=np.float64) ** -lora.skew
    hit = 1.0 - (1.0 - popularity / popularity.sum()) ** seqs
    return min(float(hit.sum()), float(lora.slots))


def _factors(matrices: Iterable[RankMatrix]) -> list[float]:
    """Elements per rank of the factors of each adapted projection; the router has none."""
    adapted = [m for m in matrices if not m.name.endswith(("router", "gate"))]
    return [float(SLICES.get(m.name.split(".")[-1], 1) * m.k + m.n) for m in adapted]


def stage_factors(stage: StageLayout) -> tuple[int, float]:
    """(adapted projections, elements per rank of all their factors) of a stage on one TP rank; routed experts have none."""
    count, elements = 0, 0.0
    for layer, layers in stage.layers:
        factors = _factors(layer.matrices)
        count += layers * len(factors)
        elements += layers * sum(factors)
    return count, elements


def adapter_bytes(stage: StageLayout, plan: ParallelPlan) -> float:
    """Memory of all slots on one device [B]."""
    lora = plan.techniques.lora
    return 0.0 if lora is None else lora.slots * lora.rank * stage_factors(stage)[1] * ELEMENT_BYTES


def lora_work(
    stage: StageLayout, lora: Lora, tokens: int, seqs: int, base: KernelFormat, bandwidth: float
) -> tuple[float, float, float]:
    """(seconds, FLOP, bytes) of the adapters' products in a step of ``tokens`` tokens of ``seqs`` requests on one rank.

    t = projections * (2 launches + distinct * DISTINCT_S) + max(bytes / (SGMV_MEMORY * bandwidth), flop / peak).
    """
    count, elements = stage_factors(stage)
    distinct = distinct_adapters(seqs, lora)
    moved = distinct * lora.rank * elements * ELEMENT_BYTES
    flop = 2.0 * tokens * lora.rank * elements
    product_s = max(moved / (SGMV_MEMORY * bandwidth), flop / (base.gemm.compute * base.peak_flop_per_s))
    return count * (KERNELS * base.gemm.launch_s + distinct * DISTINCT_S) + product_s, flop, moved
