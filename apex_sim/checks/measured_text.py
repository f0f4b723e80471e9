"""Measured beside predicted, for terminals, Markdown and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apex_sim.checks.measured import MeasuredComparison, MeasuredRow
    from simulator.validation.run import Lengths, MeasuredRun


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
    lengths = (
        ""
        if load.requests is not None
        else f", {_length(load.input_len)} input and {_length(load.output_len)} output tokens"
    )
    return f"{count:,} requests, {how}{lengths}"


def _length(length: Lengths | None) -> str:
    return f"{len(length)} observed" if isinstance(length, tuple) else str(length)


def measured_text(comparisons: Sequence[MeasuredComparison]) -> str:
    """A table per result."""
    from apex_sim.text import table

    parts = []
    for c in comparisons:
        rows = [_cells(r) for r in c.rows]
        notes = [f"note: {note}" for note in c.notes]
        head = f"{c.place} ({c.tool}): {c.load}"
        parts.append(
            "\n".join(
                [head, table((c.tool, "meaning", "measured", "predicted", "error", "80 % range"), rows, left=2), *notes]
            )
        )
    return "\n\n".join(parts)


def _cells(row: MeasuredRow) -> tuple[str, ...]:
    """A figure's line of a table."""
    from apex_sim.text import number

    return (
        row.name,
        row.metric,
        number(row.measured, 4),
        number(row.predicted, 4),
        f"{row.error:+.1%}",
        _range(row),
    )


def _range(row: MeasuredRow) -> str:
    from apex_sim.text import number

    if row.low is None:
        return "-"
    return f"{number(row.low)} to {number(row.high)}" + ("" if row.inside else ", not in it")


def measured_markdown(comparisons: Sequence[MeasuredComparison], verdict: str) -> str:
    """The tables for a job's summary, with what the terminal says."""
    from apex_sim.checks.text import cell

    lines = ["### apex-sim check: a benchmark beside its prediction", "", verdict, ""]
    for c in comparisons:
        lines += [
            cell(f"{c.place} ({c.tool}): {c.load}"),
            "",
            "| figure | meaning | measured | predicted | error | 80 % range |",
            "|---|---|---:|---:|---:|---:|",
        ]
        lines += [f"| {' | '.join(map(cell, _cells(r)))} |" for r in c.rows]
        lines += ["", *(f"- note: {cell(note)}" for note in c.notes), *([""] if c.notes else [])]
    return "\n".join(lines).rstrip() + "\n"


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
                | ({} if r.low is None else {"interval": [r.low, r.high]})
                for r in c.rows
            ],
        }
        for c in comparisons
    ]
