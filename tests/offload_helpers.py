"""A host of known speed, and deployments on it, for tests of what runs outside the device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hardware_profiles.cluster import parse_cluster
from hardware_profiles.schema import Cluster
from simulator.build import build_deployment
from simulator.deployment import Deployment
from simulator.physics.explain import step_shape
from simulator.physics.step_model import StepModel

DRAM = 204.8e9


def host(device: str = "a40:1", **changes: Any) -> Cluster:
    machines = parse_cluster(device)
    given = {"host_memory_bandwidth_bytes_per_s": DRAM, "host_memory_bytes": 512 << 30, **changes}
    return replace(machines, node=replace(machines.node, **given))


def build(model: str = "mixtral-8x7b", cluster: Cluster | None = None, **settings: Any) -> Deployment:
    return build_deployment(model, cluster or host(), **{"max_model_len": 2048, **settings})


def step_s(model: StepModel, seqs: int, context: int, prefill: int = 0) -> float:
    shape = step_shape(decode_seqs=seqs, context=context, prefill=prefill, window=model.window)
    return model.step(shape)[0]
