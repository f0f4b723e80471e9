"""A check for people: a table for terminals, the same in Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from apex_sim.checks.compare import CaseResult, CheckResult, Difference

WORDS = {"same": "", "within": "within", "better": "better", "worse": "WORSE", "gone": "GONE", "new": "NOT STORED"}
HEADER = ("case", "metric", "baseline", "now", "change", "allowed", "")


UPDATE = "--update --reason '...'"


def result_text(result: CheckResult, *, everything: bool = False, remedy: str = UPDATE) -> str:
    """What moved, what failed, and counts.

    everything: metrics that are as stored too. remedy: how today's values are stored.
    """
    from apex_sim.text import table

    rows = difference_rows(result.cases, everything=everything)
    parts = [table(HEADER, rows, left=2)] if rows else []
    failures = [f"{case.name}: {case.failure}" for case in result.cases if case.failure is not None]
    parts += ["\n".join(failures)] if failures else []
    changed = [f"{case.name}: {files_text(case)}" for case in result.cases if files_text(case)]
    parts += ["\n".join(changed)] if changed else []
    if not result.baseline.exists():
        parts.append(f"{result.baseline} does not exist yet")
    if result.stale:
        parts.append(f"{result.baseline} has values of cases that {result.suite} has not: {', '.join(result.stale)}")
    parts.append(verdict_line(result, remedy))
    return "\n\n".join(parts)


def files_text(case: CaseResult) -> str:
    """Which files may be why the case moved; nothing where it did not."""
    if not case.changed or case.status == "passed":
        return ""
    verb = "is not as it was" if len(case.changed) == 1 else "are not as they were"
    return f"{', '.join(case.changed)} {verb} when its values were stored"


def verdict_line(result: CheckResult, remedy: str = UPDATE) -> str:
    """The last line: passed or not, and what to do."""
    count, failing = len(result.cases), result.failing
    improved = sum(1 for case in result.cases if case.status == "improved")
    if result.passed:
        extra = f", {improved} better than stored ({remedy} keeps that)" if improved else ""
        return f"passed: {count} {'case' if count == 1 else 'cases'}{extra}"
    left = f"{len(failing)} of {count} {'case' if count == 1 else 'cases'}"
    if not failing:
        return "FAILED: the baseline has entries left over (--strict)"
    if all(case.status == "failed" for case in failing):
        return f"FAILED: {left} cannot be simulated any more ({', '.join(case.name for case in failing)})"
    new = all(case.status == "no baseline" for case in failing)
    advice = "to store the values of today" if new else "if it is meant"
    return f"FAILED: {left} ({', '.join(case.name for case in failing)}); {advice}: {remedy}"


def difference_rows(cases: Sequence[CaseResult], *, everything: bool) -> list[tuple[str, ...]]:
    """One row per metric that moved, was lost or is new."""
    return [
        (case.name, d.metric, figure(d.baseline), figure(d.value), change(d), allowed(d), WORDS[d.verdict])
        for case in cases
        for d in case.differences
        if everything or d.verdict != "same"
    ]


def figure(value: float | None) -> str:
    """Five significant digits: enough to see a change of a tenth of a per cent."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:.5g}"


def change(difference: Difference) -> str:
    """Relative, with its sign."""
    share = difference.change
    if share is None:
        return "-"
    return "from 0" if math.isinf(share) else f"{share:+.2%}"


def allowed(difference: Difference) -> str:
    """The larger of both limits, as a share of the baseline where there is one."""
    if difference.baseline is None or difference.value is None:
        return "-"
    if difference.baseline == 0:
        return f"{difference.allowed:g}"
    return f"{difference.allowed / abs(difference.baseline):.2%}"


def result_markdown(result: CheckResult) -> str:
    """For a job's summary: verdict, what moved, failures."""
    lines = [f"### apex-sim check: {result.suite.name}", "", verdict_line(result), ""]
    rows = difference_rows(result.cases, everything=False)
    if rows:
        lines += [*markdown_table(rows), ""]
    for case in result.cases:
        if case.failure is not None:
            lines.append(f"- **{cell(case.name)}**: {cell(case.failure)}")
        if files_text(case):
            lines.append(f"- **{cell(case.name)}**: {cell(files_text(case))}")
    if result.stale:
        lines.append(f"- left over in `{result.baseline.name}`: {', '.join(map(cell, result.stale))}")
    return "\n".join(lines).rstrip() + "\n"


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table of differences."""
    head = ["| " + " | ".join((*HEADER[:-1], "verdict")) + " |", "|---|---|---:|---:|---:|---:|---|"]
    return head + ["| " + " | ".join(cell(text) for text in row) + " |" for row in rows]


def cell(text: str) -> str:
    """Text that cannot end a cell, a line or turn into markup."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
