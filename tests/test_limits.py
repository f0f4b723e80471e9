"""Limits in which a technique must be the plain deployment, or free: one test each, of steps or of whole runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from offload_helpers import build, host

import apex_sim
from hardware_profiles.cluster import parse_cluster
from hardware_profiles.schema import Cluster
from simulator.physics.encoder_model import step_model_of
from simulator.physics.explain import step_shape
from simulator.physics.tenants import Factors, slower_cluster

STEPS: tuple[dict[str, int], ...] = (
    {"decode_seqs": 1, "context": 500},
    {"decode_seqs": 64, "context": 1000},
    {"prefill": 1024},
    {"decode_seqs": 16, "context": 1000, "prefill": 512},
)


def endless(cluster: Cluster) -> Cluster:
    """The cluster with a host link and host memory that take no time."""
    device = cluster.device
    assert device.host_link is not None
    link = replace(device.host_link, bandwidth_bytes_per_s=1e24, latency_s=0.0)
    node = replace(cluster.node, device=replace(device, host_link=link), host_memory_bandwidth_bytes_per_s=1e24)
    return replace(cluster, node=node)


@pytest.mark.parametrize(
    "settings",
    [
        {"expert_cache_size": 8, "expert_prefetch": "layer", "expert_prefetch_accuracy": 0.5},
        {"zero_expert_num": 0, "moe_kernels": 3, "a2a_ffn_overlap_degree": 1},
        {"recursion_depths": "0,0,0,1"},
        {"prompt_layer_shares": "1,1", "kv_compression": 1.0, "attention_density": 1.0},
    ],
)
def test_neutral_values_are_the_plain_step(settings: dict[str, Any]) -> None:
    name = "mixtral-8x7b" if any("expert" in key or "moe" in key for key in settings) else "llama-3.1-8b"
    tp = 2 if name == "mixtral-8x7b" else 1
    cluster = host(f"h100-sxm:{tp}")
    plain, other = (build(name, cluster, tp=tp, **more).step_model for more in ({}, settings))
    for step in STEPS:
        shape = step_shape(**step)
        assert other.step(shape) == pytest.approx(plain.step(shape), rel=1e-12)


@pytest.mark.parametrize("backend", ["uva", "prefetch", "blocking", "cpu-layers", "cpu-neurons"])
def test_weights_behind_an_endless_link_cost_nothing(backend: str) -> None:
    cluster = endless(host("h100-sxm:1"))
    plain = build("llama-3.1-8b", cluster).step_model
    other = build("llama-3.1-8b", cluster, cpu_offload_gb=8.0, offload_backend=backend).step_model
    for step in STEPS:
        shape = step_shape(**step)
        unlimited_s = sum(c.seconds for c in plain.explain(shape) if c.name != "power_limit")
        assert unlimited_s * (1 - 1e-9) <= other.step(shape)[0] <= plain.step(shape)[0] * (1 + 1e-9)


@pytest.mark.parametrize("serial", [False, True])
def test_attention_on_an_endless_host_leaves_the_other_kernels(serial: bool) -> None:
    cluster = endless(host("h100-sxm:1"))
    plain = build("llama-3.1-8b", cluster).step_model
    settings: dict[str, Any] = {"attention_device": "cpu", "attention_device_gb": 60.0}
    other = build("llama-3.1-8b", cluster, attention_device_serial=serial, **settings).step_model
    for step in STEPS:
        shape = step_shape(**step)
        rest_s = sum(c.seconds for c in plain.explain(shape) if not c.name.startswith("attention.decode"))
        assert other.step(shape)[0] == pytest.approx(rest_s, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "machines", "layout"),
    [
        ("llama-3.1-8b", "h100-sxm:1", {}),
        ("nemotron-h-8b", "h100-sxm:1", {}),
        ("qwen3-30b-a3b", "h100-sxm:8", {"dp": 8, "ep": 8}),
        ("llama-3.1-70b", "h100-sxm:8", {"tp": 8, "comm_overlap": 1.0}),
    ],
)
def test_a_tenant_slows_a_step_by_no_more_than_its_factor(name: str, machines: str, layout: dict[str, Any]) -> None:
    cluster = parse_cluster(machines)
    deployment = build(name, cluster, **layout)
    for factor in (1.01, 3.0):
        for resource in ("compute", "memory", "host_link", "host_cpu"):
            slower = slower_cluster(cluster, Factors(**{resource: factor}))
            beside = step_model_of(deployment.model, slower, deployment.plan, deployment.engine)
            for step in STEPS:
                shape = step_shape(**step)
                ratio = beside.step(shape)[0] / deployment.step_model.step(shape)[0]
                assert 1 - 1e-12 <= ratio <= factor * (1 + 1e-9)


FAR_APART: dict[str, Any] = {"arrival": "constant", "rate": 0.2, "num_requests": 8, "input_len": 500, "output_len": 60}
TIMES = ("duration", "mean_ttft_ms", "p99_e2el_ms", "energy_j", "utilisation")


@pytest.mark.parametrize(
    ("layout", "settings"),
    [({"dp": 2}, {"pair_instances": True}), ({}, {"sm_split": 0.3}), ({}, {"sm_split": "proactive"})],
)
def test_requests_that_never_meet_are_served_as_if_nothing_were_shared(
    layout: dict[str, Any], settings: dict[str, Any]
) -> None:
    cluster = f"h100-sxm:{layout.get('dp', 1)}"
    shared, alone = (
        apex_sim.simulate("llama-3.1-8b", cluster, max_model_len=4096, **layout, **FAR_APART, **more).summary
        for more in (settings, {})
    )
    assert [shared[key] for key in TIMES] == pytest.approx([alone[key] for key in TIMES], rel=1e-9)


def test_pools_that_always_serve_are_pools_without_a_controller() -> None:
    pools: dict[str, Any] = {"disaggregate": ("prefill=dp1", "decode=dp2"), "rate": 4, "num_requests": 60}
    lengths: dict[str, Any] = {"input_len": 700, "output_len": 50, "max_model_len": 4096}
    held = apex_sim.Elasticity(policy="tokens(target=450)", min_replicas=2, initial_replicas=2)
    fixed, elastic = (
        apex_sim.simulate("llama-3.1-8b", "h20:3", elasticity=policy, **pools, **lengths).summary
        for policy in (None, held)
    )
    assert [elastic[key] for key in TIMES] == pytest.approx([fixed[key] for key in TIMES], rel=1e-9)
    assert elastic["kv_transfer"]["bytes"] == 60 * 700 * 131072
