"""From points and fits to the device file that the simulator loads, every figure with its source."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hardware_profiles.errors import UserError
from hardware_profiles.loader import UNSOURCED_FIELDS, read_device_file
from hardware_profiles.records import to_mapping, to_yaml
from hardware_profiles.schema import DeviceProfile, Link
from simulator.calibration.fitting import rounded
from simulator.kernel_runner.backend import DeviceFacts
from simulator.kernel_runner.kernel import Point
from simulator.kernel_runner.tables import of
from simulator.kernel_runner.work import flop, moved_bytes
from simulator.physics.kernels import collective_bytes

SAME_MEMORY = 0.10
"""Largest difference in memory between a device and the base profile that is to describe it: drivers keep some."""


def provenance(facts: DeviceFacts, suite: str) -> str:
    """Where every measured figure is from."""
    how = f"{facts.framework} {facts.framework_version}" + (f", {facts.runtime}" if facts.runtime else "")
    return f"measured by apex-sim calibrate ({suite} suite) on {facts.name} ({facts.device}), {how}"


def check_base(base: DeviceProfile, facts: DeviceFacts) -> None:
    """Refuse a base profile that plainly describes another device."""
    problem = ""
    if base.kind != facts.kind:
        problem = f"is a {base.kind}, {facts.device} is a {facts.kind}"
    elif base.num_sms and facts.num_sms and base.num_sms != facts.num_sms:
        problem = f"has {base.num_sms} multiprocessors, {facts.name} has {facts.num_sms}"
    elif facts.kind == "gpu" and abs(facts.memory_bytes - base.memory_bytes) > SAME_MEMORY * base.memory_bytes:
        problem = f"has {base.memory_bytes / 1e9:.0f} GB of memory, {facts.name} has {facts.memory_bytes / 1e9:.0f} GB"
    if problem:
        raise UserError(f"--base {base.name}: {problem}; name the profile of this device, or leave --base out")


def describe(
    facts: DeviceFacts,
    points: Sequence[Point],
    *,
    suite: str,
    base: DeviceProfile | None = None,
    name: str | None = None,
    idle_w: float | None = None,
) -> DeviceProfile:
    """The device without efficiencies. Peaks are those of ``base``'s data sheet; without one, the highest measured."""
    source = provenance(facts, suite)
    peaks = {dtype: rounded(rate) for dtype, rate in best_rates(points).items()}
    bandwidth = best_bandwidth(points)
    if base is not None:
        check_base(base, facts)
        return _updated(base, facts, points, peaks, name, idle_w, source)
    if not peaks or not bandwidth:
        what = "matrix product" if not peaks else "memory traffic"
        raise UserError(f"{facts.device}: no {what} was measured, so its peak is unknown; add --base DEVICE")
    several = facts.kind == "gpu" and facts.num_devices > 1
    figures: dict[str, Any] = {
        "num_sms": facts.num_sms,
        "memory_bytes": facts.memory_bytes,
        "scaleup": _scaleup(points) if several else None,
        "scaleup_domain": facts.num_devices if several else 8,
        "host_link": _host_link(points),
        "tdp_w": facts.power_limit_w,
        "idle_w": None if idle_w is None else rounded(idle_w, 3),
        "min_cap_w": facts.min_cap_w,
        "max_devices_per_node": max(1, facts.num_devices) if facts.kind == "gpu" else 1,
        "architecture": facts.architecture,
    }
    profile = DeviceProfile(
        name=name or slug(facts.name),
        kind=facts.kind,
        vendor=facts.vendor or "unknown",
        dense_flop_per_s=peaks,
        memory_bandwidth_bytes_per_s=rounded(bandwidth),
        **figures,
    )
    fields = set(to_mapping(profile)) - set(UNSOURCED_FIELDS)
    sources = {field: f"as the system reports it ({source})" for field in fields}
    for field in ("dense_flop_per_s", "memory_bandwidth_bytes_per_s", "host_link", "scaleup", "idle_w"):
        if field in fields:
            sources[field] = f"highest {source}" if field != "idle_w" else source
    return replace(profile, sources=dict(sorted(sources.items())))


