"""Ways of sharing prefixes that a plan may choose: off, in device memory, with host memory and disk below it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from hardware_profiles.loader import load_device
from hardware_profiles.schema import Cluster
from simulator.offloading import GIB, KvOffload

if TYPE_CHECKING:
    from planners.space import Candidate

HOST_SHARE = 0.5
"""Of a node's memory that cached prefixes may take: the rest is for the operating system, weights while loading and pinned
buffers. An assumption."""
DISK = KvOffload().disk_device

Cache = Literal["", "off", "on", "host", "disk"]
"""Sharing of prefixes: as the settings say, off, in device memory, with host memory, with a disk below that."""


def tier_gib(cluster: Cluster, candidate: Candidate, disk: bool) -> float:
    """Memory for cached prefixes of one replica: its part of a node's [GiB], rounded down."""
    per_node = max(1, min(candidate.dp, cluster.node.num_devices // (candidate.tp * candidate.pp)))
    nbytes = load_device(DISK).memory_bytes if disk else HOST_SHARE * cluster.node.host_memory_bytes
    return float(int(nbytes / per_node / GIB))


def cache_settings(cluster: Cluster, candidate: Candidate) -> dict[str, Any]:
    """Settings of the candidate's way of sharing prefixes."""
    if not candidate.cache:
        return {}
    settings: dict[str, Any] = {"enable_prefix_caching": candidate.cache != "off"}
    if candidate.cache in ("host", "disk"):
        settings["kv_offloading_size"] = tier_gib(cluster, candidate, disk=False)
    if candidate.cache == "disk":
        settings["kv_offloading_disk"] = tier_gib(cluster, candidate, disk=True)
    return settings
