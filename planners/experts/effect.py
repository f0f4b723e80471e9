"""What a placement does end to end: measured loads and copies go into the step model, and a workload is simulated."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from simulator.deployment import Deployment
from simulator.experts.copies import with_copies
from simulator.experts.measure import Exchange, group_sizes, measure
from simulator.experts.placement import Placement
from simulator.experts.routing import Routing
from simulator.physics.moe import ExpertRouting
from simulator.physics.shape import StepShape
from simulator.physics.sums import in_order
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
        experts_s=in_order(c.seconds for c in costs if c.name == "moe.experts"),
        exchange_s=in_order(c.seconds for c in costs if c.name.startswith(("all_to_all", "all_reduce.mlp"))),
        summary=summary,
    )
