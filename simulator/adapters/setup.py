"""From a deployment with adapters to what its replicas need: memory and loading time of each, and who asks for which."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from hardware_profiles.errors import UserError
from simulator.adapters.pool import AdapterSetup
from simulator.batching import RESERVING
from simulator.lora import Lora
from simulator.physics.layout import lay_out
from simulator.physics.lora import one_adapter_bytes
from simulator.physics.memory import kv_bytes_per_token
from simulator.physics.offload import DRAM_SHARE
from workloads.labels import draw_shares, zipf_shares
from workloads.trace import Trace

if TYPE_CHECKING:
    from simulator.deployment import Deployment
    from simulator.run import ReplicaSetup


STEADY_ORDERS = ("fcfs", "sjf", "shortest-prompt")
"""Orders of service in which a request that was first once is first again when its adapter has come."""


def check_adapters(deployment: Deployment) -> None:
    """UserError for combinations that make no sense or are not modelled."""
    lora, engine = deployment.plan.techniques.lora, deployment.engine
    if lora is None:
        return
    if lora.shared_kv and not engine.prefix_caching:
        raise UserError("--lora-shared-kv shares cached prefixes among adapters; it needs --enable-prefix-caching")
    if lora.loading is None:
        return
    what = f"--lora-loading {lora.loading}"
    if engine.preemption == "swap":
        raise UserError(f"{what} does not go with --preemption-mode swap; use recompute")
    if engine.batching in RESERVING:
        raise UserError(
            f"{what} does not go with batching {engine.batching!r}, which reserves memory; use another --engine"
        )
    order = deployment.scheduling.partition("(")[0].strip()
    if order not in STEADY_ORDERS:
        raise UserError(
            f"{what} does not go with --scheduling-policy {order} yet: requests would lose their adapters to one another for "
            f"ever; use one of {', '.join(STEADY_ORDERS)}"
        )
    if deployment.sm_split is not None:
        raise UserError(f"{what} does not go with --sm-split yet; drop one of them")
    if deployment.elasticity is not None:
        raise UserError(f"{what} does not go with replicas that come and go (--autoscale, --mtbf) yet; drop one")
    if deployment.cluster.device.host_link is None:
        raise UserError(f"{deployment.cluster.device.name} has no host_link in its profile; {what} needs one")


def refuse_loading(pools: Iterable[Deployment], what: str) -> None:
    """UserError for adapters that are loaded where only resident ones are modelled."""
    for pool in pools:
        lora = pool.plan.techniques.lora
        if lora is not None and (lora.loading is not None or lora.shared_kv):
            flag = "--lora-shared-kv" if lora.loading is None else f"--lora-loading {lora.loading}"
            raise UserError(f"{flag} does not go with {what} yet; drop one of them")


def _ranks(lora: Lora) -> tuple[int, ...]:
    return lora.ranks or (lora.rank,)


def adapter_setup(deployment: Deployment) -> AdapterSetup | None:
    """Blocks, bytes and loading times by rank; None where adapters are not loaded.

    An adapter is split as the projections are; every device loads its part over its own host link, all at once, no faster
    than the host's DRAM shared by the devices of a node.
    """
    lora = deployment.plan.techniques.lora
    if lora is None or lora.loading is None:
        return None
    plan, cluster = deployment.plan, deployment.cluster
    link, node = cluster.device.host_link, cluster.node
    assert link is not None
    bandwidth = link.bandwidth_bytes_per_s * link.efficiency
    if node.host_memory_bandwidth_bytes_per_s is not None:
        sharers = min(node.num_devices, plan.num_devices)
        bandwidth = min(bandwidth, DRAM_SHARE * node.host_memory_bandwidth_bytes_per_s / sharers)
    stages = lay_out(deployment.model, plan, deployment.step_model.precision).stages
    per_stage = [[one_adapter_bytes(stage, lora, rank) for stage in stages] for rank in _ranks(lora)]
    nbytes = tuple(plan.tp * sum(part) for part in per_stage)
    _check_host(deployment, lora, nbytes)
    return AdapterSetup(
        blocks=_blocks(deployment),
        load_s=tuple(link.latency_s + max(part) / bandwidth for part in per_stage),
        nbytes=nbytes,
        slots=lora.slots,
    )


def _blocks(deployment: Deployment) -> tuple[int, ...]:
    """KV blocks that an adapter of each rank takes: on the device where it takes most."""
    lora = deployment.plan.techniques.lora
    assert lora is not None
    if lora.loading != "paged":
        return (0,) * len(_ranks(lora))
    precision = deployment.step_model.precision
    stages = lay_out(deployment.model, deployment.plan, precision).stages
    block_bytes = [kv_bytes_per_token(stage, precision) * deployment.engine.block_size for stage in stages]
    if not all(block_bytes):
        raise UserError(f"--lora-loading paged: {deployment.model.name} has devices without a KV cache; use slots")
    return tuple(
        max(
            ceil(one_adapter_bytes(stage, lora, rank) / block) for stage, block in zip(stages, block_bytes, strict=True)
        )
        for rank in _ranks(lora)
    )


def kv_tokens_beside_adapters(deployment: Deployment) -> int:
    """Tokens that the KV cache holds beside the largest adapter that shares its memory."""
    lora, size = deployment.plan.techniques.lora, deployment.engine.block_size
    if lora is None or lora.loading != "paged":
        return deployment.memory.num_blocks * size
    capacity = (deployment.memory.num_blocks - max(_blocks(deployment))) * size
    longest = max(deployment.max_model_len or 0, 2)
    if capacity < longest:
        raise UserError(
            f"the largest adapter and a request of {longest} tokens do not fit together into {deployment.memory.num_blocks} KV "
            "blocks; lower --max-model-len or --max-lora-rank"
        )
    return capacity


def _check_host(deployment: Deployment, lora: Lora, nbytes: tuple[float, ...]) -> None:
    """All adapters live in the host memory of every node."""
    total = sum(nbytes[i % len(nbytes)] for i in range(lora.adapters))
    room = deployment.cluster.node.host_memory_bytes
    if total > room:
        raise UserError(
            f"--num-loras {lora.adapters}: {total / 1e9:.1f} GB of adapters; the host memory of a node of "
            f"{deployment.cluster.name} holds {room / 1e9:.1f} GB. Use fewer, a smaller rank or --lora-dtype"
        )


def with_adapters_of(deployment: Deployment, trace: Trace, seed: int) -> tuple[Deployment, Trace]:
    """The deployment with the popularity that the trace has, and the trace with an adapter for every request.

    A trace without the column gets draws from the seed where adapters are loaded or share KV; turns of a session keep theirs.
    """
    lora = deployment.plan.techniques.lora
    if lora is None:
        if trace.adapter is not None:
            warnings.warn(
                f"{trace.name}: requests name adapters, but --enable-lora is off: all run on the base model",
                stacklevel=3,
            )
        return deployment, trace
    if trace.adapter is None:
        if lora.loading is None and not lora.shared_kv:
            return deployment, trace
        drawn = draw_shares(zipf_shares(lora.adapters, lora.skew), len(trace), seed, "adapters")
        return deployment, dataclasses.replace(trace, adapter=drawn[trace.session_roots()])
    asked = int(trace.adapter.max()) + 1
    if asked > lora.adapters:
        raise UserError(f"{trace.name}: a request asks for adapter {asked - 1}; give --num-loras {asked} or more")
    counts = np.bincount(trace.adapter[trace.adapter >= 0], minlength=lora.adapters)
    lora = dataclasses.replace(lora, shares=tuple((counts / len(trace)).tolist()))
    techniques = dataclasses.replace(deployment.plan.techniques, lora=lora)
    plan = dataclasses.replace(deployment.plan, techniques=techniques)
    return dataclasses.replace(deployment, plan=plan, _cache={}), trace


def apart_by_adapter(deployment: Deployment, trace: Trace) -> Trace:
    """The trace as the prefix cache sees it: equal tokens under different adapters have different KV, unless it is shared."""
    lora = deployment.plan.techniques.lora
    if lora is None or lora.shared_kv or trace.adapter is None or trace.prefix_ids is None:
        return trace
    assert trace.prefix_offsets is not None
    known, ids = np.unique(trace.prefix_ids, return_inverse=True)
    owner = np.repeat(trace.adapter + 1, np.diff(trace.prefix_offsets))
    return dataclasses.replace(trace, prefix_ids=ids.astype(np.int64) + owner * len(known))


def for_rows(setup: ReplicaSetup, trace: Trace) -> ReplicaSetup:
    """The replica with the adapter of every request."""
    if setup.adapters is None:
        return setup
    assert trace.adapter is not None
    return dataclasses.replace(setup, adapters=dataclasses.replace(setup.adapters, of_row=trace.adapter.tolist()))
