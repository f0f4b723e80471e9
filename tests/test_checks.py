"""Regression checks: suites, baselines, verdicts, what CI reads, exit codes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

import apex_sim
from apex_sim import UserError
from apex_sim.checks.baseline import Stored, baseline_text, read_baseline
from apex_sim.checks.compare import compare_values
from apex_sim.checks.metrics import DEFAULT_METRICS, Tolerance, family_of, parse_tolerances
from apex_sim.checks.run import update
from apex_sim.checks.suite import read_suite
from apex_sim.cli import main

pytest_plugins = "pytester"
ROOT = Path(__file__).resolve().parent.parent
SUITE = """\
defaults:
  cluster: h100-sxm:1
  workload: {rate: 8, input_len: 400, output_len: 60, num_requests: 40}
cases:
  - name: one
    model: llama-3.1-8b
  - name: two, slower
    model: llama-3.1-8b
    slo: ttft=1s
    max-num-batched-tokens: 512
"""
MODEL = {"model": "llama-3.1-8b", "cluster": "h100-sxm:1"}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A suite with its baseline."""
    path = tmp_path / "suite.yaml"
    path.write_text(SUITE)
    update(path, "first values")
    return path


def baseline_of(suite: Path) -> Path:
    return suite.with_name("suite.baseline.yaml")


def scale(suite: Path, metric: str, factor: float, *, case: int = 0) -> None:
    """Pretend that the baseline was something else."""
    path = baseline_of(suite)
    parts = re.split(rf"({metric}: )([\d.]+)", path.read_text())
    parts[3 * case + 2] = f"{float(parts[3 * case + 2]) * factor:.6g}"
    path.write_text("".join(parts))


def once_stored(suite: Path, case: str) -> None:
    """Add a case to the suite, with values as if it could be simulated once."""
    suite.write_text(suite.read_text() + case)
    added = read_suite(suite).cases[-1]
    entries = read_baseline(baseline_of(suite))
    entries[added.name] = Stored(digest=added.digest, reason="it fitted", values={"median_ttft_ms": 9.0})
    baseline_of(suite).write_text(baseline_text(entries))


def test_our_own_predictions_are_as_stored() -> None:
    result = apex_sim.check(ROOT / "checks" / "predictions.yaml")
    assert result.passed, [(c.name, c.failure, c.differences) for c in result.failing]


def test_the_same_check_is_the_same_bytes_whatever_the_workers(suite: Path) -> None:
    assert apex_sim.check(suite) == apex_sim.check(suite, jobs=2)
    before = baseline_of(suite).read_bytes()
    assert update(suite, "again") == ([], [])
    assert baseline_of(suite).read_bytes() == before


def test_a_regression_is_exit_code_1_and_an_improvement_is_not(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(suite)]) == 0
    scale(suite, "median_ttft_ms", 0.9)
    assert main(["check", str(suite)]) == 1
    text = capsys.readouterr().out
    assert re.search(r"^one +median_ttft_ms .* \+11\.11% +1\.00%  WORSE$", text, re.MULTILINE)
    assert "FAILED: 1 of 2 cases (one)" in text
    scale(suite, "median_ttft_ms", 1.3)
    assert main(["check", str(suite)]) == 0
    assert "1 better than stored" in capsys.readouterr().out
    assert main(["check", str(suite), "--strict"]) == 1


def test_throughput_down_is_a_regression_and_up_is_none(suite: Path) -> None:
    scale(suite, "output_throughput", 1.05)
    assert [case.status for case in apex_sim.check(suite).cases] == ["regression", "passed"]
    scale(suite, "output_throughput", 0.9)
    assert [case.status for case in apex_sim.check(suite).cases] == ["improved", "passed"]


