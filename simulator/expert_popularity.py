"""Popularity of experts from a routing trace, for caches of experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from hardware_profiles.errors import UserError
from simulator.experts.trace_files import read_routing
from simulator.techniques import Techniques
from workloads.model import ModelSpec


def with_popularity(techniques: Techniques, settings: Mapping[str, Any], model: ModelSpec) -> Techniques:
    """Techniques whose cache of experts knows the popularity in ``--expert-cache-trace``: by rank, mean over layers."""
    path, cache = settings.get("expert_cache_trace"), techniques.expert_cache
    if path is None or cache is None:
        return techniques
    if settings.get("moe_skew"):
        raise UserError("--moe-skew and --expert-cache-trace both say which experts tokens choose; drop one")
    layers = [g for g in model.layers if g.mlp.is_moe]
    if not layers:
        raise UserError(f"--expert-cache-trace: {model.name} has no routed experts; drop it")
    mlp, count = layers[0].mlp, sum(g.count for g in layers)
    routing = read_routing(str(path), mlp.num_experts)
    if (routing.num_layers, routing.top_k) != (count, mlp.experts_per_token):
        raise UserError(
            f"{path}: {routing.num_layers} layers, top-{routing.top_k}; {model.name} has {count} MoE layers, "
            f"top-{mlp.experts_per_token}. Record the routing of this model"
        )
    counts = [np.bincount(routing.experts[:, i].ravel(), minlength=mlp.num_experts) for i in range(count)]
    shares = np.sort(np.stack(counts), axis=1)[:, ::-1].mean(axis=0) / routing.num_tokens
    return replace(techniques, expert_cache=replace(cache, popularity=tuple(shares.tolist())))
