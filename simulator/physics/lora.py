"""Low-rank adapters: how many distinct ones a batch has, what their products cost, and the memory of their slots."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from simulator.lora import TARGETS, Lora
from simulator.physics.layout import RankMatrix, StageLayout
from simulator.physics.precision import KernelFormat
from simulator.plan import ParallelPlan

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


@lru_cache(maxsize=64)
def _popularity(lora: Lora) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(share of the requests that ask for each adapter, rank of each)."""
    if lora.shares:
        shares = np.array(lora.shares)
    else:
        shares = np.arange(1, lora.adapters + 1, dtype=np.float64) ** -lora.skew
        shares /= shares.sum()
    return shares, np.array([lora.rank_of(i) for i in range(len(shares))], dtype=np.float64)


@lru_cache(maxsize=4096)
def distinct_ranks(seqs: int, lora: Lora) -> tuple[float, float]:
    """(expected distinct adapters of ``seqs`` requests, sum of their ranks): sums of 1 - (1 - p_i)^n, with r_i in the second.

    Requests draw adapters independently, p_i falling as rank^-skew or as a trace has it; at most the slots.
    """
    shares, ranks = _popularity(lora)
    hit = 1.0 - (1.0 - shares) ** seqs
    distinct = float(hit.sum())
    room = min(1.0, lora.slots / distinct) if distinct else 1.0
    most = min(distinct, float(lora.slots))
    return most, room * float(hit @ ranks) if lora.ranks else most * lora.rank


def mean_rank(lora: Lora) -> float:
    """Of a request; those without an adapter count as 0."""
    if not lora.ranks and not lora.shares:
        return float(lora.rank)
    shares, ranks = _popularity(lora)
    return float(shares @ ranks)


def _factors(matrices: Iterable[RankMatrix], targets: str) -> list[float]:
    """Elements per rank of the factors of each adapted projection; the router has none."""
    wanted = TARGETS[targets]
    adapted = [m for m in matrices if not m.name.endswith(("router", "gate"))]
    return [
        float(SLICES.get(m.name.split(".")[-1], 1) * m.k + m.n)
        for m in adapted
        if not wanted or m.name.split(".")[-1] in wanted
    ]


def stage_factors(stage: StageLayout, targets: str = "all") -> tuple[int, float]:
    """(adapted projections, elements per rank of all their factors) of a stage on one TP rank; routed experts have none."""
    count, elements = 0, 0.0
    for layer, layers in stage.layers:
        factors = _factors(layer.matrices, targets)
        count += layers * len(factors)
        elements += layers * sum(factors)
    return count, elements


def one_adapter_bytes(stage: StageLayout, lora: Lora, rank: int) -> float:
    """An adapter of that rank in one stage on one device [B]."""
    return rank * stage_factors(stage, lora.targets)[1] * lora.element_bytes


def adapter_bytes(stage: StageLayout, plan: ParallelPlan) -> float:
    """Memory of all slots on one device [B]; none where adapters and KV share one pool."""
    lora = plan.techniques.lora
    if lora is None or lora.loading == "paged":
        return 0.0
    return lora.slots * one_adapter_bytes(stage, lora, lora.rank)


def lora_work(
    stage: StageLayout, lora: Lora, tokens: int, seqs: int, base: KernelFormat, bandwidth: float
) -> tuple[float, float, float]:
    """(seconds, FLOP, bytes) of the adapters' products in a step of ``tokens`` tokens of ``seqs`` requests on one rank.

    t = projections * (2 launches + distinct * DISTINCT_S) + max(bytes / (SGMV_MEMORY * bandwidth), flop / peak).
    """
    count, elements = stage_factors(stage, lora.targets)
    distinct, ranks = distinct_ranks(seqs, lora)
    moved = ranks * elements * lora.element_bytes
    flop = 2.0 * tokens * mean_rank(lora) * elements
    product_s = max(moved / (SGMV_MEMORY * bandwidth), flop / (base.gemm.compute * base.peak_flop_per_s))
    return count * (KERNELS * base.gemm.launch_s + distinct * DISTINCT_S) + product_s, flop, moved
