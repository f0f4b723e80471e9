"""Messages about files name what stands in the file."""

from __future__ import annotations

from pathlib import Path

import pytest

import apex_sim
from apex_sim.cli import main
from apex_sim.setting_words import as_fields

WORKLOAD = {"rate": 4, "input_len": 100, "output_len": 8, "num_requests": 10}
SUITE = """
cases:
  - name: one
    model: llama-3.1-8b
    cluster: h100-sxm:1
    workload: {rate: RATE, input_len: 100, output_len: 8, num_requests: 10}
    tolerances: {TOLERANCE: 1%}
"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("--rate is -3; it must be above 0", "rate is -3; it must be above 0"),
        ("set --max-num-seqs to 4 (--tp 2)", "set max_num_seqs to 4 (tp 2)"),
        ("write --disaggregate prefill=tp1 decode=tp1", "write disaggregate: prefill=tp1 decode=tp1"),
        ("--no-such-flag 3, -3--4, a--rate", "--no-such-flag 3, -3--4, a--rate"),
        ("'--max-model-len'", "'max_model_len'"),
    ],
)
def test_flags_become_fields(text: str, told: str) -> None:
    assert as_fields(text) == told


def test_suites_and_sweeps_name_their_fields(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(SUITE.replace("RATE", "-3").replace("TOLERANCE", "ttft"))
    with pytest.raises(apex_sim.UserError, match="case 'one': rate is -3"):
        apex_sim.check(path)
    path.write_text(SUITE.replace("RATE", "3").replace("TOLERANCE", "xyzzy"))
    with pytest.raises(apex_sim.UserError, match=r"unknown metric or family 'xyzzy'\. Available: carbon, cost, .*ttft"):
        apex_sim.check(path)
    fixed = {"model": "llama-3.1-8b", "cluster": "h100-sxm:1", **WORKLOAD}
    frame = apex_sim.sweep({"fixed": fixed, "vary": {"max_num_seqs": [-1, 8]}}, jobs=1)
    assert frame["status"].tolist() == ["failed", "ok"]
    assert "--" not in frame["reason"][0] and "max_num_seqs is -1" in frame["reason"][0]


@pytest.mark.parametrize(
    ("pool", "told"),
    [
        (1, r"disaggregate: prefill is 1; write its degrees"),
        ([1], r"disaggregate: prefill is \[1\]"),
        ({"tp": 1, "elasticity": 3}, "disaggregate: prefill: unknown setting 'elasticity'"),
        ({"tp": 1, 2: 3}, "disaggregate: prefill: unknown setting '2'"),
        ("tq2", "neither a degree"),
    ],
)
def test_pools_of_a_mapping_are_checked(pool: object, told: str) -> None:
    with pytest.raises(apex_sim.UserError, match=told):
        apex_sim.simulate("llama-3.1-8b", "h100-sxm:2", disaggregate={"prefill": pool, "decode": {"tp": 1}}, **WORKLOAD)


def test_pools_of_a_mapping_may_be_texts() -> None:
    texts = {"prefill": "tp1", "decode": "tp1,max-num-seqs=4"}
    mappings = {"prefill": {"tp": 1}, "decode": {"tp": 1, "max_num_seqs": 4}}
    runs = [
        apex_sim.simulate("llama-3.1-8b", "h100-sxm:2", disaggregate=pools, **WORKLOAD).summary
        for pools in (texts, mappings)
    ]
    assert runs[0] == runs[1] and runs[0]["completed"] == 10


def test_a_measured_benchmark_is_told_in_full_in_a_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = Path(__file__).parent.parent / "checks" / "examples" / "rate-8.json"
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    arguments = ["check", "--measured", str(example), "--cluster", "h100-sxm:1", "--metric", "mean_tpot_ms"]
    assert main([*arguments, "--format", "github"]) == 0
    text, lines = capsys.readouterr().out, summary.read_text().splitlines()
    (row,) = (line for line in lines if line.startswith("| mean_tpot_ms"))
    assert row.count("|") == lines[lines.index(row) - 1].count("|") == 7
    assert all(cell in text for cell in row.strip("| ").split(" | "))
    notes = [line for line in text.splitlines() if line.startswith("note: ")]
    assert notes and [line for line in lines if line.startswith("- note: ")] == [f"- {note}" for note in notes]
