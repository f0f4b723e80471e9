"""What the settings of an engine and of a plan change in a model's physics, worked out once per step model."""

from __future__ import annotations

from dataclasses import replace

from hardware_profiles.errors import UserError
from hardware_profiles.schema import Cluster
from simulator.engine import EngineProfile
from simulator.physics.precision import Precision
from simulator.plan import ParallelPlan
from workloads.model import ModelSpec


def split_slowdown(engine: EngineProfile) -> float:
    """How much longer arithmetic takes in nano-batches, beside other kernels."""
    if not engine.nano_batch_share:
        raise UserError(f"engine {engine.name}: nano_batch_share is 0; it must be above 0 and at most 1")
    return (1.0 + engine.nano_batch_penalty) / engine.nano_batch_share


def fused_experts(precision: Precision, engine: EngineProfile) -> Precision:
    """Experts in one kernel: nothing is launched and no row is padding (FlashMoE)."""
    if not engine.fused_moe:
        return precision
    experts = precision.experts
    return replace(precision, experts=replace(experts, moe=replace(experts.moe, launch_s=0.0, row_pad=1.0)))


def window_of(model: ModelSpec, plan: ParallelPlan) -> int | None:
    """Entries that windowed layers see: the model's window, or what sparse attention chooses."""
    windows = [g.attention.sliding_window for g in model.layers if g.attention.sliding_window is not None]
    sparse = plan.techniques.attention
    if sparse is None or sparse.top_k is None:
        return max(windows, default=None)
    if windows:
        raise UserError(
            f"--attention-top-k: {model.name} has layers with a sliding window of its own; use --attention-density"
        )
    return sparse.top_k


def exposed_share(engine: EngineProfile, architecture: str) -> float:
    """Share of the host's work between steps that the device waits for."""
    if not engine.async_scheduling:
        return 1.0
    return engine.exposed_host.get(architecture.lower(), 0.0)


def filter_row_s(model: ModelSpec, cluster: Cluster, engine: EngineProfile) -> float:
    """Seconds to filter one row of float32 logits: the engine's passes over it at the memory's speed; 0 without a filter.

    Every TP rank has all the logits and does the same.
    """
    wanted = model.filters_logits if engine.sampling == "default" else engine.sampling == "top-p"
    bandwidth = cluster.device.memory_bandwidth_bytes_per_s
    return engine.top_p_row_passes * 4.0 * model.vocab_size / bandwidth if wanted else 0.0