def _updated(
    base: DeviceProfile,
    facts: DeviceFacts,
    points: Sequence[Point],
    peaks: Mapping[str, float],
    name: str | None,
    idle_w: float | None,
    source: str,
) -> DeviceProfile:
    """The base profile with what was measured in its place."""
    sources = dict(base.sources)
    lacking = {dtype: rate for dtype, rate in peaks.items() if dtype not in base.dense_flop_per_s}
    if lacking:
        sources["dense_flop_per_s"] = f"{sources.get('dense_flop_per_s', '')}; {', '.join(lacking)}: highest {source}"
    changes: dict[str, Any] = {"dense_flop_per_s": {**base.dense_flop_per_s, **lacking}}
    if idle_w is not None:
        changes["idle_w"], sources["idle_w"] = rounded(idle_w, 3), source
    measured = _host_link(points)
    if measured is not None and base.host_link is not None:
        share = min(1.0, measured.bandwidth_bytes_per_s / base.host_link.bandwidth_bytes_per_s)
        changes["host_link"] = replace(base.host_link, efficiency=rounded(share, 3), latency_s=measured.latency_s)
        sources = {key: text for key, text in sources.items() if not key.startswith("host_link.")}
        sources |= {"host_link.efficiency": source, "host_link.latency_s": source}
    return replace(
        base, name=name or base.name, aliases=(), efficiency=None, power=base.power, sources=sources, **changes
    )


def best_rates(points: Sequence[Point]) -> dict[str, float]:
    """dtype -> highest FLOP/s of any matrix product."""
    rates: dict[str, float] = {}
    for point in of(points, "gemm"):
        dtype = point.kernel.dtype
        rates[dtype] = max(rates.get(dtype, 0.0), flop(point.kernel) / point.seconds)
    return rates


def best_bandwidth(points: Sequence[Point]) -> float:
    """Highest bytes/s of any kernel whose operands came from memory: copies, reads, thin products, KV caches."""
    from_memory = [
        *of(points, "memory"),
        *(p for p in of(points, "gemm") if p.kernel["m"] == 1),
        *of(points, "decode_attention"),
    ]
    return max((moved_bytes(p.kernel) / p.seconds for p in from_memory), default=0.0)


def _host_link(points: Sequence[Point]) -> Link | None:
    """The slower direction's best bandwidth, and the time of the smallest copy."""
    best = {
        op: max(p.kernel["bytes"] / p.seconds for p in mine)
        for op in ("to_device", "to_host")
        if (mine := of(points, "host_copy", op=op))
    }
    if not best:
        return None
    smallest = min(p.seconds for p in of(points, "host_copy"))
    return Link(name="host link", bandwidth_bytes_per_s=rounded(min(best.values())), latency_s=rounded(smallest))


def _scaleup(points: Sequence[Point]) -> Link | None:
    """Bus bandwidth of the largest all-reduce, and the time of the smallest."""
    mine = of(points, "collective")
    if not mine:
        return None
    best = max(float(collective_bytes("all_reduce", p.kernel["bytes"], p.kernel["ranks"])) / p.seconds for p in mine)
    smallest = min(p.seconds for p in mine)
    return Link(name="between GPUs", bandwidth_bytes_per_s=rounded(best), latency_s=rounded(smallest))


def drive(points: Sequence[Point], folder: str, capacity_bytes: int, source: str) -> DeviceProfile | None:
    """Profile of the drive behind the scratch folder."""
    reads, writes = of(points, "storage", op="read"), of(points, "storage", op="write")
    if not reads or not writes:
        return None
    fastest = {op: max(p.kernel["bytes"] / p.seconds for p in mine) for op, mine in (("r", reads), ("w", writes))}
    latency = min(p.seconds for p in reads if p.kernel["depth"] == 1)
    text = f"O_DIRECT in blocks of up to 8 MiB, {source}"
    return DeviceProfile(
        name=slug(f"drive {folder}"),
        kind="nvme",
        vendor="unknown",
        memory_bytes=capacity_bytes,
        memory_bandwidth_bytes_per_s=rounded(fastest["r"]),
        write_bandwidth_bytes_per_s=rounded(fastest["w"]),
        host_link=Link(name="drive", bandwidth_bytes_per_s=rounded(max(fastest.values())), latency_s=rounded(latency)),
        sources={
            "memory_bytes": "size of the file system",
            "memory_bandwidth_bytes_per_s": text,
            "write_bandwidth_bytes_per_s": text,
            "host_link": f"not measured apart from the drive: {text}",
        },
    )


def slug(text: str) -> str:
    """A name for files and clusters: 'NVIDIA H200' -> 'nvidia-h200'."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "device"


def to_text(profile: DeviceProfile, comment: str) -> str:
    """The device file. Sources of fields that equal their default, which are not written, go too."""
    mapping = to_mapping(profile)
    mapping["sources"] = {k: v for k, v in profile.sources.items() if k.split(".")[0] in mapping}
    order = [key for key in mapping if key not in ("efficiency", "power", "sources", "notes")]
    last = [key for key in ("sources", "notes", "power", "efficiency") if key in mapping]
    return "".join(f"# {line}\n" for line in comment.splitlines()) + to_yaml(
        {key: mapping[key] for key in order + last}
    )


def write_profile(path: Path, text: str) -> None:
    """Fill a file and read it back through the loader: what it refuses is never left behind."""
    path.write_text(text, encoding="utf-8")
    read_device_file(path)
