"""From limits and paths to the tiers of a replica."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulator.kv_links import LinkTimes, NodePaths, ReplicaPaths
from simulator.kv_tiers import TierLimits
from simulator.prefix_cache import PrefixCache
from simulator.tiered_cache import TieredPrefixCache

if TYPE_CHECKING:
    from simulator.driver import Driver


@dataclass(frozen=True, slots=True, kw_only=True)
class KvTiers:
    """Memories for cached prefixes below the devices of a replica."""

    limits: TierLimits
    links: LinkTimes | None = None
    """None: there is no tier, only an order of eviction."""


def new_cache(block_size: int, segment_tokens: int, tiers: KvTiers | None) -> PrefixCache:
    """An empty prefix cache."""
    if tiers is None:
        return PrefixCache(block_size, segment_tokens)
    return TieredPrefixCache(block_size, segment_tokens, tiers.limits)


def connect(replica: Driver, tiers: KvTiers, nodes: dict[int, NodePaths]) -> None:
    """Give a replica its paths; ``nodes``: what the replicas of each node share, filled here."""
    if tiers.links is None or not isinstance(replica.core.prefix_cache, TieredPrefixCache):
        return
    node = nodes.setdefault(replica.index // tiers.links.replicas_per_node, NodePaths())
    replica.load_from(ReplicaPaths(tiers.links, node))
