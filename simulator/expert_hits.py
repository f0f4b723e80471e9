"""What a run's steps found in the cache of experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from simulator.physics.step_model import StepModel


def expert_summary(model: StepModel, sizes: Sequence[Mapping[int, int]]) -> dict[str, Any]:
    """Share of the experts that steps needed and the cache had, and bytes over the link; empty without a cache.

    ``sizes``: of each replica, steps by their tokens. An expert counts once per step and layer, however many tokens share it.
    """
    caches = [h.cache for h in model.hybrids or () if h.cache is not None]
    if not caches:
        return {}
    counts: dict[int, int] = {}
    for replica in sizes:
        for tokens, steps in replica.items():
            counts[tokens] = counts.get(tokens, 0) + steps
    needed = missed = moved = 0.0
    for tokens in sorted(counts):
        steps = counts[tokens]
        for cache in caches:
            traffic = cache.traffic(tokens)
            needed, missed = needed + steps * traffic.needed, missed + steps * traffic.missed
            moved += steps * cache.link_bytes(tokens)
    return {
        "expert_hit_rate": 1.0 - missed / needed if needed else 1.0,
        "expert_link_bytes": moved * model.ranks,
    }
