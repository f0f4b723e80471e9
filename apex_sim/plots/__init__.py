"""Figures of results. Each function takes what the public API returns and gives a ``matplotlib.figure.Figure``.

``figure.savefig(...)`` writes any format; :func:`save` the same without dates, :func:`svg_text` an SVG element that follows
the page's colours in light and dark. Matplotlib is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apex_sim.plots.expert_loads import expert_load_figure
    from apex_sim.plots.fit import fit_figure
    from apex_sim.plots.fleet_cost import fleet_cost_figure
    from apex_sim.plots.fleet_day import fleet_day_figure
    from apex_sim.plots.gantt import gantt_figure
    from apex_sim.plots.load import compare_load_figure, load_figure
    from apex_sim.plots.power_row import power_figure
    from apex_sim.plots.roofline import roofline_figure
    from apex_sim.plots.step import step_figure
    from apex_sim.plots.tradeoff import tradeoff_figure
    from planners.figures import pareto_figure
    from simulator.figures import latency_figure, timeline_figure
    from simulator.validation.plots import accuracy_figure
    from workloads.figure_style import new_figure, png_bytes, save, svg_text

_WHERE = {
    "load_figure": "apex_sim.plots.load",
    "compare_load_figure": "apex_sim.plots.load",
    "tradeoff_figure": "apex_sim.plots.tradeoff",
    "latency_figure": "simulator.figures",
    "timeline_figure": "simulator.figures",
    "pareto_figure": "planners.figures",
    "step_figure": "apex_sim.plots.step",
    "roofline_figure": "apex_sim.plots.roofline",
    "gantt_figure": "apex_sim.plots.gantt",
    "fleet_cost_figure": "apex_sim.plots.fleet_cost",
    "fleet_day_figure": "apex_sim.plots.fleet_day",
    "expert_load_figure": "apex_sim.plots.expert_loads",
    "power_figure": "apex_sim.plots.power_row",
    "fit_figure": "apex_sim.plots.fit",
    "accuracy_figure": "simulator.validation.plots",
    "new_figure": "workloads.figure_style",
    "png_bytes": "workloads.figure_style",
    "save": "workloads.figure_style",
    "svg_text": "workloads.figure_style",
}

__all__ = [
    "accuracy_figure",
    "compare_load_figure",
    "expert_load_figure",
    "fit_figure",
    "fleet_cost_figure",
    "fleet_day_figure",
    "gantt_figure",
    "latency_figure",
    "load_figure",
    "new_figure",
    "pareto_figure",
    "png_bytes",
    "power_figure",
    "roofline_figure",
    "save",
    "step_figure",
    "svg_text",
    "timeline_figure",
    "tradeoff_figure",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'apex_sim.plots' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
