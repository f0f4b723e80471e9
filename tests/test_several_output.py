"""``apex-sim several --timeline --report``: models as processes, turns as slices, the page."""

from __future__ import annotations

import json

import pytest
import yaml

import apex_sim as apex
from apex_sim.cli import main

TURNS = {
    "cluster": "h100-sxm:2",
    "switch": {"policy": "round-robin", "residence_s": 0.5, "resident": 1},
    "models": {
        "chat": {"model": "llama-3.1-8b", "share": 0.6},
        "code": {"model": "llama-2-7b", "share": 0.3},
        "own": {"model": "llama-2-7b", "share": 0.1, "group": "alone"},
    },
}
LOAD = {"rate": 8.0, "num_requests": 60, "input_len": 200, "output_len": 60}


def test_files_do_not_change_the_run_and_agree_with_it(tmp_path, capsys):
    file = tmp_path / "models.yaml"
    file.write_text(yaml.safe_dump(TURNS))
    flags = [word for name, value in LOAD.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    outputs = {"--json": "s.json", "--timeline": "t.json", "--report": "s.html"}
    more = [word for flag, name in outputs.items() for word in (flag, str(tmp_path / name))]
    assert main(["several", str(file), *flags, *more]) == 0
    summary = json.loads((tmp_path / "s.json").read_text())
    capsys.readouterr()
    assert main(["several", str(file), *flags, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == summary
    page = (tmp_path / "s.html").read_text()
    assert all(f"<td>{name}</td>" in page for name in TURNS["models"])
    assert f"apex-sim several {file} " in page
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    names = {e["args"]["name"]: e["pid"] for e in events if e["name"] == "process_name"}
    assert set(names) == {
        "requests", "chat replica 0 (1x h100-sxm)", "code replica 0 (1x h100-sxm)", "own replica 0 (1x h100-sxm)",
        "turns on devices of group shared",
    }  # fmt: skip
    loads = [e for e in events if e.get("cat") == "load"]
    assert len(loads) == summary["turns"]["loads"] > 2
    assert sum(e["dur"] for e in loads) / 1e6 == pytest.approx(summary["turns"]["load_s"], abs=1e-6)
    steps = {name: [e for e in events if e.get("cat") == "step" and e["pid"] == pid] for name, pid in names.items()}
    for name, model in summary["models"].items():
        mine = steps[f"{name} replica 0 (1x h100-sxm)"]
        tokens = sum(e["args"]["output_tokens"] + e["args"]["prompts"] for e in mine)
        assert tokens == model["num_prompts"] * LOAD["output_len"]
    turns = [e for e in events if e.get("cat") == "turn"]
    for name in ("chat", "code"):
        for step in steps[f"{name} replica 0 (1x h100-sxm)"]:
            begin, end = step["ts"] + 1e-3, step["ts"] + step["dur"] - 1e-3
            inside = [t["name"] for t in turns if t["ts"] <= begin and end <= t["ts"] + t["dur"]]
            assert inside == [name], "a model runs in its own turns alone"


@pytest.mark.parametrize("on_switch", ["drain", "suspend"])
def test_both_modes_write_the_same_turns(on_switch):
    config = TURNS | {"switch": TURNS["switch"] | {"on_switch": on_switch}}
    runs = [apex.simulate_several(config, **LOAD, exact_steps=exact, timeline=True) for exact in (False, True)]
    for exact, run in enumerate(runs):  # sums of joules have another order in the other mode
        assert run.summary == apex.simulate_several(config, **LOAD, exact_steps=bool(exact)).summary
    assert runs[0].requests.equals(runs[1].requests)
    assert runs[0].record.turns == runs[1].record.turns


def test_a_window_keeps_what_overlaps_it(tmp_path):
    result = apex.simulate_several(TURNS, **LOAD, timeline="2:3")
    trace = apex.write_timeline(result, tmp_path / "t.json", window="2:3")
    slices = [json.loads(text) for _, text in trace.events if '"ph":"X"' in text]
    assert slices and all(e["ts"] <= 3e6 and e["ts"] + e["dur"] >= 2e6 for e in slices)
