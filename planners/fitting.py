"""When nothing fits: what is short, and what would fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from hardware_profiles.errors import UserError
from hardware_profiles.schema import Cluster
from planners.outcome import Entry
from planners.space import SearchSpace
from simulator.build import build_deployment
from simulator.deployment import Deployment
from workloads.model import ModelSpec

MEMORY = ("short by", "of KV cache per device")
"""In what is said of memory that is too small."""
MOST_NODES = 64
"""Nodes up to which a larger cluster is looked for."""


def does_not_fit(model: ModelSpec, cluster: Cluster, space: SearchSpace, entries: Sequence[Entry]) -> UserError:
    """The error for a model that no layout of the space holds."""
    largest = max(entries, key=lambda e: (e.candidate.tp * e.candidate.pp, e.candidate.tp), default=None)
    reason = "TP divides no head count" if largest is None else largest.reason
    if {e.reason for e in entries} == {reason} and not any(words in reason for words in MEMORY):
        return UserError(reason)  # a setting, whatever the layout
    remedy = _remedy(model, cluster, space)
    if remedy and ". " in reason:
        reason = reason.rpartition(". ")[0]
    layout = "" if largest is None else f" (largest tried: {largest.candidate.layout})"
    return UserError(
        f"{model.name} does not fit on {cluster.name} in any layout{layout}: {reason}"
        + (f". It would fit with {remedy}" if remedy else "")
    )


def _remedy(model: ModelSpec, cluster: Cluster, space: SearchSpace) -> str:
    """Weights of 8 or else 4 bits on these devices, or the smallest number of them (full nodes where one is not enough)."""
    options = []
    for smaller in ("fp8", "awq"):
        if smaller not in space.quantizations and _smallest(model, cluster, space, smaller) is not None:
            options.append(f"--allow-quantization {smaller}")
            break
    node = dataclasses.replace(
        cluster.node, num_devices=max(cluster.node.num_devices, cluster.device.max_devices_per_node)
    )
    nodes = 1
    while nodes <= MOST_NODES:
        larger = dataclasses.replace(cluster, node=node, num_nodes=nodes)
        found = _smallest(model, larger, space, None)
        if found is not None:
            tp, pp = found
            shape = f"{node.num_devices}x{nodes}" if nodes > 1 else f"{tp * pp}"
            options.append(f"{cluster.device.name}:{shape} (tp={tp} pp={pp})")
            break
        nodes *= 2
    return " or ".join(options)


def _smallest(
    model: ModelSpec, cluster: Cluster, space: SearchSpace, quantization: str | None
) -> tuple[int, int] | None:
    """(tp, pp) with the fewest devices that holds the model, or None."""
    sizes = [
        (tp * pp, pp, tp)
        for tp in model.valid_tps(cluster.node.num_devices)
        for pp in range(1, min(cluster.num_devices // tp, model.num_layers) + 1)
        if pp == 1 or pp & (pp - 1) == 0 or tp == cluster.node.num_devices
    ]
    settings = dict(space.settings)
    if quantization is not None:
        settings["quantization"] = quantization
    for _, pp, tp in sorted(sizes):
        try:
            deployment: Deployment = build_deployment(model, cluster, engine=space.engine, tp=tp, pp=pp, **settings)
            _ = deployment.memory
        except UserError:
            continue
        return tp, pp
    return None
