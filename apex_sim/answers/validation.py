"""Measured runs beside their simulation as a result."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from apex_sim.answers.base import Answered

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from simulator.validation.outcome import Outcome


@dataclass(eq=False, kw_only=True, repr=False)
class ValidationResult(Answered):
    """Measured runs beside their simulation, of :func:`apex_sim.validate`."""

    outcome: Outcome = field(repr=False)
    by: tuple[str, ...] = ()

    @cached_property
    def data(self) -> dict[str, Any]:
        """Everything as plain values: what ``apex-sim validate --json`` writes."""
        from simulator.validation.outcome import to_dict

        return to_dict(self.outcome, self.by)

    @property
    def headline(self) -> str:
        """How far off, in a line."""
        s = self.summary
        error = "" if s["median_abs_error"] is None else f", median error {s['median_abs_error']:.1%}"
        return f"{s['figures']:,} figures of {s['predicted']:,} of {s['runs']:,} measured runs{error}"

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Numbers of runs and figures, goals met, median and 90th percentile of the absolute errors (shares)."""
        import numpy as np

        errors = [abs(r.error) for r in self.outcome.residuals]
        return {
            **{name: self.data[name] for name in ("runs", "predicted", "failed", "skipped")},
            "figures": len(errors),
            "goals": len(self.outcome.goals),
            "goals_met": sum(goal.met for goal in self.outcome.goals),
            "passed": self.outcome.passed,
            "median_abs_error": float(np.median(errors)) if errors else None,
            "p90_abs_error": float(np.quantile(errors, 0.9)) if errors else None,
        }

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row per group of ``by``: number of figures and errors, predicted / measured - 1."""
        import pandas as pd

        columns = [
            *self.by,
            "n",
            "median_abs_error",
            "mean_abs_error",
            "p90_abs_error",
            "max_abs_error",
            "median_error",
        ]
        return pd.DataFrame(self.data["aggregates"], columns=columns).set_index(list(self.by))

    @cached_property
    def residuals(self) -> pd.DataFrame:
        """A row per run and metric, in the unit of its name: predicted, measured, error."""
        import pandas as pd

        rows = [(r.run.id, r.metric, r.predicted, r.measured, r.error) for r in self.outcome.residuals]
        frame = pd.DataFrame(rows, columns=["run", "metric", "predicted", "measured", "error"])
        return frame.set_index(["run", "metric"])

    def figure(self) -> Figure:
        """Predicted against measured, a panel per metric."""
        from simulator.validation.plots import accuracy_figure

        return accuracy_figure(self.outcome.residuals)

    def html(self) -> str:
        """The report itself."""
        from apex_sim.command_arguments import repeat_of
        from apex_sim.html.validate import report_html

        return report_html(self.outcome, self.by, repeat_of(self.args))

    def __str__(self) -> str:
        from apex_sim.validate_text import outcome_text

        return outcome_text(self.outcome, self.by)
