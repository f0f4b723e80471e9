"""What notebooks and the CLI call: names in, results out."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from apex_sim.setting_words import names_arguments
from apex_sim.timeline import watch_of
from apex_sim.workload import WorkloadSettings, load_trace, make_trace
from hardware_profiles.cluster import parse_cluster
from hardware_profiles.errors import UserError
from hardware_profiles.schema import Cluster, Link
from hardware_profiles.terms import with_terms
from simulator.batching import RESERVING
from simulator.build import EngineSettings, build_deployment, name_of
from simulator.build_disaggregated import build_disaggregated, parse_pools
from simulator.deployment import Deployment
from simulator.disaggregated import DisaggregatedDeployment
from simulator.elastic.settings import Elasticity
from simulator.result import SimulationResult
from simulator.run import Progress
from simulator.setting_checks import check_number
from simulator.simulate import simulate_deployment
from simulator.simulate_disaggregated import simulate_disaggregated
from workloads.catalog import load_model
from workloads.model import ModelSpec
from workloads.slo import Slo, as_slo
from workloads.synthetic import generate as generate_trace
from workloads.trace import Trace

if TYPE_CHECKING:
    from planners.parallel import Objective, PlanResult

__all__ = [
    "WorkloadSettings",
    "build_deployment",
    "generate_trace",
    "load_cluster",
    "load_model",
    "load_trace",
    "make_trace",
    "plan",
    "simulate",
]

Pools = Mapping[str, Mapping[str, Any] | str] | tuple[str, str] | str
"""Of a disaggregated deployment: pool -> degrees, cluster, engine and settings; or as the command line writes them."""


class TermSettings(TypedDict, total=False):
    """Keywords for how the cluster is paid for and where it stands; see :func:`hardware_profiles.terms.with_terms`."""

    pricing: str | None
    usd_per_gpu_hour: float | None
    purchase_usd: float | None
    lifetime_years: float | None
    pue: float | None
    grid: str | float | None
    usd_per_kwh: float | None


class AllSettings(EngineSettings, WorkloadSettings, TermSettings, total=False):
    """Everything :func:`simulate` takes beside its named arguments."""


def load_cluster(cluster: Cluster | str) -> Cluster:
    """Cluster from 'h100-sxm:8', 'h100-sxm:8x4', a bundled name or a YAML file."""
    return cluster if isinstance(cluster, Cluster) else parse_cluster(name_of("cluster", cluster))


def _under(cluster: Cluster | str, terms: TermSettings) -> Cluster:
    """The cluster under the terms given; a file's own are checked where none are."""
    given = any(value is not None for value in terms.values())
    known = (
        cluster if isinstance(cluster, Cluster) else parse_cluster(name_of("cluster", cluster), check_terms=not given)
    )
    return with_terms(known, **terms)


