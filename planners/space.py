"""What the parallel planner may choose from: layouts and engine settings, enumerated once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hardware_profiles.errors import UserError
from hardware_profiles.schema import Cluster, Link
from planners.caches import cache_settings
from simulator.build import build_deployment
from simulator.deployment import Deployment
from simulator.speculative.config import SpeculativeConfig
from workloads.model import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """Freedom of the search. ``settings`` are engine settings the user fixed (they apply to every candidate)."""

    engine: str = "vllm-v1"
    quantizations: tuple[str | None, ...] = (None,)
    """Weight formats the user allows; None is the checkpoint's own."""
    kv_cache_dtypes: tuple[str, ...] = ("auto",)
    settings: Mapping[str, Any] = field(default_factory=dict)
    batched_tokens: tuple[int, ...] = (2048, 4096, 8192, 16384)
    """Token budgets to try on the best layouts."""
    num_seqs: tuple[int, ...] = (64, 128, 256, 512, 1024)
    """Batch limits to try on the best layouts."""
    pools: bool = False
    """Also try prefill and decode on replicas of their own (:mod:`planners.pools`)."""
    kv_link: Link | None = None
    """Between such pools; None: what the cluster has."""
    kv_overlap: bool = False
    searched: tuple[str, ...] = ()
    """Techniques to choose beside layouts (:data:`planners.techniques.SEARCHES`)."""
    drafts: Mapping[str, SpeculativeConfig] = field(default_factory=dict)
    """Drafts to try, by label; beside none."""
    caches: tuple[str, ...] = ("",)
    """Ways of sharing prefixes to try (:data:`planners.caches.Cache`)."""
    assumptions: tuple[str, ...] = ()
    """What the searched techniques rest on, in words."""

    @property
    def has_techniques(self) -> bool:
        """There is something to choose beside layouts and pools."""
        formats = len(self.quantizations) * len(self.kv_cache_dtypes) > 1 and "quantization" in self.searched
        return formats or bool(self.drafts) or len(self.caches) > 1


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Candidate:
    """One way to serve: degrees, dtypes and batch limits (None: the engine's default for the device)."""

    tp: int
    pp: int
    dp: int
    ep: int
    quantization: str = ""
    kv_cache_dtype: str = "auto"
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    decode: tuple[int, ...] = ()
    """(tp, dp) of a decode pool of its own, the rest being the prefill pool; empty: one pool does both."""
    draft: str = ""
    """Label of its drafts in the space; empty: as the settings say."""
    cache: str = ""
    """How it shares prefixes; empty: as the settings say."""

    @property
    def num_devices(self) -> int:
        """Devices it occupies."""
        return self.tp * self.pp * self.dp + math.prod(self.decode) * bool(self.decode)

    @property
    def layout(self) -> str:
        """'tp4 dp2' and the like; of two pools 'prefill tp4 dp2 + decode tp8'."""
        if self.decode:
            tp, dp = self.decode
            first = dataclasses.replace(self, decode=())
            second = dataclasses.replace(first, tp=tp, dp=dp, ep=1)
            return f"prefill {first.layout} + decode {second.layout}"
        parts = [f"{name}{degree}" for name in ("tp", "pp", "dp", "ep") if (degree := getattr(self, name)) > 1]
        return " ".join(parts) or "tp1"

    @property
    def has_own_limits(self) -> bool:
        """Its batch limits are not the engine's defaults (or the user's)."""
        return self.max_num_seqs is not None or self.max_num_batched_tokens is not None

    def has_techniques(self, space: SearchSpace) -> bool:
        """It has formats, drafts or a way of sharing prefixes that plain candidates do not have."""
        formats = (self.quantization, self.kv_cache_dtype) != (space.quantizations[0] or "", space.kv_cache_dtypes[0])
        return bool(self.draft) or self.cache != space.caches[0] or (formats and "quantization" in space.searched)

    def with_limits(self, max_num_seqs: int | None, max_num_batched_tokens: int | None) -> Candidate:
        """The same layout with other batch limits."""
        return dataclasses.replace(self, max_num_seqs=max_num_seqs, max_num_batched_tokens=max_num_batched_tokens)


