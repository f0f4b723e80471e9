"""Prefill and decode pools among the candidates of the parallel planner: splits of a cluster, built, bounded, simulated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hardware_profiles.errors import UserError
from hardware_profiles.schema import Cluster
from planners.bounds import bound, decode_only_s, decode_s, in_time, prefill_only_s, ttft_s
from planners.demand import WorkloadStats
from planners.draft_bounds import FIXED, Freedom, with_drafts
from planners.limits import Bounds, bounds_of, nothing_served
from planners.space import Candidate, SearchSpace, build, replica_counts, tensor_degrees
from simulator.batching import RESERVING
from simulator.deployment import Deployment
from simulator.disaggregated import DisaggregatedDeployment
from simulator.engine_loader import load_engine
from simulator.result import SimulationResult
from simulator.simulate import simulate_deployment
from simulator.simulate_disaggregated import simulate_disaggregated
from workloads.model import ModelSpec
from workloads.slo import Slo
from workloads.trace import Trace

AnyDeployment = Deployment | DisaggregatedDeployment


def enumerate_pools(model: ModelSpec, cluster: Cluster, space: SearchSpace) -> list[Candidate]:
    """All splits of the cluster into a prefill and a decode pool, each with a TP degree and a number of replicas as in
    ``enumerate_layouts``; neither pipelines nor expert parallelism."""
    engine = load_engine(space.engine, cluster.device)
    batching = space.settings.get("batching") or engine.batching
    if batching in RESERVING:
        raise UserError(
            f"--search pd: engine {engine.name} reserves memory for whole requests (batching {batching}) and cannot hand KV "
            "over; use vllm-v1, sglang or trtllm"
        )
    if cluster.num_devices < 2:
        raise UserError(
            f"--search pd: {cluster.name} has 1 device; two pools need at least 2, for example {cluster.device.name}:2"
        )
    degrees = tensor_degrees(model, cluster)
    splits = [
        (tp, dp, decode_tp, decode_dp)
        for tp in degrees
        for decode_tp in degrees
        for decode_dp in _counts((cluster.num_devices - tp) // decode_tp)
        for dp in _counts((cluster.num_devices - decode_tp * decode_dp) // tp)
    ]
    return [
        Candidate(
            tp=tp, pp=1, dp=dp, ep=1, quantization=quantization or "", kv_cache_dtype=kv, decode=(decode_tp, decode_dp)
        )
        for tp, dp, decode_tp, decode_dp in splits
        for quantization in space.quantizations
        for kv in space.kv_cache_dtypes
    ]


def _counts(limit: int) -> list[int]:
    return replica_counts(limit) if limit > 0 else []


def family_of(candidate: Candidate, space: SearchSpace) -> Candidate:
    """The candidate without drafts and ways of sharing prefixes: its steps cost the same."""
    return replace(candidate, draft="", cache=space.caches[0])


def build_shared(
    model: ModelSpec,
    cluster: Cluster,
    space: SearchSpace,
    candidate: Candidate,
    built: Mapping[Candidate, AnyDeployment],
) -> AnyDeployment:
    """As :func:`build_any`; the physics of steps, and what it has worked out, is that of the family where that is built."""
    deployment = build_any(model, cluster, space, candidate)
    family = built.get(family_of(candidate, space))
    if isinstance(deployment, Deployment) and isinstance(family, Deployment):
        _adopt(deployment, family)
    elif isinstance(deployment, DisaggregatedDeployment) and isinstance(family, DisaggregatedDeployment):
        for (_, pool), (_, other) in zip(deployment.pools, family.pools, strict=True):
            _adopt(pool, other)
    return deployment


def _adopt(deployment: Deployment, family: Deployment) -> None:
    for name in ("step_model", "smooth_stages", "prefill_s"):
        if name in family._cache:
            deployment._cache[name] = family._cache[name]


def build_any(model: ModelSpec, cluster: Cluster, space: SearchSpace, candidate: Candidate) -> AnyDeployment:
    """The deployment of a candidate, of one pool or two. Raises UserError when it is impossible."""
    if not candidate.decode:
        return build(model, cluster, space, candidate)
    tp, dp = candidate.decode
    single = replace(candidate, decode=())
    settings: dict[str, Any] = {key: value for key, value in space.settings.items() if key != "speculative_config"}
    return DisaggregatedDeployment(
        prefill=build(model, cluster, replace(space, settings=settings), replace(single, draft="")),
        decode=build(model, cluster, space, replace(single, tp=tp, dp=dp, ep=1, cache=_decode_cache(candidate))),
        link=space.kv_link,
        overlap=space.kv_overlap,
    )


def _decode_cache(candidate: Candidate) -> str:
    """Prefixes are found where prompts are computed: below the decode pool no memory is set aside for them."""
    return "off" if candidate.cache == "off" else ""


def first_of(deployment: AnyDeployment) -> Deployment:
    """The deployment itself, or its prefill pool, which takes the arrivals."""
    return deployment.prefill if isinstance(deployment, DisaggregatedDeployment) else deployment


def check_built(deployment: AnyDeployment) -> None:
    """UserError when the model does not fit."""
    if isinstance(deployment, DisaggregatedDeployment):
        deployment.check_memory()
    else:
        _ = deployment.memory, deployment.step_model


def simulate_any(deployment: AnyDeployment, trace: Trace, slo: Slo | None, seed: int) -> SimulationResult:
    """Run the trace on one pool or two."""
    if isinstance(deployment, DisaggregatedDeployment):
        return simulate_disaggregated(deployment, trace, slo=slo, seed=seed)
    return simulate_deployment(deployment, trace, slo=slo, seed=seed)


def bound_any(deployment: AnyDeployment, stats: WorkloadStats, slo: Slo | None, freedom: Freedom = FIXED) -> Bounds:
    """Bounds of a candidate on a workload; with ``freedom`` of all that differ from it in what that leaves open."""
    if isinstance(deployment, DisaggregatedDeployment):
        return bound_pools(deployment, stats, slo, freedom)
    return bound(deployment, stats, slo, freedom)


def bound_pools(
    deployment: DisaggregatedDeployment, stats: WorkloadStats, slo: Slo | None, freedom: Freedom = FIXED
) -> Bounds:
    """What neither pool can beat: prompts alone on the one; tokens, without their attention, on the other. Weak: transfers
    take no time, and memory never limits a batch."""
    prefill, decode = deployment.prefill, deployment.decode
    longest = deployment.effective_max_model_len
    caching = prefill.engine.prefix_caching or freedom.prefixes
    demand = stats.demand(longest, prefill.step_model.window, caching)
    if not len(demand.inputs):
        return nothing_served()
    drafted = with_drafts(demand, decode, stats, freedom)
    work = [prefill_only_s(prefill, demand), decode_only_s(decode, drafted)]
    busiest_s = max(float(seconds.sum()) for seconds in work)
    loaded = 1.0
    if slo is not None and slo.ttft_s is not None and stats.duration_s > 0:
        loaded = in_time(work[0], demand.arrival_s, demand.arrival_s + slo.ttft_s) / stats.requests
    return bounds_of(
        demand,
        stats,
        slo,
        ttft_s(prefill, demand),
        decode_s(decode, drafted),
        capacity_per_s=len(demand.inputs) / busiest_s,
        load=busiest_s / stats.duration_s if stats.duration_s > 0 else 0.0,
        loaded_attainment=loaded,
        busy_s=busiest_s,
    )
