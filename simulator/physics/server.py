"""A server around its devices: what the host draws, and what the whole server does."""

from __future__ import annotations

from dataclasses import dataclass

from hardware_profiles.schema import Cluster

HOST_SLOPE = 0.09
"""Watts of the host (fans, power supplies, busy CPUs) per watt of its devices, so that a DGX A100 at full power takes 1.4 times
its devices: MLPerf Inference v4.1 and v5.1 power results have 1.3 to 1.5 (docs/power.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPower:
    """Power of one device's share of its host: ``idle_w + slope * device_w`` [W], linear in what the device draws."""

    idle_w: float
    """With idle devices whose draw is not counted here [W per device]."""
    slope: float
    """Watts of the host per watt of the device."""


def host_power_of(cluster: Cluster) -> HostPower:
    """The line of one device's share of the cluster's hosts.

    The idle power is the node's (``hosts.yaml``: measured where its source says so; a cluster file may give its own), the
    slope :data:`HOST_SLOPE` everywhere. Hosts whose power is in the devices' TDP (Grace) idle at 0 and keep the slope.
    """
    return HostPower(idle_w=cluster.node.idle_w / cluster.node.num_devices, slope=HOST_SLOPE)


def host_w(cluster: Cluster, devices_w: float, num_devices: int = 1) -> float:
    """Power of the hosts' share of ``num_devices`` devices that draw ``devices_w`` together [W].

    Per device unless ``num_devices`` says otherwise; linear, so means over time and joules (with seconds in place of devices)
    follow the same line. A whole server: ``host_w(cluster, watts, cluster.node.num_devices)``.
    """
    line = host_power_of(cluster)
    return line.idle_w * num_devices + line.slope * devices_w
