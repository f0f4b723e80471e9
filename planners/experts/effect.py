"""What a placement does end to end: measured loads and copies go into the step model, and a workload is simulated."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from hardware_profiles.errors import UserError
from simulator.deployment import Deployment
from simulator.experts.measure import Exchange, group_sizes, measure
from simulator.experts.placement import Placement
from simulator.experts.routing import Routing
from simulator.physics.moe import ExpertRouting
from simulator.physics.shape import StepShape
from simulator.simulate import simulate_deployment
from workloads.slo import Slo
from workloads.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One placement in the simulator."""

    routing: ExpertRouting
    decode_s: float
    """A decode step of the batch that was asked for [s]."""
    experts_s: float
    """Expert kernels of the slowest rank in that step [s]."""
    exchange_s: float
    """All-to-alls (without dispatch: all-reduces after the experts) in that step [s]."""
    summary: dict[str, float]
    """Of the workload, names as ``vllm bench serve``; empty without one."""


def with_copies(deployment: Deployment, extra: float) -> Deployment:
    """KV memory without what ``extra`` more experts per device take; UserError when none is left."""
    if not extra:
        return deployment
    stages = deployment.step_model.stages
    per_expert = max(
        sum(
            n * x.weight_bytes / x.local_experts for layer, n in stage.layout.layers if (x := layer.experts) is not None
        )
        for stage in stages
    )
    memory = deployment.memory
    block_bytes = memory.kv_bytes_per_token * deployment.engine.block_size
    blocks = memory.num_blocks - math.ceil(extra * per_expert / block_bytes)
    if blocks < 1:
        raise UserError(
            f"--redundant: {extra:g} more experts per device take {extra * per_expert / 1e9:.1f} GB, more than is left for KV "
            f"({memory.num_blocks * block_bytes / 1e9:.1f} GB). Use fewer"
        )
    return dataclasses.replace(deployment, num_gpu_blocks_override=blocks, _cache={})


def effect_of(
    deployment: Deployment,
    routing: Routing,
    placement: Placement,
    *,
    exchange: Exchange = "home",
    batch: int = 64,
    context: int = 1024,
    trace: Trace | None = None,
    slo: Slo | None = None,
    seed: int = 0,
) -> Effect:
    """Simulate a deployment whose experts are placed so: one decode step of ``batch`` sequences per replica, and a trace."""
    measured = measure(routing, placement, group_sizes(deployment.cluster, placement.num_ranks), exchange)
    extra = (placement.slots.shape[1] - placement.num_experts) / placement.num_ranks
    placed = dataclasses.replace(with_copies(deployment, extra), expert_routing=measured, _cache={})
    shape = StepShape(batch, batch * context, batch * context, 0, 0, 0, 0, 0, batch)
    costs = placed.step_model.explain(shape)
    summary = {} if trace is None else simulate_deployment(placed, trace, slo=slo, seed=seed).summary
    return Effect(
        routing=measured,
        decode_s=placed.step_model.step(shape)[0],
        experts_s=sum(c.seconds for c in costs if c.name == "moe.experts"),
        exchange_s=sum(c.seconds for c in costs if c.name.startswith(("all_to_all", "all_reduce.mlp"))),
        summary=summary,
    )
