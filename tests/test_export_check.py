"""``apex-sim export --check``: an edited folder is the plan's or not, a measured benchmark stands beside what was expected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from export_cases import made, requests

import apex_sim
from apex_sim.cli import main
from apex_sim.export_check import check_export
from simulator.build import build_deployment
from workloads.synthetic import generate

YAML = "kubernetes-llama-3-1-8b-serve.yaml"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("export")
    apex_sim.export(made("one"), folder, trace=requests(), slo="ttft=1s,tpot=50ms")
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture
def folder(exported: dict[str, str], tmp_path: Path) -> Path:
    for name, text in exported.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize("name", ["two nodes", "pools", "pools of TensorRT-LLM", "slices"])
def test_every_kind_of_export_is_as_written(name: str, tmp_path: Path) -> None:
    apex_sim.export(made(name), tmp_path, trace=requests())
    assert {file.status for file in check_export(tmp_path)} == {"as written"}


def test_a_folder_as_written_is_the_plan(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--check", str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.count("as written") == len(out.splitlines()) == 5


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("serve.sh", "--port 8000", "--port 9000"),
        ("serve.sh", "#!/bin/sh", "#!/bin/bash\nexport HF_HOME=/data"),
        (YAML, "emptyDir: {}", "persistentVolumeClaim: {claimName: weights}"),
        (YAML, "image: vllm/", "image: mirror.local/vllm/"),
        (YAML, "periodSeconds: 5", "periodSeconds: 7"),
        ("bench.sh", "measured.json", "mine.json"),
    ],
)
def test_edits_that_leave_the_plan_alone_are_fine(
    name: str, old: str, new: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(folder / name, old, new)
    assert main(["export", "--check", str(folder)]) == 0
    assert f"{name:<34}  changed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        ("serve.sh", "--max-num-seqs 1024", "--max-num-seqs 64", "serve.sh: max_num_seqs: 64 instead of 1024"),
        ("serve.sh", "--gpu-memory-utilization 0.9", "--gpu-memory-utilization 0.5", "serve.sh: weights, activations"),
        ("serve.sh", "--max-num-seqs", "--swap-space 4 --max-num-seqs", "--swap-space needs vllm 0.2 to 0.17"),
        ("serve.sh", "exec ", "# ", "serve.sh: commands: 0 instead of 1"),
        (YAML, "replicas: 1", "replicas: 2", "replicas: 2 instead of 1"),
        (YAML, "NVIDIA-H100-80GB-HBM3", "NVIDIA-L4", "nodeSelector"),
        (YAML, "kind: Deployment", "kind: Job", "has no Deployment"),
        (YAML, "kind: Deployment", "kind: [", f"{YAML}: "),
        ("bench.sh", "--request-rate 2", "--request-rate 20", "bench.sh: rate: 20"),
        ("bench.sh", "exec vllm", "exec echo", "bench.sh: commands: 0 instead of 1"),
        ("expected.json", '"benchmarks"', '"runs"', "expected.json: other figures than"),
    ],
)
def test_edits_of_the_plan_are_found(
    name: str, old: str, new: str, says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(folder / name, old, new)
    assert main(["export", "--check", str(folder)]) == 1
    out = capsys.readouterr().out
    assert says in out.splitlines()[-1]
    assert f"{name:<34}  differs" in out and out.count("as written") == 4


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "--port 8000",
            "--api-key secret --port 8000",
            "--api-key: not of the plan, and changes nothing of it; give OPENAI",
        ),
        ("--port 8000", "--port 8000 --served-model-name a b", "--served-model-name: not of the plan"),
        (
            "serve meta",
            "serve --trust-remote-code --root-path=/v meta",
            "--root-path, --trust-remote-code: not of the plan",
        ),
    ],
)
def test_flags_that_change_nothing_are_notes(
    old: str, new: str, says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(folder / "serve.sh", old, new)
    assert main(["export", "--check", str(folder)]) == 0
    out = capsys.readouterr().out
    assert f"note: serve.sh: {says}" in out and f"{'serve.sh':<34}  changed" in out
    change(folder / "serve.sh", "--max-num-seqs 1024", "--max-num-seqs 64")
    assert main(["export", "--check", str(folder)]) == 1


def test_flags_that_nobody_knows_are_differences(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(folder / "serve.sh", "--port 8000", "--port 8000 --scheduler-magic 3")
    assert main(["export", "--check", str(folder)]) == 1
    assert "--scheduler-magic is no known flag" in capsys.readouterr().out


def test_a_missing_file_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bench.sh").unlink()
    assert main(["export", "--check", str(folder)]) == 1
    assert "bench.sh: is missing" in capsys.readouterr().out


def test_files_of_another_export_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A node's script beside the scripts of several nodes: a person would start the wrong one."""
    with pytest.warns(
        UserWarning, match="also has bench.sh, expected.json, kubernetes-.*, replay.sh, serve.sh, trace.jsonl of"
    ):
        speech = generate(input_len=50, output_len=1, num_requests=5, rate_per_s=2.0)
        apex_sim.export(build_deployment("bert-base", "l4:1x2", dp=2), folder, trace=speech)
    assert main(["export", "--check", str(folder)]) == 1
    out = capsys.readouterr().out
    for name in ("serve.sh", "bench.sh", "expected.json", YAML):
        assert f"{name}: belongs to no server of this export" in out


