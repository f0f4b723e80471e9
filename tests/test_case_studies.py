"""Case studies: every file loads, every system is accounted for, verdicts and exit codes are what they say."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from apex_sim.case_studies.files import case_names, folder, load_cases, read_case, read_systems
from apex_sim.case_studies.formulas import evaluate
from apex_sim.case_studies.judge import runs_of
from apex_sim.case_studies.kinds import KINDS
from apex_sim.case_studies.report import HEADER, missing_systems
from apex_sim.case_studies.sweep import pick, run_checks
from apex_sim.cli import main
from hardware_profiles.errors import UserError

CASE = """\
system: Mine
citation: {title: A paper}
rows: [R01]
confidence: high
evidence: abstract
setup: a formula
checks:
  one:
    claim: two and two
    grade: A
    technique: {kind: formula, expression: a + 2, terms: {a: {value: 2, source: counting}}}
    published: {value: 4}
    tolerance: {relative: 0.1, reason: none}
"""
QUICK = ("deepseek-v3", "long-context", "transformer-lite", "sn40l", "flashattention-2", "marlin")


def written(tmp_path, text=CASE, name="mine.yaml"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def edited(tmp_path, old, new):
    assert old in CASE
    return written(tmp_path, CASE.replace(old, new))


def refusal(path):
    with pytest.raises(UserError) as caught:
        read_case(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_case_of_the_package_loads_and_every_kind_of_run_is_known():
    cases = load_cases()
    assert len(cases) == len(list(folder().glob("*.yaml"))) - 1  # all but systems.yaml
    kinds = {run.kind for case in cases for check in case.checks.values() for run in runs_of(check).values()}
    assert kinds <= set(KINDS)


def test_every_system_of_the_literature_has_a_case_or_a_reason():
    systems, cases = read_systems(), load_cases()
    assert Counter(line.group for line in systems.values()) == {"a": 32, "b": 14, "c": 10, "e": 53}
    without = missing_systems(systems, cases)
    assert [name for name, line in without.items() if not line.missing] == []
    assert all("\n" not in (line.missing or "") for line in systems.values())
    cited = {case.citation.title for case in cases if case.system in systems}
    assert cited <= {line.title for line in systems.values()}


def test_cases_name_their_tolerance_and_where_their_figures_are_from():
    for case in load_cases():
        assert case.evidence and case.setup
        for name, check in case.checks.items():
            assert check.claim, (case.name, name)
            assert (check.tolerance is None) == (check.grade == "C"), (case.name, name)


def test_a_fitted_parameter_has_one_value_in_all_cases():
    seen = {}
    for case in load_cases():
        for check in case.checks.values():
            for name, fit in check.fitted.items():
                assert seen.setdefault(name, fit.value) == fit.value
    assert seen


@pytest.fixture(scope="module")
def quick():
    checks = pick(load_cases(QUICK), None)
    return run_checks(checks, 1)


def test_quick_cases_give_the_figures_of_their_closed_forms(quick):
    found = {outcome.title: outcome for outcome in quick}
    assert found["deepseek-v3/kv-mla"].simulated == 70_272
    assert found["deepseek-v3/kv-405b"].simulated == 516_096
    assert found["deepseek-v3/stage-ib"].simulated == pytest.approx(120.96)
    assert found["long-context/kv-50k"].simulated * 2**30 == pytest.approx(50_000 * 2 * 60 * 8 * 128 * 2)
    assert found["marlin/ideal-16"].verdict == "inside"
    assert found["long-context/prefill-50k"].verdict == "OUTSIDE"  # the paper's attention term differs
    assert all(0.5 <= found[f"flashattention-2/a100-{n}k"].simulated <= 0.73 for n in (8, 16))


def test_results_do_not_depend_on_the_number_of_processes(quick):
    again = run_checks(pick(load_cases(QUICK), None), 2)
    assert [(o.title, o.simulated, o.verdict) for o in again] == [(o.title, o.simulated, o.verdict) for o in quick]


def test_a_case_inside_its_band_exits_with_0_and_one_outside_with_1(tmp_path, capsys):
    path = written(tmp_path)
    assert main(["reproduce", "run", str(path), "--jobs", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[-1] == "inside"
    path = edited(tmp_path, "published: {value: 4}", "published: {value: 5}")
    assert main(["reproduce", "run", str(path), "--jobs", "1", "--json", str(tmp_path / "out.json")]) == 1
    assert "OUTSIDE" in capsys.readouterr().out
    written_check = json.loads((tmp_path / "out.json").read_text())["checks"][0]
    assert written_check["simulated"] == 4 and written_check["ratio"] == 0.8
    assert written_check["band"] == [4.5, 5.5]


@pytest.mark.parametrize(("published", "verdict"), [("{value: 9}", "right"), ("{direction: below}", "WRONG")])
def test_grade_c_judges_the_direction_and_never_fails(tmp_path, capsys, published, verdict):
    text = CASE.replace("grade: A", "grade: C\n    neutral: 3").replace("{value: 4}", published)
    path = written(tmp_path, text.replace("    tolerance: {relative: 0.1, reason: none}\n", ""))
    assert main(["reproduce", "run", str(path), "--jobs", "1"]) == 0
    assert f"direction only: {verdict}" in capsys.readouterr().out


def test_ends_of_a_band_are_inside(tmp_path):
    case = read_case(edited(tmp_path, "published: {value: 4}", "published: {low: 4, high: 5}"))
    exact = replace(case.checks["one"].tolerance, relative=0.0)
    check = replace(case.checks["one"], tolerance=exact)
    outcome = run_checks([(replace(case, checks={"one": check}), "one")], 1)[0]
    assert outcome.verdict == "inside" and outcome.ratio == 1


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("system: Mine", "sytem: Mine", ["sytem", "system"]),
        ("grade: A", "grade: D", ["checks.one.grade", "A, B, C"]),
        ("rows: [R01]", "rows: [R31]", ["R31", "R30"]),
        ("confidence: high", "confidence: certain", ["confidence"]),
        ("{value: 4}", "{value: four}", ["published.value"]),
        ("{value: 4}", "{low: 4}", ["low and high"]),
        ("{value: 4}", "{low: 5, high: 4}", ["swap"]),
        ("{value: 4}", "{direction: above}", ["grade A needs a figure"]),
        ("    tolerance: {relative: 0.1, reason: none}\n", "", ["tolerance is missing"]),
        ("grade: A", "grade: C", ["neutral is missing"]),
        ("grade: A", "grade: A\n    compare: technique/baseline", ["baseline is missing"]),
        ("kind: formula", "kind: guess", ["kind of run", "guess"]),
        ("{kind: formula,", "{", ["kind is missing"]),
        (", source: counting", "", ["source is missing"]),
        ("{value: 2, source: counting}", "{fitted: eta}", ["fitted parameter", "eta"]),
        ("{kind: formula, ex", "{kind: step, ex", ["expression"]),
        ("checks:", "check:", ["checks is missing"]),
    ],
)
def test_wrong_files_are_refused_in_one_line(tmp_path, old, new, words):
    message = refusal(edited(tmp_path, old, new))
    assert message.startswith("mine.yaml: ")
    for word in words:
        assert word in message


def test_a_setting_that_a_run_does_not_have_is_refused_with_the_nearest_name(tmp_path):
    run = "{kind: simulate, model: llama-3.1-8b, cluster: 'h100-sxm:1', max_num_seq: 4}"
    old = "{kind: formula, expression: a + 2, terms: {a: {value: 2, source: counting}}}"
    assert "max_num_seqs" in refusal(edited(tmp_path, old, run))
    assert "servers" in refusal(edited(tmp_path, old, "{kind: power, server: 4}"))
    assert "model is missing" in refusal(edited(tmp_path, old, "{kind: step, cluster: 'h100-sxm:1'}"))


def test_an_empty_step_is_refused(tmp_path, capsys):
    old = "{kind: formula, expression: a + 2, terms: {a: {value: 2, source: counting}}}"
    path = edited(tmp_path, old, "{kind: step, model: llama-3.1-8b, cluster: 'h100-sxm:1', context_tokens: 5}")
    assert main(["reproduce", "run", str(path), "--jobs", "1"]) == 2
    assert "the step is empty" in capsys.readouterr().err


def test_mistakes_of_a_run_name_the_check_and_exit_with_2(tmp_path, capsys):
    path = edited(tmp_path, "a + 2", "a + b")
    assert main(["reproduce", "run", str(path), "--jobs", "1"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "mine.yaml: checks.one.technique" in error and "'b'" in error


@pytest.mark.parametrize(
    "argv", [["run", "flash"], ["show", "systems"], ["run", "all", "--only", "R29x"], ["run", "all", "x"]]
)
def test_wrong_arguments_exit_with_2(argv, capsys):
    assert main(["reproduce", *argv]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_list_and_show_name_cases_reasons_and_runs(capsys):
    assert main(["reproduce", "list"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in (*case_names(), *read_systems()))
    assert main(["reproduce", "show", "marlin"]) == 0
    text = capsys.readouterr().out
    assert "2408.11743" in text and "quantization=gptq_marlin" in text and "tolerance" in text


def test_markdown_has_the_columns_of_the_table(tmp_path, capsys):
    target = tmp_path / "table.md"
    assert main(["reproduce", "run", "sn40l", "--jobs", "1", "--markdown", str(target)]) == 0
    head = capsys.readouterr().out.splitlines()[0].split()
    assert head == list(HEADER)
    lines = target.read_text().splitlines()
    assert len({line.count("|") for line in lines[:4]}) == 1 and "sn40l/switch-h100" in lines[2]


@pytest.mark.parametrize(
    ("text", "value"),
    [("1 + 2 * 3", 7), ("a.b['c'] / 2", 5), ("x[1] - x[0]", 3), ("max(a.b.c, 3) ** 2", 100), ("-ceil(2.5)", -3)],
)
def test_arithmetic(text, value):
    assert evaluate(text, {"a": {"b": {"c": 10}}, "x": [1, 4]}, "here") == value


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "a.__class__",
        "open('x')",
        "[1][0]",
        "(lambda: 1)()",
        "1 if 1 else 2",
        "9**9**9",
        "1/0",
        "a b",
        "x",
    ],
)
def test_nothing_but_arithmetic_is_evaluated(text):
    with pytest.raises(UserError, match="here: "):
        evaluate(text, {"a": 1.0, "x": None}, "here")


@pytest.mark.slow
def test_all_cases_run_and_none_of_the_closed_forms_is_outside():
    outcomes = run_checks(pick(load_cases(), None), 2)
    assert [outcome.title for outcome in outcomes if outcome.check.grade == "A" and outcome.failed] == []


def test_a_case_may_bring_its_device_along(tmp_path):
    case = load_cases(("marlin",))[0]
    files = case.checks["layers-16"].baseline.settings["files"]
    run = {"kind": "step", "model": "llama-2-7b", "cluster": "a10.yaml:1", "decode_seqs": 1, "files": files}
    text = CASE.replace("{kind: formula, expression: a + 2, terms: {a: {value: 2, source: counting}}}", json.dumps(run))
    path = written(tmp_path, text.replace("grade: A", "grade: A\n    metric: bandwidth_bytes_per_s"))
    assert run_checks([(read_case(path), "one")], 1)[0].simulated == 6e11


@pytest.mark.parametrize("name", ["../device.yaml", "device", ""])
def test_files_of_a_case_stay_in_their_folder(tmp_path, name):
    run = json.dumps({"kind": "power", "files": {name: "text"}})
    old = "{kind: formula, expression: a + 2, terms: {a: {value: 2, source: counting}}}"
    assert "plain file name" in refusal(edited(tmp_path, old, run))


def test_the_table_of_the_docs_has_every_check_and_every_system():
    text = (Path(__file__).parent.parent / "docs" / "case_studies.md").read_text(encoding="utf-8")
    checks = [f"| {case.name}/{name} |" for case in load_cases() for name in case.checks]
    missing = [f"| {name} |" for name in missing_systems(read_systems(), load_cases())]
    assert [row for row in (*checks, *missing) if row not in text] == []


def test_the_docs_explain_every_miss_of_their_table():
    text = (Path(__file__).parent.parent / "docs" / "case_studies.md").read_text(encoding="utf-8")
    told, table = text.split("## The misses")[1].split("## The table")
    rows = [line for line in table.splitlines() if "| OUTSIDE |" in line or "WRONG |" in line]
    missed = {line.split(" | ")[1] for line in rows}
    assert missed and sorted(name for name in missed if name.lower() not in told.lower()) == []


def test_the_example_of_the_docs_is_a_case(tmp_path):
    text = (Path(__file__).parent.parent / "docs" / "case_studies.md").read_text(encoding="utf-8")
    example = text.split("```yaml\n")[1].split("```")[0]
    assert list(read_case(written(tmp_path, example)).checks) == ["a-name"]
