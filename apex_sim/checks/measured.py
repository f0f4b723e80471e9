"""A benchmark's own figures beside the prediction of the same load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardware_profiles.errors import UserError, unknown_name

if TYPE_CHECKING:
    from simulator.validation.bench.result import BenchResult
    from simulator.validation.run import MeasuredRun

DEGREES = ("tp", "pp", "dp", "ep")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRow:
    """One figure of the tool beside its prediction."""

    name: str
    """As the tool calls it."""
    metric: str
    """The metric of docs/validation.md that means the same."""
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        """Signed: predicted / measured - 1."""
        return self.predicted / self.measured - 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredComparison:
    """One result of a benchmark tool, and what the simulator says about the same load."""

    place: str
    tool: str
    load: str
    rows: Sequence[MeasuredRow]
    notes: Sequence[str] = ()

    def beyond(self, rtol: float) -> list[MeasuredRow]:
        """Figures whose prediction is off by more than a share of the measured value."""
        return [row for row in self.rows if abs(row.error) > rtol]


def read_all(files: Sequence[str | Path], **given: Any) -> list[BenchResult]:
    """Every result of the files, with what the user states instead (see ``bench.result.replaced``)."""
    from simulator.validation.bench.files import read_bench
    from simulator.validation.bench.result import replaced

    return [replaced(result, **given) for file in files for result in read_bench(file)]


def runs_of(results: Sequence[BenchResult], model: str | None, deployment: Mapping[str, Any]) -> list[MeasuredRun]:
    """Measured runs on one deployment; the model and the layout are the files' where the user names none."""
    from simulator.validation.bench.result import run_of

    runs = []
    for result in results:
        chosen = model or result.model
        if chosen is None:
            raise UserError(f"{result.place}: does not name the model; give --model")
        layout = {name: deployment.get(name) or result.layout.get(name, 1) for name in DEGREES}
        runs.append(run_of(result, {**deployment, **layout, "model": chosen}))
    return runs


def compare_measured(
    results: Sequence[BenchResult],
    model: str | None,
    deployment: Mapping[str, Any],
    *,
    metrics: Sequence[str] | None = None,
    jobs: int = 1,
    progress: Any = None,
) -> list[MeasuredComparison]:
    """Simulate every result's load on ``deployment`` (fields of MeasuredRun) and set its figures beside the prediction's.

    metrics: only these, as the tool or this package calls them. Raises UserError for a load that cannot be simulated.
    """
    from simulator.validation.replay import predict_all

    predictions = predict_all(runs_of(results, model, deployment), jobs=jobs, progress=progress)
    found = []
    for result, prediction in zip(results, predictions, strict=True):
        if prediction.failure is not None:
            raise UserError(f"{result.place}: {prediction.failure}")
        rows = [
            MeasuredRow(name=f.name, metric=f.metric, measured=f.value, predicted=prediction.metrics[f.metric])
            for f in result.figures
            if metrics is None or f.name in metrics or f.metric in metrics
        ]
        found.append(
            MeasuredComparison(
                place=result.place, tool=result.tool, load=load_text(prediction.run), rows=rows, notes=result.notes
            )
        )
    if not any(comparison.rows for comparison in found):
        known = [f.name for result in results for f in result.figures]
        raise unknown_name("metric", ", ".join(metrics or ()), known)
    return found


def load_text(run: MeasuredRun) -> str:
    """The load in words."""
    load = run.workload
    count = len(load.requests) if load.requests is not None else load.num_requests
    if load.stages:
        count = load.stages[0].num_requests
        how = f"{count / load.stages[0].duration_s:.4g} requests/s"
    elif load.concurrency is not None:
        how = f"a closed loop of {load.concurrency}"
    elif load.requests is not None:
        how = "at the times of the file"
    else:
        how = f"{load.rate_per_s:.4g} requests/s, {load.arrival}" if load.rate_per_s else "all at once"
    lengths = "" if load.requests is not None else f", {load.input_len} input and {load.output_len} output tokens"
    return f"{count:,} requests, {how}{lengths}"


def measured_text(comparisons: Sequence[MeasuredComparison]) -> str:
    """A table per result."""
    from apex_sim.text import number, table

    parts = []
    for c in comparisons:
        rows = [(r.name, r.metric, number(r.measured, 4), number(r.predicted, 4), f"{r.error:+.1%}") for r in c.rows]
        notes = [f"note: {note}" for note in c.notes]
        head = f"{c.place} ({c.tool}): {c.load}"
        parts.append(
            "\n".join([head, table((c.tool, "meaning", "measured", "predicted", "error"), rows, left=2), *notes])
        )
    return "\n\n".join(parts)


def measured_dict(comparisons: Sequence[MeasuredComparison]) -> list[dict[str, Any]]:
    """The same for JSON."""
    return [
        {
            "file": c.place,
            "tool": c.tool,
            "load": c.load,
            "notes": list(c.notes),
            "figures": [
                {"name": r.name, "metric": r.metric, "measured": r.measured, "predicted": r.predicted, "error": r.error}
                for r in c.rows
            ],
        }
        for c in comparisons
    ]
