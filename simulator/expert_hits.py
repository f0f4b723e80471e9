"""What a run's steps found in the cache of experts."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulator.result import SimulationResult


def expert_summary(result: SimulationResult) -> dict[str, Any]:
    """Share of the experts that steps needed and the cache had, and bytes over the links of all devices; empty without a cache.

    An expert counts once per step and layer, however many tokens share it. Pools count together.
    """
    pools = getattr(result, "pools", None)
    views = [result] if pools is None else list(pools.values())
    totals = [total for view in views if (total := _totals(view)) is not None]
    if not totals:
        return {}
    needed, missed, moved = (sum(values) for values in zip(*totals, strict=True))
    return {"expert_hit_rate": 1.0 - missed / needed if needed else 1.0, "expert_link_bytes": moved}


def _totals(result: SimulationResult) -> tuple[float, float, float] | None:
    """(experts needed, missed, bytes) of one pool's steps, or None without a cache."""
    model = result.deployment.step_model
    caches = [h.cache for h in model.hybrids or () if h.cache is not None]
    if not caches:
        return None
    sizes: Counter[int] = Counter()
    for replica in result.record.replicas:
        sizes.update(replica.step_sizes)
    needed = missed = moved = 0.0
    for tokens, steps in sorted(sizes.items()):
        for cache in caches:
            traffic = cache.traffic(tokens)
            needed, missed = needed + steps * traffic.needed, missed + steps * traffic.missed
            moved += steps * cache.link_bytes(tokens)
    return model.ranks * needed, model.ranks * missed, model.ranks * moved
