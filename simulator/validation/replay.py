"""Replaying measured runs: from a MeasuredRun to what the simulator predicts for it."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, get_args

import numpy as np

from hardware_profiles.cluster import parse_cluster
from hardware_profiles.errors import UserError
from hardware_profiles.loader import load_device
from hardware_profiles.schema import Cluster
from simulator.build import build_deployment
from simulator.calibration.transfer import LEFT_OUT, Transfer, transferred
from simulator.deployment import Deployment
from simulator.engine_files import has_versions
from simulator.result import SimulationResult
from simulator.simulate import simulate_deployment
from simulator.validation.metrics import View, class_of, predicted
from simulator.validation.run import MeasuredRun
from simulator.validation.traffic import Traffic, is_random, traffic_of
from simulator.workers import Workers

Kernels = Literal["own", "transferred", "datasheet"]
"""Kernel efficiencies of a device: its own; those it would borrow from another generation, had nobody measured it; the
defaults of devices that nobody measured. The last two only for devices that were."""
KERNELS: tuple[Kernels, ...] = get_args(Kernels)

FRONT_END: Mapping[str, Any] = dict.fromkeys(
    ("request_fixed_s", "request_token_s", "response_s", "stream_token_s"), 0.0
)
"""What lies between a client and the engine's queue; times measured in the engine do not have it."""
LONG = 2000
"""Requests from which one seed is enough: the run averages by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to replay."""

    seeds: int = 3
    """Replays of a run of which only distributions are known; the mean is the prediction, the range its spread."""
    fast: bool = False
    """Long runs are shortened (see ``traffic.shortened``)."""
    constants: tuple[tuple[str, float], ...] = ()
    """Engine constants (fields of EngineProfile) that replace the profile's; for fits."""
    kernels: Kernels = "own"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What the simulator says about one run; ``failure`` when it cannot say anything."""

    run: MeasuredRun
    metrics: dict[str, float] = field(default_factory=dict)
    spread: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Lowest and highest value over seeds, where several were used."""
    classes: dict[str, str] = field(default_factory=dict)
    failure: str | None = None


def predict(run: MeasuredRun, options: Options | None = None) -> Prediction:
    """Replay one run."""
    return _replay_group([run], options or Options())[0]


