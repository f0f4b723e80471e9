"""Experts in a cache: which of them a device holds, how many a step misses, and how long it waits for those.

The cache is stationary: tokens choose experts independently (Zipf popularity, or uniform), so that what it holds does not
depend on the batch, and what a step misses is an expected number that depends on its tokens alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from hardware_profiles.errors import UserError
from hardware_profiles.schema import Cluster
from simulator.hybrid import CacheEviction, ExpertCache
from simulator.physics.layout import RankExperts, StageLayout
from simulator.physics.moe import expert_probabilities
from simulator.physics.offload import check_host_room, source_rate
from simulator.plan import ParallelPlan

BISECTIONS = 200
"""Enough to halve any bracket of doubles to its neighbours."""


@lru_cache(maxsize=256)
def occupancy(popularity: tuple[float, ...], held: float, eviction: CacheEviction) -> npt.NDArray[np.float64]:
    """Probability that each expert is in a cache with room for ``held`` of them, float64[num_experts], summing to ``held``.

    ``popularity``: probability p_i that a token chooses each, the most popular one first.
    lru: 1 - (1 - p_i)^t after t tokens, t such that the sum is ``held``: the characteristic time of Che, Tung and Wang
    (Hierarchical Web Caching Systems, IEEE JSAC 20(7), 2002); it counts tokens, so batches do not change it.
    fifo: x_i / (1 + x_i) with x_i = -ln(1 - p_i) t, which random eviction has as well (Gelenbe, A Unified Approach to the
    Evaluation of a Class of Replacement Algorithms, IEEE ToC 22(6), 1973; Martina, Garetto, Leonardi, INFOCOM 2014).
    lfu: the most popular ones.
    """
    num_experts = len(popularity)
    if held >= num_experts:
        result = np.ones(num_experts)
    elif eviction == "lfu":
        result = np.clip(held - np.arange(num_experts, dtype=np.float64), 0.0, 1.0)
    else:
        rate = -np.log1p(-np.minimum(np.maximum(popularity, 1e-12), 1.0 - 1e-15))
        result = _filled(rate, held, eviction)
    result.setflags(write=False)
    return result


def _filled(rate: npt.NDArray[np.float64], held: float, eviction: CacheEviction) -> npt.NDArray[np.float64]:
    """Occupancy at the characteristic time at which ``held`` experts are in the cache, by bisection in its logarithm."""

    def at(log_time: float) -> npt.NDArray[np.float64]:
        used = rate * np.exp(log_time)
        held_share: npt.NDArray[np.float64] = -np.expm1(-used) if eviction == "lru" else used / (1.0 + used)
        return held_share

    low, high = -60.0, 60.0
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        low, high = (middle, high) if float(at(middle).sum()) < held else (low, middle)
    return at(high)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertTraffic:
    """Experts of all layers of a stage in one step, on the mean rank."""

    needed: float
    """Distinct experts that its tokens choose."""
    missed: float
    """Those that were not in the cache."""
    missed_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedExperts:
    """The experts of ``count`` equal layers on one rank, and how many of each a device holds."""

    experts: RankExperts
    count: int
    held: float

    @property
    def expert_bytes(self) -> float:
        """One expert on this rank [B]."""
        return self.experts.weight_bytes / self.experts.local_experts


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCache:
    """The cache of one stage's devices."""

    layers: tuple[CachedExperts, ...]
    cache: ExpertCache
    skew: float
    bandwidth_bytes_per_s: float
    """Over which experts come, per device."""

    def traffic(self, tokens: int) -> ExpertTraffic:
        """Expected use of the cache by a step: of expert i a share 1 - (1 - p_i)^T of the steps has need, whatever is held."""
        needed = missed = missed_bytes = 0.0
        for layer in self.layers:
            e = layer.experts
            hit = self.cache.popularity
            if hit is None:
                hit = tuple(expert_probabilities(e.num_experts, e.experts_per_token, self.skew).tolist())
            touched = 1.0 - (1.0 - np.array(hit)) ** (tokens * e.replicas)
            held = occupancy(hit, layer.held * e.ep, self.cache.eviction)
            wanted = layer.count * float(touched.sum()) / e.ep
            absent = layer.count * float((touched * (1.0 - held)).sum()) / e.ep
            needed, missed = needed + wanted, missed + absent
            missed_bytes += absent * layer.expert_bytes
        return ExpertTraffic(needed=needed, missed=missed, missed_bytes=missed_bytes)

    def waits(self, tokens: int) -> tuple[float, float]:
        """(prefetched, on demand) time of the link for the experts that a step misses [s].

        Prefetches as many as are missing, of which ``accuracy`` are right, may hide in the window; what they left out is
        asked for when the router has chosen, and waits in full.
        """
        missed_s = self.traffic(tokens).missed_bytes / self.bandwidth_bytes_per_s
        if self.cache.prefetch is None:
            return 0.0, missed_s
        return missed_s, (1.0 - self.cache.accuracy) * missed_s

    def link_bytes(self, tokens: int) -> float:
        """What crosses the link in a step, on one rank [B]."""
        return sum(self.waits(tokens)) * self.bandwidth_bytes_per_s


