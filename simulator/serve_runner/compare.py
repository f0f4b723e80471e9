"""A served run beside the simulator's prediction of it, with the definitions of ``apex-sim validate``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulator.deployment import Deployment
from simulator.result import SimulationResult
from simulator.serve_runner.session import ServedRun
from simulator.simulate import simulate_deployment
from simulator.validation.metrics import View, predicted
from simulator.validation.run import MeasuredRun, Workload
from workloads.trace import Trace

METRICS = (
    *("ttft_mean_ms", "ttft_p50_ms", "ttft_p90_ms", "tpot_mean_ms", "itl_p50_ms", "itl_p90_ms", "e2e_mean_ms"),
    "output_tok_s",
)
SHOWN = ("ttft_mean_ms", "tpot_mean_ms", "itl_p50_ms", "e2e_mean_ms", "output_tok_s")
"""Those of the printed table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One load: measured (median over repeats), how far the repeats lie apart, and predicted."""

    name: str
    run: MeasuredRun
    noise: Mapping[str, float]
    """Range of the repeats over their median, by metric; empty for a single one."""
    predicted: Mapping[str, float]
    """Empty without a hardware profile."""
    served: ServedRun
    """The repeat whose mean E2E is the median."""


def _view(run: MeasuredRun, deployment: Deployment, result_of: SimulationResult) -> View:
    weights = np.ones(len(result_of.trace))
    return View(run=run, result=result_of, weights=weights, own_kv_blocks=deployment.memory.num_blocks)


def metrics_of(run: MeasuredRun, result: SimulationResult, power_w: float | None = None) -> dict[str, float]:
    """METRICS of a run, served or simulated; those that are not defined (TPOT of one-token answers) are left out."""
    view = _view(run, result.deployment, result)
    found = {metric: predicted(metric, view) for metric in METRICS}
    if power_w is not None:
        found["power_w"] = power_w
    return {metric: value for metric, value in found.items() if np.isfinite(value)}


def compare(
    name: str,
    repeats: Sequence[ServedRun],
    deployment: Deployment,
    described: MeasuredRun,
    *,
    predict: bool,
) -> Comparison:
    """Measured and predicted figures of one load. ``described`` says how the run is to be written down."""
    results = [SimulationResult(deployment=deployment, trace=r.trace, record=r.record) for r in repeats]
    figures = [metrics_of(described, result, r.power_w) for result, r in zip(results, repeats, strict=True)]
    common = [metric for metric in figures[0] if all(metric in f for f in figures)]
    measured = {metric: float(np.median([f[metric] for f in figures])) for metric in common}
    noise = {
        metric: (max(f[metric] for f in figures) - min(f[metric] for f in figures)) / measured[metric]
        for metric in common
        if len(figures) > 1 and measured[metric]
    }
    middle = sorted(range(len(repeats)), key=lambda i: figures[i]["e2e_mean_ms"])[(len(repeats) - 1) // 2]
    forecast: dict[str, float] = {}
    if predict:
        result = simulate_deployment(deployment, repeats[middle].trace)
        forecast = metrics_of(described, result)
        if "power_w" in measured:
            forecast["power_w"] = result.energy_j / result.duration_s
    return Comparison(
        name=name,
        run=dataclasses.replace(described, measured=measured),
        noise=noise,
        predicted=forecast,
        served=repeats[middle],
    )


def describe(
    name: str,
    trace: Trace,
    deployment: Deployment,
    *,
    model: str,
    cluster: str,
    engine: str,
    trace_file: str,
    note: str,
    dtype: str,
) -> MeasuredRun:
    """The run in validate's terms, without figures; ``model``, ``cluster`` and ``engine`` are what to write into the file."""
    limits = deployment.engine
    settings: dict[str, Any] = {
        "max_num_seqs": limits.max_num_seqs,
        "max_num_batched_tokens": limits.max_num_batched_tokens,
        "max_model_len": deployment.max_model_len,
        "block_size": limits.block_size,
        "num_gpu_blocks_override": deployment.num_gpu_blocks_override,
        "dtype": dtype,
    }
    return MeasuredRun(
        id=name,
        source="apex-serve",
        split="held-out",
        model=model,
        cluster=cluster,
        engine=engine,
        settings=settings,
        workload=Workload(trace=trace_file, concurrency=trace.concurrency),
        measured={},
        measured_by="engine",
        note=note,
    )


def runs_yaml(comparisons: Sequence[Comparison]) -> str:
    """The measured runs as ``apex-sim validate`` reads them."""
    import yaml

    runs = []
    for comparison in comparisons:
        run = comparison.run
        entry: dict[str, Any] = {"id": run.id, "source": run.source, "split": run.split, "model": run.model}
        entry |= {"cluster": run.cluster, "engine": run.engine, **run.settings}
        load = {"trace": run.workload.trace, "concurrency": run.workload.concurrency}
        entry["workload"] = {key: value for key, value in load.items() if value is not None}
        entry["measured"] = {metric: float(f"{value:.6g}") for metric, value in run.measured.items()}
        entry |= {"measured_by": run.measured_by, "note": run.note}
        runs.append(entry)
    return str(yaml.safe_dump({"runs": runs}, sort_keys=False, width=120))


def table(comparisons: Sequence[Comparison]) -> str:
    """Predicted beside measured, with the noise floor of the measurement."""
    width = max(len(c.name) for c in comparisons)
    lines = [f"{'run':{width}}  {'metric':13} {'measured':>10} {'predicted':>10} {'error':>8} {'noise':>7}"]
    for c in comparisons:
        label = c.name
        for metric in (*SHOWN, "power_w"):
            if metric not in c.run.measured:
                continue
            value, forecast = c.run.measured[metric], c.predicted.get(metric)
            cells = [f"{value:10.2f}", " " * 10, " " * 8]
            if forecast is not None and value:
                cells[1:] = [f"{forecast:10.2f}", f"{forecast / value - 1:+8.1%}"]
            noise = f"{c.noise[metric]:7.1%}" if metric in c.noise else ""
            lines.append(f"{label:{width}}  {metric:13} {' '.join(cells)} {noise}".rstrip())
            label = ""
    return "\n".join(lines) + "\n"
