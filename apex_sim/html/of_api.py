"""The configuration of results that no command line made: deployment, workload, terms."""

from __future__ import annotations

from typing import Any

from apex_sim.resolved import any_config
from simulator.result import SimulationResult
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
    return {**shared, **any_config(result.deployment)}


def plan_config(result: Any) -> dict[str, Any]:
    """Of a plan: what ``plan_dict`` says beside its candidates."""
    from apex_sim.plan_report import plan_dict

    return {
        key: value for key, value in plan_dict(result).items() if key not in ("candidates", "pareto", "best", "counts")
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