def held_experts(stage: StageLayout, plan: ParallelPlan) -> tuple[CachedExperts, ...]:
    """What one device of the stage caches: so many experts of each layer, or an equal part of the bytes for every layer."""
    cache = plan.techniques.expert_cache
    assert cache is not None
    layers = [(layer.experts, count) for layer, count in stage.layers if layer.experts is not None]
    total = sum(experts.weight_bytes * count for experts, count in layers)
    share = None if cache.nbytes is None or not total else min(1.0, cache.nbytes / total)
    return tuple(
        CachedExperts(
            experts=experts,
            count=count,
            held=float(min(experts.local_experts, cache.experts or 0))
            if share is None
            else share * experts.local_experts,
        )
        for experts, count in layers
    )


def uncached_bytes(stage: StageLayout, plan: ParallelPlan) -> float:
    """Experts of a stage that one rank keeps outside the device [B]; 0 without a cache of experts."""
    if plan.techniques.expert_cache is None:
        return 0.0
    return sum(
        layer.count * (layer.experts.local_experts - layer.held) * layer.expert_bytes
        for layer in held_experts(stage, plan)
    )


def check_expert_cache(stages: tuple[StageLayout, ...], cluster: Cluster, plan: ParallelPlan) -> None:
    """UserError for a model without experts, a cache that cannot hold those of one token, or too little room below."""
    cache = plan.techniques.expert_cache
    if cache is None:
        return
    layers = [layer for stage in stages for layer in held_experts(stage, plan)]
    flag = "--expert-cache-size" if cache.nbytes is None else "--expert-cache-gb"
    if not layers:
        raise UserError(f"{flag}: the model has no routed experts to cache; drop it")
    for layer in layers:
        e = layer.experts
        least = -int(-e.experts_per_token // e.ep)
        if layer.held < least:
            need = sum(x.count * least * x.expert_bytes for x in layers) / len(stages)
            remedy = f"{least}" if cache.nbytes is None else f"{need * 1.001 / 2**30:.3g}"
            raise UserError(
                f"{flag} {cache.experts if cache.nbytes is None else cache.nbytes / 2**30:g} holds {layer.held:.2g} experts of "
                f"a layer; a token needs {least} on each device. Use {remedy} or more"
            )
        if cache.experts is not None and cache.experts > e.local_experts:
            raise UserError(
                f"--expert-cache-size is {cache.experts}; a device has {e.local_experts} experts of a layer. "
                f"Use at most {e.local_experts}"
            )
    stored = max(sum(x.weight_bytes * n for x, n in _stage_experts(stage)) for stage in stages)
    check_host_room(cluster, plan, stored, cache.source, flag)


def _stage_experts(stage: StageLayout) -> list[tuple[RankExperts, int]]:
    return [(layer.experts, count) for layer, count in stage.layers if layer.experts is not None]


def stage_cache(stage: StageLayout, cluster: Cluster, plan: ParallelPlan, skew: float) -> StageCache | None:
    """The cache of a stage's devices, or None without one."""
    cache = plan.techniques.expert_cache
    if cache is None:
        return None
    return StageCache(
        layers=held_experts(stage, plan),
        cache=cache,
        skew=skew,
        bandwidth_bytes_per_s=source_rate(cluster, plan, cache.source, "a cache of experts"),
    )
