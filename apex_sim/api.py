"""What notebooks and the CLI call: names in, results out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from hardware_profiles.cluster import parse_cluster
from hardware_profiles.errors import UserError
from hardware_profiles.schema import Cluster
from simulator.build import EngineSettings, build_deployment
from simulator.result import SimulationResult
from simulator.run import Progress
from simulator.simulate import simulate_deployment
from workloads.catalog import load_model
from workloads.model import ModelSpec
from workloads.slo import Slo, parse_slo
from workloads.synthetic import generate as generate_trace
from workloads.trace import Trace

if TYPE_CHECKING:
    from planners.parallel import Objective, PlanResult

__all__ = [
    "build_deployment",
    "generate_trace",
    "load_cluster",
    "load_model",
    "load_trace",
    "make_trace",
    "plan",
    "simulate",
]

DEFAULT_NUM_REQUESTS = 1000
SAMPLE_WORKLOAD = "chat_small"
"""Bundled workload that is used when none is given."""


class WorkloadSettings(TypedDict, total=False):
    """Keywords that describe a workload; see :func:`make_trace`."""

    trace: Trace | str | Path | None
    trace_format: str | None
    trace_sort: bool
    spread_ties: bool
    rate_scale: float
    rate: float | None
    input_len: str | int | None
    output_len: str | int | None
    num_requests: int | None
    arrival: str | None


class AllSettings(EngineSettings, WorkloadSettings, total=False):
    """Everything :func:`simulate` takes beside its named arguments."""


def load_cluster(cluster: Cluster | str) -> Cluster:
    """Cluster from 'h100-sxm:8', 'h100-sxm:8x4', a bundled name or a YAML file."""
    return cluster if isinstance(cluster, Cluster) else parse_cluster(cluster)


def load_trace(path: str | Path, **options: Any) -> Trace:
    """Read a trace file, a workload YAML or a bundled sample; ``options`` as workloads.options.ReadOptions, and format."""
    from workloads.spec import open_workload

    return open_workload(path, **options)


def make_trace(
    *,
    trace: Trace | str | Path | None = None,
    trace_format: str | None = None,
    trace_sort: bool = False,
    spread_ties: bool = False,
    rate_scale: float = 1.0,
    rate: float | None = None,
    input_len: str | int | None = None,
    output_len: str | int | None = None,
    num_requests: int | None = None,
    arrival: str | None = None,
    seed: int = 0,
) -> Trace:
    """The workload: a trace (object, file or YAML), or a synthetic one from rate [1/s], arrival process and lengths.

    ``rate`` with a trace rescales its time to that mean rate. Without trace and rate, the bundled sample is used.
    """
    if trace is None and rate is None and input_len is None and output_len is None and arrival is None:
        trace = SAMPLE_WORKLOAD
    if trace is None:
        if input_len is None or output_len is None:
            raise UserError("a synthetic workload needs both --input-len and --output-len (tokens, or a distribution)")
        generated = generate_trace(
            input_len=input_len,
            output_len=output_len,
            num_requests=DEFAULT_NUM_REQUESTS if num_requests is None else num_requests,
            rate_per_s=rate,
            arrival=arrival or "poisson",
            seed=seed,
        )
        return _rescaled(generated, rate_scale)
    for name, value in (("--input-len", input_len), ("--output-len", output_len), ("--arrival", arrival)):
        if value is not None and not (name == "--arrival" and not isinstance(trace, Trace)):
            raise UserError(f"{name} describes a synthetic workload; it cannot be combined with a trace")
    if isinstance(trace, Trace):
        replayed = trace
    else:
        options: dict[str, Any] = {"format": trace_format} if trace_format else {}
        options |= {name: True for name, on in (("sort", trace_sort), ("spread_ties", spread_ties)) if on}
        if arrival is not None:
            options |= {"arrival": arrival, "rate_per_s": rate, "seed": seed}
        replayed = load_trace(trace, **options)
    if num_requests is not None:
        if num_requests < 1:
            raise UserError(f"--num-requests is {num_requests}; it must be at least 1")
        replayed = replayed.head(num_requests)
    if rate is not None and arrival is None:
        if rate <= 0:
            raise UserError(f"--rate is {rate:g}; it must be greater than 0")
        replayed = replayed.scale_rate(rate / replayed.request_rate_per_s)
    return _rescaled(replayed, rate_scale)


def _rescaled(trace: Trace, factor: float) -> Trace:
    if factor == 1.0:
        return trace
    if not factor > 0:
        raise UserError(f"--rate-scale is {factor:g}; it must be greater than 0")
    return trace.scale_rate(factor)


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
    **settings: Unpack[AllSettings],
) -> SimulationResult:
    """Predict how a deployment serves a workload.

    model, cluster: names as in the CLI (``"llama-3.1-70b"``, ``"h100-sxm:8"``) or objects.
    tp, pp, dp, ep: parallel degrees. slo: ``"ttft=1s,tpot=50ms"`` or an Slo.
    Workload keywords: ``trace`` (Trace, file, YAML) or ``rate`` [1/s] with ``input_len``, ``output_len`` [tokens or
    distribution], ``num_requests``, ``arrival``. Engine keywords under the engine's names: ``max_num_seqs``,
    ``gpu_memory_utilization`` ...
    Returns a SimulationResult: ``.summary`` (dict, ``_ms`` fields in milliseconds), ``.requests`` and ``.timeline``
    (frames, seconds). Raises UserError for anything impossible, with the remedy.
    """
    workload, remaining = _split(settings)
    deployment = build_deployment(model, cluster, engine=engine, tp=tp, pp=pp, dp=dp, ep=ep, **remaining)
    _ = deployment.memory
    return simulate_deployment(
        deployment,
        make_trace(**workload, seed=seed),
        slo=parse_slo(slo) if isinstance(slo, str) else slo,
        seed=seed,
        exact_steps=exact_steps,
        progress=progress,
    )


def _split(settings: Any) -> tuple[WorkloadSettings, EngineSettings]:
    """Workload keywords and engine keywords apart; an unknown keyword is an error with the nearest name."""
    from hardware_profiles.errors import unknown_name

    workload_names, engine_names = WorkloadSettings.__annotations__, EngineSettings.__annotations__
    for name in settings:
        if name not in workload_names and name not in engine_names:
            raise unknown_name("setting", name, [*workload_names, *engine_names])
    workload: Any = {k: v for k, v in settings.items() if k in workload_names}
    engine: Any = {k: v for k, v in settings.items() if k in engine_names}
    return workload, engine


def plan(
    model: ModelSpec | str,
    cluster: Cluster | str,
    *,
    slo: Slo | str | None = None,
    objective: Objective = "cost",
    engine: str = "vllm-v1",
    max_rate: bool = False,
    quantizations: tuple[str | None, ...] = (None,),
    kv_cache_dtypes: tuple[str, ...] = ("auto",),
    top: int = 5,
    jobs: int = 1,
    seed: int = 0,
    **settings: Unpack[AllSettings],
) -> PlanResult:
    """Find how to serve a workload on a cluster: layouts and engine settings, bounded by physics, then simulated.

    objective: goodput, cost ($/1M output tokens), ttft, tpot (p95) or energy (J/output token). max_rate: also find the
    highest request rate each finalist serves within the SLO. quantizations, kv_cache_dtypes: what the planner may use.
    Returns a PlanResult: ``.best``, ``.table`` (frame of all candidates with the reason each lost), ``.pareto``.
    """
    from planners.parallel import plan_parallel
    from planners.space import SearchSpace

    workload, remaining = _split(settings)
    return plan_parallel(
        model=model if isinstance(model, ModelSpec) else load_model(model),
        cluster=load_cluster(cluster),
        trace=make_trace(**workload, seed=seed),
        slo=parse_slo(slo) if isinstance(slo, str) else slo,
        space=SearchSpace(
            engine=engine,
            quantizations=quantizations,
            kv_cache_dtypes=kv_cache_dtypes,
            settings={k: v for k, v in remaining.items() if v is not None},
        ),
        objective=objective,
        find_max_rate=max_rate,
        top=top,
        jobs=jobs,
        seed=seed,
    )
