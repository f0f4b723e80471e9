"""The configuration of results that no command line made: deployment, workload, terms."""

from __future__ import annotations

import dataclasses
from typing import Any

from simulator.deployment import Deployment
from simulator.result import SimulationResult
from simulator.result_disaggregated import DisaggregatedResult
from simulator.techniques import plan_values
from workloads.trace import Trace


def run_config(result: SimulationResult) -> dict[str, Any]:
    """Of a run."""
    from apex_sim import __version__

    shared = {
        "apex_sim_version": __version__,
        "seed": result.seed,
        "slo": None if result.slo is None else str(result.slo),
    }
    shared["workload"] = _workload(result.trace)
    if isinstance(result, DisaggregatedResult):
        link = dataclasses.asdict(result.deployment.kv_link())
        return {**shared, "kv_link": link, **{name: _deployment(pool) for name, pool in result.deployment.pools}}
    return {**shared, **_deployment(result.deployment)}


def plan_config(result: Any) -> dict[str, Any]:
    """Of a plan: what ``plan_dict`` says beside its candidates."""
    from apex_sim.plan_report import plan_dict

    return {
        key: value for key, value in plan_dict(result).items() if key not in ("candidates", "pareto", "best", "counts")
    }


def _deployment(deployment: Deployment) -> dict[str, Any]:
    elasticity = deployment.elasticity
    return {
        "model": deployment.model.name,
        "cluster": deployment.cluster.name,
        "terms": dataclasses.asdict(deployment.cluster.terms),
        "site": dataclasses.asdict(deployment.cluster.site),
        "parallel": plan_values(deployment.plan),
        "engine": dataclasses.asdict(deployment.engine),
        "max_model_len": deployment.effective_max_model_len,
        "num_gpu_blocks": deployment.memory.num_blocks,
        "routing": deployment.routing,
        "elasticity": None if elasticity is None else dataclasses.asdict(elasticity),
    }


def _workload(trace: Trace) -> dict[str, Any]:
    return {
        "name": trace.name,
        "source": trace.source,
        "requests": len(trace),
        "concurrency": trace.concurrency,
        "input_tokens": int(trace.input_tokens.sum()),
        "output_tokens": int(trace.output_tokens.sum()),
    }
