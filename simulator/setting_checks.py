"""Types and ranges of settings, before anything is made of them."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any, get_args

from hardware_profiles.errors import UserError, unknown_name
from simulator.batching import BATCHING
from simulator.engine import PreemptionMode, Sampling
from simulator.hybrid import HYBRID_TEXTS
from simulator.techniques import TECHNIQUE_FLAGS, TECHNIQUE_NUMBERS

NUMBERS: dict[str, tuple[type, float]] = {
    "max_num_seqs": (int, 1),
    "max_num_batched_tokens": (int, 1),
    "max_prefill_tokens": (int, 1),
    "block_size": (int, 1),
    "max_model_len": (int, 2),
    "num_gpu_blocks_override": (int, 1),
    "max_cudagraph_capture_size": (int, 0),
    "swap_space": (float, 0),
    "swap_overlap": (float, 0),
    "kv_offloading_size": (float, 0),
    "kv_offloading_disk": (float, 0),
    "kv_copy_group": (int, 1),
    "moe_skew": (float, 0),
    "power_cap": (float, 1),
    "gpu_clock": (float, 1),
    **TECHNIQUE_NUMBERS,
}
"""Settings that are numbers: their type and smallest value (the shortest request has a prompt and an output token)."""
LARGEST_OF: dict[type, float] = {int: 1e9, float: 1e12}
"""Beyond them numbers are slips of the keyboard, and their products no longer numbers."""
LARGEST: dict[str, float] = {
    "block_size": 1 << 20,
    "max_cudagraph_capture_size": 1 << 16,
    "num_loras": 1_000_000,
    "moe_skew": 100,
    "lora_skew": 100,
    "activation_skew": 100,
    "expert_capacity_factor": 1e6,
    "moe_kernels": 1_000_000,
}
"""Settings that cost memory or time by their value, or of which more than that changes nothing."""
FLAGS = (
    "enable_prefix_caching",
    "async_scheduling",
    "enforce_eager",
    "cold_start",
    "pair_instances",
    *TECHNIQUE_FLAGS,
)


def flag(name: str) -> str:
    """How the command line calls a setting; names with a dot are keys of a file."""
    return name if "." in name else "--" + name.replace("_", "-")


def check_number(name: str, value: object, kind: type, smallest: float, largest: float | None = None) -> None:
    """UserError unless ``value`` is a finite number of that kind, at least ``smallest`` and at most ``largest``."""
    allowed = numbers.Integral if kind is int else numbers.Real
    what = "a whole number" if kind is int else "a finite number"
    if isinstance(value, bool) or not isinstance(value, allowed):
        raise UserError(f"{flag(name)} is {value!r}; it must be {what}")
    number = float(value)
    if not (math.isfinite(number) and number >= smallest):
        raise UserError(f"{flag(name)} is {number:g}; it must be {what} of at least {smallest:g}")
    if largest is not None and number > largest:
        raise UserError(f"{flag(name)} is {number:g}; it must be {what} of at most {largest:g}")


def check_settings(settings: Mapping[str, Any]) -> None:
    """UserError for a setting of the wrong type, or a number that is out of all reason."""
    given: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
    for name, (kind, smallest) in NUMBERS.items():
        if name in given:
            check_number(name, given[name], kind, smallest, LARGEST.get(name, LARGEST_OF[kind]))
    for name in FLAGS:
        if name in given and not isinstance(given[name], bool):
            raise UserError(f"{flag(name)} is {given[name]!r}; it must be True, False or None (the engine's default)")
    for name in (
        "batching",
        "kv_eviction",
        "kv_offloading_disk_device",
        "order",
        "quantization",
        "kv_cache_dtype",
        "dtype",
        "runner",
        "routing",
        "scheduling_policy",
        "prompt_layer_shares",
        "offload_backend",
        "offload_source",
        "lora_dtype",
        "lora_target_modules",
        "lora_loading",
        *HYBRID_TEXTS,
    ):
        if name in given and not isinstance(given[name], str):
            raise UserError(f"{flag(name)} is {given[name]!r}; it must be text")
        if given.get(name) == "":
            raise UserError(f"{flag(name)} is empty; give a name, or leave it out")
    share = given.get("gpu_memory_utilization")
    if share is not None and not (isinstance(share, int | float) and not isinstance(share, bool) and 0 < share <= 1):
        raise UserError(f"--gpu-memory-utilization is {share!r}; it must be above 0 and at most 1, for example 0.9")
    for name, choices in (("preemption_mode", PreemptionMode), ("sampling", Sampling)):
        if name in given and given[name] not in get_args(choices):
            raise unknown_name(name.replace("_", " "), str(given[name]), get_args(choices))
    if "batching" in given and given["batching"] not in BATCHING:
        raise unknown_name("batching policy", str(given["batching"]), BATCHING)