@names_arguments
def simulate(
    model: ModelSpec | str,
    cluster: Cluster | str,
    *,
    engine: str = "vllm-v1",
    tp: int = 1,
    pp: int = 1,
    dp: int = 1,
    ep: int = 1,
    slo: Slo | str | None = None,
    seed: int = 0,
    exact_steps: bool = False,
    progress: Progress | None = None,
    disaggregate: Pools | None = None,
    kv_link: str | Link | None = None,
    kv_overlap: bool = False,
    elasticity: Elasticity | None = None,
    timeline: bool | tuple[float, float] = False,
    **settings: Unpack[AllSettings],
) -> SimulationResult:
    """Predict how a deployment serves a workload.

    model, cluster: names as in the CLI (``"llama-3.1-70b"``, ``"h100-sxm:8"``) or objects.
    tp, pp, dp, ep: parallel degrees. slo: ``"ttft=1s,tpot=50ms"`` or an Slo.
    Workload keywords: ``trace`` (Trace, file, YAML) or ``rate`` [1/s] with ``input_len``, ``output_len`` [tokens or
    distribution], ``num_requests``, ``arrival``, changes of token counts (``scale_output`` ...).
    Engine keywords under the engine's names: ``max_num_seqs``, ``gpu_memory_utilization`` ...
    Cost and carbon: ``pricing``, ``usd_per_gpu_hour``, ``purchase_usd``, ``lifetime_years``, ``pue``, ``grid``,
    ``usd_per_kwh`` (docs/costs.md).
    disaggregate: prefill and decode on replicas of their own, ``("prefill=tp2,dp2", "decode=tp4,dp1")`` or a mapping from
    pool to degrees, cluster, engine and settings; ``kv_link``, ``kv_overlap``: how KV gets from one to the other
    (docs/disaggregation.md). elasticity: autoscaling and failures of the ``dp`` replicas (docs/autoscaling.md).
    timeline: keep every step, or those that overlap (from, until) [s], for :func:`apex_sim.write_timeline`
    (docs/reports.md).
    Returns a SimulationResult: ``.summary`` (dict, ``_ms`` fields in milliseconds), ``.requests`` and ``.timeline``
    (frames, seconds); with ``disaggregate`` a DisaggregatedResult, which has ``.pools`` and ``.kv_transfer`` as well.
    Raises UserError for anything impossible, with the remedy.
    """
    workload, terms, remaining = _split(settings)
    machines, watch = _under(cluster, terms), watch_of(timeline)
    if disaggregate is not None:
        _no_degrees(tp=tp, pp=pp, dp=dp, ep=ep)
        pools = disaggregate if isinstance(disaggregate, Mapping) else parse_pools(_two(disaggregate))
        pair = build_disaggregated(
            model, machines, pools, engine=engine, kv_link=kv_link, kv_overlap=kv_overlap, terms=terms, **remaining
        )
        if elasticity is not None:
            pair = dataclasses.replace(pair, elasticity=elasticity)
        replayed = make_trace(**workload, seed=seed)
        check_pools_served(pair, replayed)
        return simulate_disaggregated(
            pair, replayed, slo=as_slo(slo), seed=seed, exact_steps=exact_steps, progress=progress, watch=watch
        )
    if kv_link is not None or kv_overlap:
        raise UserError("kv_link and kv_overlap have no meaning without two pools; give disaggregate")
    deployment = build_deployment(model, machines, engine=engine, tp=tp, pp=pp, dp=dp, ep=ep, **remaining)
    if elasticity is not None:
        deployment = dataclasses.replace(deployment, elasticity=elasticity)
    replayed = make_trace(**workload, seed=seed)
    check_served(deployment, replayed)
    return simulate_deployment(
        deployment, replayed, slo=as_slo(slo), seed=seed, exact_steps=exact_steps, progress=progress, watch=watch
    )


def _no_degrees(**degrees: int) -> None:
    for name, degree in degrees.items():
        if degree != 1:
            raise UserError(
                f"{name}={degree} beside disaggregate: each pool has its own layout; write prefill={name}{degree}"
            )


def _two(pools: object) -> tuple[str, ...]:
    """Texts of two pools."""
    texts = pools.split() if isinstance(pools, str) else pools
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"disaggregate is {pools!r}; give ('prefill=tp2,dp2', 'decode=tp4,dp1') or a mapping of pools")
    return tuple(texts)


def check_pools_served(deployment: Deployment | DisaggregatedDeployment, trace: Trace) -> None:
    """The same as :func:`check_served`, of one pool or two."""
    pools = [deployment] if isinstance(deployment, Deployment) else [pool for _, pool in deployment.pools]
    for pool in pools:
        check_served(pool, trace)


def check_served(deployment: Deployment, trace: Trace) -> None:
    """Refuse a deployment that does not fit or would refuse every request; warn of one that its engine would not start."""
    longest, positions = deployment.effective_max_model_len, deployment.model.max_position_embeddings
    shortest = int(trace.input_tokens.min())
    if shortest >= longest:
        cause = (
            "--max-model-len" if deployment.max_model_len is not None else "the longest request the deployment holds"
        )
        raise UserError(
            f"{trace.name}: all {len(trace):,} requests would be refused: the shortest prompt has {shortest:,} tokens, "
            f"{cause} is {longest:,}. Allow longer requests or send shorter ones"
        )
    if deployment.engine.batching in RESERVING and deployment.max_model_len is None:
        places = deployment.memory.kv_tokens // longest
        warnings.warn(
            f"engine {deployment.engine.name} reserves --max-model-len tokens for every request: at {longest:,}, what model "
            f"and memory allow, {max(places, 1):,} fit at once; set --max-model-len to the longest request you serve",
            stacklevel=3,
        )
    if longest > positions:
        warnings.warn(
            f"--max-model-len {longest} is more than the {positions} positions {deployment.model.name} was made for; "
            "engines refuse it unless told otherwise",
            stacklevel=3,
        )


