"""One case as text."""

from __future__ import annotations

import textwrap
from typing import Any

from apex_sim.case_studies.judge import runs_of
from apex_sim.case_studies.report import figure, published_text
from apex_sim.case_studies.schema import Case, Check


def case_text(case: Case) -> str:
    """Citation, set-up and every check with its runs."""
    cite = case.citation
    where = ", ".join(part for part in (cite.arxiv and f"arXiv {cite.arxiv}", cite.version, cite.venue) if part)
    lines = [
        f"{case.name}: {case.system} ({' '.join(case.rows)})",
        f"  {cite.title}" + (f" ({where})" if where else ""),
        f"  confidence {case.confidence}: figures from {case.evidence}",
        *_wrapped("set-up", case.setup),
        *_wrapped("notes", case.notes),
    ]
    for name, check in case.checks.items():
        lines += ["", *_check(name, check)]
    return "\n".join(lines) + "\n"


def _check(name: str, check: Check) -> list[str]:
    band = check.band
    inside = "direction only" if band is None else f"inside from {figure(band[0])} to {figure(band[1])}"
    lines = [f"{name} (grade {check.grade}): {' '.join(check.claim.split())}"]
    lines.append(
        f"  published {published_text(check)}; {inside}" + (f"; {check.published.text}" if check.published.text else "")
    )
    if check.tolerance is not None:
        lines += _wrapped("tolerance", check.tolerance.reason)
    lines += _wrapped("set-up", check.setup)
    lines.append(f"  compared: {check.compare} of {check.metric}")
    for which, run in runs_of(check).items():
        settings = ", ".join(_setting(key, value) for key, value in run.settings.items())
        measured = f" -> {run.metric}" if run.metric else ""
        lines += _wrapped(which, f"{run.kind}: {settings}{measured}")
    for key, fit in check.fitted.items():
        lines += _wrapped(f"fitted {key}", f"{fit.value:g} in {fit.low:g} to {fit.high:g}: {fit.reason}")
    return lines + _wrapped("notes", check.notes)


def _setting(key: str, value: Any) -> str:
    """A setting as text; of files their names, of terms what they are."""
    if key == "files":
        return f"files {', '.join(value)}"
    if key == "terms":
        return "; ".join(f"{name}: {', '.join(map(str, term.values()))}" for name, term in value.items())
    return str(value) if key == "expression" else f"{key}={value}"


def _wrapped(label: str, text: str) -> list[str]:
    if not text.strip():
        return []
    return textwrap.wrap(f"{label}: {' '.join(text.split())}", 118, initial_indent="  ", subsequent_indent="    ")
