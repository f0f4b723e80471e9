"""One kernel of one shape, and one measurement of it: values without behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Family = Literal[
    "gemm",
    "prefill_attention",
    "decode_attention",
    "moe",
    "elementwise",
    "memory",
    "host_copy",
    "launch",
    "storage",
    "collective",
]

SHAPE_FIELDS = (
    *("m", "n", "k"),
    *("batch", "tokens", "cached", "context", "heads", "kv_heads"),
    *("hidden", "intermediate", "experts", "top_k"),
    *("bytes", "ranks", "depth"),
)
"""Every name a shape may use, in the order of the columns of a points file."""

HEAD_DIM = 128
"""Width of an attention head in all shapes: the one the attention fits are made for."""

ELEMENT_BYTES: Mapping[str, float] = {
    "float32": 4.0,
    "bfloat16": 2.0,
    "float16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
}
"""Bytes per weight element of the dtypes that can be asked for."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """What is to be run. ``op`` tells members of a family apart (copy or read); ``shape`` holds counts by field."""

    family: Family
    op: str
    dtype: str
    shape: tuple[tuple[str, int], ...]

    def __getitem__(self, field: str) -> int:
        return dict(self.shape)[field]

    @property
    def label(self) -> str:
        """Short text for messages: 'gemm bfloat16 m=1 n=4096 k=4096'."""
        words = [self.family, *([self.op] if self.op else []), *([self.dtype] if self.dtype else [])]
        return " ".join([*words, *(f"{name}={value}" for name, value in self.shape)])


def kernel(family: Family, op: str = "", dtype: str = "", **shape: int) -> Kernel:
    """Build a Kernel with its shape in the order of SHAPE_FIELDS."""
    assert set(shape) <= set(SHAPE_FIELDS), shape
    return Kernel(family, op, dtype, tuple((name, shape[name]) for name in SHAPE_FIELDS if name in shape))


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A measured kernel: median and quartiles over repeats of the seconds of one call."""

    kernel: Kernel
    seconds: float
    quartile1_s: float
    quartile3_s: float
    repeats: int
    power_w: float | None = None
    """Mean power of the device while it ran nothing else [W]; None where it was not read."""
    implementation: str = ""
    """Which library routine ran: 'sdpa, contiguous KV'."""

    @property
    def spread(self) -> float:
        """Distance of the quartiles relative to the median."""
        return (self.quartile3_s - self.quartile1_s) / self.seconds
