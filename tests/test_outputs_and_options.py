"""Names of output files, the configuration that a run leaves, names of settings in Python."""

from __future__ import annotations

import json

import pytest
import yaml

import apex_sim as apex
from apex_sim.cli import main
from apex_sim.options import ENGINE_SETTINGS
from hardware_profiles.errors import UserError
from simulator.build import EngineSettings

RUN = ["simulate", "--model", "llama-3.1-8b", "--cluster", "h100-sxm:1", "--num-requests", "5"]


@pytest.mark.parametrize("second", ["a.html", "./a.html", "link.html"])
def test_two_outputs_are_not_one_file(tmp_path, capsys, monkeypatch, second):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.html").write_text("old")
    (tmp_path / "link.html").symlink_to("a.html")
    assert main([*RUN, "--json", "a.html", "--report", second]) == 2
    assert "--json and --report are one file" in capsys.readouterr().err
    assert (tmp_path / "a.html").read_text() == "old"


@pytest.mark.parametrize(
    ("command", "first", "second"),
    [
        (["explain", "step", *RUN[1:5], "--decode", "1"], "--gantt", "--roofline"),
        (["check", "suite.yaml"], "--json", "--junit"),
        (["sweep", "results", "--pareto", "a,b"], "--json", "--figure"),
        (["validate"], "--json", "--report"),
    ],
)
def test_that_holds_in_every_command(tmp_path, capsys, monkeypatch, command, first, second):
    monkeypatch.chdir(tmp_path)
    assert main([*command, first, "a.svg", second, "a.svg"]) == 2
    assert f"{first} and {second} are one file, a.svg" in capsys.readouterr().err


def test_what_a_file_holds_is_no_file(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["experts", "--model", "mixtral-8x7b", "--cluster", "h100-sxm:4", "--batch", "0"]
    assert main([*command, "--out", "moe", "--out-layers", "moe"]) == 2
    assert "--batch is 0" in capsys.readouterr().err


def test_the_null_device_may_be_named_twice(tmp_path):
    load = ["load", *RUN[1:], "--input-len", "20", "--output-len", "2", "--rates", "1", "--jobs", "1"]
    assert main([*load, "--json", "/dev/null", "--csv", "/dev/null", "--quiet"]) == 0


@pytest.mark.parametrize("length", [245, 300, 5000])
@pytest.mark.parametrize("flag", ["--report", "--json"])
def test_names_that_are_too_long_are_told_before_the_run(tmp_path, capsys, monkeypatch, length, flag):
    monkeypatch.setattr("simulator.simulate.simulate_deployment", lambda *_, **__: pytest.fail("it ran"))
    assert main([*RUN, flag, str(tmp_path / ("x" * length + ".html"))]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"apex-sim: error: {flag} ") and "File name too long" in shown and len(shown) < 300
    assert not list(tmp_path.iterdir())


def test_edited_options_of_a_run_count(tmp_path, capsys):
    assert main([*RUN, "--max-num-seqs", "3", "--out", str(tmp_path / "run")]) == 0
    file = tmp_path / "run" / "config.yaml"
    text = file.read_text()
    assert yaml.safe_load(text)["options"]["max_num_seqs"] == 3
    capsys.readouterr()
    again = ["simulate", "--config", str(file), "--json", "-"]
    assert main(again) == 0
    first = json.loads(capsys.readouterr().out)
    assert first == json.loads((tmp_path / "run" / "summary.json").read_text())
    file.write_text(text.replace("  num_requests: 5\n", "  num_requests: 4\n", 1))
    assert main(again) == 0
    assert json.loads(capsys.readouterr().out)["num_prompts"] == 4
    assert main([*again, "--num-requests", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["num_prompts"] == 2
    file.write_text(text.replace("  num_requests: 5\n", "  num_request: 4\n", 1))
    assert main(again) == 2
    assert "num_request" in capsys.readouterr().err
    assert main(["plan", "--config", str(file)]) == 2
    assert "is of 'apex-sim simulate'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["enable_dbo", "maxnumseqs", "rate"])
def test_settings_of_no_such_name_are_refused(name):
    with pytest.raises(UserError, match=f"unknown setting '{name}'"):
        apex.build_deployment("llama-3.1-8b", "h100-sxm:1", **{name: 1})


def test_every_setting_of_the_command_line_is_one_of_python():
    assert set(ENGINE_SETTINGS) <= set(EngineSettings.__annotations__)
