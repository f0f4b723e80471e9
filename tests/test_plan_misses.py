"""When no plan meets the SLO: everything is written, with the nearest plan and what it lacks; exit code 2."""

from __future__ import annotations

import json
import pickle

import pytest

import apex_sim as apex
from apex_sim.cli import main
from planners.misses import NothingMeets, lacks

PLAN = [
    "plan",
    "--model",
    "llama-3.1-8b",
    "--cluster",
    "l40s:2",
    "--jobs",
    "1",
    "--input-len",
    "300",
    "--output-len",
    "100",
]
HARD = [*PLAN, "--rate", "40", "--num-requests", "120", "--slo", "ttft=500ms,tpot=32ms"]
NEVER = [*PLAN, "--rate", "4", "--num-requests", "40", "--slo", "ttft=1ms,tpot=1ms"]


def written(tmp_path, argv):
    """Exit code, and what was written."""
    names = {"--json": "p.json", "--csv": "p.csv", "--report": "p.html", "--plot": "p.svg"}
    flags = [word for flag, name in names.items() for word in (flag, str(tmp_path / name))]
    code = main([*argv, *flags, "--out", str(tmp_path / "out")])
    return code, json.loads((tmp_path / "p.json").read_text()), (tmp_path / "p.html").read_text()


@pytest.mark.parametrize("argv", [HARD, NEVER])
def test_all_files_are_written_and_the_exit_code_is_2(tmp_path, capsys, argv):
    code, data, page = written(tmp_path, argv)
    shown = capsys.readouterr()
    assert code == 2 and shown.err.startswith("apex-sim: error: no layout of")
    assert "constrained_layout" not in shown.err
    assert data["meets_slo"] is False and data["lacks"]
    assert all(f"  {line}" in shown.out and line[1:] in page for line in data["lacks"])
    assert "No plan meets the SLO" in page and "Start it" not in page and "start it with" not in shown.out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"plan.json", "candidates.csv", "pareto.png"}
    assert all(row["status"] != "best" and row["reason"] for row in data["candidates"])
    assert main(["export", str(tmp_path / "p.json"), "--out", str(tmp_path / "deploy")]) == 2
    assert "no plan meets the SLO" in capsys.readouterr().err


def test_the_rate_that_is_named_keeps_the_slo(tmp_path):
    settings = {"input_len": "300", "output_len": "100", "num_requests": 120}
    with pytest.raises(NothingMeets) as caught:
        apex.plan("llama-3.1-8b", "l40s:2", rate=40, slo="ttft=500ms,tpot=32ms", **settings)
    result = caught.value.result
    best = result.best
    assert not result.meets_slo and 0 < best.max_rate_per_s < result.trace.request_rate_per_s
    assert any(f"up to {best.max_rate_per_s:.3g} req/s" in line for line in lacks(result))
    slower = result.trace.scale_rate(0.999 * best.max_rate_per_s / result.trace.request_rate_per_s)
    run = apex.simulate("llama-3.1-8b", "l40s:2", tp=best.candidate.tp, dp=best.candidate.dp, pp=best.candidate.pp,
                        trace=slower, slo=result.slo)  # fmt: skip
    assert run.summary["slo_attainment"] >= 0.95
    assert pickle.loads(pickle.dumps(caught.value)).result.best.reason == best.reason


def test_candidates_that_bounds_rule_out_stay_ruled_out(tmp_path):
    _, data, _ = written(tmp_path, NEVER)
    assert data["counts"]["within the bounds"] == 0
    assert {row["status"] for row in data["candidates"]} == {"bounded"}
    assert "simulated: only 0.0% of requests" in data["best"]["reason"]


def test_a_plan_that_meets_the_slo_says_nothing_of_it(capsys):
    assert main([*PLAN, "--rate", "1", "--num-requests", "30", "--slo", "ttft=2s,tpot=90ms", "--json", "-"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert "meets_slo" not in data and "lacks" not in data


def test_what_an_earlier_plan_starts_does_not_stay(tmp_path, capsys):
    (tmp_path / "serve.sh").write_text("#!/bin/sh\n")
    (tmp_path / "notes.txt").write_text("mine")
    assert main([*NEVER, "--out", str(tmp_path)]) == 2
    assert "serve.sh of an earlier plan" in capsys.readouterr().err
    assert not (tmp_path / "serve.sh").exists() and (tmp_path / "notes.txt").exists()


def test_the_message_names_weights_and_how_many_devices_would_do():
    settings = {"input_len": "300", "output_len": "100", "num_requests": 120}
    with pytest.raises(NothingMeets) as caught:
        apex.plan("llama-3.1-8b", "l40s:2", rate=40, slo="ttft=500ms,tpot=32ms", **settings)
    result, line = caught.value.result, str(caught.value)
    per = result.best.measured.metrics["num_gpus"]
    devices = per * -(-result.trace.request_rate_per_s // result.best.max_rate_per_s)
    assert "with weights as stored (bfloat16)" in line and f"about {devices:.0f} laid out like it" in line
    assert "weights as stored (bfloat16)" in lacks(result)[-1]
