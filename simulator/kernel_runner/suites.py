"""Which kernels of which shapes are run: full, quick (a subset for two minutes) and tiny (tests), for GPUs and CPUs."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from simulator.kernel_runner.kernel import Family, Kernel, kernel

SuiteName = Literal["full", "quick", "tiny"]

WEIGHTS: Mapping[Family, float] = {
    "memory": 1,
    "launch": 0.3,
    "gemm": 8,
    "prefill_attention": 4,
    "decode_attention": 4,
    "elementwise": 2,
    "moe": 4,
    "host_copy": 1,
    "storage": 2,
    "collective": 3,
}
"""Share of the time budget of each family (what one leaves goes to the next ones); the order is that of running."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """Grids of one suite."""

    gemm_nk: Sequence[tuple[int, int]]
    gemm_m: Sequence[int]
    heads: Sequence[tuple[int, int]]
    prompts: Sequence[tuple[int, int, int]]
    """(batch, new tokens, cached tokens)"""
    decodes: Sequence[tuple[int, int]]
    """(batch, context)"""
    experts: Sequence[tuple[int, int, int, int]]
    """(hidden, intermediate, experts, top_k)"""
    expert_tokens: Sequence[int]
    tokens: Sequence[int]
    """Of what lies between the kernels."""
    memory_bytes: Sequence[int]
    link_bytes: Sequence[int]
    storage_bytes: Sequence[int]


KIB, MIB = 1 << 10, 1 << 20

_GPU_FULL = Shapes(
    # projections, MLPs and LM head of Llama-3-8B and -70B whole and split over 2 to 8 ranks, and square ones
    gemm_nk=(
        *((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (128256, 4096), (3072, 4096), (14336, 4096)),
        *((10240, 8192), (8192, 8192), (57344, 8192), (8192, 28672), (1280, 8192), (7168, 8192), (8192, 3584)),
        *((2048, 2048), (5120, 5120), (1536, 1536), (16384, 16384)),
    ),
    gemm_m=(1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096, 8192, 16384),
    heads=((32, 8), (64, 8), (8, 1), (16, 16)),
    prompts=(
        *((1, 128, 0), (1, 512, 0), (1, 1024, 0), (1, 2048, 0), (1, 4096, 0), (1, 8192, 0), (1, 16384, 0)),
        *((4, 256, 0), (8, 512, 0), (16, 128, 0), (4, 2048, 0), (32, 64, 0), (8, 2048, 0)),
        *((1, 128, 2048), (1, 512, 2048), (1, 512, 8192), (1, 2048, 8192), (1, 2048, 30720), (4, 512, 4096)),
        *((1, 16, 2048), (1, 16, 8192), (1, 48, 8192), (1, 80, 4096), (8, 32, 2048)),
    ),
    decodes=tuple(product((1, 4, 16, 32, 64, 128, 256), (128, 512, 2048, 8192, 32768))),
    experts=((4096, 14336, 8, 2), (2048, 768, 128, 8), (4096, 1536, 128, 8), (4096, 3584, 8, 2), (5120, 1536, 64, 6)),
    expert_tokens=(1, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192),
    tokens=(1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192),
    memory_bytes=(MIB, 16 * MIB, 256 * MIB, 1024 * MIB),
    link_bytes=(4 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB, 256 * MIB),
    storage_bytes=(4 * KIB, 128 * KIB, MIB, 8 * MIB),
)
_GPU_QUICK = Shapes(
    gemm_nk=((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (8192, 8192), (1280, 8192), (2048, 2048)),
    gemm_m=(1, 8, 16, 64, 128, 256, 512, 2048, 8192),
    heads=((32, 8), (8, 1)),
    prompts=(
        *((1, 128, 0), (1, 512, 0), (1, 2048, 0), (1, 8192, 0), (4, 512, 0), (16, 128, 0), (4, 2048, 0)),
        *((1, 128, 2048), (1, 512, 4096), (1, 2048, 8192), (1, 16, 8192), (1, 80, 4096)),
    ),
    decodes=tuple(product((1, 8, 32, 128), (128, 1024, 8192))),
    experts=((4096, 14336, 8, 2), (2048, 768, 128, 8)),
    expert_tokens=(1, 8, 32, 128, 512, 2048),
    tokens=(1, 16, 128, 512, 2048, 8192),
    memory_bytes=(MIB, 64 * MIB, 512 * MIB),
    link_bytes=(4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB),
    storage_bytes=(4 * KIB, MIB, 8 * MIB),
)
_CPU_FULL = Shapes(
    # models of 0.1 to 3 billion parameters, which is what a CPU serves
    gemm_nk=(
        *((512, 512), (1536, 512), (2048, 512), (512, 2048), (1024, 1024), (3072, 1024), (1024, 3072), (4096, 1024)),
        *((2048, 2048), (8192, 2048), (2048, 8192), (4096, 4096), (6144, 4096), (32000, 1024)),
    ),
    gemm_m=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    heads=((8, 2), (16, 4), (16, 8), (32, 8)),
    prompts=(
        *((1, 16, 0), (1, 64, 0), (1, 128, 0), (1, 256, 0), (1, 512, 0), (1, 1024, 0), (4, 128, 0), (8, 64, 0)),
        *((1, 64, 512), (1, 128, 256), (1, 256, 1024), (4, 64, 256)),
    ),
    decodes=tuple(product((1, 2, 4, 8, 16, 32), (64, 256, 1024, 4096))),
    experts=((1024, 2048, 8, 2), (512, 512, 32, 4), (1024, 512, 16, 2)),
    expert_tokens=(1, 4, 16, 64, 256),
    tokens=(1, 4, 16, 64, 256),
    memory_bytes=(MIB, 64 * MIB, 256 * MIB),
    link_bytes=(4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB),
    storage_bytes=(4 * KIB, 128 * KIB, MIB, 8 * MIB),
)
_CPU_QUICK = Shapes(
    gemm_nk=((512, 512), (1536, 512), (1024, 1024), (4096, 1024), (1024, 3072), (2048, 2048), (4096, 4096)),
    gemm_m=(1, 2, 4, 8, 16, 64, 256),
    heads=((8, 2), (16, 4), (32, 8)),
    prompts=((1, 16, 0), (1, 64, 0), (1, 256, 0), (1, 512, 0), (4, 128, 0), (1, 64, 256), (1, 128, 512)),
    decodes=tuple(product((1, 4, 16), (64, 512, 2048))),
    experts=((1024, 2048, 8, 2), (512, 512, 32, 4), (512, 1024, 8, 2), (1024, 512, 16, 2)),
    expert_tokens=(1, 4, 16, 64, 256),
    tokens=(1, 4, 16, 64, 256),
    memory_bytes=(MIB, 64 * MIB, 256 * MIB),
    link_bytes=(),  # gloo says nothing about serving on one CPU
    storage_bytes=(4 * KIB, MIB, 8 * MIB),
)
_TINY = Shapes(
    gemm_nk=((64, 64), (128, 64), (64, 128), (256, 128)),
    gemm_m=(1, 8, 64),
    heads=((4, 2), (2, 2)),
    prompts=((1, 16, 0), (1, 64, 0), (2, 32, 0), (1, 16, 32)),
    decodes=((1, 16), (1, 128), (4, 16), (4, 128)),
    experts=((32, 64, 4, 2), (64, 32, 4, 2)),
    expert_tokens=(1, 4, 16),
    tokens=(1, 4, 16),
    memory_bytes=(64 * KIB, MIB),
    link_bytes=(KIB, 4 * KIB, 16 * KIB, 64 * KIB, 128 * KIB, 256 * KIB),
    storage_bytes=(4 * KIB, 64 * KIB),
)

SHAPES: Mapping[tuple[str, SuiteName], Shapes] = {
    ("gpu", "full"): _GPU_FULL,
    ("gpu", "quick"): _GPU_QUICK,
    ("gpu", "tiny"): _TINY,
    ("cpu", "full"): _CPU_FULL,
    ("cpu", "quick"): _CPU_QUICK,
    ("cpu", "tiny"): _TINY,
}

ELEMENTWISE_OPS = ("layernorm", "rotary_emb", "act_fn", "sampler")
MOST_SAMPLED = 512
ONCE_PER_STEP = ("embedding", "final_layernorm")
"""Names of the layers in the per-layer profiles that ``simulator.calibration.profiles`` fits."""


def kernels(kind: str, suite: SuiteName, dtypes: Sequence[str], ranks: Sequence[int]) -> dict[Family, list[Kernel]]:
    """All kernels by family, each family in an order whose beginning covers the grid (a budget may cut its end).

    ``dtypes``: of matrices; attention, experts and what lies between run in the first that is no 8-bit format.
    ``ranks``: sizes of groups for collectives.
    """
    shapes = SHAPES[kind, suite]
    wide = next((d for d in dtypes if d not in ("fp8", "int8")), "bfloat16")
    wides = [d for d in dtypes if d not in ("fp8", "int8")] or [wide]
    found: dict[Family, list[Kernel]] = {
        "memory": [kernel("memory", op, bytes=b) for op, b in product(("copy", "read"), shapes.memory_bytes)],
        "launch": [kernel("launch", op) for op in ("queued", "eager")],
        "gemm": [
            kernel("gemm", "", d, m=m, n=n, k=k)
            for d, (n, k), m in product(dtypes, shapes.gemm_nk, shapes.gemm_m)
            if m * n <= 2**30
        ],
        "prefill_attention": [
            kernel("prefill_attention", "", d, batch=b, tokens=q, cached=c, heads=h, kv_heads=kv)
            for d, (h, kv), (b, q, c) in product(wides, shapes.heads, shapes.prompts)
        ],
        "decode_attention": [
            kernel("decode_attention", "", d, batch=b, context=c, heads=h, kv_heads=kv)
            for d, (h, kv), (b, c) in product(wides, shapes.heads, shapes.decodes)
        ],
        "moe": [
            kernel("moe", "", d, tokens=t, hidden=h, intermediate=i, experts=e, top_k=k)
            for d, (h, i, e, k), t in product(wides, shapes.experts, shapes.expert_tokens)
        ],
        "elementwise": [
            *(kernel("elementwise", op, wide, tokens=1) for op in ONCE_PER_STEP),
            *(
                kernel("elementwise", op, wide, tokens=t)
                for t, op in product(shapes.tokens, ELEMENTWISE_OPS)
                if fits(op, t)
            ),
        ],
        "host_copy": [
            kernel("host_copy", op, bytes=b) for op, b in product(("to_device", "to_host"), shapes.link_bytes)
        ],
        "storage": [
            kernel("storage", op, bytes=b, depth=d)
            for op, b, d in product(("write", "read"), shapes.storage_bytes, (1, 8))
        ],
        "collective": [
            kernel("collective", "all_reduce", dtype=wide, ranks=r, bytes=b)
            for r, b in product(ranks, shapes.link_bytes)
        ],
    }
    ordered = ("gemm", "prefill_attention", "decode_attention", "moe")
    return {f: covering(found[f]) if f in ordered else found[f] for f in WEIGHTS}


def fits(op: str, tokens: int) -> bool:
    """No engine samples for thousands of sequences at once."""
    return op != "sampler" or tokens <= MOST_SAMPLED


def covering(kernels: Iterable[Kernel]) -> list[Kernel]:
    """The same kernels in an order that looks random but is always the same: any beginning of it is a fair sample."""
    return sorted(kernels, key=lambda k: (zlib.crc32(k.label.encode()), k.label))


POWER_FAMILIES: tuple[Family, ...] = ("gemm", "prefill_attention", "decode_attention", "memory")
"""Families that span compute and memory utilisation."""


def with_power(family: Family, listed: Sequence[Kernel], suite: SuiteName) -> frozenset[Kernel]:
    """The kernels of a family during which power is read: some spread over the list, few in a quick run."""
    if family not in POWER_FAMILIES:
        return frozenset()
    wanted = {"full": 12, "quick": 4, "tiny": 2}[suite]
    return frozenset(listed[:: max(1, len(listed) // wanted)][:wanted])
