"""Which number formats a model runs in on a device: bytes per element, peak and fitted kernel per kind of matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from hardware_profiles.errors import UserError, unknown_name
from hardware_profiles.schema import (
    DecodeAttentionFit,
    DeviceProfile,
    Efficiency,
    GemmFit,
    MoeFit,
    PrefillAttentionFit,
)
from simulator.physics.efficiency import (
    DEFAULT_DECODE_ATTENTION,
    DEFAULT_GEMM,
    DEFAULT_MOE,
    DEFAULT_PREFILL_ATTENTION,
    dequantised,
    dequantised_moe,
    efficiency_of,
)
from simulator.physics.formats import AS_STORED, FORMATS, OVERRIDES, PLAIN, KernelShare, tensor_peak
from simulator.physics.shared_kv import shared_kv_factor
from simulator.physics.sparsity import sparse_format
from simulator.plan import ParallelPlan
from workloads.model import ModelSpec, QuantSpec

_DTYPE_ALIASES = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "float": "float32", "fp32": "float32"}
_DTYPE_BYTES = {"bfloat16": 2.0, "float16": 2.0, "float32": 4.0}

_ACTIVATION_BYTES = {
    "fp8": 1.0,
    "fp8_block": 1.0,
    "int8": 1.0,
    "nvfp4": 0.5 + 1 / 16,
    "mxfp4": 0.5 + 1 / 32,
    "fp4": 0.5,
    "int4": 0.5,
    "int6": 0.75,
    "w6a8": 1.0,
}

Fit = TypeVar("Fit")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFormat:
    """How one kind of matrix is stored and multiplied."""

    name: str
    weight_bytes: float
    """Stored bytes per weight, scales included."""
    activation_bytes: float
    """Bytes per input element as the kernel reads it."""
    peak_flop_per_s: float
    gemm: GemmFit
    moe: MoeFit
    density: float = 1.0
    """Share of the weights that products multiply; the peak counts the others as if they were."""
    expand_bytes: float = 0.0
    """Memory traffic per weight and step that comes before the product, in a kernel of its own [B]: decompression."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Formats of all parts of a model on a device."""

    base: KernelFormat
    """Embedding, router, and everything a quantisation leaves alone."""
    linear: KernelFormat
    """Projections, dense MLPs and shared experts."""
    experts: KernelFormat
    lm_head: KernelFormat
    element_bytes: float
    """Bytes of an unquantised activation element (hidden states, collectives)."""
    kv_bytes: float
    """Bytes of a KV cache element."""
    state_bytes: float
    """Bytes of an element of a recurrent state."""
    attention_peak_flop_per_s: float
    """Attention multiplies in the base dtype whatever the KV cache is stored in."""
    prefill_attention: PrefillAttentionFit
    decode_attention: DecodeAttentionFit
    mla_decode_attention: DecodeAttentionFit


def base_dtype(model: ModelSpec, device: DeviceProfile, plan: ParallelPlan) -> str:
    """Dtype of unquantised weights; float16 replaces bfloat16 where tensor cores lack it (V100, T4).

    ``auto`` is the checkpoint's, and 16 bits for a float32 checkpoint, as in vLLM.
    """
    asked = model.dtype if plan.dtype == "auto" else plan.dtype
    dtype = _DTYPE_ALIASES.get(asked, asked)
    if plan.dtype == "auto" and dtype == "float32":
        dtype = "bfloat16"
    if dtype not in _DTYPE_BYTES:
        raise unknown_name("dtype", asked, ["auto", *_DTYPE_BYTES])
    if dtype in device.dense_flop_per_s:
        return dtype
    if dtype == "bfloat16" and "float16" in device.dense_flop_per_s:
        return "float16"
    if dtype == "float16" and "bfloat16" in device.dense_flop_per_s:
        return "bfloat16"
    return dtype


