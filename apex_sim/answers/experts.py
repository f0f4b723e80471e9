"""A placement of experts as a result."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apex_sim.answers.base import Answered
from apex_sim.experts_report import LATENCIES, experts_dict, experts_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from planners.experts.outcome import Answer


@dataclass(eq=False, kw_only=True, repr=False)
class ExpertsResult(Answered):
    """Which expert goes on which GPU, of :func:`apex_sim.experts`."""

    answer: Answer = field(repr=False)
    """All of it as objects: ``.plan.chosen.placement``, ``.question.deployment`` ..."""

    @cached_property
    def data(self) -> dict[str, Any]:
        """Everything as plain values: what ``apex-sim experts --json`` writes."""
        return experts_dict(self.answer)

    @property
    def headline(self) -> str:
        """The placement in words."""
        deployment, s = self.answer.question.deployment, self.summary
        return (
            f"{deployment.model.name} on {deployment.plan.ep} of {deployment.cluster.name}, busiest GPU "
            f"{s['imbalance_unseen']:.3f} times the mean (linear {s['linear_imbalance_unseen']:.3f})"
        )

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Of the chosen placement: balance on the tokens planned on and on the others, bounds, steps, latencies."""
        data, chosen = self.data, self.data["placements"][-1]
        first = data["placements"][0]
        return {
            "imbalance": data["balance"]["imbalance"],
            "imbalance_bound": data["balance"]["lower_bound"],
            "imbalance_unseen": chosen["unseen"]["imbalance"],
            "linear_imbalance_unseen": first["unseen"]["imbalance"],
            "traffic_gap": data["traffic"]["gap"],
            "cross_gpu_unseen": chosen["unseen"]["cross_gpu"],
            "cross_node_unseen": chosen["unseen"]["cross_node"],
            **{f"{name}_ms": 1e3 * chosen[f"{name}_s"] for name in ("decode_step", "experts", "exchange")},
            "linear_decode_step_ms": 1e3 * first["decode_step_s"],
            **chosen["summary"],
        }

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row per placement: busiest GPU over the mean, on tokens planned on and on the others; steps; latencies."""
        import pandas as pd

        shown = (*LATENCIES, *(("slo_attainment",) if self.answer.question.slo is not None else ()))
        rows = [
            {
                "placement": p["name"],
                "busiest_over_mean": p["planned"]["imbalance"],
                "busiest_over_mean_unseen": p["unseen"]["imbalance"],
                "changes_gpu": p["unseen"]["cross_gpu"],
                "changes_node": p["unseen"]["cross_node"],
                **{f"{name}_ms": 1e3 * p[f"{name}_s"] for name in ("decode_step", "experts", "exchange")},
                **{name: p["summary"].get(name) for name in shown},
            }
            for p in self.data["placements"]
        ]
        return pd.DataFrame(rows).set_index("placement")

    def figure(self, *placements: str) -> Figure:
        """Heat maps of tokens per GPU and layer, on tokens that were not planned on; default: the first and the chosen."""
        from apex_sim.plots.expert_loads import expert_load_figure
        from hardware_profiles.errors import unknown_name
        from simulator.experts.routing import demand_of

        known = {candidate.name: candidate.placement for candidate in self.answer.plan.candidates}
        names = placements or tuple(dict.fromkeys((next(iter(known)), list(known)[-1])))
        for name in names:
            if name not in known:
                raise unknown_name("placement", name, known)
        question = self.answer.question
        unseen = demand_of(question.routing.split(question.plan_share)[1])
        title = f"{question.deployment.model.name} on {question.deployment.plan.ep} GPUs: tokens per GPU and layer"
        return expert_load_figure(unseen, {name: known[name] for name in names}, title=title)

    def save(self, path: str | Path, *, layers: str = "moe") -> Path:
        """Write the placement as vLLM's tables (``layers="all"``: SGLang's), as ``apex-sim experts --out`` does."""
        import json

        from apex_sim.experts_inputs import moe_layers
        from apex_sim.files import prepare_file, write_text
        from hardware_profiles.errors import unknown_name
        from simulator.experts.placement_files import placement_dict

        if layers not in ("moe", "all"):
            raise unknown_name("layers", layers, ("moe", "all"))
        _, numbers, total = moe_layers(self.answer.question.deployment.model)
        target = prepare_file(path, "path")
        rows: Any = layers
        write_text(target, json.dumps(placement_dict(self.answer.plan.chosen.placement, numbers, total, rows)) + "\n")
        return target

    def html(self) -> str:
        """The report itself."""
        from apex_sim.command_arguments import repeat_of
        from apex_sim.html.experts import experts_report

        return experts_report(self.answer, repeat_of(self.args))

    def __str__(self) -> str:
        return experts_text(self.answer).rstrip("\n")
