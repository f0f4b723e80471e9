"""A check for GitHub Actions: annotations on the suite's lines, and the job's summary."""

from __future__ import annotations

import os
from pathlib import Path

from apex_sim.checks.compare import CaseResult, CheckResult
from apex_sim.checks.junit import message
from apex_sim.checks.text import result_markdown
from hardware_profiles.errors import UserError

SUMMARY = "GITHUB_STEP_SUMMARY"
SUMMARY_LIMIT_BYTES = 1 << 20
"""GitHub drops a step's summary beyond 1 MiB."""


def annotation_lines(result: CheckResult) -> list[str]:
    """Workflow commands: an error per failing case, a notice per better one."""
    lines = []
    for case in result.cases:
        if case.fails(result.strict):
            lines.append(_command("error", result.suite, case))
        elif case.status == "improved":
            lines.append(_command("notice", result.suite, case))
    return lines


def _command(kind: str, suite: Path, case: CaseResult) -> str:
    where = f"file={_property(_in_workspace(suite))},line={case.line},title={_property(f'apex-sim: {case.name}')}"
    return f"::{kind} {where}::{_data(message(case))}"


def _in_workspace(path: Path) -> str:
    """Annotations want paths from the root of the checkout."""
    root = os.environ.get("GITHUB_WORKSPACE")
    absolute = path.resolve()
    if root and absolute.is_relative_to(Path(root).resolve()):
        return absolute.relative_to(Path(root).resolve()).as_posix()
    return path.as_posix()


def _data(text: str) -> str:
    """Escapes of a workflow command's message."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """Escapes of a workflow command's property."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def append_summary(text: str) -> Path | None:
    """Append to the file that $GITHUB_STEP_SUMMARY names; None when there is none."""
    name = os.environ.get(SUMMARY)
    if not name:
        return None
    path = Path(name)
    try:
        size = path.stat().st_size if path.exists() else 0
        text = text.encode()[: max(0, SUMMARY_LIMIT_BYTES - size - 1)].decode(errors="ignore")
        with path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
    except OSError as error:
        raise UserError(f"${SUMMARY} {path}: cannot be written: {error.strerror or error}") from None
    return path


def append_result(result: CheckResult) -> Path | None:
    """The check's table in the job's summary."""
    return append_summary(result_markdown(result))