def _base_peak(device: DeviceProfile, dtype: str) -> float:
    """Peak of the base dtype; a device that lists none multiplies in float32 or, failing that, in int8."""
    for key in (dtype, "float32", "bfloat16", "float16", "int8"):
        if device.dense_flop_per_s.get(key):
            return device.dense_flop_per_s[key]
    raise UserError(f"device {device.name!r} (kind {device.kind}) has no dense_flop_per_s: it cannot run a model")


def quantisation(model: ModelSpec, plan: ParallelPlan) -> QuantSpec | None:
    """The checkpoint's quantisation, or the plan's override where it names another family."""
    if plan.quantization is None:
        return model.quant
    if plan.quantization not in OVERRIDES:
        raise unknown_name("quantization", plan.quantization, OVERRIDES)
    override = OVERRIDES[plan.quantization]
    if model.quant is None or model.quant.weight_dtype.split("_")[0] != override.weight_dtype.split("_")[0]:
        return override
    return override if override.weight_dtype.endswith("_24") else model.quant


def _pick(fits: Mapping[str, Fit], defaults: Mapping[str, Fit], keys: Sequence[str]) -> Fit | None:
    for key in keys:
        if key in fits:
            return fits[key]
    for key in keys:
        if key in defaults:
            return defaults[key]
    return None


def _base_keys(dtype: str) -> list[str]:
    return [dtype, "bfloat16", "float16"]


def _base_format(dtype: str, device: DeviceProfile, efficiency: Efficiency) -> KernelFormat:
    gemm = _pick(efficiency.gemm, DEFAULT_GEMM, _base_keys(dtype))
    moe = _pick(efficiency.moe, DEFAULT_MOE, _base_keys(dtype))
    assert gemm is not None and moe is not None
    nbytes = _DTYPE_BYTES[dtype]
    return KernelFormat(
        name=dtype,
        weight_bytes=nbytes,
        activation_bytes=nbytes,
        peak_flop_per_s=_base_peak(device, dtype),
        gemm=gemm,
        moe=moe,
    )


def _weight_only(quant: QuantSpec, base: KernelFormat, efficiency: Efficiency) -> KernelFormat:
    """Weights dequantised on the fly: fewer bytes, the base dtype's peak."""
    keys = [f"{quant.weight_dtype}_wo", *([quant.weight_dtype] if quant.weight_dtype in ("int4", "mxfp4") else [])]
    gemm = next((efficiency.gemm[k] for k in keys if k in efficiency.gemm), None)
    moe = next((efficiency.moe[k] for k in keys if k in efficiency.moe), None)
    if quant.weight_dtype in AS_STORED:
        gemm, moe = base.gemm, base.moe
    return replace(
        base,
        name=f"{quant.weight_dtype} weights, {base.name} arithmetic",
        weight_bytes=quant.bytes_per_weight,
        gemm=gemm if gemm is not None else dequantised(base.gemm),
        moe=moe if moe is not None else dequantised_moe(base.moe),
    )


def _quantised_format(
    quant: QuantSpec, base: KernelFormat, device: DeviceProfile, efficiency: Efficiency
) -> KernelFormat:
    """Format of the quantised matrices; weight-only when the device has no tensor cores for the activations' dtype."""
    activation = quant.activation_dtype
    peak = tensor_peak(activation, device.dense_flop_per_s)
    if activation is None or activation in _DTYPE_BYTES or not peak:
        return _weight_only(quant, base, efficiency)
    keys = [quant.weight_dtype, activation]
    gemm = _pick(efficiency.gemm, DEFAULT_GEMM, keys)
    moe = _pick(efficiency.moe, DEFAULT_MOE, keys)
    return KernelFormat(
        name=quant.weight_dtype,
        weight_bytes=quant.bytes_per_weight,
        activation_bytes=_ACTIVATION_BYTES[activation],
        peak_flop_per_s=peak,
        gemm=gemm if gemm is not None else replace(base.gemm, quantise=DEFAULT_GEMM["int8"].quantise),
        moe=moe if moe is not None else base.moe,
    )


