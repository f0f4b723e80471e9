"""From names and settings to a Deployment: where strings become values."""

from __future__ import annotations

import dataclasses
from typing import Any, TypedDict, Unpack

from hardware_profiles.cluster import parse_cluster
from hardware_profiles.errors import UserError
from hardware_profiles.schema import Cluster
from simulator.deployment import DEFAULT_SWAP_BYTES, Deployment
from simulator.engine_loader import GIB, load_engine
from simulator.plan import ParallelPlan
from workloads.catalog import load_model
from workloads.model import ModelSpec


class EngineSettings(TypedDict, total=False):
    """Engine settings under the engine's own names; None or absent: the engine's default."""

    max_num_seqs: int | None
    max_num_batched_tokens: int | None
    gpu_memory_utilization: float | None
    block_size: int | None
    max_model_len: int | None
    num_gpu_blocks_override: int | None
    kv_cache_dtype: str
    quantization: str | None
    dtype: str
    enable_prefix_caching: bool | None
    async_scheduling: bool | None
    preemption_mode: str | None
    swap_space: float | None
    routing: str
    moe_skew: float


def build_deployment(
    model: ModelSpec | str,
    cluster: Cluster | str,
    *,
    engine: str = "vllm-v1",
    tp: int = 1,
    pp: int = 1,
    dp: int = 1,
    ep: int = 1,
    **settings: Unpack[EngineSettings],
) -> Deployment:
    """Model, cluster, layout and engine settings as one value; nothing is simulated. Raises UserError early."""
    spec = model if isinstance(model, ModelSpec) else load_model(model)
    machines = cluster if isinstance(cluster, Cluster) else parse_cluster(cluster)
    for name, degree in (("tp", tp), ("pp", pp), ("dp", dp), ("ep", ep)):
        if degree < 1:
            raise UserError(f"--{name} is {degree}; it must be at least 1")
    profile = load_engine(engine, machines.device)
    changes: dict[str, Any] = {
        "max_num_seqs": settings.get("max_num_seqs"),
        "max_num_batched_tokens": settings.get("max_num_batched_tokens"),
        "gpu_memory_utilization": settings.get("gpu_memory_utilization"),
        "block_size": settings.get("block_size"),
        "prefix_caching": settings.get("enable_prefix_caching"),
        "async_scheduling": settings.get("async_scheduling"),
        "preemption": settings.get("preemption_mode"),
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    if "max_num_batched_tokens" in changes and "max_num_seqs" not in changes:
        changes["max_num_seqs"] = min(profile.max_num_seqs, changes["max_num_batched_tokens"])
    swap_gib = settings.get("swap_space")
    if swap_gib is not None and swap_gib < 0:
        raise UserError(f"--swap-space is {swap_gib:g}; it must not be negative")
    return Deployment(
        model=spec,
        cluster=machines,
        plan=ParallelPlan(
            tp=tp,
            pp=pp,
            dp=dp,
            ep=ep,
            dtype=settings.get("dtype", "auto"),
            quantization=settings.get("quantization"),
            kv_cache_dtype=settings.get("kv_cache_dtype", "auto"),
        ),
        engine=dataclasses.replace(profile, **changes),
        max_model_len=settings.get("max_model_len"),
        num_gpu_blocks_override=settings.get("num_gpu_blocks_override"),
        routing=settings.get("routing", "round-robin"),
        moe_skew=settings.get("moe_skew", 0.0),
        swap_space_bytes=DEFAULT_SWAP_BYTES if swap_gib is None else swap_gib * GIB,
    )
