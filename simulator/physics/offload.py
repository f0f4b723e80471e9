"""Weights that live outside the device: what crosses the host link in a step, how fast, and what may be offloaded."""

from __future__ import annotations

from dataclasses import dataclass

from hardware_profiles.errors import UserError
from hardware_profiles.loader import load_device
from hardware_profiles.schema import Cluster
from simulator.physics.layout import StageLayout
from simulator.plan import ParallelPlan
from simulator.techniques import HOST_DRAM, OffloadBackend, WeightOffload

DRAM_SHARE = 0.73
"""Share of its DRAM's peak that a host streams: 150 of 204.8 GB/s (eight DDR4-3200 channels of a Xeon 8380), as MoE-Lens
(arXiv:2504.09345) measured it."""
STAGED_BLOCKS = 2
"""Blocks in device memory while copies run ahead: the one computed and the next (ZeRO-Inference; vLLM's prefetch step of 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OffloadPath:
    """Where offloaded weights come from, as one device sees it."""

    nbytes: float
    """Asked for, per device [B]; a stage offloads no more than its blocks."""
    backend: OffloadBackend
    bandwidth_bytes_per_s: float
    """Host link, or the device's share of the host's DRAM or of the drive when all devices stream at once."""


def path_of(cluster: Cluster, plan: ParallelPlan) -> OffloadPath | None:
    """The path of the plan's offloaded weights, or None without any. UserError where there is none or no room."""
    offload = plan.techniques.offload
    if offload is None:
        return None
    link, node = cluster.device.host_link, cluster.node
    if link is None:
        raise UserError(f"{cluster.device.name} has no host_link in its profile; --cpu-offload-gb needs one")
    sharers = min(node.num_devices, plan.num_devices)
    bandwidth = link.bandwidth_bytes_per_s * link.efficiency
    if offload.source == HOST_DRAM:
        if node.host_memory_bandwidth_bytes_per_s is not None:
            bandwidth = min(bandwidth, DRAM_SHARE * node.host_memory_bandwidth_bytes_per_s / sharers)
    else:
        bandwidth = min(bandwidth, _drive_rate(offload.source) / sharers)
    _check_room(cluster, offload, sharers)
    return OffloadPath(nbytes=offload.nbytes, backend=offload.backend, bandwidth_bytes_per_s=bandwidth)


def _drive_rate(name: str) -> float:
    drive = load_device(name)
    if drive.kind != "nvme" and drive.kind != "csd":
        raise UserError(f"--offload-source {name} is a {drive.kind}; name {HOST_DRAM} or a drive, such as nvme-pcie4")
    link = drive.host_link
    read = drive.memory_bandwidth_bytes_per_s
    return read if link is None else min(read, link.bandwidth_bytes_per_s * link.efficiency)


def _check_room(cluster: Cluster, offload: WeightOffload, sharers: int) -> None:
    """Every node keeps the offloaded weights of its devices."""
    needed = offload.nbytes * sharers
    is_dram = offload.source == HOST_DRAM
    room = cluster.node.host_memory_bytes if is_dram else load_device(offload.source).memory_bytes
    if needed > room:
        where = "host memory" if is_dram else offload.source
        remedy = " or --offload-backend prefetch --offload-source nvme-pcie4" if is_dram else ""
        raise UserError(
            f"--cpu-offload-gb: {sharers} device(s) per node offload {needed / 1e9:.1f} GB; {where} of a node of "
            f"{cluster.name} holds {room / 1e9:.1f} GB. Offload less{remedy}"
        )


def block_bytes(stage: StageLayout) -> float:
    """Weights of a stage's blocks on one rank [B]: what may be offloaded (embedding and LM head stay)."""
    return sum(layer.weight_bytes * count for layer, count in stage.layers)


def offloaded_bytes(stage: StageLayout, plan: ParallelPlan) -> float:
    """Weights of a stage that one rank keeps outside the device [B]."""
    offload = plan.techniques.offload
    return 0.0 if offload is None else min(offload.nbytes, block_bytes(stage))


def staging_bytes(stage: StageLayout, plan: ParallelPlan) -> float:
    """Device memory for copies that run ahead [B]."""
    offload = plan.techniques.offload
    if offload is None or offload.backend == "uva":
        return 0.0
    largest = max(layer.weight_bytes for layer, _ in stage.layers)
    return min(STAGED_BLOCKS * largest, offloaded_bytes(stage, plan))


def check_offload(stages: tuple[StageLayout, ...], plan: ParallelPlan) -> None:
    """UserError when more is to be offloaded than any stage has."""
    offload = plan.techniques.offload
    most = max(block_bytes(stage) for stage in stages)
    if offload is not None and offload.nbytes > most:
        raise UserError(
            f"--cpu-offload-gb is {offload.nbytes / 2**30:.4g}; the blocks have {most / 2**30:.4g} GiB of weights per device. "
            f"Use at most {most / 2**30:.4g}"
        )
