"""apex-sim: predict and plan the serving of large language models, without a GPU.

``simulate`` and ``plan`` take names (as the CLI does) or objects; see their docstrings. Everything is imported on first
use, so that ``import apex_sim`` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apex_sim.answers.experts import ExpertsResult
    from apex_sim.answers.fleet import FleetResult
    from apex_sim.answers.power import PowerResult
    from apex_sim.answers.validation import ValidationResult
    from apex_sim.api import build_deployment, generate_trace, load_cluster, load_model, load_trace, plan, simulate
    from apex_sim.bench_calibrate import calibrate_from_bench
    from apex_sim.checks.measured import check_measured
    from apex_sim.checks.run import check
    from apex_sim.concurrency import ConcurrencyCurve
    from apex_sim.export_check import check_export
    from apex_sim.exporting import export
    from apex_sim.frames import compare, describe, explain_step
    from apex_sim.html.write import write_report
    from apex_sim.load import LoadCurve, load_curve
    from apex_sim.questions import experts, gpus, power, validate
    from apex_sim.several import simulate_several
    from apex_sim.sweeps.api import sweep
    from apex_sim.sweeps.figures import sweep_figure, sweep_lines
    from apex_sim.sweeps.pareto import sweep_front
    from apex_sim.timeline import write_timeline
    from hardware_profiles.errors import UserError
    from planners.figures import pareto_figure
    from planners.parallel import PlanResult
    from simulator.build_disaggregated import build_disaggregated
    from simulator.deployment import Deployment
    from simulator.disaggregated import DisaggregatedDeployment
    from simulator.elastic.settings import Elasticity
    from simulator.figures import latency_figure, timeline_figure
    from simulator.result import SimulationResult
    from simulator.result_disaggregated import DisaggregatedResult
    from simulator.simulate_disaggregated import simulate_disaggregated
    from workloads.slo import Slo, parse_slo
    from workloads.synthetic import PromptPool, Sessions, SharedPrefix
    from workloads.trace import Trace

__version__ = "0.1.0"

_WHERE = {
    "simulate": "apex_sim.api",
    "plan": "apex_sim.api",
    "export": "apex_sim.exporting",
    "check_export": "apex_sim.export_check",
    "gpus": "apex_sim.questions",
    "experts": "apex_sim.questions",
    "power": "apex_sim.questions",
    "validate": "apex_sim.questions",
    "FleetResult": "apex_sim.answers.fleet",
    "ExpertsResult": "apex_sim.answers.experts",
    "PowerResult": "apex_sim.answers.power",
    "ValidationResult": "apex_sim.answers.validation",
    "load_model": "apex_sim.api",
    "load_cluster": "apex_sim.api",
    "load_trace": "apex_sim.api",
    "generate_trace": "apex_sim.api",
    "build_deployment": "apex_sim.api",
    "calibrate_from_bench": "apex_sim.bench_calibrate",
    "check": "apex_sim.checks.run",
    "check_measured": "apex_sim.checks.measured",
    "compare": "apex_sim.frames",
    "explain_step": "apex_sim.frames",
    "describe": "apex_sim.frames",
    "load_curve": "apex_sim.load",
    "ConcurrencyCurve": "apex_sim.concurrency",
    "LoadCurve": "apex_sim.load",
    "latency_figure": "simulator.figures",
    "timeline_figure": "simulator.figures",
    "pareto_figure": "planners.figures",
    "Deployment": "simulator.deployment",
    "Elasticity": "simulator.elastic.settings",
    "DisaggregatedDeployment": "simulator.disaggregated",
    "DisaggregatedResult": "simulator.result_disaggregated",
    "simulate_disaggregated": "simulator.simulate_disaggregated",
    "simulate_several": "apex_sim.several",
    "sweep": "apex_sim.sweeps.api",
    "sweep_figure": "apex_sim.sweeps.figures",
    "sweep_front": "apex_sim.sweeps.pareto",
    "sweep_lines": "apex_sim.sweeps.figures",
    "build_disaggregated": "simulator.build_disaggregated",
    "SimulationResult": "simulator.result",
    "PlanResult": "planners.parallel",
    "Slo": "workloads.slo",
    "parse_slo": "workloads.slo",
    "PromptPool": "workloads.synthetic",
    "Sessions": "workloads.synthetic",
    "SharedPrefix": "workloads.synthetic",
    "Trace": "workloads.trace",
    "UserError": "hardware_profiles.errors",
    "write_report": "apex_sim.html.write",
    "write_timeline": "apex_sim.timeline",
}

__all__ = [
    "ConcurrencyCurve",
    "Deployment",
    "DisaggregatedDeployment",
    "DisaggregatedResult",
    "Elasticity",
    "ExpertsResult",
    "FleetResult",
    "LoadCurve",
    "PlanResult",
    "PowerResult",
    "PromptPool",
    "Sessions",
    "SharedPrefix",
    "SimulationResult",
    "Slo",
    "Trace",
    "UserError",
    "ValidationResult",
    "__version__",
    "build_deployment",
    "build_disaggregated",
    "calibrate_from_bench",
    "check",
    "check_export",
    "check_measured",
    "compare",
    "describe",
    "experts",
    "explain_step",
    "export",
    "generate_trace",
    "gpus",
    "latency_figure",
    "load_cluster",
    "load_curve",
    "load_model",
    "load_trace",
    "pareto_figure",
    "parse_slo",
    "plan",
    "power",
    "simulate",
    "simulate_disaggregated",
    "simulate_several",
    "sweep",
    "sweep_figure",
    "sweep_front",
    "sweep_lines",
    "timeline_figure",
    "validate",
    "write_report",
    "write_timeline",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'apex_sim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