def _split(settings: Any) -> tuple[WorkloadSettings, TermSettings, EngineSettings]:
    """Keywords of the workload, the terms and the engine apart; an unknown one is an error with the nearest name."""
    from hardware_profiles.errors import unknown_name

    groups = [kind.__annotations__ for kind in (WorkloadSettings, TermSettings, EngineSettings)]
    for name in settings:
        if not any(name in group for group in groups):
            raise unknown_name("setting", name, [known for group in groups for known in group])
    found: Any = tuple({k: v for k, v in settings.items() if k in group} for group in groups)
    return found  # type: ignore[no-any-return]


@names_arguments
def plan(
    model: ModelSpec | str,
    cluster: Cluster | str,
    *,
    slo: Slo | str | None = None,
    objective: Objective = "cost",
    engine: str = "vllm-v1",
    max_rate: bool = False,
    quantizations: tuple[str | None, ...] | None = None,
    kv_cache_dtypes: tuple[str, ...] | None = None,
    search: tuple[str, ...] = (),
    kv_link: str | Link | None = None,
    kv_overlap: bool = False,
    draft_acceptance: float | Mapping[str, float] | str | None = None,
    top: int = 5,
    jobs: int = 1,
    seed: int = 0,
    **settings: Unpack[AllSettings],
) -> PlanResult:
    """Find how to serve a workload on a cluster: layouts and engine settings, bounded by physics, then simulated.

    objective: goodput, cost ($/1M output tokens), request-cost ($/request), ttft, tpot (p95), energy (J/output token), kwh
    (at the meter) or carbon (gCO2e), both per 1M output tokens. Terms of cost and carbon as in :func:`simulate`.
    max_rate: also find the highest request rate each finalist serves within the SLO. quantizations, kv_cache_dtypes: formats
    the planner may use, beside the one that ``quantization`` or ``kv_cache_dtype`` names; None: that one alone.
    search: what else may be chosen, any of ``"pd"`` (prefill and decode on replicas of their own, with ``kv_link`` and
    ``kv_overlap`` as in :func:`simulate`), ``"quantization"``, ``"speculative"`` and ``"prefix-cache"``; draft_acceptance: of
    the drafts that are tried, one for all or by method.
    Returns a PlanResult: ``.best``, ``.table`` (frame of all candidates with the reason each lost), ``.pareto``.
    """
    from apex_sim.plan_space import search_space, with_search
    from planners.parallel import plan_parallel

    for name, value in (("top", top), ("jobs", jobs)):
        check_number(name, value, int, 1)
    workload, terms, remaining = _split(settings)
    spec = model if isinstance(model, ModelSpec) else load_model(name_of("model", model))
    machines = _under(cluster, terms)
    space = search_space(spec, machines, engine, quantizations, kv_cache_dtypes, remaining)
    replayed = make_trace(**workload, seed=seed)
    space = with_search(space, spec, machines, replayed, search, kv_link, kv_overlap, draft_acceptance)
    result = plan_parallel(
        model=spec,
        cluster=machines,
        trace=replayed,
        slo=as_slo(slo),
        space=space,
        objective=objective,
        find_max_rate=max_rate,
        top=top,
        jobs=jobs,
        seed=seed,
    )
    check_plan(result)
    return result


def check_plan(result: PlanResult) -> None:
    """UserError for a plan under which no request is served."""
    measured = result.best.measured
    if measured is not None and not measured.metrics["completed"]:
        check_pools_served(result.deployment(), result.trace)
