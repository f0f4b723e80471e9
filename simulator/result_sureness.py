"""How sure a run's figures are: its kind of load, and the errors of measured runs of its kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.uncertainty import FAMILIES, SHARE, Interval, engine_family, interval, load_class

if TYPE_CHECKING:
    from simulator.result import SimulationResult


def load_of(result: SimulationResult) -> str:
    """closed loop, unsaturated, saturated or overloaded: see :func:`simulator.uncertainty.load_class`."""
    engine, done = result.deployment.engine, result.completed
    front_s = engine.request_fixed_s + engine.request_token_s * result.column("input_tokens")
    queue = (result.column("scheduled_s") - result.column("arrival_s") - front_s)[done]
    tpot = result.column("tpot_s")[done]
    if not len(queue) or np.isnan(tpot).all():
        return "unsaturated"
    return load_class(
        closed=result.trace.concurrency is not None or result.trace.duration_s == 0.0,
        queue_mean_s=float(queue.mean()),
        queue_p90_s=float(np.quantile(queue, 0.9)),
        tpot_mean_s=float(np.nanmean(tpot)),
        e2e_mean_s=float(result.column("e2e_s")[done].mean()),
    )


def intervals_of(result: SimulationResult) -> dict[str, Interval]:
    """Intervals by family of metrics; families without measured runs of this kind are absent."""
    deployment = result.deployment
    if deployment.speculative is not None:
        return {}  # no measured run of the validation drafts tokens
    if deployment.cluster.device.dataflow is not None:
        return {}  # nor runs on a spatial design
    if deployment.step_model.hybrids is not None:
        return {}  # nor waits for experts, nor attends elsewhere
    if deployment.sm_split is not None or deployment.interference is not None or deployment.pair_instances:
        return {}  # nor shares a device, nor keeps KV twice
    labels = {
        "engine": engine_family(deployment.engine.name),
        "provenance": deployment.step_model.provenance,
        "experts": "moe" if deployment.model.is_moe else "dense",
        "load": result.load,
    }
    found = {family: interval(family, labels) for family in FAMILIES}
    return {family: known for family, known in found.items() if known is not None}


def ranges(intervals: dict[str, Interval], latencies: dict[str, float]) -> dict[str, Any]:
    """The intervals as the summary has them: factors, and the ends around the mean latencies (None: unknown)."""
    ends: dict[str, float | None] = {}
    for family, name in (("ttft", "ttft"), ("tpot", "tpot"), ("itl", "itl"), ("e2e", "e2el")):
        known = intervals.get(family)
        pair = (None, None) if known is None else known.around(latencies[f"mean_{name}_ms"])
        ends[f"mean_{name}_ms_low"], ends[f"mean_{name}_ms_high"] = pair
    return {
        "interval_share": SHARE,
        "intervals": {
            family: {"low": i.low, "high": i.high, "figures": i.runs, "kind": i.kind_text}
            for family, i in intervals.items()
        },
        **ends,
    }