def test_a_manifest_for_an_image_of_ones_own_is_checked(tmp_path: Path) -> None:
    plan = build_deployment("llama-3.2-1b", "mi300x:1", engine="sglang")
    apex_sim.export(plan, tmp_path, trace=requests(), image="me/it:1")
    (found,) = (file for file in check_export(tmp_path) if file.name.startswith("kubernetes"))
    assert found.good and found.status == "changed"
    change(tmp_path / found.name, "replicas: 1", "replicas: 2")
    assert any("replicas: 2 instead of 1" in file.problem for file in check_export(tmp_path))


def test_a_measured_benchmark_stands_beside_what_was_expected(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = json.loads((folder / "expected.json").read_text())["benchmarks"][0]["expected"]
    result = {"mean_ttft_ms": expected["mean_ttft_ms"] * 1.5, "mean_tpot_ms": expected["mean_tpot_ms"], "completed": 40}
    result["request_goodput:"] = expected["request_goodput"]  # as vLLM 0.8 spells it
    (folder / "measured.json").write_text(json.dumps(result))
    line = ["export", "--check", str(folder), "--measured", str(folder / "measured.json")]
    assert main(line) == 0
    out = capsys.readouterr().out
    ttft, tpot, goodput, note = out.splitlines()[-4:]
    assert ttft.startswith("mean_ttft_ms") and "+50.0%" in ttft and ttft.endswith("outside")
    assert tpot.startswith("mean_tpot_ms") and "+0.0%" in tpot and "outside" not in tpot
    assert goodput.startswith("request_goodput") and "+0.0%" in goodput
    assert note == "note: requests completed: 40, the plan's benchmark has 50"
    assert main([*line, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [row["metric"] for row in data["measured"]] == ["mean_ttft_ms", "mean_tpot_ms", "request_goodput"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--check", "nowhere"], "is no folder"),
        (["--check", "{folder}", "plan.json"], "leave PLAN.json out"),
        (["--check", "{folder}", "--engine-version", "0.12"], "leave --engine-version out"),
        (["--check", "{folder}", "--measured", "{folder}/none.json"], "cannot be read"),
        (["--check", "{folder}", "--measured", "{folder}/serve.sh"], "is not JSON"),
        (["--check", "{folder}", "--measured", "{folder}/export.json"], "none of the figures"),
        (["plan.json", "--out", "x", "--measured", "y"], "--measured has no meaning without --check"),
        (["plan.json"], "needs --out"),
        ([], "needs PLAN.json and --out"),
    ],
)
def test_mistakes_are_one_line(words: list[str], says: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", *(word.format(folder=folder) for word in words)]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_the_steps_in_the_readme_name_the_files(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    assert "1. Start the servers: `sh serve.sh`" in text and f"kubectl apply -f {YAML}" in text
    assert "`apex-sim export --check . --measured measured.json`" in text
