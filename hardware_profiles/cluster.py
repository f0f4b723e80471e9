"""What the user types for a cluster (``h100-sxm:8x4``, a bundled name or a YAML file) to a Cluster."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from hardware_profiles.errors import UserError
from hardware_profiles.loader import device_name, is_path, load_device, normalised, read_device_file
from hardware_profiles.mig import share_of_host, split_name
from hardware_profiles.records import from_mapping, read_yaml
from hardware_profiles.schema import Cluster, DeviceProfile, Link, NodeSpec, Price, Pricing, Terms
from hardware_profiles.sites import site_at
from hardware_profiles.terms import checked

T = TypeVar("T")

CLUSTER_DIR = Path(__file__).parent / "clusters"
HOSTS_FILE = Path(__file__).parent / "hosts.yaml"

EXAMPLE = "write DEVICE, DEVICE:COUNT or DEVICE:COUNTxNODES, such as h100-sxm:8x4"

_COUNTS = re.compile(r"(?P<device>.+?):(?P<devices>[^:xX×]*)(?:[xX×](?P<nodes>.*))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFile:
    """``network:`` of a cluster file, per device and in one direction."""

    bandwidth_bytes_per_s: float
    latency_s: float
    name: str = "network"
    efficiency: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteFile:
    """``site:`` of a cluster file: a grid by name, and figures that replace its own or the defaults."""

    grid: str | None = None
    pue: float | None = None
    gco2_per_kwh: float | None = None
    usd_per_kwh: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFile:
    """A cluster file; what it leaves out comes from the reference host of the device (``hosts.yaml``)."""

    device: str
    name: str | None = None
    devices_per_node: int = 1
    nodes: int = 1
    network: NetworkFile | None = None
    host_memory_bytes: int | None = None
    """DRAM of one node."""
    host_memory_bandwidth_bytes_per_s: float | None = None
    """Peak of one node's DRAM."""
    host_flop_per_s: float | None = None
    """What one node's processors reach in matrix products."""
    host_idle_w: float | None = None
    """Power of one node without its accelerators [W]."""
    cpu_slowness: float | None = None
    """Time that one thread of the host takes, relative to a DGX H100."""
    price: Price | None = None
    """Replaces the device's price."""
    purchase_usd: float | None = None
    """Replaces what owning one device costs."""
    pricing: Pricing = "on-demand"
    lifetime_years: float | None = None
    host_embodied_kgco2e: float | None = None
    """Of making one node without its accelerators."""
    site: SiteFile = SiteFile()
    notes: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One device's share of a reference host: its network, memory and idle power."""

    network: NetworkFile
    memory_bytes_per_device: int
    idle_w_per_device: float
    cpu_slowness: float = 1.0
    embodied_kgco2e_per_device: float | None = None
    memory_bandwidth_bytes_per_s_per_device: float | None = None
    devices: tuple[str, ...] = ()
    source: str


def parse_cluster(text: str | Path, check_terms: bool = True) -> Cluster:
    """Return the cluster that ``text`` stands for: DEVICE[:COUNT[xNODES]], a bundled cluster's name or a YAML file.

    ``check_terms``: refuse a file whose pricing has no price; not where other terms follow (``with_terms``, which checks).
    """
    name = str(text).strip()
    if not name:
        raise UserError(f"cluster is empty; {EXAMPLE}")
    bundled = CLUSTER_DIR / f"{normalised(name)}.yaml"
    if not is_path(name) and bundled.exists():
        return read_cluster_file(bundled, check_terms)
    if name.lower().endswith((".yaml", ".yml")) and "device" in read_yaml(Path(name)):
        return read_cluster_file(Path(name), check_terms)
    if ":" not in name:
        return _cluster(name, load_device(name), 1, 1)
    match = _COUNTS.fullmatch(name)
    if match is None:
        raise UserError(f"cluster {name!r} cannot be read; {EXAMPLE}")
    devices = _count(match["devices"], "devices per node", name)
    nodes = 1 if match["nodes"] is None else _count(match["nodes"], "number of nodes", name)
    return _cluster(name, load_device(match["device"]), devices, nodes)


def cluster_names() -> list[str]:
    """Return the names of the bundled clusters, sorted."""
    return sorted(path.stem for path in CLUSTER_DIR.glob("*.yaml"))


