"""The log of a vLLM server as a measurement of decode steps."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from apex_sim import UserError
from apex_sim.api import make_trace
from apex_sim.checks.measured import check_measured
from apex_sim.cli import main
from simulator.build import build_deployment
from simulator.simulate import simulate_deployment
from simulator.validation.bench.files import read_bench
from simulator.validation.bench.result import workload_of

STEP_S = 1.5e-3
CAPACITY = 420_000
HEAD = (
    "INFO 11-20 10:15:01 [core.py:93] Initializing a V1 LLM engine (v0.14.0) with config: model='llama-3.1-8b', "
    "tensor_parallel_size=1, pipeline_parallel_size=1, data_parallel_size=1\n"
    f"INFO 11-20 10:15:30 [kv_cache_utils.py:1305] GPU KV cache size: {CAPACITY:,} tokens\n"
)


def line(
    running: int, generated: float, context: float, *, prompt: float = 0.0, waiting: int = 0, engine: int = 0
) -> str:
    usage = 100 * running * context / CAPACITY
    return (
        f"INFO 11-20 10:16:21 [loggers.py:248] Engine {engine:03d}: Avg prompt throughput: {prompt:.1f} tokens/s, "
        f"Avg generation throughput: {generated:.1f} tokens/s, Running: {running} reqs, Waiting: {waiting} reqs, "
        f"GPU KV cache usage: {usage:.1f}%, Prefix cache hit rate: 0.0%\n"
    )


def decode_step_s(running: int, step_s: float) -> float:
    """Mean step of a batch from 200 to 1400 tokens of context, on a server with that host."""
    deployment = build_deployment("llama-3.1-8b", "h100-sxm:1")
    engine = dataclasses.replace(deployment.engine, step_fixed_s=step_s)
    trace = make_trace(num_requests=running, input_len=200, output_len=1200, arrival="at-once")
    return (
        float(simulate_deployment(dataclasses.replace(deployment, engine=engine), trace).summary["median_tpot_ms"])
        / 1e3
    )


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = HEAD + line(9, 400.0, 300, prompt=900.0)
    for running in (4, 16):
        generated = running / decode_step_s(running, STEP_S)
        text += line(running, 3.0 * generated, 700, prompt=2000.0)  # prompts in between: left out
        text += line(running, generated, 800) + line(running, generated, 900)
        text += line(running, 3.0 * generated, 900, waiting=2) + line(running - 1, 2.0 * generated, 900)
    path = tmp_path_factory.mktemp("log") / "server.log"
    path.write_text(text)
    return path


def test_steady_lines_are_decode_steps(log: Path) -> None:
    first, second = read_bench(log)
    assert (first.place, second.place) == ("server.log: 4 running", "server.log: 16 running")
    assert (first.model, first.engine, first.layout) == ("llama-3.1-8b", "vllm", {"tp": 1, "pp": 1})
    (figure,) = second.figures
    assert figure.metric == "itl_p50_ms"
    assert figure.value == pytest.approx(1e3 * decode_step_s(16, STEP_S), rel=1e-3)
    load = workload_of(second)
    assert (load.num_requests, load.concurrency, load.rate_per_s) == (16, None, None)
    assert isinstance(load.input_len, int) and isinstance(load.output_len, int)
    assert load.input_len + load.output_len / 2 == pytest.approx(800, rel=0.02)


def test_a_slow_host_is_found_in_the_log(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (_, before) = check_measured(log, "h100-sxm:1")
    assert before.rows[0].error < -0.1
    out = tmp_path / "mine.yaml"
    assert main(["calibrate", "--from-vllm-log", str(log), "--cluster", "h100-sxm:1", "--out", str(out)]) == 0
    fitted = yaml.safe_load(out.read_text())
    assert fitted["step_fixed_s"] == pytest.approx(STEP_S, rel=0.1)
    assert "request_fixed_s" not in fitted
    assert "vllm server log" in fitted["sources"]["step_fixed_s"]
    for comparison in check_measured(log, "h100-sxm:1", engine=str(out)):
        assert abs(comparison.rows[0].error) < 0.01


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (line(4, 500.0, 700) * 2, "no line 'GPU KV cache size"),
        (HEAD + line(4, 500.0, 700), "none of 1 lines tells the time of a step"),
        (HEAD + line(4, 500.0, 700, prompt=10.0) * 3, "none of 3 lines"),
        (HEAD + line(4, 500.0, 700, engine=0) + line(4, 500.0, 700, engine=1), "none of 2 lines"),
        (HEAD + line(4, 0.0, 700) * 3, "none of 3 lines"),
        (HEAD + line(4, 500.0, 700) * 2 + "SpecDecoding metrics: Mean acceptance length: 2.1\n", "drafts tokens"),
        (HEAD + line(4, 500.0, 700).replace("Engine 000", "2 Engines Aggregated"), "add up several engines"),
        (HEAD + line(4, 500.0, CAPACITY / 4) * 2, "none of 2 lines"),
    ],
)
def test_logs_that_tell_no_step_are_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_bench(path)
    assert "\n" not in str(error.value)
