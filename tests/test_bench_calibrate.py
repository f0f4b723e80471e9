"""Engine constants from benchmarks: a slow host is found again, what files do not tell is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import apex_sim
from apex_sim.api import make_trace
from apex_sim.bench_calibrate import refusal
from apex_sim.cli import main
from simulator.build import build_deployment
from simulator.simulate import simulate_deployment
from simulator.validation.bench.fit import BenchFit
from simulator.validation.score import Aggregate

STEP_S, REQUEST_S = 1.5e-3, 0.03
"""What the host of the benchmarked server takes: several times what the profile says."""
KEYS = ("completed", "total_input_tokens", "total_output_tokens", "request_throughput", "mean_ttft_ms", "mean_tpot_ms")
COMMAND = ["calibrate", "--cluster", "h100-sxm:1", "--from-bench"]


def bench(path: Path, *, step_s: float = STEP_S, request_s: float = REQUEST_S, **load: Any) -> str:
    """A result of ``vllm bench serve`` on a server with that host; repeats differ by a per cent."""
    deployment = build_deployment("llama-3.1-8b", "h100-sxm:1")
    engine = dataclasses.replace(deployment.engine, step_fixed_s=step_s, request_fixed_s=request_s)
    trace = make_trace(num_requests=24, input_len=300, output_len=30, **load)
    summary = simulate_deployment(dataclasses.replace(deployment, engine=engine, _cache={}), trace).summary
    data = {key: summary[key] for key in KEYS}
    noise = np.random.default_rng(len(path.name)).standard_normal(2)
    data |= {
        key: data[key] * (1 + 0.01 * float(z)) for key, z in zip(("mean_ttft_ms", "mean_tpot_ms"), noise, strict=True)
    }
    data |= {"model_id": "llama-3.1-8b", "request_rate": load.get("rate", "inf"), "max_concurrency": trace.concurrency}
    path.write_text(json.dumps(data))
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("bench")
    loads: dict[str, dict[str, Any]] = {
        "two.json": {"rate": 2.0},
        "eight.json": {"rate": 8.0},
        "alone.json": {"arrival": "closed(concurrency=1)"},
        "sixteen.json": {"arrival": "closed(concurrency=16)"},
    }
    return [bench(folder / name, **load) for name, load in loads.items()]


def test_a_slow_host_is_found_again_and_the_profile_predicts_its_files(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.yaml"
    assert main([*COMMAND, *files, "-o", str(out), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    found = data["constants"]
    assert found["step_fixed_s"]["after"] == pytest.approx(STEP_S, rel=0.1)
    assert found["request_fixed_s"]["after"] == pytest.approx(REQUEST_S, rel=0.1)
    assert all(1.0 < entry["factor"] < 1.2 for entry in found.values())
    assert (data["results"], data["held_out"]) == (4, 4)
    for entry in data["errors"]:
        assert entry["mean_abs_after"] < 0.04 < entry["mean_abs_before"]
    profile = yaml.safe_load(out.read_text())
    assert (profile["base"], profile["name"]) == ("vllm-v1", "mine")
    assert "4 results of vllm bench serve" in profile["sources"]["step_fixed_s"]
    check = ["check", "--cluster", "h100-sxm:1", "--measured", *files, "--rtol", "0.05", "--metric", "mean_tpot_ms"]
    assert main(check) == 1
    assert main([*check, "--engine", str(out)]) == 0


def test_the_api_gives_what_the_command_writes_and_one_result_is_judged_on_itself(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, same = tmp_path / "a" / "mine.yaml", tmp_path / "b" / "mine.yaml"
    for path in (out, same):
        path.parent.mkdir()
    fit = apex_sim.calibrate_from_bench(files[:1], "h100-sxm:1", constants=["request_fixed_s"], out=out)
    assert fit.helps
    assert fit.profile == {"request_fixed_s": 5.7e-3}
    assert main([*COMMAND, files[0], "--constants", "request_fixed_s", "--out", str(same)]) == 0
    assert "give a second file" in capsys.readouterr().out
    assert out.read_bytes() == same.read_bytes()


def test_a_profile_that_is_right_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = build_deployment("llama-3.1-8b", "h100-sxm:1").engine
    right = {"step_s": engine.step_fixed_s, "request_s": engine.request_fixed_s}
    results = [bench(tmp_path / name, **right, rate=rate) for name, rate in (("a.json", 2.0), ("longer.json", 8.0))]
    out = tmp_path / "mine.yaml"
    assert main([*COMMAND, *results, "--out", str(out), "--constants", "request_fixed_s"]) == 1
    assert "nothing written" in capsys.readouterr().out
    assert not out.exists()


def test_what_files_do_not_tell_is_refused(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.yaml"
    alike = "request_fixed_s,request_token_s"  # all prompts have one length
    nothing = tmp_path / "tpot.json"
    nothing.write_text(
        json.dumps({k: v for k, v in json.loads(Path(files[0]).read_text()).items() if k != "mean_ttft_ms"})
    )
    faster = bench(tmp_path / "faster.json", step_s=0.0, rate=2.0)
    data = json.loads(Path(faster).read_text())
    Path(faster).write_text(json.dumps({**data, "mean_tpot_ms": data["mean_tpot_ms"] * 0.8}))
    for arguments, message in (
        ([*files, "--constants", alike], "cannot tell them apart"),
        ([str(nothing), "--constants", "request_fixed_s"], "known are"),
        ([faster], "more than the engine's overhead"),
        ([*files, "--constants", "step_fix_s"], "unknown constant 'step_fix_s'"),
        ([*files, "--constants", "sync_step_fixed_s", "--engine", "vllm@0.19"], "does not show"),
    ):
        assert main([*COMMAND, *arguments, "--out", str(out)]) == 2, arguments
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert not out.exists()


def test_mistakes_of_the_command_are_one_line(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["calibrate", "--from-bench", files[0]],
        ["calibrate", "--cluster", "h100-sxm:1"],
        [*COMMAND, files[0], "--out", "mine.txt"],
        [*COMMAND, files[0], "--serve"],
        [*COMMAND, files[0], "--points", "x.csv"],
        [*COMMAND, files[0], "--rate", "3"],
        [*COMMAND, files[0], "--tp", "64"],
        [*COMMAND, files[0], "--engine", "none"],
        [*COMMAND, "none.json"],
    ):
        assert main(arguments) == 2, arguments
        assert capsys.readouterr().err.count("\n") == 1, arguments


def test_a_fit_that_pays_for_one_metric_with_another_is_not_written() -> None:
    def scores(tpot: float, ttft: float) -> list[Aggregate]:
        found = {"tpot_mean_ms": tpot, "ttft_mean_ms": ttft}
        return [
            Aggregate(key=(name,), n=6, mean=error, median=error, p90=error, worst=error, signed=error)
            for name, error in found.items()
        ]

    def fit(after: list[Aggregate]) -> BenchFit:
        return BenchFit(
            constants={"step_fixed_s": 2e-3},
            profile={"step_fixed_s": 1e-3},
            factors={"step_fixed_s": 1.1},
            before=scores(0.079, 0.072),
            after=after,
            held_out=6,
            num_results=6,
        )

    assert fit(scores(0.029, 0.075)).helps
    traded = fit(scores(0.029, 0.113))
    assert not traded.helps
    assert "makes ttft_mean_ms (7.2% -> 11.3%) worse for the sake of tpot_mean_ms (7.9% -> 2.9%)" in refusal(traded)
    assert refusal(fit(scores(0.079, 0.072))).endswith("predicts these results as well")
