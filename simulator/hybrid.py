"""Settings that spread one step over devices: a cache of experts, and attention where the KV cache lives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, get_args

from hardware_profiles.errors import UserError, unknown_name

CacheEviction = Literal["lru", "lfu", "fifo"]
"""Which expert leaves the cache: the one not used for longest, the least popular, or the oldest."""
Prefetch = Literal["layer", "attention"]
"""Experts are known a layer ahead (predicted, fMoE), or before attention (a router in front of it, SmallThinker)."""
CPU = "cpu"
GIB = 1 << 30


class HybridSettings(TypedDict, total=False):
    """None or absent: off."""

    expert_cache_gb: float | None
    expert_cache_size: int | None
    expert_cache_eviction: str | None
    expert_cache_trace: str | None
    expert_prefetch: str | None
    expert_prefetch_accuracy: float | None
    attention_device: str | None
    attention_device_gb: float | None
    attention_device_serial: bool | None


HYBRID_NUMBERS: dict[str, tuple[type, float]] = {
    "expert_cache_gb": (float, 0),
    "expert_cache_size": (int, 1),
    "expert_prefetch_accuracy": (float, 0),
    "attention_device_gb": (float, 0),
}
HYBRID_FLAGS = ("attention_device_serial",)
HYBRID_TEXTS = ("expert_cache_eviction", "expert_cache_trace", "expert_prefetch", "attention_device")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertCache:
    """Routed experts live below the device; it holds some of them."""

    nbytes: float | None = None
    """Cache of a device for all its layers [B]; None: ``experts`` says."""
    experts: int | None = None
    """Experts of each layer that a device holds."""
    eviction: CacheEviction = "lru"
    prefetch: Prefetch | None = None
    """How early missing experts are asked for; None: when the router has chosen them."""
    accuracy: float = 1.0
    """Share of the missing experts that are prefetched rightly; as many transfers bring others in vain."""
    source: str = "dram"
    """Host DRAM, or the profile of a drive of each node."""
    popularity: tuple[float, ...] | None = None
    """Probability that a token chooses the most popular expert of a layer, the next one ...; None: by the model's skew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionDevice:
    """Attention of decoding sequences outside the accelerator, where their KV cache lives."""

    name: str
    """``cpu``: the host's processors and DRAM; a computational storage drive; or a drive whose KV the accelerator reads."""
    count: int = 1
    """Drives of a node."""
    nbytes: float | None = None
    """KV cache per accelerator [B]; None: all of the drives."""
    serial: bool = False
    """Attention waits for the accelerator and the accelerator for it; else both work at the same time on parts of the batch."""


def hybrid_labels(cache: ExpertCache | None, device: AttentionDevice | None) -> list[str]:
    """What is on, as short as a command line has it."""
    labels = []
    if cache is not None:
        size = f"{cache.experts}" if cache.nbytes is None else f"{cache.nbytes / GIB:g} GiB"
        ahead = "" if cache.prefetch is None else f", prefetch by {cache.prefetch} at {cache.accuracy:g}"
        labels.append(f"expert-cache={size}({cache.eviction} from {cache.source}{ahead})")
    if device is not None:
        many = f":{device.count}" if device.count > 1 else ""
        labels.append(f"attention-device={device.name}{many}" + ("(serial)" if device.serial else ""))
    return labels


def expert_cache_of(settings: Mapping[str, Any]) -> ExpertCache | None:
    """The cache that settings ask for. UserError for combinations that make no sense."""
    gib, size = settings.get("expert_cache_gb"), settings.get("expert_cache_size")
    if gib is None and size is None:
        for name in ("expert_cache_eviction", "expert_cache_trace", "expert_prefetch", "expert_prefetch_accuracy"):
            if settings.get(name) is not None:
                raise UserError(
                    f"--{name.replace('_', '-')} without a cache of experts; add --expert-cache-gb GIB or "
                    "--expert-cache-size EXPERTS"
                )
        return None
    if gib is not None and size is not None:
        raise UserError("--expert-cache-gb and --expert-cache-size both size the cache of experts; drop one of them")
    if settings.get("cpu_offload_gb"):
        raise UserError("--cpu-offload-gb and a cache of experts both place weights; drop one of them")
    if settings.get("offload_backend") is not None:
        raise UserError("--offload-backend is about --cpu-offload-gb; a cache of experts has --expert-prefetch")
    eviction: Any = settings.get("expert_cache_eviction") or "lru"
    if eviction not in get_args(CacheEviction):
        raise unknown_name("eviction of experts (--expert-cache-eviction)", str(eviction), get_args(CacheEviction))
    prefetch: Any = settings.get("expert_prefetch")
    if prefetch is not None and prefetch not in get_args(Prefetch):
        raise unknown_name("prefetch of experts (--expert-prefetch)", str(prefetch), get_args(Prefetch))
    accuracy = settings.get("expert_prefetch_accuracy")
    if accuracy is not None and prefetch is None:
        raise UserError("--expert-prefetch-accuracy without a prefetch; add --expert-prefetch layer or attention")
    if accuracy is not None and accuracy > 1:
        raise UserError(f"--expert-prefetch-accuracy is {accuracy:g}; it is a share from 0 to 1, for example 0.8")
    return ExpertCache(
        nbytes=None if gib is None else gib * GIB,
        experts=size,
        eviction=eviction,
        prefetch=prefetch,
        accuracy=1.0 if accuracy is None else float(accuracy),
        source=str(settings.get("offload_source") or "dram"),
    )


def attention_device_of(settings: Mapping[str, Any]) -> AttentionDevice | None:
    """Where attention of decoding sequences runs. UserError for combinations that make no sense."""
    text, gib = settings.get("attention_device"), settings.get("attention_device_gb")
    if text is None:
        for name in ("attention_device_gb", "attention_device_serial"):
            if settings.get(name) is not None and settings.get(name) is not False:
                raise UserError(f"--{name.replace('_', '-')} without --attention-device; add --attention-device cpu")
        return None
    name, _, count = str(text).partition(":")
    if not name or (":" in str(text) and not (count.isdecimal() and int(count) > 0)):
        raise UserError(f"--attention-device is {text!r}; write cpu, DRIVE or DRIVE:COUNT, such as instcsd:2")
    if gib is not None and gib <= 0:
        raise UserError(f"--attention-device-gb is {gib:g}; the KV cache needs room, for example 64")
    if name == CPU and count:
        raise UserError(f"--attention-device {text}: a node has one host memory; write cpu")
    if name == CPU and gib is None:
        raise UserError("--attention-device cpu needs --attention-device-gb GIB, the host memory for KV per device")
    return AttentionDevice(
        name=name,
        count=int(count) if count else 1,
        nbytes=None if gib is None else gib * GIB,
        serial=bool(settings.get("attention_device_serial")),
    )
