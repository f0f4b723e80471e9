"""From names and settings to a Deployment: where strings become values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

from hardware_profiles.cluster import parse_cluster
from hardware_profiles.errors import UserError, unknown_name
from hardware_profiles.mig import is_slice
from hardware_profiles.schema import Cluster
from simulator.architecture import engine_for, served_as
from simulator.deployment import DEFAULT_SWAP_BYTES, Deployment
from simulator.engine_loader import GIB, load_engine
from simulator.expert_popularity import with_popularity
from simulator.experts.copies import with_copies
from simulator.experts.settings import placed_routing
from simulator.idle_settings import check_idle
from simulator.model_changes import changed_model
from simulator.moe_settings import check_moe
from simulator.offloading import KvOffload
from simulator.physics.expert_adapters import check_expert_adapters
from simulator.physics.powercap import check_power
from simulator.physics.tenants import slower_cluster
from simulator.plan import ParallelPlan
from simulator.setting_checks import check_number, check_settings, flag
from simulator.sharing.split import SmSplit, parse_split
from simulator.sharing.tenants import Interference, parse_interference
from simulator.speculative.config import SpeculativeConfig, parse_speculative
from simulator.techniques import TechniqueSettings, techniques_of
from workloads.catalog import load_model
from workloads.model import ModelSpec


class EngineSettings(TechniqueSettings, total=False):
    """Engine settings under the engine's own names; None or absent: the engine's default."""

    max_num_seqs: int | None
    max_num_batched_tokens: int | None
    max_prefill_tokens: int | None
    batching: str | None
    gpu_memory_utilization: float | None
    block_size: int | None
    max_model_len: int | None
    num_gpu_blocks_override: int | None
    kv_cache_dtype: str
    quantization: str | None
    dtype: str
    enable_prefix_caching: bool | None
    async_scheduling: bool | None
    enforce_eager: bool | None
    max_cudagraph_capture_size: int | None
    preemption_mode: str | None
    sampling: str | None
    swap_space: float | None
    swap_overlap: float | None
    kv_offloading_size: float | None
    kv_offloading_disk: float | None
    kv_offloading_disk_device: str | None
    kv_eviction: str | None
    kv_copy_group: int | None
    runner: str | None
    routing: str
    scheduling_policy: str | None
    order: str | None
    moe_skew: float
    interference: Interference | Mapping[str, Any] | Path | str | None
    sm_split: SmSplit | float | str | None
    pair_instances: bool | None
    power_cap: float | None
    gpu_clock: float | None
    cold_start: bool | None
    speculative_config: SpeculativeConfig | Mapping[str, Any] | Path | str | None


def check_compute(cluster: Cluster) -> None:
    """UserError for a device that stores data but cannot run a model."""
    device = cluster.device
    if not device.dense_flop_per_s:
        raise UserError(
            f"device {device.name!r} (kind {device.kind}) has no dense_flop_per_s: it cannot run a model. "
            "'apex-sim hardware list --kind gpu' shows devices that can"
        )
    if device.kind in ("fpga", "pim") and device.dataflow is None:
        raise UserError(
            f"device {device.name!r} (kind {device.kind}) has no design to run a model on; add its 'dataflow' to a file of "
            "your own (docs/hardware.md), or use vhk158 or alveo-u280"
        )


def check_slices(cluster: Cluster, plan: ParallelPlan) -> None:
    """UserError for what instances of a divided device cannot do."""
    if not is_slice(cluster.device):
        return
    for name, degree in (("tp", plan.tp), ("pp", plan.pp), ("ep", plan.ep)):
        if degree > 1:
            raise UserError(
                f"--{name} {degree} on {cluster.device.name}: MIG instances have neither NVLink nor peer-to-peer copies; "
                f"use --{name} 1 and --dp for more replicas"
            )
    if plan.power_cap_w is not None or plan.gpu_clock_mhz is not None:
        raise UserError(
            f"--power-cap and --gpu-clock hold for a whole device, not for {cluster.device.name}; drop them"
        )


def _refuse_unknown(settings: Mapping[str, Any]) -> None:
    """UserError for a name that is no setting."""
    for name in settings:
        if name not in EngineSettings.__annotations__:
            raise unknown_name("setting", name, EngineSettings.__annotations__)


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
    spec = model_of(model)
    _refuse_unknown(settings)
    check_settings(settings)
    spec = served_as(spec, settings.get("runner"))
    machines = cluster if isinstance(cluster, Cluster) else parse_cluster(name_of("cluster", cluster))
    check_compute(machines)
    shared = settings.get("interference")
    interference = None if shared is None else parse_interference(shared)
    if interference is not None:
        machines = slower_cluster(machines, interference.constant)
    if settings.get("fused_moe") and not spec.is_moe:
        raise UserError(
            f"--fused-moe joins the exchange and the experts of a step; {spec.name} has no experts: drop it"
        )
    for name, degree in (("tp", tp), ("pp", pp), ("dp", dp), ("ep", ep)):
        check_number(name, degree, int, 1)
    plan = ParallelPlan(
        tp=tp,
        pp=pp,
        dp=dp,
        ep=ep,
        dtype=settings.get("dtype") or "auto",
        quantization=settings.get("quantization"),
        kv_cache_dtype=settings.get("kv_cache_dtype") or "auto",
        power_cap_w=settings.get("power_cap"),
        gpu_clock_mhz=settings.get("gpu_clock"),
        techniques=with_popularity(techniques_of(settings), settings, spec),
    )
    check_moe(plan.techniques.moe, settings, spec.name, spec.is_moe, tp, ep)
    check_expert_adapters(plan.techniques.moe, spec)
    spec = changed_model(spec, plan.techniques)
    check_power(machines.device, plan)
    check_slices(machines, plan)
    profile = engine_for(spec, load_engine(name_of("engine", engine), machines.device), settings)
    changes: dict[str, Any] = {
        "max_num_seqs": settings.get("max_num_seqs"),
        "max_num_batched_tokens": settings.get("max_num_batched_tokens"),
        "max_prefill_tokens": settings.get("max_prefill_tokens"),
        "batching": settings.get("batching"),
        "gpu_memory_utilization": settings.get("gpu_memory_utilization"),
        "block_size": settings.get("block_size"),
        "prefix_caching": settings.get("enable_prefix_caching"),
        "async_scheduling": settings.get("async_scheduling"),
        "max_cudagraph_capture_size": settings.get("max_cudagraph_capture_size"),
        "cuda_graphs": "none" if settings.get("enforce_eager") else None,
        "preemption": settings.get("preemption_mode"),
        "sampling": settings.get("sampling"),
        "comm_overlap": settings.get("comm_overlap"),
        "nano_batch_tokens": settings.get("nano_batch_tokens"),
        "fused_moe": settings.get("fused_moe"),
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    if "max_num_batched_tokens" in changes and "max_num_seqs" not in changes:
        changes["max_num_seqs"] = min(profile.max_num_seqs, changes["max_num_batched_tokens"])
    swap_gib = settings.get("swap_space")
    drafts = settings.get("speculative_config")
    routing, copies = placed_routing(settings, spec, machines, ep)
    deployment = Deployment(
        model=spec,
        cluster=machines,
        plan=plan,
        engine=dataclasses.replace(profile, **changes),
        max_model_len=settings.get("max_model_len"),
        num_gpu_blocks_override=settings.get("num_gpu_blocks_override"),
        routing=settings.get("routing") or "round-robin",
        scheduling=settings.get("scheduling_policy") or "fcfs",
        swap_overlap=settings.get("swap_overlap") or 0.0,
        order=settings.get("order") or "arrival",
        kv_offload=_kv_offload(settings),
        moe_skew=settings.get("moe_skew") or 0.0,
        cold_start=bool(settings.get("cold_start")),
        interference=interference,
        pair_instances=bool(settings.get("pair_instances")),
        sm_split=None if settings.get("sm_split") is None else parse_split(settings["sm_split"]),
        speculative=None if drafts is None else parse_speculative(drafts),
        swap_space_bytes=DEFAULT_SWAP_BYTES if swap_gib is None else swap_gib * GIB,
        expert_routing=routing,
    )
    check_idle(deployment, settings)
    return with_copies(deployment, copies)


def _kv_offload(settings: EngineSettings) -> KvOffload:
    """Sizes in GiB to bytes; what is not given stays at its default."""
    return KvOffload(
        host_bytes=(settings.get("kv_offloading_size") or 0.0) * GIB,
        disk_bytes=(settings.get("kv_offloading_disk") or 0.0) * GIB,
        disk_device=settings.get("kv_offloading_disk_device") or KvOffload().disk_device,
        eviction=settings.get("kv_eviction") or KvOffload().eviction,
        copy_group=settings.get("kv_copy_group"),
    )


def model_of(model: ModelSpec | str) -> ModelSpec:
    """A model itself, or the one of that name."""
    return model if isinstance(model, ModelSpec) else load_model(name_of("model", model))


def name_of(what: str, value: object) -> str:
    """The text a model, cluster or engine is named with."""
    if isinstance(value, Path):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{flag(what)} is {value!r}; give a name or the path of a file")
    return value
