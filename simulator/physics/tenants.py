"""A cluster whose devices and hosts also work for somebody else: the same hardware at a part of its rates."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hardware_profiles.schema import Cluster, DeviceProfile, Efficiency
from simulator.physics.efficiency import efficiency_of
from simulator.physics.power import power_fit_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """How many times longer work takes that one resource bounds; 1: nobody else uses it."""

    compute: float = 1.0
    """Arithmetic of the devices."""
    memory: float = 1.0
    """Bytes through the devices' memory."""
    host_link: float = 1.0
    """Bytes between device and host memory."""
    host_cpu: float = 1.0
    """Work of the engine's threads on the host."""

    def times(self, other: Factors) -> Factors:
        """Both at once."""
        return Factors(
            compute=self.compute * other.compute,
            memory=self.memory * other.memory,
            host_link=self.host_link * other.host_link,
            host_cpu=self.host_cpu * other.host_cpu,
        )


ALONE = Factors()


def slower_cluster(cluster: Cluster, factors: Factors) -> Cluster:
    """The cluster as its tenant sees it: peaks, bandwidth and host link divided by the factors, host times multiplied.

    Energy of an operation and of a byte stay what they are; the power of waiting goes on for longer. Collectives, networks and
    launches of kernels stay as fast as they were.
    """
    if factors == ALONE:
        return cluster
    node = replace(
        cluster.node,
        device=_slower_device(cluster.device, factors),
        cpu_slowness=cluster.node.cpu_slowness * factors.host_cpu,
    )
    return replace(cluster, node=node)


def _slower_device(device: DeviceProfile, factors: Factors) -> DeviceProfile:
    power, link, dataflow = power_fit_of(device), device.host_link, device.dataflow
    return replace(
        device,
        dense_flop_per_s={name: peak / factors.compute for name, peak in device.dense_flop_per_s.items()},
        memory_bandwidth_bytes_per_s=device.memory_bandwidth_bytes_per_s / factors.memory,
        host_link=None
        if link is None
        else replace(link, bandwidth_bytes_per_s=link.bandwidth_bytes_per_s / factors.host_link),
        dataflow=None
        if dataflow is None
        else replace(dataflow, weight_elements_per_s=dataflow.weight_elements_per_s / factors.compute),
        efficiency=_slower_kernels(efficiency_of(device), factors),
        power=replace(power, compute_w=power.compute_w / factors.compute, memory_w=power.memory_w / factors.memory),
    )


def _slower_kernels(fits: Efficiency, factors: Factors) -> Efficiency:
    """Times that are not shares of a peak."""
    return replace(
        fits,
        prefill_attention={
            name: replace(fit, softmax_s=fit.softmax_s * factors.compute)
            for name, fit in fits.prefill_attention.items()
        },
        decode_attention={
            name: replace(fit, sequence_s=fit.sequence_s * factors.compute)
            for name, fit in fits.decode_attention.items()
        },
        layer_token_s=fits.layer_token_s * factors.memory,
        logits_row_s=fits.logits_row_s * factors.memory,
    )
