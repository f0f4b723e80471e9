"""docs/api.md: its code runs, and it names every field that results have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import apex_sim as apex

PAGE = (Path(__file__).parent.parent / "docs" / "api.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.M | re.S)
NAMES = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`\n]+)`", PAGE))))
STATISTICS = re.compile(r"^(?:mean|median|std|p90|p95|p99)(_(?:ttft|tpot|itl|e2el|queue)_ms)$")


@pytest.fixture(scope="module")
def namespace(tmp_path_factory):
    """What the page's code leaves behind, run from top to bottom in an empty folder."""
    names: dict[str, object] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("docs"))
        for number, block in enumerate(BLOCKS, 1):
            exec(compile(block, f"docs/api.md, block {number}", "exec"), names)
    return names


def test_the_code_of_the_page_runs(namespace):
    assert len(BLOCKS) >= 8
    assert isinstance(namespace["result"], apex.SimulationResult)
    assert isinstance(namespace["best"], apex.PlanResult)


def test_the_page_names_every_public_name():
    assert set(apex.__all__) - {"__version__"} <= NAMES


def test_the_page_names_every_field_and_column(namespace):
    result, best = namespace["result"], namespace["best"]
    assert isinstance(result, apex.SimulationResult) and isinstance(best, apex.PlanResult)
    plan_only = best.table.columns[: best.table.columns.get_loc("completed")]
    step = namespace["step"]
    fields = {*result.summary, *result.requests, *result.timeline, *plan_only, *step}  # type: ignore[misc]
    documented = {name for name in fields if (m := STATISTICS.match(name)) is None or m[1] in NAMES}
    assert fields == documented
    assert {name for name in fields if STATISTICS.match(name) is None} <= NAMES


def test_the_page_names_every_argument():
    from inspect import signature

    from apex_sim.workload import WorkloadSettings
    from simulator.build import EngineSettings

    arguments = {*signature(apex.simulate).parameters, *signature(apex.plan).parameters} - {"settings"}
    assert arguments | set(WorkloadSettings.__annotations__) | set(EngineSettings.__annotations__) <= NAMES