def predict_all(
    runs: Sequence[MeasuredRun],
    options: Options | None = None,
    *,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[Prediction]:
    """Replay all runs, in the order given; the result does not depend on ``jobs``. Runs with ``skip`` are left out.

    Runs that differ in nothing but their window are one simulation.
    """
    options = options or Options()
    groups: dict[tuple[Any, ...], list[MeasuredRun]] = {}
    for run in runs:
        if run.skip is None:
            groups.setdefault(_group_key(run), []).append(run)
    tasks = sorted(groups.values(), key=lambda group: -_work(group[0]))
    predictions: dict[int, Prediction] = {}
    done, total = 0, sum(len(group) for group in tasks)
    for group, answers in zip(tasks, _map(tasks, options, jobs), strict=True):
        predictions.update({id(run): answer for run, answer in zip(group, answers, strict=True)})
        done += len(group)
        if progress is not None:
            progress(done, total)
    return [dataclasses.replace(predictions[id(run)], run=run) for run in runs if run.skip is None]


def _map(tasks: Sequence[list[MeasuredRun]], options: Options, jobs: int) -> Iterable[list[Prediction]]:
    if jobs <= 1 or len(tasks) < 2:
        yield from (_replay_group(group, options) for group in tasks)
        return
    with Workers(min(jobs, len(tasks))) as workers:
        yield from workers.map(_replay_group, tasks, [options] * len(tasks))


def _group_key(run: MeasuredRun) -> tuple[Any, ...]:
    """Runs of one key are one simulation; a run whose engine cannot be read stands alone, and fails when it is replayed."""
    try:
        return _simulation_key(run)
    except UserError:
        return (id(run),)


def _simulation_key(run: MeasuredRun) -> tuple[Any, ...]:
    """What decides the simulation: everything but the window, the measured figures and labels."""
    load = run.workload
    return (_deployment_key(run), run.kind, run.measured_by, id(load.requests), repr(load), run.window.steady)


def _deployment_key(run: MeasuredRun) -> tuple[Any, ...]:
    settings = tuple(sorted((name, value) for name, value in run.settings.items() if value is not None))
    return (run.model, run.cluster, engine_name(run), run.tp, run.pp, run.dp, run.ep, settings)


def engine_name(run: MeasuredRun) -> str:
    """The engine profile of the run's version, where the profile knows versions."""
    if run.engine_version is None or "@" in run.engine or not has_versions(run.engine):
        return run.engine
    return f"{run.engine}@{run.engine_version}"


def _work(run: MeasuredRun) -> float:
    """Rough size of a replay, so that the longest start first."""
    load = run.workload
    if load.requests is not None:
        return float(len(load.requests))
    return float(sum(stage.num_requests for stage in load.stages) or load.num_requests or 100)


def deployment_of(
    run: MeasuredRun, constants: tuple[tuple[str, float], ...] = (), kernels: Kernels = "own"
) -> Deployment:
    """The deployment a run was measured on, in the simulator's terms; cached, so that its physics is compiled once.

    ``constants`` replace the engine profile's (and are not cached).
    """
    deployment = _deployment(_deployment_key(run), kernels)
    if constants:
        changed: dict[str, Any] = dict(constants)
        engine = dataclasses.replace(deployment.engine, **changed)
        deployment = dataclasses.replace(deployment, engine=engine, _cache={})
    if run.measured_by == "engine":
        engine = dataclasses.replace(deployment.engine, **FRONT_END)
        return dataclasses.replace(deployment, engine=engine)
    return deployment


@cache
def _deployment(key: tuple[Any, ...], kernels: Kernels = "own") -> Deployment:
    model, cluster, engine, tp, pp, dp, ep, settings = key
    chosen: Any = dict(settings)
    machines = cluster if kernels == "own" else unmeasured(cluster, kernels)
    return build_deployment(model, machines, engine=engine, tp=tp, pp=pp, dp=dp, ep=ep, **chosen)


def unmeasured(spec: str, kernels: Kernels) -> Cluster:
    """The cluster as if nobody had measured its device. UserError for devices that nobody measured anyway."""
    cluster = parse_cluster(spec)
    device = cluster.device
    own = device.efficiency
    if own is None or own.provenance != "measured":
        raise UserError(f"{device.name} has no measured kernels that could be left out")
    efficiency = None
    if kernels == "transferred":
        source = next((s for target, s in LEFT_OUT["other generation"] if target == device.name), None)
        if source is None:
            raise UserError(f"no measured device of another generation stands in for {device.name}")
        lender = load_device(source)
        assert lender.efficiency is not None
        step = Transfer(source=source, distance="other generation", reason="left out")
        efficiency = transferred(lender.efficiency, lender, device, step, {})
    stripped = dataclasses.replace(device, efficiency=efficiency)
    return dataclasses.replace(cluster, node=dataclasses.replace(cluster.node, device=stripped))


def _own_kv_blocks(run: MeasuredRun) -> int:
    """KV blocks as the simulator works them out, without the measured number."""
    settings = {name: value for name, value in run.settings.items() if name != "num_gpu_blocks_override"}
    return _deployment(_deployment_key(dataclasses.replace(run, settings=settings))).memory.num_blocks


def _replay_group(runs: list[MeasuredRun], options: Options) -> list[Prediction]:
    """Runs that are windows of one simulation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            deployment = deployment_of(runs[0], options.constants, options.kernels)
            blocks = _own_kv_blocks(runs[0])
            results = [_simulate(runs[0], deployment, seed, options) for seed in range(_seeds(runs[0], options))]
            return [_prediction(run, results, blocks) for run in runs]
        except UserError as error:
            return [Prediction(run=run, failure=str(error)) for run in runs]
        except MemoryError:
            return [Prediction(run=run, failure="does not fit in memory; is num_requests right?") for run in runs]
        except Exception as error:  # our own fault: the run is named, the other thousand are not lost
            return [Prediction(run=run, failure=f"internal error: {error!r}") for run in runs]


def _seeds(run: MeasuredRun, options: Options) -> int:
    return options.seeds if is_random(run.workload) and _work(run) < LONG else 1


def _simulate(
    run: MeasuredRun, deployment: Deployment, seed: int, options: Options
) -> tuple[SimulationResult, Traffic]:
    traffic = traffic_of(run.workload, seed=seed, fast=options.fast, block_tokens=deployment.engine.block_size)
    result = simulate_deployment(deployment, traffic.trace, seed=seed)
    if not result.completed.any():
        raise UserError("no request completed: every prompt is longer than the deployment allows")
    return result, traffic


def _prediction(run: MeasuredRun, results: list[tuple[SimulationResult, Traffic]], blocks: int) -> Prediction:
    views = [
        View(run=run, result=result, weights=traffic.weights(run.window), own_kv_blocks=blocks)
        for result, traffic in results
    ]
    if not all(view.chosen.any() for view in views):
        return Prediction(run=run, failure="no simulated request of the window completed")
    values = {metric: [predicted(metric, view) for view in views] for metric in run.measured}
    failed = [metric for metric, found in values.items() if not np.isfinite(found).all()]
    if failed:
        return Prediction(run=run, failure=f"the simulation has no {failed[0]} for this run")
    return Prediction(
        run=run,
        metrics={metric: float(np.mean(found)) for metric, found in values.items()},
        spread={metric: (min(found), max(found)) for metric, found in values.items() if len(found) > 1},
        classes=class_of(views[0]),
    )
