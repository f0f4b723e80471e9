"""What the commands ``gpus``, ``experts``, ``power`` and ``validate`` ask, as functions: names in, results out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from apex_sim.answers.experts import ExpertsResult
from apex_sim.answers.fleet import FleetResult
from apex_sim.answers.power import PowerResult
from apex_sim.answers.validation import ValidationResult
from apex_sim.api import AllSettings
from apex_sim.command_arguments import arguments, bar_of, comma_list, named_numbers, time_text
from apex_sim.setting_words import names_arguments

if TYPE_CHECKING:
    from hardware_profiles.schema import Cluster
    from simulator.experts.routing import Routing
    from workloads.model import ModelSpec
    from workloads.slo import Slo

Progress = Callable[[int, int], None]


@names_arguments
def gpus(
    model: ModelSpec | str | None = None,
    gpus: Sequence[str] | str | None = None,
    *,
    slo: Slo | str | None = None,
    profile: str | Path | None = None,
    prices: Mapping[str, float] | None = None,
    limits: Mapping[str, int] | None = None,
    autoscale: float | str | None = None,
    startup: float | str | None = None,
    slice_factor: int | None = None,
    skip_unserved: bool = False,
    headroom: bool = True,
    gap: float = 0.0,
    time_limit_s: float = 60.0,
    cache: str | Path | bool = True,
    engine: str = "vllm-v1",
    seed: int = 0,
    progress: Progress | None = None,
    **settings: Unpack[AllSettings],
) -> FleetResult:
    """The cheapest mix of GPU types for a workload within an SLO: ``apex-sim gpus`` (docs/gpus.md).

    gpus: types of instances, ``["l4", "h100-sxm:2"]`` (tensor parallel). prices: $/h of an instance, where not the
    profile's; limits: most instances to be had. profile: a JSON table of throughputs, in place of model, gpus and slo.
    autoscale: plan each window of the trace, ``"1h"`` or seconds; startup: paid for every start of an instance.
    headroom: add some until the simulated fleet keeps the SLO. gap: stop within this share of the bound.
    cache: folder in which throughputs are kept; True: the command's own, False: none.
    Workload, engine settings and terms as of :func:`apex_sim.simulate`.
    Returns a FleetResult: ``.counts``, ``.summary``, ``.table``, ``.sizes``, ``.figure()``, ``.export(folder)``.
    """
    from apex_sim.gpus_answer import answer_of, check

    args = arguments(
        "gpus",
        {
            **settings,
            "model": model,
            "gpus": comma_list("gpus", gpus),
            "slo": slo,
            "profile": profile,
            "price": named_numbers("prices", prices),
            "limit": named_numbers("limits", limits),
            "autoscale": time_text(autoscale),
            "startup": time_text(startup),
            "slice_factor": slice_factor,
            "skip_unserved": skip_unserved,
            "no_headroom": not headroom,
            "gap": gap,
            "time_limit": time_limit_s,
            "cache": None if isinstance(cache, bool) else cache,
            "no_cache": cache is False,
            "engine": engine,
            "seed": seed,
        },
    )
    check(args)
    return FleetResult(args=args, answer=answer_of(args, bar_of(progress), export=True))


@names_arguments
def experts(
    model: ModelSpec | str,
    cluster: Cluster | str,
    *,
    tp: int = 1,
    ep: int | None = None,
    redundant: int = 0,
    expert_groups: int | None = None,
    routing_trace: Routing | str | Path | None = None,
    tokens: int = 8192,
    skew: float | None = None,
    affinity: float | None = None,
    drift: float = 0.0,
    slack: float = 0.01,
    plan_share: float = 0.5,
    ilp_steps: int = 24,
    placement: str | Path | None = None,
    exchange: Literal["home", "onward"] = "home",
    batch: int = 64,
    slo: Slo | str | None = None,
    engine: str = "vllm-v1",
    seed: int = 0,
    **settings: Unpack[AllSettings],
) -> ExpertsResult:
    """Which expert of a mixture of experts goes on which GPU, beside the usual placements: ``apex-sim experts``
    (docs/experts.md).

    ep: GPUs the experts are spread over (default: all of the cluster); tp: of the rest. redundant: further copies of hot
    experts. routing_trace: recorded routing, a file or a Routing; without it, it is generated from ``tokens``, ``skew``
    (hottest expert over the mean), ``affinity`` of consecutive layers and ``drift``. ``plan_share`` of the tokens is
    planned on, the rest judges. batch: sequences per replica of the step shown. placement: a file to judge beside the
    others. The workload (as of :func:`apex_sim.simulate`, by default its sample) is simulated on each placement.
    Returns an ExpertsResult: ``.summary``, ``.table``, ``.figure()``, ``.save(path)``.
    """
    from apex_sim.experts_inputs import question_of
    from planners.experts.outcome import answer

    args = arguments(
        "experts",
        {
            **settings,
            "model": model,
            "cluster": cluster,
            "tp": tp,
            "ep": ep,
            "redundant": redundant,
            "expert_groups": expert_groups,
            "routing_trace": routing_trace,
            "tokens": tokens,
            "skew": skew,
            "affinity": affinity,
            "drift": drift,
            "slack": slack,
            "plan_share": plan_share,
            "ilp_steps": ilp_steps,
            "placement": placement,
            "exchange": exchange,
            "batch": batch,
            "slo": slo,
            "engine": engine,
            "seed": seed,
        },
    )
    return ExpertsResult(args=args, answer=answer(question_of(args)))


@names_arguments
def power(
    model: ModelSpec | str = "bloom-176b",
    cluster: Cluster | str = "a100-sxm:8",
    *,
    servers: int = 40,
    extra: float = 0.30,
    t1: float = 0.80,
    t2: float = 0.89,
    hysteresis: float = 0.05,
    search: bool = False,
    services: str | Path | None = None,
    budget_kw: float | None = None,
    peak_utilisation: float = 0.79,
    racks: int = 1,
    rack_budget_kw: float | None = None,
    load: float = 0.25,
    valley: float = 0.5,
    burst: float = 0.2,
    days: float = 1.0,
    reserve: float = 0.0,
    caps: Sequence[float] | str | None = None,
    high_first: bool = False,
    max_model_len: int = 12288,
    engine: str = "vllm-v1",
    grid: str | float | None = None,
    pue: float | None = None,
    usd_per_kwh: float | None = None,
    lifetime_years: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> PowerResult:
    """How many more servers a row's power budget carries under POLCA's manager: ``apex-sim power``
    (docs/oversubscribe.md).

    cluster: one server. servers: what the budget was made for; extra: share of them to add. t1, t2: thresholds, shares of
    the budget, from which clocks are lowered, low priority first; hysteresis: released so far below. search: also try
    pairs of thresholds with 0 to 40 % more servers. services: YAML list (default POLCA's mix). budget_kw, or
    peak_utilisation: peak of the row as it is, as a share of the budget. load, valley, burst: peak rate as a share of a
    server's capacity, and the day's shape. caps: power caps [W] that the ILP of fixed settings may use.
    Returns a PowerResult: ``.summary``, ``.table`` by policy, ``.services``, ``.series``, ``.with_extra(...)``, ``.figure()``.
    """
    from apex_sim.power_inputs import answer_of, setting_of

    given = {
        **{"model": model, "cluster": cluster, "servers": servers, "extra": extra, "t1": t1, "t2": t2},
        **{"hysteresis": hysteresis, "search": search, "services": services, "budget_kw": budget_kw, "racks": racks},
        **{"peak_utilisation": peak_utilisation, "rack_budget_kw": rack_budget_kw, "load": load, "valley": valley},
        **{
            "burst": burst,
            "days": days,
            "reserve": reserve,
            "caps": comma_list("caps", caps),
            "high_first": high_first,
        },
        **{"max_model_len": max_model_len, "engine": engine, "grid": grid, "pue": pue, "usd_per_kwh": usd_per_kwh},
        **{"lifetime_years": lifetime_years, "seed": seed},
    }
    args = arguments("power", given)
    setting = setting_of(args)
    return PowerResult(args=args, answer=answer_of(setting, args, bar_of(progress)))


@names_arguments
def validate(
    *files: str | Path,
    by: Sequence[str] | str = ("source", "metric"),
    metrics: Sequence[str] | None = None,
    match: str | None = None,
    goals: str | Path | None = None,
    fast: bool = False,
    seeds: int = 3,
    jobs: int = 1,
    progress: Progress | None = None,
) -> ValidationResult:
    """Measured serving runs beside their simulation: ``apex-sim validate`` (docs/validation.md).

    files: runs in our YAML or CSV, or a published table that is known; none: the cited figures that come along. by: labels
    to aggregate by. metrics, match: only these metrics, only runs whose id contains the text. fast: shorten long runs.
    seeds: replays where only distributions are known. jobs: processes (0: one per core); the result is the same.
    Returns a ValidationResult: ``.summary``, ``.table`` by group, ``.residuals``, ``.figure()``.
    """
    from apex_sim.validate_inputs import asked_of, outcome_of

    given: dict[str, Any] = {"by": comma_list("by", by), "match": match, "goals": goals, "fast": fast, "seeds": seeds}
    args = arguments("validate", {**given, "metric": None if metrics is None else list(metrics)})
    args.files, args.jobs = [str(file) for file in files], jobs
    asked = asked_of(args)
    return ValidationResult(args=args, outcome=outcome_of(asked, args, bar_of(progress)), by=asked.by)
