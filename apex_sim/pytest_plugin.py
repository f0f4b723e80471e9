"""pytest plugin: the fixture ``apex_check`` compares predictions with values stored beside the test (docs/checks.md)."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from apex_sim.checks.compare import CheckResult

OPTION = "--apex-update"
ROWS = "apex_sim_rows"
"""Attribute of a test's report: rows for the summary. Plain lists of text, which parallel workers can send."""
_ROWS_KEY = pytest.StashKey[list[list[str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option that rewrites stored values."""
    group = parser.getgroup("apex-sim", "predictions of apex-sim")
    group.addoption(
        OPTION, metavar="REASON", default=None, help="store the values of today, with the reason they changed"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Values are stored by one process."""
    reason = config.getoption(OPTION)
    if reason is not None and not reason.strip():
        raise pytest.UsageError(f"{OPTION} is empty; say in a line why the values change")
    if reason is not None and getattr(config.option, "numprocesses", None):
        raise pytest.UsageError(f"{OPTION} writes files that parallel workers would overwrite; add -n 0")


class ApexCheck:
    """What the fixture gives: call it with a result, or let it run a whole suite."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._node: pytest.Item = request.node
        self._reason: str | None = request.config.getoption(OPTION)
        self._used: set[str] = set()

    @property
    def baseline(self) -> Path:
        """The file beside the test's module that holds its values."""
        return self._node.path.with_name(f"{self._node.path.stem}.apex.yaml")

    def __call__(
        self,
        result: Any,
        name: str | None = None,
        *,
        metrics: tuple[str, ...] | list[str] | None = None,
        tolerances: Mapping[str, Any] | None = None,
        strict: bool = False,
    ) -> None:
        """Fail the test when ``result`` became worse than what is stored.

        result: what ``apex_sim.simulate`` returns, or a mapping of metrics as in its summary. name: needed where a test checks
        several results. metrics, tolerances: as in a suite, ``{"ttft": "3%", "default": {"rel": 0.01, "abs": 0.5}}``.
        """
        from apex_sim.checks.baseline import read_baseline
        from apex_sim.checks.compare import CheckResult, compare_case
        from apex_sim.checks.metrics import DEFAULT_METRICS, family_of, parse_tolerances, values_of

        entry = self._entry(name)
        wanted = tuple(DEFAULT_METRICS if metrics is None else metrics)
        for metric in wanted:
            family_of(metric)
        values = values_of(result if isinstance(result, Mapping) else result.summary, wanted)
        limits = parse_tolerances(tolerances or {}, "tolerances")
        stored = read_baseline(self.baseline).get(entry)
        kept = {} if stored is None or self._reason is not None else stored.values
        missing = [metric for metric in wanted if metric not in values and metric not in kept]
        if metrics is not None and missing:
            pytest.fail(f"apex_check: metrics: the result has no {', '.join(missing)}; leave it out", pytrace=False)
        if self._reason is not None:
            self._store(entry, values)
            stored = read_baseline(self.baseline).get(entry)
        case = compare_case(entry, values, stored, digest="", metrics=wanted, tolerances=limits)
        self._record(values, name)
        self._finish(
            CheckResult(suite=self._node.path, baseline=self.baseline, cases=[case], strict=strict),
            f"pytest {OPTION} 'reason'",
        )

    def suite(self, path: str | Path, *, match: str | None = None, jobs: int = 1, strict: bool = False) -> None:
        """Run a suite as ``apex-sim check`` does; relative paths are from the test's folder."""
        from apex_sim.checks.run import check, update

        file = self._node.path.parent / path
        if self._reason is not None:
            update(file, self._reason, match=match, jobs=jobs)
        result = check(file, match=match, jobs=jobs, strict=strict)
        for case in result.cases:
            self._record(case.values, case.name)
        self._finish(result, f"pytest {OPTION} 'reason'")

    def _entry(self, name: str | None) -> str:
        """Name of the entry: the test's, and the result's where it has one."""
        entry = self._node.name if name is None else f"{self._node.name}: {name}"
        if entry in self._used:
            raise pytest.UsageError(
                f"apex_check: {entry!r} is checked twice in one test; give each result a name of its own"
            )
        self._used.add(entry)
        return entry

    def _store(self, entry: str, values: Mapping[str, float]) -> None:
        from apex_sim.checks.baseline import Stored, baseline_text, read_baseline
        from apex_sim.files import prepare_file, write_text

        entries = read_baseline(self.baseline)
        old = entries.get(entry)
        if old is None or dict(old.values) != dict(values):
            entries[entry] = Stored(digest="", reason=" ".join(str(self._reason).split()), values=values)
            write_text(prepare_file(self.baseline, "baseline"), baseline_text(entries))

    def _record(self, values: Mapping[str, float], name: str | None) -> None:
        """Values as properties of the test in JUnit XML."""
        prefix = "apex_sim" if name is None else f"apex_sim.{name}"
        self._node.user_properties += [(f"{prefix}.{metric}", value) for metric, value in values.items()]

    def _finish(self, result: CheckResult, remedy: str) -> None:
        """Rows for the summary; the test fails when the check does, what moved first."""
        from apex_sim.checks.junit import message
        from apex_sim.checks.text import difference_rows, result_text

        rows = [list(row) for row in difference_rows(result.cases, everything=False)]
        self._node.stash.setdefault(_ROWS_KEY, []).extend(rows)
        if not result.passed:
            first = "; ".join(f"{case.name}: {message(case)}" for case in result.failing)
            pytest.fail(f"{first}\n\n{result_text(result, remedy=remedy)}", pytrace=False)


@pytest.fixture
def apex_check(request: pytest.FixtureRequest) -> ApexCheck:
    """Compare predictions with the values stored beside the test: ``apex_check(apex_sim.simulate(...))``."""
    return ApexCheck(request)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The rows travel with the report."""
    report = yield
    rows = item.stash.get(_ROWS_KEY, None)
    if rows and report.when == "call":
        setattr(report, ROWS, rows)
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What moved, on the terminal and in the job's summary."""
    from apex_sim.checks.github import SUMMARY, append_summary
    from apex_sim.checks.text import HEADER, markdown_table
    from apex_sim.text import table

    reports = [report for group in terminalreporter.stats.values() for report in group]
    rows = [row for report in reports for row in getattr(report, ROWS, ())]
    if not rows:
        return
    terminalreporter.section("predictions that moved (apex-sim)")
    terminalreporter.write_line(table(HEADER, rows, left=2))
    if os.environ.get(SUMMARY):
        append_summary("### Predictions that moved\n\n" + "\n".join(markdown_table(rows)))