def test_a_change_counts_when_it_is_beyond_both_limits() -> None:
    def verdict(value: float, **limits: float) -> str:
        tolerances = {"default": Tolerance(**limits)}
        return compare_values({"p95_ttft_ms": 100.0}, {"p95_ttft_ms": value}, ["p95_ttft_ms"], tolerances)[0].verdict

    assert verdict(102.0, rel=0.02) == "within"
    assert verdict(102.1, rel=0.02) == "worse"
    assert verdict(102.1, rel=0.02, abs=5.0) == "within"
    assert verdict(105.1, rel=0.02, abs=5.0) == "worse"
    assert verdict(97.0, rel=0.02) == "better"
    assert verdict(100.0, rel=0.0) == "same"
    assert (
        compare_values({"num_preemptions": 0.0}, {"num_preemptions": 1.0}, ["num_preemptions"], {})[0].verdict
        == "worse"
    )


def test_an_slo_that_is_no_longer_met_is_a_regression() -> None:
    values = {"slo_attainment": 0.95}, {"slo_attainment": 0.949}
    assert compare_values(*values, ["slo_attainment"], {})[0].verdict == "within"
    assert compare_values(*values, ["slo_attainment"], {}, 0.95)[0].verdict == "worse"
    assert compare_values(*values, ["slo_attainment"], {}, 0.99)[0].verdict == "within"


def test_the_nearest_tolerance_wins(suite: Path) -> None:
    tolerances = parse_tolerances({"default": "1%", "ttft": 0.05, "p95_ttft_ms": {"rel": "2%", "abs": 3}}, "t")
    assert tolerances["p95_ttft_ms"] == Tolerance(rel=0.02, abs=3.0)
    scale(suite, "median_ttft_ms", 0.97)
    assert not apex_sim.check(suite).passed
    assert apex_sim.check(suite, rtol=0.04).passed
    suite.write_text(SUITE + "tolerances: {ttft: 4%}\n")
    assert apex_sim.check(suite).passed


def test_metrics_that_appear_or_vanish_fail(suite: Path) -> None:
    text = baseline_of(suite).read_text()
    baseline_of(suite).write_text(text.replace("    slo_attainment: 1\n", ""))
    assert {d.verdict for c in apex_sim.check(suite).failing for d in c.differences} == {"same", "new"}
    baseline_of(suite).write_text(text.replace("    slo_attainment: 1\n", "    slo_attainment: 1\n", 1))
    suite.write_text(SUITE.replace("    slo: ttft=1s\n", ""))
    assert [case.status for case in apex_sim.check(suite).cases] == ["passed", "other settings"]


