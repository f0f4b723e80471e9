"""Which efficiencies a device has: its own fitted ones, or documented defaults when nobody measured it.

The defaults are medians over the devices of NVIDIA AIConfigurator's measured operator tables (Apache-2.0, commit
095f58a): GEMM over A100, H100, H200, B200, B300, GB200, GB300, L40S and RTX PRO 6000; attention and collectives over
the data-centre ones. A profile that rests on them has provenance ``datasheet``.
"""

from __future__ import annotations

from dataclasses import replace

from hardware_profiles.schema import (
    Dataflow,
    DecodeAttentionFit,
    DeviceProfile,
    Efficiency,
    GemmFit,
    MoeFit,
    PrefillAttentionFit,
)
from simulator.physics.formats import OVERRIDES

_MEDIAN = "median over measured devices, AIConfigurator operator tables (Apache-2.0)"

DEFAULT_GEMM = {
    "bfloat16": GemmFit(compute=0.78, memory=0.80, launch_s=3.7e-6, norm=2.3, source=_MEDIAN),
    "fp8": GemmFit(compute=0.73, memory=0.81, launch_s=14.3e-6, norm=2.0, quantise=0.31, source=_MEDIAN),
    "fp8_block": GemmFit(compute=0.67, memory=0.82, launch_s=7.2e-6, norm=1.8, quantise=0.67, source=_MEDIAN),
    "nvfp4": GemmFit(compute=0.50, memory=0.66, launch_s=13.0e-6, norm=1.9, quantise=0.45, source=_MEDIAN),
    "int8": GemmFit(
        compute=0.90, memory=0.95, launch_s=12.1e-6, norm=1.0, quantise=0.61, source="A100 only: " + _MEDIAN
    ),
}
DEFAULT_PREFILL_ATTENTION = {
    "bfloat16": PrefillAttentionFit(
        compute=0.67, memory=0.49, launch_s=9.9e-6, occupancy=0.88, tile_rows=128.0, source=_MEDIAN
    ),
    "fp8": PrefillAttentionFit(
        compute=0.73, memory=0.38, launch_s=10.3e-6, occupancy=2.7, tile_rows=128.0, source=_MEDIAN
    ),
}
_MIXED = "; mixed rows: median of 7 fits to a mixed prefill/decode kernel table (LLMServingSim, MIT)"
DEFAULT_DECODE_ATTENTION = {
    "bfloat16": DecodeAttentionFit(memory=0.86, launch_s=10.7e-6, mixed_tile_rows=57.0, source=_MEDIAN + _MIXED),
    "fp8": DecodeAttentionFit(memory=0.84, launch_s=11.0e-6, mixed_tile_rows=57.0, source=_MEDIAN + _MIXED),
}
DEFAULT_MOE = {
    "bfloat16": MoeFit(
        compute=0.47, memory=0.84, launch_s=23.6e-6, norm=2.8, row_pad=46.0, activation=2.0, source=_MEDIAN
    ),
    "fp8": MoeFit(compute=0.51, memory=0.80, launch_s=24.2e-6, norm=3.4, row_pad=64.0, activation=2.2, source=_MEDIAN),
    "fp8_block": MoeFit(
        compute=0.27, memory=0.83, launch_s=38.2e-6, norm=2.4, row_pad=8.0, activation=7.3, source=_MEDIAN
    ),
    "nvfp4": MoeFit(compute=0.57, memory=0.79, launch_s=23.7e-6, norm=2.5, row_pad=1.0, activation=2.5, source=_MEDIAN),
}

DEFAULT_LAYER_FIXED_S = 8.5e-6
"""Norms, rotary, activation and gaps per layer: 8.5-10 us on RTX 4090 and RTX PRO 6000 under vLLM 0.19."""
DEFAULT_LAYER_TOKEN_BYTES = 75e3
"""Effective elementwise traffic per token and layer at hidden size 4096 [B]: 90 ns on RTX 4090 (1.01 TB/s), 38 ns on
RTX PRO 6000 (1.6 TB/s), same runs; about half of the compulsory traffic, the rest stays in the L2 cache."""
DEFAULT_STEP_FIXED_S = 27e-6
"""Embedding 3 us, final norm 2 us, sampler 22 us (Llama-3.1-8B, same runs)."""
DEFAULT_LOGITS_ROW_BYTES = 595e3
"""Effective traffic of the sampler per row at a vocabulary of 128k [B]: 0.60 us on RTX 4090, 0.37 us on
RTX PRO 6000."""

