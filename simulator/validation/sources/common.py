"""What the tables of other projects have in common: names of devices, engine versions, empty cells."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from simulator.engine_loader import engine_names
from workloads.catalog import model_names

DEVICES = {
    "h100": "h100-sxm",
    "h200": "h200-sxm",
    "h100_sxm": "h100-sxm",
    "h200_sxm": "h200-sxm",
    "b200": "b200-sxm",
    "b200_sxm": "b200-sxm",
    "a100": "a100-sxm-80gb",
    "a100_sxm": "a100-sxm-80gb",
    "a100-80gb": "a100-sxm-80gb",
    "h100-80gb": "h100-sxm",
    "rtx4090": "rtx-4090",
    "rtxpro6000": "rtx-pro-6000",
    "rtx_pro_6000_server": "rtx-pro-6000",
    "rtx3090": "rtx-3090",
    "a6000": "rtx-a6000",
}
"""Names used in the tables -> names of our profiles."""
NODE = 8
"""Devices per server where a table does not say."""


def cluster_of(device: str, gpus: int = 1) -> str:
    """Cluster specification for devices under the table's own name."""
    name = DEVICES.get(device.strip().lower(), device.strip().lower().replace("_", "-").replace(" ", "-"))
    nodes = -(-gpus // NODE)
    return f"{name}:{NODE}" if nodes == 1 else f"{name}:{NODE}x{nodes}"


def version_of(text: str) -> tuple[int, ...]:
    """Leading numbers of a version: '0.12.0 nvcr.io/...' -> (0, 12, 0); empty when there are none."""
    found = re.match(r"\s*v?(\d+(?:\.\d+)*)", text)
    return tuple(int(part) for part in found.group(1).split(".")) if found else ()


_PACKED = re.compile(
    r"[-_.](fp8|nvfp8|nvfp4|fp4|awq|gptq|int8|int4|w8a8|w4a16|bnb|quantized)([-_.].*)?$", re.IGNORECASE
)
_METHODS = {"nvfp8": "fp8", "fp4": "nvfp4", "w8a8": "int8", "w4a16": "int4", "bnb": "int4", "quantized": "int8"}


@cache
def _catalog_by_last_part() -> Mapping[str, str]:
    return {name.rpartition("/")[2].lower(): name for name in reversed(model_names())}


def model_of(name: str) -> tuple[str, str | None]:
    """(model, quantization): a name the catalog has stays; of a quantised copy it does not have, the original.

    'RedHatAI/Llama-4-Scout-17B-16E-Instruct-FP8-dynamic' is the Scout that is there, quantised to fp8.
    """
    last = name.rpartition("/")[2].lower()
    known = _catalog_by_last_part()
    if last in known:
        return (name if name in model_names() else known[last]), None
    packed = _PACKED.search(last)
    if packed is None or _PACKED.sub("", last) not in known:
        return name, None
    method = packed.group(1).lower()
    return known[_PACKED.sub("", last)], _METHODS.get(method, method)


def engine_of(name: str) -> tuple[str, str | None]:
    """(engine profile, note): the engine's own profile, or vLLM's with a note where there is none yet."""
    wanted = {"vllm": "vllm-v1", "tensorrt-llm": "trtllm"}.get(name.lower(), name.lower())
    if wanted in engine_names():
        return wanted, None
    return "vllm-v1", f"no engine profile for {name}: predicted with that of vLLM"


def given(**values: Any) -> dict[str, Any]:
    """Only what is known."""
    return {name: value for name, value in values.items() if value is not None}


def figures(**values: float | None) -> Mapping[str, float]:
    """Only the metrics that were measured."""
    return {name: value for name, value in values.items() if value is not None}
