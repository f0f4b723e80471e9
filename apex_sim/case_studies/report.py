"""Verdicts as a table for terminals, as Markdown, and as plain values for JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from apex_sim.case_studies.judge import Outcome
from apex_sim.case_studies.schema import Case, Check, SystemLine
from apex_sim.text import number, table

HEADER = ("check", "system", "grade", "published", "simulated", "ratio", "verdict")


def published_text(check: Check) -> str:
    """The published figure or band with its unit, or the direction."""
    if check.published.ends is None:
        return f"{check.published.direction} {figure(check.middle or 0.0)}"
    low, high = check.published.ends
    unit = f" {check.published.unit}" if check.published.unit else ""
    return f"{figure(low)}{unit}" if low == high else f"{figure(low)} to {figure(high)}{unit}"


def figure(value: float) -> str:
    """Three significant digits, more for counts."""
    return (
        f"{value:,.0f}" if value == round(value) and abs(value) < 1e7 else number(value, 4 if abs(value) < 1e7 else 3)
    )


def verdict_text(outcome: Outcome) -> str:
    """The verdict as printed."""
    return f"direction only: {outcome.verdict}" if outcome.check.grade == "C" else outcome.verdict


def rows(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """A row per check, under HEADER."""
    return [
        [
            outcome.title,
            outcome.case.system,
            outcome.check.grade,
            published_text(outcome.check),
            figure(outcome.simulated),
            "-" if outcome.ratio is None else f"{outcome.ratio:.3f}",
            verdict_text(outcome),
        ]
        for outcome in outcomes
    ]


def missing_systems(systems: Mapping[str, SystemLine], cases: Sequence[Case]) -> dict[str, SystemLine]:
    """Systems without a case."""
    expressed = {case.system for case in cases}
    return {name: line for name, line in systems.items() if name not in expressed}


def missing_rows(missing: Mapping[str, SystemLine]) -> list[list[str]]:
    """Rows under HEADER for systems without a case."""
    return [["-", name, "-", "-", "-", "-", f"not expressed: {line.missing}"] for name, line in missing.items()]


def _table(lines: Sequence[Sequence[str]]) -> str:
    """Numbers to the right, but the verdict, which may be a sentence, to the left."""
    body = table(HEADER[:-1], [line[:-1] for line in lines], left=2).splitlines()
    width = max(map(len, body))
    last = [HEADER[-1], "-" * len(HEADER[-1]), *(line[-1] for line in lines)]
    return "\n".join(f"{left:<{width}}  {right}" for left, right in zip(body, last, strict=True))


def summary_text(outcomes: Sequence[Outcome], missing: int) -> str:
    """How many checks got which verdict."""
    counts = Counter(verdict_text(outcome) for outcome in outcomes)
    parts = [f"{counts[name]} {name}" for name in sorted(counts)]
    tail = f"; {missing} systems not expressed" if missing else ""
    systems = len({outcome.case.system for outcome in outcomes})
    return f"{len(outcomes)} checks of {systems} systems: {', '.join(parts)}{tail}"


def results_text(outcomes: Sequence[Outcome], missing: Mapping[str, SystemLine]) -> str:
    """The table, then what lies outside with its notes, then counts."""
    lines = [_table([*rows(outcomes), *missing_rows(missing)]), ""]
    missed = [outcome for outcome in outcomes if outcome.verdict in ("OUTSIDE", "WRONG")]
    lines += [f"{outcome.title}: {_line(outcome.check.notes) or 'no note'}" for outcome in missed]
    lines.append(summary_text(outcomes, len(missing)))
    return "\n".join(lines) + "\n"


def list_text(cases: Sequence[Case], systems: Mapping[str, SystemLine]) -> str:
    """Cases with their checks, then systems without a case and what is missing."""
    lines = []
    for case in cases:
        grades = "".join(sorted({check.grade for check in case.checks.values()}))
        lines.append([case.name, case.system, " ".join(case.rows), grades, str(len(case.checks))])
    missing = missing_systems(systems, cases)
    absent = [[name, line.group, " ".join(line.rows), line.missing or "-"] for name, line in missing.items()]
    parts = [table(("case", "system", "rows", "grades", "checks"), lines, left=4)]
    partly = [[c.system, systems[c.system].missing or ""] for c in cases if _partly(systems, c.system)]
    if partly:
        parts += ["", table(("expressed in part", "what is missing"), _unique(partly), left=2)]
    if absent:
        parts += ["", table(("not expressed", "class", "rows", "what is missing"), absent, left=4)]
    return "\n".join(parts) + f"\n\n{len(cases)} cases; {len(absent)} systems not expressed\n"


def list_dict(cases: Sequence[Case], systems: Mapping[str, SystemLine]) -> dict[str, Any]:
    """The same for JSON."""
    listed = [
        {"name": c.name, "system": c.system, "rows": list(c.rows), "grades": {n: k.grade for n, k in c.checks.items()}}
        for c in cases
    ]
    return {"cases": listed, "not_expressed": {n: line.missing for n, line in missing_systems(systems, cases).items()}}


def _partly(systems: Mapping[str, SystemLine], name: str) -> bool:
    return name in systems and systems[name].missing is not None


def _unique(lines: list[list[str]]) -> list[list[str]]:
    return [line for index, line in enumerate(lines) if line not in lines[:index]]


def markdown(outcomes: Sequence[Outcome], missing: Mapping[str, SystemLine]) -> str:
    """The same table as Markdown, with the claims and, below, what is missing."""
    head = ("Case", "System", "Claim", "Grade", "Published", "Simulated", "Ratio", "Verdict")
    lines = [_cells(head), _cells(["---"] * len(head))]
    for outcome, row in zip(outcomes, rows(outcomes), strict=True):
        lines.append(_cells([*row[:2], _line(outcome.check.claim), *row[2:]]))
    lines += ["", _cells(("Not expressed", "Class", "Rows", "What is missing")), _cells(["---"] * 4)]
    lines += [_cells((name, s.group, " ".join(s.rows), s.missing or "-")) for name, s in missing.items()]
    return "\n".join(lines) + "\n"


def _cells(values: Sequence[str]) -> str:
    return "| " + " | ".join(value.replace("|", "\\|") for value in values) + " |"


def _line(text: str) -> str:
    return " ".join(text.split())


def _listed(pair: tuple[float, float] | None) -> list[float] | None:
    return None if pair is None else list(pair)


def results_dict(outcomes: Sequence[Outcome], missing: Mapping[str, SystemLine]) -> dict[str, Any]:
    """Everything printed, as plain values."""
    return {
        "checks": [
            {
                "case": outcome.case.name,
                "check": outcome.name,
                "system": outcome.case.system,
                "rows": list(outcome.case.rows),
                "claim": _line(outcome.check.claim),
                "grade": outcome.check.grade,
                "confidence": outcome.case.confidence,
                "published": _listed(outcome.check.published.ends),
                "band": _listed(outcome.check.band),
                "unit": outcome.check.published.unit,
                "simulated": outcome.simulated,
                "ratio": outcome.ratio,
                "verdict": outcome.verdict,
                "notes": _line(outcome.check.notes),
            }
            for outcome in outcomes
        ],
        "not_expressed": [
            {"system": name, "class": line.group, "rows": list(line.rows), "missing": line.missing}
            for name, line in missing.items()
        ],
    }