def read_cluster_file(path: Path, check_terms: bool = True) -> Cluster:
    """Read one cluster file; a device given as a path is relative to it."""
    file = from_mapping(ClusterFile, read_yaml(path), where=str(path))
    device = read_device_file(path.parent / file.device) if is_path(file.device) else load_device(file.device)
    if file.price is not None:
        sources = {**device.sources, "price": f"{path.name}: {file.price.provider}"}
        device = dataclasses.replace(device, price=file.price, sources=sources)
    cluster = _cluster(file.name or path.stem, device, file.devices_per_node, file.nodes)
    node = dataclasses.replace(
        cluster.node,
        host_memory_bytes=_first(file.host_memory_bytes, cluster.node.host_memory_bytes),
        network=cluster.node.network if file.network is None else _link(file.network),
        idle_w=_first(file.host_idle_w, cluster.node.idle_w),
        cpu_slowness=_first(file.cpu_slowness, cluster.node.cpu_slowness),
        embodied_kgco2e=_first(file.host_embodied_kgco2e, cluster.node.embodied_kgco2e),
        host_memory_bandwidth_bytes_per_s=_first(
            file.host_memory_bandwidth_bytes_per_s, cluster.node.host_memory_bandwidth_bytes_per_s
        ),
        host_flop_per_s=file.host_flop_per_s,
    )
    site = site_at(**dataclasses.asdict(file.site), where=f"{path}: site.")
    terms = Terms(pricing=file.pricing, purchase_usd=file.purchase_usd)
    if file.lifetime_years is not None:
        terms = dataclasses.replace(terms, lifetime_years=file.lifetime_years)
    cluster = dataclasses.replace(cluster, node=node, site=site, terms=terms)
    return checked(cluster, where=f"{path}: ") if check_terms else cluster


def host_of(device: DeviceProfile) -> Host:
    """Return the reference host of a device, or the general one for devices that no host names."""
    hosts, name = _hosts(), split_name(device.name)[0]
    return next((host for host in hosts.values() if name in host.devices), hosts["general"])


def _cluster(name: str, device: DeviceProfile, devices_per_node: int, nodes: int) -> Cluster:
    most = device.max_devices_per_node
    if devices_per_node > most:
        remedy = f"use more nodes, such as {device.name}:{most}x{-(-devices_per_node * nodes // most)}"
        rule = f"{devices_per_node} devices per node, but a node holds at most {most} of {device.name}"
        raise UserError(f"cluster {name!r}: {rule}; {remedy}")
    host, share = host_of(device), share_of_host(device)
    whole = devices_per_node * share
    node = NodeSpec(
        device=device,
        num_devices=devices_per_node,
        host_memory_bytes=round(host.memory_bytes_per_device * whole),
        network=_link(host.network, share),
        idle_w=host.idle_w_per_device * whole,
        cpu_slowness=host.cpu_slowness,
        embodied_kgco2e=_times(host.embodied_kgco2e_per_device, whole),
        host_memory_bandwidth_bytes_per_s=_times(host.memory_bandwidth_bytes_per_s_per_device, whole),
    )
    return Cluster(name=name, node=node, num_nodes=nodes)


def _count(text: str, what: str, name: str) -> int:
    if not re.fullmatch(r"[0-9]+", text.strip()) or int(text) == 0:
        raise UserError(f"cluster {name!r}: {what} is {text!r}, not a whole number above zero; {EXAMPLE}")
    return int(text)


def _first(value: T | None, default: T) -> T:
    return default if value is None else value


def _times(value: float | None, count: float) -> float | None:
    return None if value is None else value * count


def _link(network: NetworkFile, share: float = 1.0) -> Link:
    return Link(
        name=network.name,
        bandwidth_bytes_per_s=network.bandwidth_bytes_per_s * share,
        latency_s=network.latency_s,
        efficiency=network.efficiency,
    )


@lru_cache(maxsize=1)
def _hosts() -> dict[str, Host]:
    content = read_yaml(HOSTS_FILE)
    hosts = {key: from_mapping(Host, value, where=HOSTS_FILE.name, field=key) for key, value in content.items()}
    for host in hosts.values():
        assert all(device_name(name) == name for name in host.devices)
    return hosts