DEQUANTISED_COMPUTE = 0.9
"""Weight-only kernels at large batch reach about this share of the 16-bit GEMM (Frantar et al., MARLIN, PPoPP 2025:
close to but below dense throughput once compute-bound); at small batch they reach almost the full saving in bytes."""


def efficiency_of(device: DeviceProfile) -> Efficiency:
    """The device's fitted efficiencies, or the defaults with provenance ``datasheet``.

    Kernel launches cost nothing on devices that have none (CPUs, FPGAs and the like), nor do tiles that are not full: a plain
    roofline remains.
    """
    if device.efficiency is not None:
        return device.efficiency
    if device.dataflow is not None:
        return _dataflow_efficiency(device.dataflow)
    bandwidth = device.memory_bandwidth_bytes_per_s
    has_launches = device.kind in ("gpu", "npu")
    return Efficiency(
        provenance="datasheet",
        gemm=DEFAULT_GEMM if has_launches else {k: replace(f, launch_s=0.0) for k, f in DEFAULT_GEMM.items()},
        prefill_attention=DEFAULT_PREFILL_ATTENTION
        if has_launches
        else {k: replace(f, launch_s=0.0, occupancy=0.0, tile_rows=1.0) for k, f in DEFAULT_PREFILL_ATTENTION.items()},
        decode_attention=DEFAULT_DECODE_ATTENTION
        if has_launches
        else {k: replace(f, launch_s=0.0, mixed_tile_rows=0.0) for k, f in DEFAULT_DECODE_ATTENTION.items()},
        moe=DEFAULT_MOE if has_launches else {k: replace(f, launch_s=0.0, row_pad=1.0) for k, f in DEFAULT_MOE.items()},
        layer_fixed_s=DEFAULT_LAYER_FIXED_S if has_launches else 0.0,
        layer_token_s=DEFAULT_LAYER_TOKEN_BYTES / bandwidth if bandwidth else 0.0,
        step_fixed_s=DEFAULT_STEP_FIXED_S if has_launches else 0.0,
        logits_row_s=DEFAULT_LOGITS_ROW_BYTES / bandwidth if bandwidth else 0.0,
        source=_MEDIAN,
    )


_SLOWEST = 1000.0
"""Norm that makes the p-norm of two times their maximum, within 0.1 %."""


def _dataflow_efficiency(design: Dataflow) -> Efficiency:
    """Shares of a spatial design, alike for all formats: narrow weights are widened on their way into the arrays."""
    compute, memory, source = design.busy_share, design.bandwidth_share, design.design
    dtypes = (
        "bfloat16",
        "float16",
        "float32",
        "int8",
        "fp8",
        "int4",
        *(f"{q.weight_dtype}_wo" for q in OVERRIDES.values()),
    )
    gemm = GemmFit(compute=compute, memory=memory, launch_s=0.0, norm=_SLOWEST, source=source)
    experts = MoeFit(compute=compute, memory=memory, launch_s=0.0, norm=_SLOWEST, activation=0.0, source=source)
    return Efficiency(
        provenance="datasheet",
        gemm=dict.fromkeys(dtypes, gemm),
        moe=dict.fromkeys(dtypes, experts),
        prefill_attention=dict.fromkeys(
            dtypes, PrefillAttentionFit(compute=compute, memory=memory, launch_s=0.0, source=source)
        ),
        decode_attention=dict.fromkeys(dtypes, DecodeAttentionFit(memory=memory, launch_s=0.0, source=source)),
        source=source,
    )


def dequantised(fit: GemmFit) -> GemmFit:
    """The 16-bit fit as a weight-only kernel: dequantisation costs compute, activations stay as they are."""
    return replace(fit, compute=fit.compute * DEQUANTISED_COMPUTE, quantise=0.0, source=fit.source + "; MARLIN")


def dequantised_moe(fit: MoeFit) -> MoeFit:
    """The same for grouped GEMMs."""
    return replace(fit, compute=fit.compute * DEQUANTISED_COMPUTE, source=fit.source + "; MARLIN")
