"""Weights that live outside the device: where they are, how fast they come or are computed there, and what may be offloaded."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hardware_profiles.errors import UserError
from hardware_profiles.loader import load_device
from hardware_profiles.schema import Cluster
from simulator.physics.layout import StageLayout
from simulator.plan import ParallelPlan
from simulator.techniques import COPYING, HOST_DRAM, OffloadBackend

DRAM_SHARE = 0.73
"""Share of its DRAM's peak that a host streams: 150 of 204.8 GB/s (eight DDR4-3200 channels of a Xeon 8380), as MoE-Lens
(arXiv:2504.09345) measured it."""
HOST_BACKENDS = ("cpu-layers", "cpu-neurons")
"""The host's processors compute what is offloaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCompute:
    """One device's share of the host's processors."""

    bytes_per_s: float
    """That they stream from DRAM."""
    flop_per_s: float | None = None
    """That they reach; None: unknown, never short."""

    def seconds(self, nbytes: float, flop: float) -> float:
        """Work on weights or KV that are read once [s]."""
        read_s = nbytes / self.bytes_per_s
        return read_s if self.flop_per_s is None else max(read_s, flop / self.flop_per_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class OffloadPath:
    """Where offloaded weights come from, as one device sees it."""

    nbytes: float
    """Asked for, per device [B]; a stage offloads no more than its blocks."""
    backend: OffloadBackend
    bandwidth_bytes_per_s: float
    """Host link, or the device's share of the host's DRAM or of the drive when all devices stream at once; of copies from a
    drive that wait for each other, both hops one after the other."""
    host: HostCompute | None = None
    """What computes there, for the backends that have the host do so."""
    start_s: float = 0.0
    """One message over the host link [s]."""


def path_of(cluster: Cluster, plan: ParallelPlan) -> OffloadPath | None:
    """The path of the plan's offloaded weights, or None without any. UserError where there is none or no room."""
    offload = plan.techniques.offload
    if offload is None:
        return None
    bandwidth = source_rate(cluster, plan, offload.source, "--cpu-offload-gb")
    link = cluster.device.host_link
    if offload.backend == "blocking" and offload.source != HOST_DRAM and link is not None:
        hop_s = 1.0 / (link.bandwidth_bytes_per_s * link.efficiency)
        bandwidth = 1.0 / (hop_s + sharers_of(cluster, plan) / _drive_rate(offload.source))
    check_host_room(cluster, plan, offload.nbytes, offload.source, "--cpu-offload-gb")
    computes = offload.backend in HOST_BACKENDS
    return OffloadPath(
        nbytes=offload.nbytes,
        backend=offload.backend,
        bandwidth_bytes_per_s=bandwidth,
        host=host_compute(cluster, plan, f"--offload-backend {offload.backend}") if computes else None,
        start_s=0.0 if link is None else link.latency_s,
    )


def sharers_of(cluster: Cluster, plan: ParallelPlan) -> int:
    """Devices of a node that use its memory and drives at once."""
    return min(cluster.node.num_devices, plan.num_devices)


def source_rate(cluster: Cluster, plan: ParallelPlan, source: str, what: str) -> float:
    """What one device reads from the host's DRAM or a drive of the node when all do [B/s]; hops one behind the other overlap.

    A device without a host link is its own host, and reads drives alone.
    """
    link, node, sharers = cluster.device.host_link, cluster.node, sharers_of(cluster, plan)
    if link is None and (source == HOST_DRAM or cluster.device.kind != "cpu"):
        raise UserError(f"{cluster.device.name} has no host_link in its profile; {what} needs one")
    bandwidth = math.inf if link is None else link.bandwidth_bytes_per_s * link.efficiency
    if source != HOST_DRAM:
        return min(bandwidth, _drive_rate(source) / sharers)
    if node.host_memory_bandwidth_bytes_per_s is not None:
        bandwidth = min(bandwidth, DRAM_SHARE * node.host_memory_bandwidth_bytes_per_s / sharers)
    return bandwidth


def host_compute(cluster: Cluster, plan: ParallelPlan, what: str) -> HostCompute:
    """A device's share of the host's processors. UserError where the host's DRAM is not known."""
    node, sharers = cluster.node, sharers_of(cluster, plan)
    if node.host_memory_bandwidth_bytes_per_s is None:
        raise UserError(
            f"{what}: the speed of the host's memory is unknown for {cluster.name}; write a cluster file with "
            "host_memory_bandwidth_bytes_per_s (docs/hardware.md)"
        )
    flop = node.host_flop_per_s
    return HostCompute(
        bytes_per_s=DRAM_SHARE * node.host_memory_bandwidth_bytes_per_s / sharers,
        flop_per_s=None if flop is None else flop / sharers,
    )


def _drive_rate(name: str) -> float:
    drive = load_device(name)
    if drive.kind != "nvme" and drive.kind != "csd":
        raise UserError(f"--offload-source {name} is a {drive.kind}; name {HOST_DRAM} or a drive, such as nvme-pcie4")
    link = drive.host_link
    read = drive.memory_bandwidth_bytes_per_s
    return read if link is None else min(read, link.bandwidth_bytes_per_s * link.efficiency)


def check_host_room(cluster: Cluster, plan: ParallelPlan, nbytes: float, source: str, flag: str) -> None:
    """UserError unless every node keeps ``nbytes`` of weights for each of its devices."""
    sharers = sharers_of(cluster, plan)
    is_dram = source == HOST_DRAM
    room = cluster.node.host_memory_bytes if is_dram else load_device(source).memory_bytes
    if nbytes * sharers > room:
        where = "host memory" if is_dram else source
        backend = " --offload-backend prefetch" if flag == "--cpu-offload-gb" else ""
        remedy = f" or{backend} --offload-source nvme-pcie4" if is_dram else ""
        raise UserError(
            f"{flag}: {sharers} device(s) per node offload {nbytes * sharers / 1e9:.1f} GB; {where} of a node of "
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
    """Device memory for copies that run ahead [B]: the block computed and, with prefetch, the next (ZeRO-Inference; vLLM)."""
    offload = plan.techniques.offload
    if offload is None or offload.backend not in COPYING:
        return 0.0
    staged = 1 + offload.prefetch_step if offload.backend == "prefetch" else 1
    largest = max(layer.weight_bytes for layer, _ in stage.layers)
    return min(staged * largest, offloaded_bytes(stage, plan))


def mlp_bytes(stage: StageLayout) -> float:
    """Weights of a stage's dense MLPs on one rank [B]: what has neurons."""
    return sum(
        m.weight_bytes * count for layer, count in stage.layers for m in layer.matrices if m.name.startswith("mlp.")
    )


def check_offload(stages: tuple[StageLayout, ...], plan: ParallelPlan) -> None:
    """UserError when more is to be offloaded than any stage has."""
    offload = plan.techniques.offload
    if offload is None:
        return
    neurons = offload.backend == "cpu-neurons"
    most = max(mlp_bytes(stage) if neurons else block_bytes(stage) for stage in stages)
    if neurons and not most:
        raise UserError("--offload-backend cpu-neurons: the model has no dense MLP; use --expert-cache-gb for experts")
    if offload.nbytes > most:
        what = "dense MLPs" if neurons else "blocks"
        raise UserError(
            f"--cpu-offload-gb is {offload.nbytes / 2**30:.4g}; the {what} have {most / 2**30:.4g} GiB of weights per device. "
            f"Use at most {most / 2**30:.4g}"
        )
