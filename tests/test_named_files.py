"""Files that settings name, and those that these name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import apex_sim
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
