"""Number formats that weights can be stored in: bytes, arithmetic, and what their kernels reach beside the 16-bit ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from workloads.model import QuantSpec

Confidence = Literal["exact", "published", "recalled"]
"""``exact``: bytes follow from the format and the kernel from the device's own fits; ``published``: a fitted share comes from a
paper's headline; ``recalled``: it was not checked against a source."""

GROUPED_INT4 = 0.5 + 2.5 / 128
"""Bytes per weight: 4 bits, a 16-bit scale and a 4-bit zero point per group of 128."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelShare:
    """What a format's kernel reaches, beside the kernel that the device would use otherwise."""

    compute: float = 1.0
    """Multiplies the share of the peak."""
    memory: float = 1.0
    """Multiplies the share of the memory bandwidth: LUT and outlier kernels read fewer bytes less efficiently."""
    least_norm: float = 0.0
    """The roofline's norm is at least this: how well weights stream under the arithmetic."""
    peak: float = 1.0
    """Multiplies the peak itself: 2 for 2:4 sparse tensor cores."""
    expand_bytes: float = 0.0
    """Memory traffic per weight and step before the product, by a kernel of its own [B]: decompression."""


PLAIN = KernelShare()
MARLIN_NORM = 4.1
"""Norm of the measured int4 and int8 weight-only kernels on the A100 (4.14 and 3.89, operator tables of AIConfigurator), where
the 16-bit kernels have 2.49: such kernels prefetch weights under the arithmetic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFormat:
    """One value of ``--quantization``."""

    quant: QuantSpec
    share: KernelShare = PLAIN
    confidence: Confidence = "exact"
    source: str


def _spec(
    method: str, weight: str, nbytes: float, activation: str | None = None, *, lm_head: bool = False
) -> QuantSpec:
    return QuantSpec(
        method=method, weight_dtype=weight, bytes_per_weight=nbytes, activation_dtype=activation, lm_head=lm_head
    )


_MARLIN = "Frantar et al., MARLIN, arXiv:2408.11743; norm measured on the A100"
FORMATS: Mapping[str, WeightFormat] = {
    "fp8": WeightFormat(quant=_spec("fp8", "fp8", 1.0, "fp8"), source="E4M3; per-channel scales left out"),
    "fp8_block": WeightFormat(
        quant=_spec("fp8", "fp8_block", 1.0 + 4 / 128**2, "fp8"),
        source="float32 scale per 128 x 128 block (DeepSeek-V3)",
    ),
    "int8": WeightFormat(quant=_spec("int8", "int8", 1.0), source="weight-only; per-channel scales left out"),
    "w8a8": WeightFormat(quant=_spec("w8a8", "int8", 1.0, "int8"), source="SmoothQuant and the like"),
    "int4": WeightFormat(quant=_spec("int4", "int4", GROUPED_INT4), source="groups of 128"),
    "awq": WeightFormat(quant=_spec("awq", "int4", GROUPED_INT4), source="groups of 128"),
    "gptq": WeightFormat(quant=_spec("gptq", "int4", GROUPED_INT4), source="groups of 128"),
    "mxfp4": WeightFormat(quant=_spec("mxfp4", "mxfp4", 0.5 + 1 / 32), source="OCP MX: 8-bit scale per 32 weights"),
    "nvfp4": WeightFormat(
        quant=_spec("nvfp4", "nvfp4", 0.5 + 1 / 16, "nvfp4"), source="NVIDIA: 8-bit scale per 16 weights"
    ),
    "awq_marlin": WeightFormat(
        quant=_spec("awq", "int4", GROUPED_INT4), share=KernelShare(least_norm=MARLIN_NORM), source=_MARLIN
    ),
    "gptq_marlin": WeightFormat(
        quant=_spec("gptq", "int4", 0.5 + 2 / 128), share=KernelShare(least_norm=MARLIN_NORM), source=_MARLIN
    ),
    "gptq_marlin_24": WeightFormat(
        quant=_spec("gptq", "int4_24", 0.25 + 0.125 + 2 / 128),
        share=KernelShare(least_norm=MARLIN_NORM, peak=2.0, compute=0.8),
        confidence="recalled",
        source=_MARLIN + "; 2:4: half the weights and 2-bit positions; 80 % of the doubled peak",
    ),
    "sparse24": WeightFormat(
        quant=_spec("sparse24", "bf16_24", 1.0 + 0.125),
        share=KernelShare(peak=2.0, compute=0.8),
        confidence="recalled",
        source="Mishra et al., Accelerating Sparse Deep Neural Networks, arXiv:2104.08378: half the weights and 2-bit "
        "positions; 80 % of the doubled peak",
    ),
    "w8a8_24": WeightFormat(
        quant=_spec("w8a8", "int8_24", 0.5 + 0.125, "int8"),
        share=KernelShare(peak=2.0, compute=0.8),
        confidence="recalled",
        source="2:4 with INT8 (GPUSQ-ViT, arXiv:2305.10727): half the weights and 2-bit positions; 80 % of the doubled peak, "
        "as sparse24",
    ),
    "fp6": WeightFormat(
        quant=_spec("fp6", "fp6", 0.75), source="Xia et al., FP6-LLM, arXiv:2401.14112: weight-only, per-channel scales"
    ),
    "int6": WeightFormat(
        quant=_spec("int6", "int6", 0.75 + 2 / 128, "int6"),
        source="FlexQ W6A6, arXiv:2508.04405: bit planes on binary tensor cores, which do 4 x the int4 peak, 36 products each",
    ),
    "w6a8": WeightFormat(
        quant=_spec("int6", "int6", 0.75 + 2 / 128, "w6a8"), source="FlexQ W6A8, arXiv:2508.04405: 48 bit products each"
    ),
    "quik": WeightFormat(
        quant=_spec("quik", "w4a4", 0.5 + 1.5 * 256 / 8192, "int4"),
        share=KernelShare(compute=0.775),
        confidence="published",
        source="QUIK, arXiv:2310.09259: W4A4, 256 outlier columns of about 8192 in 16 bits; 3.1x of the ideal 4x",
    ),
    "ganq": WeightFormat(
        quant=_spec("ganq", "lut4", 0.5 + 2 * 16 / 4096),
        share=KernelShare(memory=0.66),
        confidence="published",
        source="GANQ, arXiv:2501.12956: table of 16 values per row; 2.57x of the ideal 3.9x (RTX 4090)",
    ),
    "squeezellm": WeightFormat(
        quant=_spec("squeezellm", "lut3", 3.24 / 8),
        share=KernelShare(memory=2.3 * 3.24 / 16),
        confidence="published",
        source="SqueezeLLM, arXiv:2306.07629: 3.24 bits with the sparse part; 2.3x of the ideal 4.9x (A6000, one sequence)",
    ),
    "flightllm": WeightFormat(
        quant=_spec("flightllm", "mixed3.5", 3.5 / 8, lm_head=True),
        confidence="published",
        source="FlightLLM, arXiv:2401.03868: 3 to 5 bits by layer, 3.5 on average; needs units that widen weights (FPGA)",
    ),
    "df11": WeightFormat(
        quant=_spec("df11", "df11", 1.4, lm_head=True),
        share=KernelShare(expand_bytes=4.0),
        confidence="published",
        source="DFloat11, arXiv:2504.11651: 70 % of 16 bits; blocks are decompressed into 16 bits and read again, at the "
        "memory's speed at best",
    ),
}
"""``--quantization`` values. A share other than 1 is a property of a published kernel, the same on every device."""

OVERRIDES: Mapping[str, QuantSpec] = {name: row.quant for name, row in FORMATS.items()}
"""How a model is stored under each."""

AS_STORED = ("bf16_24", "df11")
"""Stored formats whose products are plain 16-bit ones: nothing is dequantised on the way."""
BINARY_PRODUCTS = {"int6": 36.0, "w6a8": 48.0}
"""Bit planes of weights times bit planes of activations."""
BINARY_OVER_INT4 = 4.0
"""Peak of 1-bit over 4-bit tensor cores (A100: 4992 and 1248 TOPS, architecture white paper)."""


def tensor_peak(activation: str | None, dense_flop_per_s: Mapping[str, float]) -> float:
    """Peak for products with activations of a dtype [FLOP/s]; 0 where the device has no such tensor cores."""
    if activation in BINARY_PRODUCTS:
        return BINARY_OVER_INT4 * dense_flop_per_s.get("int4", 0.0) / BINARY_PRODUCTS[activation]
    key = {"fp8_block": "fp8", "nvfp4": "fp4", "mxfp4": "fp4"}.get(activation or "", activation or "")
    return dense_flop_per_s.get(key, 0.0)
