"""Slices of a device: instances of NVIDIA's Multi-Instance GPU (MIG), written DEVICE@PROFILE, such as h100-sxm@3g.40gb."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from hardware_profiles.errors import UserError, unknown_name
from hardware_profiles.records import from_mapping, read_yaml
from hardware_profiles.schema import DeviceProfile, Efficiency, Link, Price

MIG_FILE = Path(__file__).parent / "mig.yaml"
MARK = "@"
MEMORY_SLICES = 8
"""Parts into which a device's memory, bandwidth and L2 cache are cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceProfile:
    """What one instance has of its device."""

    memory_slices: int
    """Eighths of memory, bandwidth and L2 cache."""
    sms: int
    """Streaming multiprocessors."""
    instances: int
    """Most instances of this profile on a device: one bears that part of its price, power limit and host."""


@lru_cache(maxsize=1)
def profiles() -> Mapping[str, Mapping[str, SliceProfile]]:
    """Profiles by device and name."""
    return {
        device: {
            name: from_mapping(SliceProfile, value, where=MIG_FILE.name, field=name) for name, value in found.items()
        }
        for device, found in read_yaml(MIG_FILE).items()
    }


def split_name(name: str) -> tuple[str, str | None]:
    """(device, profile) of ``h100-sxm@3g.40gb``; None for a whole device."""
    device, mark, profile = name.partition(MARK)
    return device.strip(), profile.strip().lower() if mark else None


def is_slice(device: DeviceProfile) -> bool:
    """Whether this is a part of a device."""
    return MARK in device.name


def share_of_host(device: DeviceProfile) -> float:
    """Part of a whole device's share of the host that this one has."""
    name, profile = split_name(device.name)
    return 1.0 if profile is None else 1.0 / profiles()[name][profile].instances


def sliced(device: DeviceProfile, profile: str) -> DeviceProfile:
    """One instance of the device; UserError where it has no such profile.

    Peaks go with the SMs, memory and its bandwidth with the memory slices. Without NVLink: instances reach each other over the
    host only. Price, power and host link are those of the device over the number of such instances: neither PCIe nor power is
    partitioned, so this is an instance's part when all are in use.
    """
    known = profiles().get(device.name)
    if known is None:
        raise UserError(f"device {device.name!r} has no MIG profiles here; those of {', '.join(profiles())} are known")
    if profile not in known:
        raise unknown_name(f"MIG profile of {device.name}", profile, known)
    part = known[profile]
    compute, memory, each = part.sms / device.num_sms, part.memory_slices / MEMORY_SLICES, 1.0 / part.instances
    power = device.power
    return replace(
        device,
        name=f"{device.name}{MARK}{profile}",
        aliases=(),
        dense_flop_per_s={name: peak * compute for name, peak in device.dense_flop_per_s.items()},
        num_sms=part.sms,
        memory_bytes=int(device.memory_bytes * memory),
        memory_bandwidth_bytes_per_s=device.memory_bandwidth_bytes_per_s * memory,
        scaleup=None,
        scaleup_domain=1,
        host_link=_part_of_link(device.host_link, each),
        tdp_w=_times(device.tdp_w, each),
        idle_w=_times(device.idle_w, each),
        min_cap_w=None,
        price=_part_of_price(device.price, each),
        purchase_usd=_times(device.purchase_usd, each),
        embodied_kgco2e=_times(device.embodied_kgco2e, each),
        max_devices_per_node=device.max_devices_per_node * part.instances,
        efficiency=_part_of_efficiency(device.efficiency, compute, memory),
        power=None
        if power is None
        else replace(
            power,
            base_w=power.base_w * each,
            compute_w=power.compute_w * compute,
            memory_w=power.memory_w * memory,
        ),
        notes=f"one of {part.instances} MIG instances {profile}: {part.sms} of {device.num_sms} SMs, "
        f"{part.memory_slices}/{MEMORY_SLICES} of memory and bandwidth",
    )


def _times(value: float | None, share: float) -> float | None:
    return None if value is None else value * share


def _part_of_link(link: Link | None, share: float) -> Link | None:
    return None if link is None else replace(link, bandwidth_bytes_per_s=link.bandwidth_bytes_per_s * share)


def _part_of_price(price: Price | None, share: float) -> Price | None:
    if price is None:
        return None
    return replace(
        price,
        usd_per_hour=price.usd_per_hour * share,
        spot_usd_per_hour=_times(price.spot_usd_per_hour, share),
        reserved_1y_usd_per_hour=_times(price.reserved_1y_usd_per_hour, share),
        reserved_3y_usd_per_hour=_times(price.reserved_3y_usd_per_hour, share),
    )


def _part_of_efficiency(fits: Efficiency | None, compute: float, memory: float) -> Efficiency | None:
    """Shares of the peaks hold for a part; times per token or row of a whole device grow, and its cache shrinks."""
    if fits is None:
        return None
    return replace(
        fits,
        provenance="transferred" if fits.provenance == "measured" else fits.provenance,
        transferred_from="the whole device" if fits.provenance == "measured" else fits.transferred_from,
        prefill_attention={
            name: replace(fit, softmax_s=fit.softmax_s / compute, cached_bytes=fit.cached_bytes * memory)
            for name, fit in fits.prefill_attention.items()
        },
        decode_attention={
            name: replace(fit, sequence_s=fit.sequence_s / compute) for name, fit in fits.decode_attention.items()
        },
        collectives={},
        layer_token_s=fits.layer_token_s / memory,
        logits_row_s=fits.logits_row_s / memory,
        cache_bytes=fits.cache_bytes * memory,
    )
