"""What a placement does end to end: measured loads and copies go into the step model, and a workload is simulated."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hardware_profiles.errors import UserError
from planners.experts.placement import Placement
from planners.experts.routing import Ints, Routing
from simulator.deployment import Deployment
from simulator.physics.collectives import Interconnect
from simulator.physics.efficiency import efficiency_of
from simulator.physics.moe import ExpertRouting
from simulator.physics.shape import StepShape
from simulator.simulate import simulate_deployment
from workloads.slo import Slo
from workloads.trace import Trace

Exchange = Literal["home", "onward"]
"""home: tokens return to their own rank after every layer (vLLM, SGLang, TensorRT-LLM, Megatron-LM: dispatch and combine).
onward: they go on from expert to expert, one all-to-all per layer (ExFlow's context-coherent parallelism, arXiv 2401.08383;
the traffic that MoETuner minimises)."""


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


def slots_used(routing: Routing, placement: Placement) -> Ints:
    """int64[T, L, k]: the rank that serves each choice; of several copies, tokens use one after the other in turn."""
    used = np.empty_like(routing.experts)
    turn = np.arange(routing.num_tokens)[:, None]
    ranks = placement.rank_of_slot
    for layer, row in enumerate(placement.slots):
        copies = np.bincount(row, minlength=placement.num_experts)
        order = np.argsort(row, kind="stable")
        first = np.concatenate([[0], np.cumsum(copies)[:-1]])
        chosen = routing.experts[:, layer]
        used[:, layer] = ranks[order[first[chosen] + turn % copies[chosen]]]
    return used


def group_sizes(deployment: Deployment, ranks: int) -> tuple[int, ...]:
    """Devices per group at each tier that ``ranks`` devices span, innermost first: 1, those of a node ..."""
    interconnect = Interconnect(deployment.cluster, efficiency_of(deployment.cluster.device))
    tiers = [tier.ranks for tier in interconnect.tiers(ranks)]
    return tuple(math.prod(tiers[:level]) for level in range(len(tiers)))


def _home(ranks: Ints, size: int, num_ranks: int) -> tuple[float, float]:
    """(mean distinct groups per token and layer, busiest group's copies over the mean's)."""
    groups = -(-num_ranks // size)
    hit = np.zeros((ranks.shape[0], groups), dtype=bool)
    received = np.zeros((ranks.shape[1], groups))
    for layer in range(ranks.shape[1]):
        hit[:] = False
        np.put_along_axis(hit, ranks[:, layer] // size, True, axis=1)
        received[layer] = hit.sum(axis=0)
    copies = received.sum() / (ranks.shape[0] * ranks.shape[1])
    return float(copies), float(received.max(axis=1).sum() / received.mean(axis=1).sum())


def _onward(ranks: Ints, size: int, num_ranks: int) -> tuple[float, float]:
    """The same when a choice goes on to the next layer's: k^2 pairs of weight 1/k per token, of which some change the group.

    The collective counts (n-1)/n of its buffer as sent, so that crossings are scaled by n/(n-1).
    """
    groups, group = -(-num_ranks // size), ranks // size
    crossed, received = 0.0, np.zeros((max(1, ranks.shape[1] - 1), groups))
    for layer in range(ranks.shape[1] - 1):
        moved = group[:, layer, :, None] != group[:, layer + 1, None, :]
        to = np.broadcast_to(group[:, layer + 1, None, :], moved.shape)
        received[layer] = np.bincount(to[moved], minlength=groups) / ranks.shape[2]
        crossed += float(received[layer].sum())
    pairs = ranks.shape[0] * max(1, ranks.shape[1] - 1)
    tail = received.max(axis=1).sum() / received.mean(axis=1).sum() if crossed else 1.0
    return crossed / pairs * groups / max(1, groups - 1), float(tail)


def measure(
    routing: Routing, placement: Placement, sizes: tuple[int, ...], exchange: Exchange = "home"
) -> ExpertRouting:
    """Loads, copies and tails of a trace under a placement; ``sizes`` as group_sizes."""
    used = slots_used(routing, placement)
    layers = range(routing.num_layers)
    rows = np.stack([np.bincount(used[:, layer].ravel(), minlength=placement.num_ranks) for layer in layers])
    count = _home if exchange == "home" else _onward
    parts = [count(used, size, placement.num_ranks) for size in sizes]
    return ExpertRouting(
        busiest_rank=float(rows.max(axis=1).sum() / rows.mean(axis=1).sum()),
        copies=tuple(copies for copies, _ in parts),
        tail=tuple(tail for _, tail in parts),
        exchanges=2 if exchange == "home" else 1,
    )


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
    measured = measure(routing, placement, group_sizes(deployment, placement.num_ranks), exchange)
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
