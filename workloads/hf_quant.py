"""How a checkpoint stores its weights: ``quantization_config`` and ``hf_quant_config.json`` to QuantSpec."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

from hardware_profiles.errors import UserError, unknown_name
from workloads.hf_fields import Json
from workloads.model import QuantSpec

Scope = Literal["linear", "experts"]

_METHODS = ("fp8", "fbgemm_fp8", "awq", "gptq", "mxfp4", "compressed-tensors", "modelopt", "bitsandbytes", "bitnet")
_WHOLE_ATTENTION = re.compile(r"self_attn(\.o_proj|[.*()$]*)$")
_ALIASES = {"awq_marlin": "awq", "gptq_marlin": "gptq", "modelopt_fp4": "modelopt", "compressed_tensors": _METHODS[5]}


def quant_from_config(config: Json, sibling: Json | None, place: str, *, moe: bool) -> QuantSpec | None:
    """QuantSpec of a checkpoint, or None when it is not quantised.

    ``sibling`` is the content of an ``hf_quant_config.json`` beside the config (NVIDIA ModelOpt): there, config.json
    itself may say nothing.
    """
    block = config.get("quantization_config")
    if block is None and sibling is not None:
        inner = sibling.get("quantization")
        block = {"quant_method": "modelopt", **(inner if isinstance(inner, Mapping) else sibling)}
        place = f"{place} (hf_quant_config.json)"
    if block is None:
        return None
    if not isinstance(block, Mapping):
        raise UserError(f"{place}: quantization_config is {block!r}; it must be an object")
    asked = block.get("quant_method") or ("bitsandbytes" if "load_in_4bit" in block else None)
    method = _ALIASES.get(str(asked), str(asked))
    if method not in _METHODS:
        raise unknown_name(f"quant_method in {place}", str(asked), _METHODS)
    quant = _READERS[method](block, place)
    if quant.scope == "experts" and not moe:
        warnings.warn(
            f"{place}: attention is stored unquantised; it is counted as quantised like the MLP", stacklevel=3
        )
        return replace(quant, scope="linear")
    return quant


def _fp8(block: Json, place: str) -> QuantSpec:
    size = block.get("weight_block_size")
    if not size:
        return QuantSpec(
            method=str(block["quant_method"]),
            weight_dtype="fp8",
            bytes_per_weight=1.0,
            scope=_scope(block.get("modules_to_not_convert")),
            activation_dtype="fp8",
        )
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(n, int) and n > 0 for n in size)):
        raise UserError(f"{place}: weight_block_size is {size!r}; it must be two whole numbers such as [128, 128]")
    return QuantSpec(
        method="fp8",
        weight_dtype="fp8_block",
        bytes_per_weight=1.0 + 4.0 / (size[0] * size[1]),  # one float32 scale per block
        scope=_scope(block.get("modules_to_not_convert")),
        activation_dtype="fp8",
    )


def _grouped_int(block: Json, place: str) -> QuantSpec:
    """AWQ and GPTQ: a float16 scale and a zero point of ``bits`` per group (GPTQ's g_idx, 4 B per row, left out)."""
    bits = _int(block, ("bits", "w_bit"), 4, place)
    group = _int(block, ("group_size", "q_group_size"), 128, place)
    return QuantSpec(
        method=str(block["quant_method"]),
        weight_dtype=_int_dtype(bits, place),
        bytes_per_weight=_grouped_bytes(bits, group, zero_points=True),
        scope=_scope(block.get("modules_to_not_convert")),
        lm_head=bool(block.get("lm_head", False)),
    )


def _mxfp4(block: Json, place: str) -> QuantSpec:
    """OCP microscaling: 4-bit elements, one 8-bit scale per 32; gpt-oss stores its experts so and nothing else."""
    del block, place
    return QuantSpec(method="mxfp4", weight_dtype="mxfp4", bytes_per_weight=0.5 + 1 / 32, scope="experts")


def _compressed_tensors(block: Json, place: str) -> QuantSpec:
    groups = block.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = first.get("weights") if isinstance(first, Mapping) else None
    if not isinstance(first, Mapping) or not isinstance(weights, Mapping):
        raise UserError(f"{place}: quantization_config has no config_groups.*.weights; it is not compressed-tensors")
    bits = _int(weights, ("num_bits",), 8, place)
    group = _int(weights, ("group_size",), -1, place)
    inputs = first.get("input_activations")
    dtype, nbytes = _compressed_weight(weights, bits, group, place)
    activation = {8: "fp8" if weights.get("type") == "float" else "int8", 4: dtype}.get(
        inputs.get("num_bits", 8) if isinstance(inputs, Mapping) else 0
    )
    ignore = block.get("ignore")
    return QuantSpec(
        method="compressed-tensors",
        weight_dtype=dtype,
        bytes_per_weight=nbytes,
        scope=_scope(ignore),
        activation_dtype=activation,
        kv_cache_dtype="fp8" if block.get("kv_cache_scheme") else None,
    )


def _compressed_weight(weights: Json, bits: int, group: int, place: str) -> tuple[str, float]:
    if weights.get("type") == "float":
        if bits == 8 and weights.get("strategy") == "block":
            size = weights.get("block_structure")  # a list, or "128x128" in older files
            rows, cols = size if isinstance(size, list) and len(size) == 2 else (128, 128)
            return "fp8_block", 1.0 + 4.0 / (rows * cols)
        if bits == 8:
            return "fp8", 1.0
        return ("mxfp4", 0.5 + 1 / 32) if group == 32 else ("nvfp4", 0.5 + 1 / 16)
    zero_points = not weights.get("symmetric", True)
    return _int_dtype(bits, place), _grouped_bytes(bits, group, zero_points=zero_points)


def _modelopt(block: Json, place: str) -> QuantSpec:
    algo = str(block.get("quant_algo"))
    known: dict[str, tuple[str, float, str | None]] = {
        "FP8": ("fp8", 1.0, "fp8"),
        "FP8_PER_CHANNEL_PER_TOKEN": ("fp8", 1.0, "fp8"),
        "FP8_PB_WO": ("fp8_block", 1.0 + 4 / 128**2, "fp8"),
        "NVFP4": ("nvfp4", 0.5 + 1 / 16, "nvfp4"),
        "NVFP4_AWQ": ("nvfp4", 0.5 + 1 / 16, "nvfp4"),
        "INT8_SQ": ("int8", 1.0, "int8"),
        "W4A16_AWQ": ("int4", _grouped_bytes(4, 128, zero_points=False), None),
        "W4A8_AWQ": ("int4", _grouped_bytes(4, 128, zero_points=False), "fp8"),
    }
    if algo not in known:
        raise unknown_name(f"quant_algo in {place}", algo, known)
    dtype, nbytes, activation = known[algo]
    kv = block.get("kv_cache_quant_algo") or ("FP8" if block.get("kv_cache_scheme") else None)
    return QuantSpec(
        method="modelopt",
        weight_dtype=dtype,
        bytes_per_weight=nbytes,
        scope=_scope(block.get("exclude_modules") or block.get("ignore")),
        activation_dtype=activation,
        kv_cache_dtype="fp8" if kv == "FP8" else None,
    )


def _bitsandbytes(block: Json, place: str) -> QuantSpec:
    """NF4/FP4: a float32 absmax per 64 weights, 8-bit under double quantisation (Dettmers et al., arXiv 2305.14314)."""
    if block.get("load_in_8bit") or block.get("_load_in_8bit"):
        return QuantSpec(method="bitsandbytes", weight_dtype="int8", bytes_per_weight=1.0)
    double = bool(block.get("bnb_4bit_use_double_quant"))
    scale = 1 / 64 + 4 / (64 * 256) if double else 4 / 64
    return QuantSpec(method="bitsandbytes", weight_dtype="int4", bytes_per_weight=0.5 + scale)


def _bitnet(block: Json, place: str) -> QuantSpec:
    """Ternary weights, four in a byte; activations of 8 bits (Ma et al., The Era of 1-bit LLMs, arXiv 2402.17764)."""
    return QuantSpec(method="bitnet", weight_dtype="ternary", bytes_per_weight=0.25, activation_dtype="int8")


_READERS: Mapping[str, Callable[[Json, str], QuantSpec]] = {
    "fp8": _fp8,
    "fbgemm_fp8": _fp8,
    "awq": _grouped_int,
    "gptq": _grouped_int,
    "mxfp4": _mxfp4,
    "compressed-tensors": _compressed_tensors,
    "modelopt": _modelopt,
    "bitsandbytes": _bitsandbytes,
    "bitnet": _bitnet,
}


def _scope(excluded: Any) -> Scope:
    """``experts`` when the modules left alone include attention, by a pattern or in more than a few single layers."""
    if not isinstance(excluded, list):
        return "linear"
    layers = {_layer_number(str(m)) for m in excluded if _WHOLE_ATTENTION.search(str(m))}
    return "experts" if "" in layers or len(layers) > 4 else "linear"


def _layer_number(module: str) -> str:
    """The layer a module name is about; empty for a pattern over all of them."""
    return next((part for part in module.split(".") if part.isdigit()), "")


def _grouped_bytes(bits: int, group: int, *, zero_points: bool) -> float:
    """Stored bytes per weight; ``group`` <= 0 means one scale per channel, which is neglected."""
    overhead = 0.0 if group <= 0 else (2.0 + (bits / 8 if zero_points else 0.0)) / group
    return bits / 8 + overhead


def _int_dtype(bits: int, place: str) -> str:
    if bits not in (4, 8):
        raise UserError(f"{place}: {bits}-bit integer weights are not supported; 4 and 8 are")
    return f"int{bits}"


def _int(block: Json, names: tuple[str, ...], default: int, place: str) -> int:
    for name in names:
        value = block.get(name)
        if value is not None:
            if isinstance(value, bool) or not isinstance(value, int):
                raise UserError(f"{place}: quantization_config.{name} is {value!r}; it must be a whole number")
            return value
    return default
