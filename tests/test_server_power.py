"""Host and server power: one line per device, whatever the size of the server."""

from __future__ import annotations

import pytest

from hardware_profiles.cluster import parse_cluster
from simulator.physics.server import host_power_of, host_w


def test_a_device_has_the_same_share_of_every_host():
    one, eight = parse_cluster("a100-sxm:1"), parse_cluster("a100-sxm:8x4")
    assert host_power_of(one) == host_power_of(eight)
    assert host_w(eight, 8 * 300.0, 8) == pytest.approx(8 * host_w(one, 300.0))


def test_host_power_is_the_idle_host_and_a_slope():
    cluster = parse_cluster("a100-sxm:8")
    assert host_w(cluster, 0.0, 8) == cluster.node.idle_w == 1000.0
    assert host_w(cluster, 700.0) - host_w(cluster, 300.0) == pytest.approx(0.09 * 400.0)


@pytest.mark.parametrize("name", ["a100-sxm:8", "h100-sxm:8"])
def test_a_server_at_full_power_takes_what_measured_ones_do(name):
    """MLPerf Inference power results: 1.3 to 1.5 times the devices."""
    cluster = parse_cluster(name)
    devices_w = cluster.node.num_devices * cluster.device.tdp_w
    assert 1.3 < 1 + host_w(cluster, devices_w, cluster.node.num_devices) / devices_w < 1.5