def test_a_case_without_or_with_another_baseline_fails(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite.write_text(SUITE.replace("rate: 8", "rate: 9") + "  - {name: three, model: llama-3.2-1b}\n")
    result = apex_sim.check(suite)
    assert [case.status for case in result.cases] == ["other settings", "other settings", "no baseline"]
    assert not result.passed
    baseline_of(suite).unlink()
    assert main(["check", str(suite)]) == 1
    out = capsys.readouterr().out
    assert "nothing is stored for it yet" in out
    assert f"{baseline_of(suite)} does not exist yet" in out
    assert "to store the values of today: --update" in out


def test_updating_asks_for_a_reason_and_changes_only_what_moved(
    suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = baseline_of(suite).read_text()
    assert main(["check", str(suite), "--update"]) == 2
    assert main(["check", str(suite), "--update", "--reason", " "]) == 2
    assert baseline_of(suite).read_text() == before
    scale(suite, "median_ttft_ms", 0.9)
    assert main(["check", str(suite), "--update", "--reason", "other  kernels\n"]) == 0
    assert capsys.readouterr().out == "1 entry changed: one\n"
    assert baseline_of(suite).read_text() == before.replace("reason: first values", "reason: other kernels", 1)


def test_updating_a_suite_that_cannot_run_writes_nothing(suite: Path) -> None:
    before = baseline_of(suite).read_bytes()
    suite.write_text(SUITE + "  - {name: three, model: llama-3.1-405b}\n")
    with pytest.raises(UserError, match=r"case 'three': "):
        update(suite, "more")
    assert baseline_of(suite).read_bytes() == before
    with pytest.raises(UserError, match=r"case 'three': "):
        apex_sim.check(suite)


def test_what_could_once_be_simulated_and_cannot_now_is_a_regression(
    suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    once_stored(suite, "  - {name: three, model: llama-3.1-405b}\n")
    result = apex_sim.check(suite)
    assert [case.status for case in result.cases] == ["passed", "passed", "failed"]
    assert not result.passed
    assert main(["check", str(suite)]) == 1
    assert "FAILED: 1 of 3 cases cannot be simulated any more (three)" in capsys.readouterr().out


def test_entries_of_cases_that_are_gone_are_named(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite.write_text(SUITE.partition("  - name: two")[0])
    assert main(["check", str(suite)]) == 0
    assert "values of cases that" in capsys.readouterr().out
    assert main(["check", str(suite), "--strict"]) == 1
    capsys.readouterr()
    assert main(["check", str(suite), "--update", "--reason", "fewer"]) == 0
    assert capsys.readouterr().out == "1 entry removed: two, slower\n"
    assert "two, slower" not in baseline_of(suite).read_text()


def test_a_slower_engine_is_caught(tmp_path: Path) -> None:
    engine = tmp_path / "mine.yaml"
    engine.write_text("base: vllm-v1\nname: mine\n")
    path = tmp_path / "suite.yaml"
    path.write_text(SUITE.replace("cluster:", "engine: mine.yaml\n  cluster:"))
    update(path, "first")
    engine.write_text("base: vllm-v1\nname: mine\nstep_fixed_s: 6.0e-4\n")
    worse = {d.metric for d in apex_sim.check(path).cases[0].differences if d.verdict == "worse"}
    assert {"median_tpot_ms", "p95_tpot_ms"} <= worse


def test_one_case_alone(suite: Path) -> None:
    assert [case.name for case in apex_sim.check(suite, match="two").cases] == ["two, slower"]
    scale(suite, "median_ttft_ms", 0.9)
    assert apex_sim.check(suite, match="two").passed
    assert update(suite, "only two", match="two") == ([], [])
    with pytest.raises(UserError, match="none of 2 cases"):
        apex_sim.check(suite, match="three")


def test_junit_says_what_pytest_says_too(suite: Path, tmp_path: Path) -> None:
    scale(suite, "median_ttft_ms", 0.9)
    once_stored(suite, '  - {name: "three <&\\u0001>", model: llama-3.1-405b}\n')
    files = [tmp_path / "a.xml", tmp_path / "b.xml"]
    assert [main(["check", str(suite), "--junit", str(file)]) for file in files] == [1, 1]
    assert files[0].read_bytes() == files[1].read_bytes()
    root = ElementTree.parse(files[0]).getroot()
    assert root.tag == "testsuites"
    (inner,) = root
    assert {k: inner.attrib[k] for k in ("tests", "failures", "errors")} == {
        "tests": "3",
        "failures": "1",
        "errors": "1",
    }
    cases = {case.attrib["name"]: case for case in inner.iter("testcase")}
    assert "median_ttft_ms" in cases["one"].find("failure").attrib["message"]  # type: ignore[union-attr]
    assert cases["three <&?>"].find("error") is not None
    assert {p.attrib["name"] for p in cases["two, slower"].iter("property")} >= {"apex_sim.p95_ttft_ms"}


def test_github_gets_annotations_and_a_summary(
    suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    scale(suite, "median_ttft_ms", 0.9)
    scale(suite, "median_tpot_ms", 1.1, case=1)
    assert main(["check", str(suite), "--format", "github"]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("::")]
    assert re.fullmatch(
        r"::error file=suite\.yaml,line=5,title=apex-sim%3A one::median_ttft_ms [\d.]+ -> [\d.]+ \(\+11\.11%25\)",
        lines[0],
    )
    assert lines[1].startswith("::notice file=suite.yaml,line=7,title=apex-sim%3A two%2C slower::median_tpot_ms")
    text = summary.read_text()
    assert text.startswith("before\n### apex-sim check: suite.yaml\n")
    assert "| one | median_ttft_ms |" in text
    assert main(["check", str(suite)]) == 1
    assert summary.read_text() == text


def test_json_and_markdown_say_the_same(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scale(suite, "median_ttft_ms", 0.9)
    assert main(["check", str(suite), "--json", "-"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert [case["status"] for case in data["cases"]] == ["regression", "passed"]
    assert main(["check", str(suite), "--format", "markdown"]) == 1
    assert "| one | median_ttft_ms |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cases: []", "has no cases"),
        ("cases: [{model: a}]", "case 1 has no name"),
        ("casse: []", "unknown field 'casse'"),
        (
            SUITE.replace("max-num-batched-tokens", "max-num-tokens"),
            "case 'two, slower': unknown setting 'max-num-tokens'",
        ),
        (SUITE.replace("two, slower", "one"), r"two cases are called 'one' \(lines 5 and 7\)"),
        (SUITE.replace("output_len", "outputlen"), "workload: unknown setting 'outputlen'"),
        (SUITE + "metrics: [p95_tfft_ms]", "unknown metric 'p95_tfft_ms'"),
        (SUITE + "metrics: 7", "metrics is 7"),
        (SUITE + "tolerances: {ttft: -1}", "tolerances: ttft is -1"),
        (SUITE + "tolerances: {ttft: {relative: 1}}", "unknown limit 'relative'"),
        (
            SUITE + "tolerances: {ttft: 5}",
            "tolerances: ttft is 5, a share; write 5% for per cent, or 500% if it is meant",
        ),
        (SUITE + "metrics: [median_ttft_ms, slo_attainment]", "case 'one': metrics: its run has no slo_attainment"),
        (SUITE + "tolerances: {tttf: 1}", "unknown metric or family 'tttf'"),
        (SUITE.replace("rate: 8", "rate: fast"), "case 'one': rate is 'fast'"),
        (SUITE.replace("ttft=1s", "tfft=1s"), "case 'two, slower': slo"),
        (SUITE + "baseline: 3", "baseline is 3"),
        (SUITE.replace("model: llama-3.1-8b", "mode: x", 1), "unknown setting 'mode'"),
        (SUITE.replace("    model: llama-3.1-8b\n", "", 1), "model is missing"),
        (SUITE.replace("{rate: 8,", "{rate: 8, rate: 9,"), "written twice"),
    ],
)
def test_mistakes_of_a_suite_are_one_line(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    assert main(["check", str(path)]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1


def test_other_mistakes_are_one_line(suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for value in ("fast", ".inf", ".nan"):
        baseline_of(suite).write_text(f"one: {{values: {{median_ttft_ms: {value}}}}}\n")
        assert main(["check", str(suite)]) == 2
        assert "it must be a finite number" in capsys.readouterr().err
    for arguments in (
        [str(tmp_path / "none.yaml")],
        [str(suite)],
        [str(suite), "--rtol", "-1"],
        [str(suite), "--rtol", "5"],
        [str(suite), "--rtol", "nan"],
        [str(suite), "--rtol", "2 ms"],
        [str(suite), "--jobs", "-1"],
        [str(suite), "--reason", "x"],
        [str(suite), "--update", "--reason", "x", "--junit", "a.xml"],
        [str(suite), "--junit", str(tmp_path / "no" / "a.xml")],
        [str(suite), "--baseline", str(tmp_path)],
    ):
        assert main(["check", *arguments]) == 2, arguments
        assert capsys.readouterr().err.count("\n") == 1


def test_files_beside_the_suite_are_found(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "mine.csv").write_text("arrival_s,input_tokens,output_tokens\n0,300,20\n0.5,300,20\n")
    path = tmp_path / "suite.yaml"
    path.write_text("cases: [{name: a, model: llama-3.1-8b, cluster: h100-sxm:1, workload: sub/mine.csv}]\n")
    assert update(path, "first").changed == ["a"]
    assert read_suite(path).cases[0].settings["trace"] == str(tmp_path / "sub" / "mine.csv")


def test_every_default_metric_is_one_of_a_run() -> None:
    summary = apex_sim.simulate(**MODEL, rate=8, input_len=300, output_len=20, num_requests=20, slo="ttft=1s").summary
    assert set(DEFAULT_METRICS) <= set(summary)
    assert {family_of(name) for name in DEFAULT_METRICS} == {
        "served",
        "ttft",
        "tpot",
        "throughput",
        "slo",
        "cost",
        "energy",
    }


TEST_FILE = """\
import apex_sim

def test_values(apex_check):
    apex_check({"median_ttft_ms": VALUE, "output_throughput": 100.0}, metrics=["median_ttft_ms", "output_throughput"])

def test_named(apex_check):
    apex_check({"median_ttft_ms": 20.0}, metrics=["median_ttft_ms", "slo_attainment"])

def test_run(apex_check):
    run = apex_sim.simulate("llama-3.1-8b", "h100-sxm:1", rate=8, input_len=300, output_len=20, num_requests=20)
    apex_check(run, name="short", tolerances={"default": "2%"})

def test_suite(apex_check):
    apex_check.suite("suite.yaml")
"""


@pytest.fixture
def run(pytester: pytest.Pytester) -> Iterator[Callable[..., pytest.RunResult]]:
    """pytest within pytest, with the plugin."""
    options = ("-p", "apex_sim.pytest_plugin", "-p", "no:hypothesispytest", "-p", "no:xdist", "--assert", "plain")
    yield lambda *arguments: pytester.runpytest_inprocess(*options, *arguments)


def test_the_pytest_fixture_checks_results_and_suites(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]
) -> None:
    (pytester.path / "suite.yaml").write_text(SUITE)
    test = pytester.path / "test_it.py"
    test.write_text(TEST_FILE.replace("VALUE", "20.0"))
    run().assert_outcomes(failed=4)
    stored = run("--apex-update", "first values")
    stored.assert_outcomes(passed=3, failed=1)
    stored.stdout.fnmatch_lines(["apex_check: metrics: the result has no slo_attainment; leave it out"])
    assert "reason: first values" in (pytester.path / "test_it.apex.yaml").read_text()
    test.write_text(TEST_FILE.replace("VALUE", "21.0"))
    done = run("--junitxml", "junit.xml")
    done.assert_outcomes(failed=2, passed=2)
    done.stdout.fnmatch_lines(["test_values: median_ttft_ms 20 -> 21 (+5.00%)"])
    names = {p.attrib["name"] for p in ElementTree.parse(pytester.path / "junit.xml").iter("property")}
    assert {"apex_sim.median_ttft_ms", "apex_sim.short.p95_tpot_ms", "apex_sim.one.completed"} <= names
    assert run("--apex-update", "").ret == 4


PLANNED = """\
cases:
  - name: planned
    model: llama-3.1-8b
    cluster: h100-sxm:2
    slo: ttft=1s,tpot=50ms
    plan: {objective: cost}
    workload: {rate: 4, input_len: 300, output_len: 30, num_requests: 30}
"""


def test_a_plan_is_stored_and_another_one_is_a_regression(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(PLANNED)
    assert main(["check", str(path), "--update", "--reason", "first"]) == 0
    text = baseline_of(path).read_text()
    assert "  plan: tp1\n" in text
    assert "    num_gpus: 1\n" in text
    assert main(["check", str(path)]) == 0
    baseline_of(path).write_text(text.replace("plan: tp1", "plan: tp2"))
    capsys.readouterr()
    assert main(["check", str(path), "--junit", str(tmp_path / "j.xml")]) == 1
    assert "planned: the planner now chooses tp1, and chose tp2" in capsys.readouterr().out
    (failure,) = ElementTree.parse(tmp_path / "j.xml").getroot().iter("failure")
    assert failure.get("type") == "other plan"
    assert update(path, "cheaper").changed == ["planned"]
    path.write_text(PLANNED.replace("cost", "tpot"))
    assert [case.status for case in apex_sim.check(path).cases] == ["other settings"]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ("plan: 3", "plan is 3; write plan: true"),
        ("plan: {objectiv: cost}", "plan: unknown setting 'objectiv'"),
        ("plan: true\n    tp: 2", "tp beside plan: the planner chooses it"),
        ("plan: {objective: fame}", "case 'planned': .*fame"),
    ],
)
def test_mistakes_of_a_plan_are_one_line(
    plan: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(PLANNED.replace("plan: {objective: cost}", plan))
    assert main(["check", str(path)]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.count("\n") == 1


MIX = "gpus: {gpus: [l4, l40s], prices: {l4: 0.5}}"
QUESTIONS = """\
defaults: {slo: "ttft=3s,tpot=100ms", engine: vllm-v1, workload: {rate: 1, input_len: 300, output_len: 50, num_requests: 40}}
cases:
  - name: mix
    model: llama-3.2-3b
    gpus: {gpus: [l4, l40s], prices: {l4: 0.5}}
  - name: placed
    model: mixtral-8x7b
    cluster: h100-sxm:2
    experts: {tokens: 64, ilp-steps: 0}
    workload: {num_requests: 2}
"""


def test_other_planners_are_asked_as_their_functions_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(QUESTIONS)
    assert main(["check", str(path), "--update", "--reason", "first"]) == 0
    stored = read_baseline(baseline_of(path))
    mix = apex_sim.gpus("llama-3.2-3b", ["l4", "l40s"], slo="ttft=3s,tpot=100ms", rate=1, input_len=300, output_len=50,
                        num_requests=40, prices={"l4": 0.5}, cache=False)  # fmt: skip
    assert stored["mix"].plan == mix.words and stored["mix"].values["usd_per_hour"] == mix.summary["usd_per_hour"]
    found = apex_sim.experts("mixtral-8x7b", "h100-sxm:2", slo="ttft=3s,tpot=100ms", tokens=64, ilp_steps=0, rate=1,
                             input_len=300, output_len=50, num_requests=2)  # fmt: skip
    assert stored["placed"].values["decode_step_ms"] == pytest.approx(found.summary["decode_step_ms"], rel=1e-5)
    text = baseline_of(path).read_text()
    baseline_of(path).write_text(text.replace("plan: 1 x l4\n", "plan: 1 x l40s\n"))
    capsys.readouterr()
    assert main(["check", str(path), "--match", "mix"]) == 1
    assert "mix: the planner now chooses 1 x l4, and chose 1 x l40s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (MIX, "gpus: true", "gpus is True; write what it takes"),
        ("gpus: {gpus:", "gpus: {gpu:", "gpus: unknown setting 'gpu'. Did you mean 'gpus'"),
        ("gpus: {gpus:", "tp: 2\n    gpus: {gpus:", "tp has no meaning beside gpus"),
        ("gpus: {gpus:", "plan: true\n    gpus: {gpus:", "gpus beside plan: a case asks one"),
        (MIX, "power: {servers: 0}\n    max_num_seqs: 3", "max_num_seqs has no meaning"),
        (MIX, "power: true\n    workload: chat_small", "workload has no meaning beside power"),
        (MIX, "power: {servers: 0}", "case 'mix': .*servers is 0"),
    ],
)  # fmt: skip
def test_mistakes_of_other_planners_are_one_line(
    old: str, new: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(QUESTIONS.replace(old, new))
    assert main(["check", str(path), "--match", "mix"]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.count("\n") == 1
