"""The report of ``apex-sim validate``: measured runs beside their simulation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from apex_sim.html import parts
from apex_sim.html.config import Repeat, configuration
from apex_sim.html.parts import Cell, section, spread, table
from apex_sim.html.provenance import runs_provenance
from apex_sim.html.validate_plots import panels
from apex_sim.text import number
from apex_sim.validate_text import limits_text, percent

if TYPE_CHECKING:
    from simulator.validation.outcome import Outcome
    from simulator.validation.run import MeasuredRun
    from simulator.validation.score import Aggregate

TITLE = "Predictions against measured runs"
ERRORS = "Errors are predicted / measured - 1; median, mean and p90 are of the absolute error."


def report_html(outcome: Outcome, by: Sequence[str], repeat: Repeat) -> str:
    """The whole document; the same bytes for the same outcome."""
    return parts.document(
        f"{TITLE}: apex-sim validate",
        [
            f"<h1>{TITLE}</h1>",
            parts.note(ERRORS),
            parts.tiles(_tiles(outcome)),
            parts.warnings_box([*repeat.warned, *_cautions(outcome)]),
            section("Goals", _goals(outcome)),
            *(_compared(outcome, by) if outcome.residuals else ()),
            section(
                "Could not be simulated", _left([(p.run, p.failure) for p in outcome.failures], "runs that failed")
            ),
            section("Skipped", _left([(run, run.skip) for run in outcome.skipped], "runs that are skipped")),
            section("Sources of the measured runs", _citations(outcome)),
            runs_provenance([p.run for p in outcome.predictions if p.failure is None]),
            configuration(repeat),
        ],
    )


def _compared(outcome: Outcome, by: Sequence[str]) -> list[str]:
    """Figures and tables of what was predicted."""
    return [
        section("Predicted against measured", parts.note("Bands are 10 and 20 %."), panels(outcome)),
        section("Measured figures inside the 80 % interval of their prediction", _coverage(outcome)),
        section(f"Error by {', '.join(by)}", _aggregates(outcome.aggregates(by), by)),
        section("Every run and metric", parts.FILTER, _runs(outcome)),
    ]


def _tiles(outcome: Outcome) -> dict[str, str]:
    found = {
        "measured runs": f"{len(outcome.runs):,}",
        "predicted": f"{len(outcome.predictions) - len(outcome.failures):,}",
        "failed": f"{len(outcome.failures):,}",
        "skipped": f"{len(outcome.skipped):,}",
        "figures compared": f"{len(outcome.residuals):,}",
    }
    met = sum(goal.met for goal in outcome.goals)
    return found | ({"goals met": f"{met} of {len(outcome.goals)}"} if outcome.goals else {})


def _cautions(outcome: Outcome) -> list[str]:
    lines = []
    if outcome.failures:
        lines.append(f"{len(outcome.failures):,} runs could not be simulated and are in no error.")
    missed = [f"{goal.goal.source} {goal.goal.metric}" for goal in outcome.goals if not goal.met]
    return [*lines, *([f"Goals missed: {', '.join(missed)}."] if missed else [])]


# -- tables -----------------------------------------------------------------------------------------------------------


def _text(text: str) -> Cell:
    return (text, None, "")


def _long(text: str) -> Cell:
    return (text, None, "id")


def _share(value: float, sign: bool = False) -> Cell:
    return (percent(value, sign=sign), value, "n")


def _amount(value: float) -> Cell:
    return (number(value, 4), value, "n")


def _left(rows: Sequence[tuple[MeasuredRun, str | None]], about: str) -> str:
    """Runs that are not compared, and why."""
    cells = [[_text(run.source), _long(run.id), _long(why or "")] for run, why in rows]
    return table(("source", "run", "reason"), cells, tall=True, about=about) if cells else ""


def _citations(outcome: Outcome) -> str:
    """Who measured, with how many runs."""
    counts: dict[tuple[str, str], int] = {}
    for run in outcome.runs:
        key = (run.source, run.citation or "not stated")
        counts[key] = counts.get(key, 0) + 1
    rows = [[_text(source), _long(said), (str(n), n, "n")] for (source, said), n in counts.items()]
    return table(("source", "measured by", "runs"), rows, tall=True, about="sources of the measured runs")


def _spread(ends: tuple[float, float] | None) -> Cell:
    if ends is None:
        return spread(None, None, "")
    return spread(*ends, f"{number(ends[0], 4)} to {number(ends[1], 4)}")


def _goals(outcome: Outcome) -> str:
    if not outcome.goals:
        return ""
    rows = [
        [_text(g.goal.source), _text(g.goal.metric), ("met", None, "good") if g.met else ("not met", None, "bad"),
         _text(limits_text(g.goal)), _share(g.reached.median), _share(g.reached.p90), _share(g.reached.worst),
         (str(g.reached.n), g.reached.n, "n"), (str(g.failures), g.failures, "n")]
        for g in outcome.goals
    ]  # fmt: skip
    return table(("source", "metric", "goal", "at most", "median", "p90", "worst", "n", "failed"), rows, about="goals")


def _coverage(outcome: Outcome) -> str:
    rows = [
        [_text(c.family), _share(c.share), (f"x{c.width:.2f}", c.width, "n"), (str(c.total), c.total, "n")]
        for c in outcome.coverage
    ]
    return table(("metrics", "inside", "median width", "n"), rows, about="coverage of intervals")


def _aggregates(groups: Sequence[Aggregate], by: Sequence[str]) -> str:
    rows = [
        [
            *map(_text, g.key),
            (str(g.n), g.n, "n"),
            _share(g.median),
            _share(g.mean),
            _share(g.p90),
            _share(g.signed, True),
        ]
        for g in groups
    ]
    return table((*by, "n", "median", "mean", "p90", "bias"), rows, about="errors")


def _runs(outcome: Outcome) -> str:
    rows = [
        [_text(r.run.source), _long(r.run.id), _text(r.run.device), _text(r.run.model.rpartition("/")[2]),
         _text(r.metric), _amount(r.predicted), _amount(r.measured), _share(r.error, True), _share(abs(r.error)),
         _spread(r.spread),
         _text(", ".join(r.classes.values()))]
        for r in outcome.residuals
    ]  # fmt: skip
    header = (
        "source",
        "run",
        "device",
        "model",
        "metric",
        "predicted",
        "measured",
        "error",
        "|error|",
        "over seeds",
        "class",
    )
    return table(header, rows, tall=True, name="runs", about="every run and metric")
