"""Files that settings name, and those that these name."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

import apex_sim
from apex_sim.checks.suite import read_suite
from apex_sim.cli import main
from apex_sim.named_files import digests_of

DEVICE = (Path(__file__).parent.parent / "hardware_profiles" / "devices" / "l4.yaml").read_text(encoding="utf-8")


def test_files_that_files_name_count(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "cluster.yaml").write_text("device: gpu.yaml\nname: sub/cluster.yaml\n")
    (tmp_path / "sub" / "gpu.yaml").write_text("a: [b, {c: ../trace.csv}]\n")
    (tmp_path / "trace.csv").write_text("1\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "broken.yaml").write_text("a: [")
    values = {"x": ["sub/cluster.yaml", 3, None, "a\0b", "n" * 300, " "], "y": ("model", "broken.yaml", "no.yaml")}
    names = digests_of(values, tmp_path)
    assert set(names) == {"sub/cluster.yaml", "sub/gpu.yaml", "sub/../trace.csv", "model", "broken.yaml"}
    assert digests_of(values, tmp_path) == names
    (tmp_path / "trace.csv").write_text("2\n")
    assert {name for name, digest in digests_of(values, tmp_path).items() if digest != names[name]} == {
        "sub/../trace.csv"
    }


def test_a_sweep_does_not_mix_two_devices_of_one_cluster_file(tmp_path: Path) -> None:
    (tmp_path / "gpu.yaml").write_text(DEVICE)
    (tmp_path / "cluster.yaml").write_text("name: mine\ndevice: gpu.yaml\ndevices_per_node: 1\nnodes: 1\n")
    sweep = tmp_path / "sweep.yaml"
    text = "fixed: {model: qwen2.5-0.5b, cluster: cluster.yaml, input_len: 50, output_len: 5, num_requests: 5}\n"
    sweep.write_text(text + "vary: {rate: [1]}\n")
    out: dict[str, Any] = {"out": tmp_path / "out", "jobs": 1}
    assert apex_sim.sweep(sweep, **out)["status"].tolist() == ["ok"]
    sweep.write_text(text + "vary: {rate: [1, 2]}\n")
    (tmp_path / "gpu.yaml").write_text(DEVICE + "# another\n")
    with pytest.raises(apex_sim.UserError, match=r"gpu\.yaml has changed since its runs were made"):
        apex_sim.sweep(sweep, **out)
    (tmp_path / "gpu.yaml").write_text(DEVICE)
    assert apex_sim.sweep(sweep, **out)["status"].tolist() == ["ok", "ok"]


def test_a_check_names_the_files_that_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gpu.yaml").write_text(DEVICE)
    (tmp_path / "cluster.yaml").write_text("name: mine\ndevice: gpu.yaml\ndevices_per_node: 1\nnodes: 1\n")
    suite = tmp_path / "suite.yaml"
    load = "{rate: 1, input_len: 50, output_len: 5, num_requests: 5}"
    case = "{name: NAME, model: qwen2.5-0.5b, cluster: CLUSTER, workload: " + load + "}"
    cases = [
        case.replace("NAME", name).replace("CLUSTER", on) for name, on in (("mine", "cluster.yaml"), ("l4", '"l4:1"'))
    ]
    suite.write_text("cases:\n" + "".join(f"- {case}\n" for case in cases))
    command = ["check", str(suite)]
    assert main([*command, "--update", "--reason", "first"]) == 0
    stored = yaml.safe_load(suite.with_name("suite.baseline.yaml").read_text())
    assert set(stored["mine"]["files"]) == {"cluster.yaml", "gpu.yaml"} and "files" not in stored["l4"]
    (tmp_path / "gpu.yaml").write_text(DEVICE + "# the same values\n")
    capsys.readouterr()
    assert main(command) == 0
    assert "gpu.yaml" not in capsys.readouterr().out
    (tmp_path / "gpu.yaml").write_text(
        DEVICE.replace("memory_bandwidth_bytes_per_s: 3.0e+11", "memory_bandwidth_bytes_per_s: 1.0e+11")
    )
    told = "gpu.yaml is not as it was when its values were stored"
    for kind in ("text", "markdown", "github"):
        assert main([*command, "--format", kind, "--junit", str(tmp_path / "j.xml")]) == 1
        assert told in capsys.readouterr().out.replace("**", "")
    (problem,) = ElementTree.parse(tmp_path / "j.xml").iter("failure")
    assert problem.attrib["message"].endswith(f"; {told}")
    (tmp_path / "gpu.yaml").write_text("name: [")
    assert main(command) == 1
    out = capsys.readouterr().out
    assert "cannot be simulated any more (mine)" in out and f"mine: {told}" in out


def test_files_of_a_planner_s_question_count(tmp_path: Path) -> None:
    (tmp_path / "services.yaml").write_text("- {name: chat}\n")
    suite = tmp_path / "suite.yaml"
    suite.write_text("cases:\n- {name: row, power: {servers: 2, services: services.yaml}}\n")
    (case,) = read_suite(suite).cases
    assert set(case.files) == {"services.yaml"}
