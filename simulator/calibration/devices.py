"""The measured GPUs: names in the tables and in the catalogue, and what decides whether a benchmark ran from cache."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cache:
    """Last-level cache of a GPU."""

    l2_bytes: float
    outlives_copies: bool = False
    """True where TRT-LLM's rows beat the memory bandwidth although the collector rotates copies of the weights (seen in
    the tables on GDDR devices with a large cache, not on those with HBM)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredDevice:
    """One device of the tables."""

    name: str
    """In hardware_profiles/devices."""
    cache: Cache
    table: str | None = None
    """Value of column ``gpu`` in the operator tables."""
    profile: str | None = None
    """Value of column ``hardware`` in the per-layer profiles. Beside operator tables only attention is read from them
    (their grid has cached prefixes, and contexts the cache excludes elsewhere); without, everything."""
    mixed_tile_rows: float = 0.0
    """Of 16-bit KV caches; see docs/calibration.md."""
    prefill_tile_rows: float = 128.0
    """A chunk of 16 tokens behind a cached prefix takes as long as one of 128 (RTX 4090, RTX PRO 6000; vLLM 0.19)."""
    gemm_waves: bool = False
    """GEMMs take whole waves of whole tiles. Held-out errors of A100 and of data-centre Blackwell fall with the term; those
    of Hopper, Ada, GA102 and RTX PRO 6000, whose libraries choose other tiles or split along k, do not."""
    prefill_cached_bytes: float = 0.0
    """Queries, keys and outputs of a short prompt that never leave the L2 cache. Ada's prefill kernels beat the memory
    bandwidth without (a tenth of the cache leaves the least error on L40S); elsewhere the rows do not show it."""
    mla: str | None = None
    """Value of column ``hardware`` in the InferSim kernel table whose FlashMLA rows stand for this device."""
    completed_from: str | None = None
    """Measured device that lends the families this one lacks."""


FA2_TILE_ROWS = 57.0
"""FlashAttention-2 computes decode rows beside a prompt on tiles of query rows: the median of seven fits to measured
mixed batches (56.1 to 58.6 rows; LLMServingSim mixed-attention tables, RTX 4090 and RTX PRO 6000, MIT)."""
FA3_TILE_ROWS = 16.0
"""FlashAttention-3 packs the query heads that share a KV head into one tile of 128 rows whenever lengths vary (its
hopper/heuristics.h, should_pack_gqa): 128 rows over groups of 8 heads. On H100 (CodeLlama-34B, TP 2) vLLM steps with a
small prompt beside 16 to 104 decodes take as long as steps without one."""

MEASURED: tuple[MeasuredDevice, ...] = (
    MeasuredDevice(
        name="a100-sxm-80gb", table="a100_sxm", cache=Cache(40e6), mixed_tile_rows=FA2_TILE_ROWS, gemm_waves=True
    ),
    MeasuredDevice(
        name="h100-sxm",
        mla="H800",  # the same chip with fewer NVLinks
        table="h100_sxm",
        cache=Cache(50e6),
        mixed_tile_rows=FA3_TILE_ROWS,
        prefill_tile_rows=FA3_TILE_ROWS,
    ),
    MeasuredDevice(
        name="h200-sxm",
        mla="H800",
        table="h200_sxm",
        cache=Cache(50e6),
        mixed_tile_rows=FA3_TILE_ROWS,
        prefill_tile_rows=FA3_TILE_ROWS,
    ),
    # on data-centre Blackwell vLLM runs prompts and decodes in separate FlashInfer kernels: no shared tiles
    MeasuredDevice(name="b200", table="b200_sxm", cache=Cache(126e6), gemm_waves=True),
    MeasuredDevice(name="b300", table="b300_sxm", cache=Cache(126e6), gemm_waves=True),
    MeasuredDevice(name="gb200", table="gb200", cache=Cache(126e6), gemm_waves=True),
    MeasuredDevice(
        name="l40s",
        table="l40s",
        cache=Cache(96e6, True),
        mixed_tile_rows=FA2_TILE_ROWS,
        prefill_cached_bytes=9.6e6,
    ),
    MeasuredDevice(
        name="rtx-pro-6000",
        table="rtx_pro_6000_server",
        profile="RTXPRO6000",
        cache=Cache(128e6, True),
        mixed_tile_rows=FA2_TILE_ROWS,
    ),
    MeasuredDevice(
        name="rtx-4090",
        profile="RTX4090",
        cache=Cache(72e6),
        prefill_cached_bytes=7.2e6,
        mixed_tile_rows=FA2_TILE_ROWS,
        completed_from="l40s",
    ),
    MeasuredDevice(
        name="a6000", profile="A6000", cache=Cache(6e6), mixed_tile_rows=FA2_TILE_ROWS, completed_from="rtx-4090"
    ),
    MeasuredDevice(
        name="rtx-3090", profile="RTX3090", cache=Cache(6e6), mixed_tile_rows=FA2_TILE_ROWS, completed_from="a6000"
    ),
)
"""Sizes of L2 caches: NVIDIA's architecture whitepapers (A100 40 MB, H100 50 MB, AD102 up to 96 MB, GA102 6 MB,
Blackwell RTX 128 MB); B200 126 MB as reported by its device properties."""