def build(model: ModelSpec, cluster: Cluster, space: SearchSpace, candidate: Candidate) -> Deployment:
    """The deployment of a candidate of one pool. Raises UserError when the layout is impossible."""
    settings: dict[str, Any] = dict(space.settings)
    if candidate.quantization:
        settings["quantization"] = candidate.quantization
    settings["kv_cache_dtype"] = candidate.kv_cache_dtype
    if candidate.max_num_seqs is not None:
        settings["max_num_seqs"] = candidate.max_num_seqs
    if candidate.max_num_batched_tokens is not None:
        settings["max_num_batched_tokens"] = candidate.max_num_batched_tokens
    if candidate.draft:
        settings["speculative_config"] = space.drafts[candidate.draft]
    settings |= cache_settings(cluster, candidate)
    degrees = {name: getattr(candidate, name) for name in ("tp", "pp", "dp", "ep")}
    return build_deployment(model, cluster, engine=space.engine, **degrees, **settings)


def enumerate_layouts(model: ModelSpec, cluster: Cluster, space: SearchSpace) -> list[Candidate]:
    """All layouts worth a look, batch limits at the engine's default.

    TP within a node, every degree that splits heads and MLP; PP in powers of two and over all devices; up to 8 replicas
    any number of them, beyond in steps of about a quarter, and the most that fit. Experts are split by TP, spread over
    the ranks of each replica, or (as vLLM does inside one server) over all tp * dp ranks.
    """
    layouts = [
        (tp, pp, dp, ep)
        for tp in tensor_degrees(model, cluster)
        for pp in _stages(min(cluster.num_devices // tp, model.num_layers))
        for dp in replica_counts(cluster.num_devices // (tp * pp))
        for ep in _expert_degrees(model, tp, dp)
    ]
    return [
        Candidate(tp=tp, pp=pp, dp=dp, ep=ep, quantization=quantization or "", kv_cache_dtype=kv)
        for tp, pp, dp, ep in layouts
        for quantization in space.quantizations
        for kv in space.kv_cache_dtypes
    ]


def limit_variants(deployment: Deployment, candidate: Candidate, space: SearchSpace) -> list[Candidate]:
    """The candidate with other token budgets and batch limits, one change at a time; none where the user fixed them."""
    engine = deployment.engine
    variants: list[Candidate] = []
    seqs, tokens = engine.max_num_seqs, engine.max_num_batched_tokens
    if space.settings.get("max_num_batched_tokens") is None:
        variants += [
            candidate.with_limits(min(seqs, budget), budget) for budget in space.batched_tokens if budget != tokens
        ]
    if space.settings.get("max_num_seqs") is None:
        variants += [candidate.with_limits(limit, tokens) for limit in space.num_seqs if limit < seqs]
    return variants


def tensor_degrees(model: ModelSpec, cluster: Cluster) -> list[int]:
    """TP within a node: every degree that splits heads and MLP."""
    most = min(cluster.node.num_devices, cluster.num_devices)
    return [tp for tp in range(1, most + 1) if _divides(model, tp)]


def _divides(model: ModelSpec, tp: int) -> bool:
    try:
        model.check_tp(tp)
    except UserError:
        return False
    return True


def _stages(limit: int) -> list[int]:
    """1, 2, 4 ... and ``limit``, which uses a cluster of three or six nodes to the full."""
    return sorted({1 << power for power in range(limit.bit_length())} | {limit})


EVERY_COUNT = 8
"""Up to so many replicas every number is tried."""


def replica_counts(limit: int) -> list[int]:
    """Every number of replicas up to EVERY_COUNT, beyond in steps of about a quarter, and ``limit``."""
    counts = list(range(1, min(limit, EVERY_COUNT) + 1))
    while counts[-1] < limit:
        counts.append(min(limit, counts[-1] + max(1, counts[-1] // 4)))
    return counts


def _expert_degrees(model: ModelSpec, tp: int, dp: int) -> list[int]:
    experts = max((g.mlp.num_experts for g in model.layers), default=0)
    return sorted({1} | {ranks for ranks in (tp, tp * dp) if experts and experts % ranks == 0})
