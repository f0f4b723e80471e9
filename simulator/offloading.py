"""Memory below the devices' for cached prefixes, as users ask for it, and what of it a replica gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hardware_profiles.errors import UserError, unknown_name
from hardware_profiles.loader import load_device
from simulator.batching import RESERVING
from simulator.kv_links import CopyTimes, LinkTimes
from simulator.kv_setup import KvTiers
from simulator.kv_tiers import EVICTION, TierLimits

if TYPE_CHECKING:
    from simulator.deployment import Deployment

GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class KvOffload:
    """Tiers below the devices' memory. Sizes are per replica, all of its devices together (vLLM's --kv-offloading-size)."""

    host_bytes: float = 0.0
    """Host memory for cached prefixes [B]; 0: none, evicted prefixes are lost."""
    disk_bytes: float = 0.0
    """Disk below it [B]."""
    disk_device: str = "nvme-pcie4"
    """Profile of the disk; a node has one."""
    eviction: str = "lru"
    """Which pieces leave a tier first, device memory included: lru, lfu, fifo."""
    copy_group: int | None = None
    """KV blocks per copy between device and host, for prefixes and preempted sequences alike; None: all of a move."""

    @property
    def is_plain(self) -> bool:
        """No tier below the devices, least recently used first."""
        return not self.host_bytes and not self.disk_bytes and self.eviction == "lru"


def check_offload(offload: KvOffload, prefix_caching: bool, batching: str) -> None:
    """UserError for combinations that make no sense."""
    if offload.eviction not in EVICTION:
        raise unknown_name("eviction order (--kv-eviction)", offload.eviction, EVICTION)
    if offload.disk_bytes and not offload.host_bytes:
        raise UserError(
            "--kv-offloading-disk is below host memory, of which there is none; give --kv-offloading-size as well"
        )
    if offload.is_plain:
        return
    what = "--kv-offloading-size" if offload.host_bytes else "--kv-eviction"
    if batching in RESERVING:
        raise UserError(f"{what} is about cached prefixes, and batching {batching!r} has none; use another --engine")
    if not prefix_caching:
        raise UserError(f"{what} keeps cached prefixes; it needs --enable-prefix-caching")


def kv_tiers(deployment: Deployment) -> KvTiers | None:
    """What a replica of the deployment has below its devices. UserError for tiers that are too small or do not fit."""
    offload = deployment.kv_offload
    if offload.is_plain:
        return None
    blocks = []
    block_bytes = _block_bytes(deployment)
    for name, nbytes in (("size", offload.host_bytes), ("disk", offload.disk_bytes)):
        if nbytes:
            if nbytes < block_bytes or not block_bytes:
                raise UserError(
                    f"--kv-offloading-{name} {nbytes / GIB:g} GiB holds no KV block ({block_bytes:,.0f} B of "
                    f"{deployment.model.name} for {deployment.engine.block_size} tokens); use at least "
                    f"{block_bytes / GIB:.3g}, or leave it out"
                )
            blocks.append(int(nbytes // block_bytes))
    limits = TierLimits(blocks=tuple(blocks), eviction=offload.eviction)
    return KvTiers(limits=limits, links=_links(deployment, block_bytes) if blocks else None)


def copy_times(deployment: Deployment) -> CopyTimes | None:
    """Copies over the host link of a device; None where it has none."""
    link = deployment.cluster.device.host_link
    if link is None:
        return None
    model, plan = deployment.model, deployment.plan
    layers = sum(g.count for g in model.layers if g.attention.kind != "linear")
    tensors = 1 if model.is_mla else 2
    nbytes = deployment.memory.kv_bytes_per_token * deployment.engine.block_size
    return CopyTimes(
        copies=-(-layers // plan.pp) * tensors,
        block_s=nbytes / (link.bandwidth_bytes_per_s * link.efficiency),
        dispatch_s=link.latency_s,
        group=deployment.kv_offload.copy_group,
    )


def _block_bytes(deployment: Deployment) -> float:
    """One KV block of a replica, all devices [B]."""
    devices = deployment.plan.devices_per_replica
    return deployment.memory.kv_bytes_per_token * deployment.engine.block_size * devices


def _links(deployment: Deployment, block_bytes: float) -> LinkTimes:
    offload, plan, node = deployment.kv_offload, deployment.plan, deployment.cluster.node
    host = copy_times(deployment)
    if host is None:
        raise UserError(
            f"{deployment.cluster.device.name} has no host_link in its profile; --kv-offloading-size needs one"
        )
    per_node = max(1, min(plan.dp, node.num_devices // plan.devices_per_replica))
    if offload.host_bytes * per_node > node.host_memory_bytes:
        raise UserError(
            f"--kv-offloading-size {offload.host_bytes / GIB:g} GiB for each of {per_node} replicas on a node exceeds its "
            f"{node.host_memory_bytes / GIB:,.0f} GiB; use {node.host_memory_bytes / GIB / per_node:,.0f} or less"
        )
    dram = getattr(node, "host_memory_bandwidth_bytes_per_s", None)
    links = {"host": host, "dram_block_s": block_bytes / dram if dram else 0.0, "replicas_per_node": per_node}
    if offload.disk_bytes:
        disk = load_device(offload.disk_device)
        if disk.kind != "nvme" or disk.host_link is None:
            raise UserError(
                f"--kv-offloading-disk-device {offload.disk_device!r} is a {disk.kind}; "
                "'apex-sim hardware list --kind nvme' shows disks"
            )
        path = disk.host_link
        bandwidth = min(disk.memory_bandwidth_bytes_per_s, path.bandwidth_bytes_per_s * path.efficiency)
        links |= {"disk_block_s": block_bytes / bandwidth, "disk_latency_s": path.latency_s}
    return LinkTimes(**links)  # type: ignore[arg-type]
