"""How the kernel tables' dtypes map to compute dtypes, bytes and peaks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DtypeRule:
    """One quantisation in the tables: the key of its fit, bytes per element with scales, and the peak it runs at."""

    key: str
    weight_bytes: float
    activation_bytes: float
    peak: str


RULES: Mapping[str, DtypeRule] = {
    "bfloat16": DtypeRule("bfloat16", 2.0, 2.0, "bfloat16"),
    # not in the tables: what the kernel-runner measures where there is no bfloat16, or beside it
    "float16": DtypeRule("float16", 2.0, 2.0, "float16"),
    "float32": DtypeRule("float32", 4.0, 4.0, "float32"),
    "fp8": DtypeRule("fp8", 1.0, 1.0, "fp8"),
    # 128 x 128 weight blocks and 1 x 128 activation groups, one float32 scale each (DeepSeek-V3 report, section 3.3)
    "fp8_block": DtypeRule("fp8_block", 1.0 + 4 / 16384, 1.0 + 4 / 128, "fp8"),
    # 16 values share one fp8 scale (NVFP4)
    "nvfp4": DtypeRule("nvfp4", 0.5 + 1 / 16, 0.5 + 1 / 16, "fp4"),
    # weight-only: dequantised in registers, multiplied in 16 bits; int4 groups of 128 with a 16-bit scale
    "int4_wo": DtypeRule("int4_wo", 0.5 + 2 / 128, 2.0, "bfloat16"),
    "int8_wo": DtypeRule("int8_wo", 1.0, 2.0, "bfloat16"),
    # weights and activations in int8 (SmoothQuant)
    "sq": DtypeRule("int8", 1.0, 1.0, "int8"),
    # 32 values share one 8-bit exponent (OCP MX specification); activations stay in 16 bits
    "w4a16_mxfp4": DtypeRule("mxfp4_wo", 0.5 + 1 / 32, 2.0, "bfloat16"),
}

KV_BYTES: Mapping[str, float] = {"bfloat16": 2.0, "float16": 2.0, "float32": 4.0, "fp8": 1.0}
"""Bytes per element of the KV cache."""

BY_KEY: Mapping[str, DtypeRule] = {rule.key: rule for rule in RULES.values()}
"""The same by key of the fit."""
