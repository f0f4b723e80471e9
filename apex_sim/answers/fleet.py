"""A fleet of GPUs as a result."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apex_sim.answers.base import Answered
from apex_sim.gpus_day import day_text
from apex_sim.gpus_report import fleet_text
from hardware_profiles.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from apex_sim.gpus_answer import FleetAnswer


@dataclass(eq=False, kw_only=True, repr=False)
class FleetResult(Answered):
    """How many instances of which GPU to rent, of :func:`apex_sim.gpus`."""

    answer: FleetAnswer = field(repr=False)

    @cached_property
    def data(self) -> dict[str, Any]:
        """Everything as plain values: what ``apex-sim gpus --json`` writes."""
        return self.answer.data

    @property
    def counts(self) -> dict[str, int]:
        """Instances by type; over a day those of the best fleet that never changes (``windows`` has the hours')."""
        if "windows" in self.data:
            return dict(self.data["static"]["counts"])
        return {kind["name"]: kind["count"] for kind in self.data["types"]}

    @property
    def headline(self) -> str:
        """The fleet in words."""
        if "windows" in self.data:
            hours = f"{self.data['hours']:.4g} h in {len(self.data['windows'])} windows"
            return (
                f"${self.data['usd']:.2f} for {hours}, ${self.data['static']['usd']:.2f} for a fleet that never changes"
            )
        return f"{self.words}, ${self.data['usd_per_hour']:.3f}/h for {self.data['rate_per_s']:.4g} requests/s"

    @property
    def words(self) -> str:
        """What to rent: ``2 x l4, 1 x h100-sxm``."""
        return ", ".join(f"{count} x {name}" for name, count in self.counts.items() if count) or "nothing to rent"

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Numbers of the fleet: dollars, bound, gap, instances, share of requests within the SLO."""
        found = {name: value for name, value in self.data.items() if not isinstance(value, dict | list)}
        return found | {"num_instances": sum(self.counts.values())} | dict(self.data.get("account", {}))

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row per type (over a day per window): instances, dollars per hour, load, what the type alone would take."""
        import pandas as pd

        if "windows" in self.data:
            windows = pd.DataFrame(self.data["windows"])
            counts = pd.DataFrame(windows["counts"].tolist())
            rest = windows.drop(columns=["counts", "alone_counts", "headroom"])
            return rest.join(counts).set_index("start_s")
        rows = pd.DataFrame([{k: v for k, v in kind.items() if k != "account"} for kind in self.data["types"]])
        return rows.rename(columns={"name": "type"}).set_index("type")

    @cached_property
    def sizes(self) -> pd.DataFrame:
        """A row per size of requests [tokens] of a fleet: rate [1/s], and the share that each type serves."""
        import pandas as pd

        if "windows" in self.data:
            raise UserError("sizes are of one fleet; over a day, table has the windows")
        rows = [{"size": s["size"], "rate_per_s": s["rate_per_s"], **s["shares"]} for s in self.data["sizes"]]
        return pd.DataFrame(rows).set_index("size").fillna(0.0)

    def figure(self) -> Figure:
        """Dollars per hour of the mix beside each type alone; over a day, the fleet by windows."""
        from apex_sim.plots.fleet_cost import fleet_cost_figure
        from apex_sim.plots.fleet_day import fleet_day_figure

        return fleet_day_figure(self.data) if "windows" in self.data else fleet_cost_figure(self.data)

    def export(self, folder: str | Path) -> list[str]:
        """Write launch commands, manifests and benchmarks of every type; their names (docs/exports.md)."""
        from apex_sim.exporting import write_export

        if self.answer.export is None:
            raise UserError(
                "export: only a fleet that was simulated, and does not change over the day, says what to start"
            )
        return [str(name) for name in write_export(self.answer.export(), str(folder))]

    def html(self) -> str:
        """The report itself."""
        from apex_sim.command_arguments import repeat_of
        from apex_sim.html.gpus import fleet_report

        return fleet_report(self.data, repeat_of(self.args), self.answer.simulated)

    def __str__(self) -> str:
        return day_text(self.data) if "windows" in self.data else fleet_text(self.data)