def _as_kernel(fmt: KernelFormat, share: KernelShare) -> KernelFormat:
    """The format with what its own kernels reach."""
    if share == PLAIN:
        return fmt
    gemm, moe = fmt.gemm, fmt.moe
    return replace(
        fmt,
        peak_flop_per_s=fmt.peak_flop_per_s * share.peak,
        gemm=replace(
            gemm,
            compute=gemm.compute * share.compute,
            memory=gemm.memory * share.memory,
            norm=max(gemm.norm, share.least_norm),
        ),
        moe=replace(
            moe,
            compute=moe.compute * share.compute,
            memory=moe.memory * share.memory,
            norm=max(moe.norm, share.least_norm),
        ),
        expand_bytes=share.expand_bytes,
    )


def _kv_dtype(plan: ParallelPlan, quant: QuantSpec | None, dtype: str) -> tuple[str, float]:
    """(dtype, bytes per element) of the KV cache; auto follows the checkpoint's calibration, then the activations."""
    asked = _DTYPE_ALIASES.get(plan.kv_cache_dtype, plan.kv_cache_dtype)
    if asked == "auto" and quant is not None and quant.kv_cache_dtype is not None:
        asked = quant.kv_cache_dtype
    if asked == "auto":
        return dtype, _DTYPE_BYTES[dtype]
    if asked in _DTYPE_BYTES:
        return asked, _DTYPE_BYTES[asked]
    if asked in ("fp8", "fp8_e4m3", "fp8_e5m2"):
        return "fp8", 1.0
    raise unknown_name("kv_cache_dtype", plan.kv_cache_dtype, ["auto", "fp8", *_DTYPE_BYTES])


def _state_bytes(model: ModelSpec, plan: ParallelPlan, dtype: str) -> float:
    """Bytes per element of recurrent states; auto: as the activations (vLLM's --mamba-ssm-cache-dtype)."""
    asked = plan.techniques.ssm_dtype
    if asked == "auto":
        return _DTYPE_BYTES[dtype]
    if not model.num_linear_layers:
        raise UserError(f"--mamba-ssm-cache-dtype {asked}: {model.name} keeps no recurrent state; drop it")
    return _DTYPE_BYTES[_DTYPE_ALIASES.get(asked, asked)]


def resolve_precision(model: ModelSpec, device: DeviceProfile, plan: ParallelPlan) -> Precision:
    """Formats, peaks and fits that this model uses on this device under this plan."""
    efficiency = efficiency_of(device)
    dtype = base_dtype(model, device, plan)
    base = _base_format(dtype, device, efficiency)
    quant = quantisation(model, plan)
    quantised = base if quant is None else _quantised_format(quant, base, device, efficiency)
    if plan.quantization is not None:
        quantised = _as_kernel(quantised, FORMATS[plan.quantization].share)
    kv_dtype, kv_bytes = _kv_dtype(plan, quant, dtype)
    kv_keys = ["fp8", *_base_keys(dtype)] if kv_dtype == "fp8" else _base_keys(kv_dtype)
    prefill = _pick(efficiency.prefill_attention, DEFAULT_PREFILL_ATTENTION, kv_keys)
    decode = _pick(efficiency.decode_attention, DEFAULT_DECODE_ATTENTION, kv_keys)
    assert prefill is not None and decode is not None
    zeros = plan.techniques.shape.weight_sparsity
    mla = next((f for k in kv_keys if (f := efficiency.decode_attention.get(f"mla_{k}")) is not None), decode)
    return Precision(
        base=base,
        linear=sparse_format(quantised if quant is not None and quant.scope == "linear" else base, zeros, device),
        experts=sparse_format(quantised, zeros, device),
        lm_head=quantised if quant is not None and quant.lm_head else base,
        element_bytes=_DTYPE_BYTES[dtype],
        kv_bytes=kv_bytes * plan.techniques.kv_compression * shared_kv_factor(model, plan, kv_bytes),
        state_bytes=_state_bytes(model, plan, dtype),
        attention_peak_flop_per_s=base.peak_flop_per_s,
        prefill_attention=prefill,
        decode_attention=decode,
        mla_decode_attention=mla,
    )
