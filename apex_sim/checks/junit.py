"""A check as JUnit XML: one test case per case, its values as properties."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from apex_sim.checks.compare import CaseResult, CheckResult
from apex_sim.checks.text import change, figure, files_text

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 has no place for."""


def junit_xml(result: CheckResult) -> str:
    """One suite. Times are zero: a simulation's wall clock says nothing, and equal checks are equal files."""
    failing = [case for case in result.cases if case.fails(result.strict)]
    errors = [case for case in failing if case.status == "failed"]
    counts = {
        "tests": str(len(result.cases)),
        "failures": str(len(failing) - len(errors)),
        "errors": str(len(errors)),
        "time": "0",
    }
    root = ElementTree.Element("testsuites", {"name": "apex-sim check", **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": clean(result.suite.name), **counts, "skipped": "0"})
    for case in result.cases:
        _add(suite, case, result)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _add(suite: ElementTree.Element, case: CaseResult, result: CheckResult) -> None:
    attributes = {"classname": clean(result.suite.stem), "name": clean(case.name), "file": clean(str(result.suite))}
    node = ElementTree.SubElement(suite, "testcase", {**attributes, "line": str(case.line), "time": "0"})
    if case.values:
        properties = ElementTree.SubElement(node, "properties")
        for metric, value in case.values.items():
            ElementTree.SubElement(properties, "property", {"name": f"apex_sim.{metric}", "value": f"{value:.10g}"})
    if case.fails(result.strict):
        kind = "error" if case.status == "failed" else "failure"
        problem = ElementTree.SubElement(node, kind, {"message": clean(message(case)), "type": case.status})
        problem.text = clean(details(case))


def message(case: CaseResult) -> str:
    """One line: the reason, or the worst metric first; then files that changed."""
    return "; ".join(filter(None, (_message(case), files_text(case))))


def _message(case: CaseResult) -> str:
    if case.failure is not None:
        return case.failure
    moved = [d for d in case.differences if d.verdict in ("worse", "gone", "new")]
    moved = moved or [d for d in case.differences if d.verdict == "better"]
    moved.sort(key=lambda d: -abs(d.change or 0.0))
    parts = [
        {"gone": f"{d.metric} is gone", "new": f"{d.metric} is not stored"}.get(
            d.verdict, f"{d.metric} {figure(d.baseline)} -> {figure(d.value)} ({change(d)})"
        )
        for d in moved
    ]
    return ", ".join(parts)


def details(case: CaseResult) -> str:
    """All metrics of a case, a line each."""
    return "\n".join(
        f"{d.metric}: {figure(d.baseline)} -> {figure(d.value)} ({change(d)}) {d.verdict}" for d in case.differences
    )


def clean(text: str) -> str:
    """Without the control characters that would make the file unreadable."""
    return _FORBIDDEN.sub("?", text)
