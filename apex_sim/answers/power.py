"""A row under a power budget as a result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from apex_sim.answers.base import Answered
from apex_sim.power_report import power_dict, power_text
from hardware_profiles.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from apex_sim.power_inputs import PowerAnswer


@dataclass(eq=False, kw_only=True, repr=False)
class PowerResult(Answered):
    """A row of servers under a power budget, of :func:`apex_sim.power`."""

    answer: PowerAnswer = field(repr=False)
    """All of it as objects: ``.study``, ``.outcomes``, ``.static``."""

    @cached_property
    def data(self) -> dict[str, Any]:
        """Everything as plain values: what ``apex-sim power --json`` writes."""
        a = self.answer
        return power_dict(a.study, a.static, a.outcomes, a.searched)

    @property
    def headline(self) -> str:
        """The row in words."""
        s = self.summary
        holds = (
            "no brake, every SLO met" if s["holds"] else f"{s['brakes_per_day']:.3g} brakes per day or an SLO missed"
        )
        return f"{s['num_servers']} servers on the power of {self.data['num_servers']}: {holds}"

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Of the policy asked for: servers, brakes per day, peaks as shares of the budget, latencies, the ILP's answer."""
        outcome, fixed = self.data["outcome"], self.data["fixed_settings"]
        flat = {name: value for name, value in outcome.items() if not isinstance(value, dict | list)}
        slower = {f"worst_{p}_increase": max(c[f"{p}_increase"] for c in outcome["classes"]) for p in ("p50", "p99")}
        slower["services_missed"] = sum(not c["meets_slo"] for c in outcome["classes"])
        return flat | slower | {"budget_w": self.data["budget_w"], "fixed_servers_added": fixed["servers_added"]}

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row per policy on the row with its further servers; peaks and means are shares of the budget."""
        return _outcomes([self.data["outcome"], *self.data["compared"]], "policy")

    @cached_property
    def services(self) -> pd.DataFrame:
        """A row per service and priority: servers, latencies [s], their increases under the policy, whether its SLO is met."""
        import pandas as pd

        return pd.DataFrame(self.data["outcome"]["classes"]).set_index(["name", "priority"])

    @cached_property
    def series(self) -> pd.DataFrame:
        """The row over time, minute by minute: mean, highest and uncapped power [W], clocks [MHz], by ``time_s``."""
        import pandas as pd

        found = self.data["series"]
        columns = {name: found[name] for name in ("power_w", "highest_power_w", "uncapped_power_w", "braked_s")}
        columns |= {f"{priority}_clock_mhz": values for priority, values in found["clock_mhz"].items()}
        frame = pd.DataFrame(columns)
        frame.index = pd.RangeIndex(len(frame), name="time_s") * found["period_s"]
        return frame

    @cached_property
    def searched(self) -> pd.DataFrame:
        """With ``search=True``: a row per pair of thresholds and number of servers."""
        if "search" not in self.data:
            raise UserError("searched is empty; ask for it: power(..., search=True)")
        return _outcomes(self.data["search"], "policy", "num_servers")

    def with_extra(self, extra: Sequence[float]) -> pd.DataFrame:
        """A row per share of servers added, under the same policy: which numbers of servers hold."""
        from apex_sim.power_report import outcome_dict

        return _outcomes([outcome_dict(self.answer.study, outcome) for outcome in self._rows(extra)], "num_servers")

    def _rows(self, extra: Sequence[float]) -> list[Any]:
        from planners.oversubscribe.study import evaluate

        study, policy = self.answer.study, self.answer.outcomes[0].policy
        servers = study.setting.num_servers
        for share in extra:
            if not 0 <= share <= 1:
                raise UserError(f"extra has {share!r}; it must be a share of the servers between 0 and 1")
        return [evaluate(study, servers + round(share * servers), policy) for share in extra]

    def figure(self, extra: float | None = None) -> Figure:
        """Power of the row and its clocks over time; ``extra``: with another share of servers added."""
        from apex_sim.power_figure import power_figure

        outcome = self.answer.outcomes[0] if extra is None else self._rows([extra])[0]
        return power_figure(self.answer.study, outcome)

    def html(self) -> str:
        """The report itself."""
        from apex_sim.command_arguments import repeat_of
        from apex_sim.html.power import power_report

        a = self.answer
        return power_report(a.study, a.static, a.outcomes, a.searched, repeat_of(self.args))

    def __str__(self) -> str:
        a = self.answer
        return power_text(a.study, a.static, a.outcomes, a.searched)


def _outcomes(outcomes: Sequence[dict[str, Any]], *index: str) -> pd.DataFrame:
    """A row per outcome, its scalars and how long each priority ran capped."""
    import pandas as pd

    rows = []
    for outcome in outcomes:
        row = {name: value for name, value in outcome.items() if not isinstance(value, dict | list)}
        row |= {f"{priority}_capped_share": share for priority, share in outcome["capped_time_share"].items()}
        rows.append(row)
    return pd.DataFrame(rows).set_index(list(index))
