"""Files of benchmark tools: every reader, each tool's own meaning of its metrics, mistakes in one line.

A simulated run is written as each tool would have written it; what is predicted for the file must then be the run itself.
"""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import apex_sim
from apex_sim.checks.measured import compare_measured, read_all, runs_of
from apex_sim.cli import main
from hardware_profiles.errors import UserError
from simulator.result import SimulationResult
from simulator.validation.bench.files import read_bench
from simulator.validation.bench.result import BenchResult, workload_of

ON: dict[str, Any] = {"cluster": "h100-sxm:1", "engine": "vllm-v1", "settings": {}}
MODEL = "llama-3.1-8b"
PERCENTILES = (50, 90, 95, 99)


@pytest.fixture(scope="module")
def run() -> SimulationResult:
    lengths = {"input_len": "lognormal(median=300,sigma=0.5)", "output_len": "uniform(1,80)"}
    return apex_sim.simulate(MODEL, "h100-sxm:1", rate=20, num_requests=80, **lengths)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def loop() -> SimulationResult:
    return apex_sim.simulate(
        MODEL, "h100-sxm:1", arrival="closed(concurrency=8)", input_len=400, output_len=50, num_requests=80
    )


def columns(run: SimulationResult) -> dict[str, np.ndarray[Any, Any]]:
    names = ("arrival_s", "input_tokens", "output_tokens", "ttft_s", "tpot_s", "e2e_s")
    return {name: np.asarray(run.column(name), dtype=np.float64) for name in names}


def vllm(run: SimulationResult, *, detailed: bool = True, **more: Any) -> dict[str, Any]:
    """As ``vllm bench serve --percentile-metrics ttft,tpot,itl,e2el --save-detailed`` writes a run."""
    summary, data = run.summary, columns(run)
    statistics = [f"{p}_{m}_ms" for m in ("ttft", "tpot", "itl", "e2el") for p in ("mean", "median", "p99")]
    copied = ("num_prompts", "completed", "total_input_tokens", "total_output_tokens", "request_throughput")
    result = {name: summary[name] for name in (*statistics, *copied, "output_throughput", "total_token_throughput")}
    result |= {
        "model_id": MODEL,
        "request_rate": 20.0,
        "burstiness": 1.0,
        "max_concurrency": None,
        "request_goodput:": None,
    }
    if detailed:
        result |= {"input_lens": data["input_tokens"].tolist(), "output_lens": data["output_tokens"].tolist()}
        result |= {"start_times": (1e5 + data["arrival_s"]).tolist(), "ttfts": data["ttft_s"].tolist()}
    return result | more


def nvidia(run: SimulationResult) -> dict[str, Any]:
    """As GenAI-Perf and AIPerf write a run."""
    data = columns(run)

    def entry(values: np.ndarray[Any, Any], unit: str) -> dict[str, Any]:
        values = values[np.isfinite(values)]
        found = {f"p{p}": float(np.percentile(values, p)) for p in PERCENTILES}
        return {
            "unit": unit,
            "avg": values.mean(),
            "std": values.std(),
            "min": values.min(),
            "max": values.max(),
            **found,
        }

    return {
        "time_to_first_token": entry(1e3 * data["ttft_s"], "ms"),
        "inter_token_latency": entry(1e6 * data["tpot_s"], "us"),
        "request_latency": entry(data["e2e_s"], "s"),
        "output_token_throughput": {"unit": "tokens/sec", "avg": run.summary["output_throughput"]},
        "request_throughput": {"unit": "requests/sec", "avg": run.summary["request_throughput"]},
        "input_sequence_length": entry(data["input_tokens"], "tokens"),
        "output_sequence_length": entry(data["output_tokens"], "tokens"),
        "request_count": {"unit": "requests", "avg": float(len(run.trace))},
        "input_config": {"endpoint": {"model_names": [MODEL]}, "loadgen": {"concurrency": 8, "request_rate": None}},
    }


def guidellm(run: SimulationResult) -> dict[str, Any]:
    """As GuideLLM writes a run: TPOT with the first token and weighted by tokens, ITL weighted by gaps."""
    data = columns(run)

    def entry(values: np.ndarray[Any, Any], weights: np.ndarray[Any, Any] | None = None) -> dict[str, Any]:
        repeated = values if weights is None else np.repeat(values, weights.astype(np.int64))
        shares = {f"p{p}": float(np.percentile(repeated, p)) for p in PERCENTILES}
        plain = {"mean": repeated.mean(), "std_dev": values.std(), "min": values.min(), "max": values.max()}
        return {"successful": {**plain, "count": len(values), "percentiles": shares}}

    tokens, several = data["output_tokens"], data["output_tokens"] > 1
    metrics = {
        "time_to_first_token_ms": entry(1e3 * data["ttft_s"]),
        "time_per_output_token_ms": entry(1e3 * data["e2e_s"] / tokens, tokens),
        "inter_token_latency_ms": entry(1e3 * data["tpot_s"][several], tokens[several] - 1),
        "request_latency": entry(data["e2e_s"]),
        "requests_per_second": {"successful": {"mean": run.summary["request_throughput"]}},
        "prompt_token_count": entry(data["input_tokens"]),
        "output_token_count": entry(tokens),
    }
    strategy = {"type_": "concurrent", "streams": 8}
    return {"metadata": {"version": 2}, "benchmarks": [{"config": {"strategy": strategy}, "metrics": metrics}]}


def written(path: Path, *values: dict[str, Any]) -> Path:
    path.write_text("\n".join(json.dumps(value, default=float) for value in values))
    return path


def errors(path: Path, **given: Any) -> dict[str, float]:
    (found,) = compare_measured(read_all([path], **given), MODEL, ON)
    return {row.name: row.error for row in found.rows}


def test_a_detailed_vllm_result_is_predicted_as_it_was(run: SimulationResult, tmp_path: Path) -> None:
    found = errors(written(tmp_path / "b.json", vllm(run)))
    assert len(found) == 15
    assert max(map(abs, found.values())) < 1e-4  # start times come back within 1e-11 s: ticks may differ by one


def test_a_closed_loop_of_vllm_is_predicted_as_it_was(loop: SimulationResult, tmp_path: Path) -> None:
    rates: dict[str, Any] = {"request_rate": "inf", "max_concurrency": 8}
    found = errors(written(tmp_path / "b.json", vllm(loop, detailed=False, **rates)))
    assert max(map(abs, found.values())) < 1e-12


def test_sglang_calls_end_to_end_and_totals_otherwise(loop: SimulationResult, tmp_path: Path) -> None:
    data = vllm(
        loop,
        detailed=False,
        request_rate=float("inf"),
        max_concurrency=8,
        total_output_tokens_retokenized=1,
        backend="sglang-oai",
    )
    renamed = {name.replace("_e2el_", "_e2e_latency_"): value for name, value in data.items()}
    renamed["total_throughput"] = renamed.pop("total_token_throughput")
    path = written(tmp_path / "s.jsonl", renamed, renamed)
    results = read_bench(path)
    assert [r.tool for r in results] == ["sglang bench_serving"] * 2
    assert [r.place for r in results] == ["s.jsonl:1", "s.jsonl:2"]
    found = {f.name: f.metric for f in results[0].figures}
    assert found["p99_e2e_latency_ms"] == "e2e_p99_ms"
    assert found["total_throughput"] == "total_tok_s"
    (first, _) = compare_measured(results, MODEL, ON)
    assert first.notes[-1] == "the file is of sglang, and --engine is vllm-v1"
    assert max(abs(row.error) for row in first.rows) < 1e-12


def test_nvidias_inter_token_latency_is_tpot(loop: SimulationResult, tmp_path: Path) -> None:
    path = written(tmp_path / "profile_export_aiperf.json", nvidia(loop))
    result = read_bench(path)[0]
    assert (result.tool, result.model, result.concurrency, result.num_requests) == ("aiperf", MODEL, 8, 80)
    assert {f.metric for f in result.figures if f.name.startswith("inter_token")} >= {"tpot_mean_ms", "tpot_p95_ms"}
    found = errors(path)
    assert len(found) == 17
    assert max(map(abs, found.values())) < 1e-9


def phased(run: SimulationResult, *phases: dict[str, Any]) -> dict[str, Any]:
    """As AIPerf 0.13 writes it: its configuration has phases, a warm-up first."""
    warmup = {"name": "w", "kind": "warmup", "type": "concurrency", "exclude_from_results": True, "concurrency": 3}
    config = {"models": {"items": [{"name": MODEL}]}, "phases": [warmup, *phases]}
    return nvidia(run) | {"schema_version": "1.4", "aiperf_version": "0.13.0", "input_config": config}


def test_aiperfs_load_is_that_of_the_profiled_phase(loop: SimulationResult, tmp_path: Path) -> None:
    path = written(
        tmp_path / "profile_export_aiperf.json",
        phased(loop, {"name": "p", "kind": "profiling", "type": "concurrency", "concurrency": 8, "requests": 80}),
    )
    (result,) = read_bench(path)
    assert (result.model, result.concurrency, result.rate_per_s) == (MODEL, 8, None)
    assert max(map(abs, errors(path).values())) < 1e-9
    for phase, arrival in (("poisson", "poisson"), ("constant", "constant"), ("gamma", "gamma(cv=0.5)")):
        data = phased(loop, {"kind": "profiling", "type": phase, "rate": 6.5, "concurrency": 64, "smoothness": 4.0})
        (result,) = read_bench(written(path, data))
        assert (result.rate_per_s, result.concurrency, result.arrival) == (6.5, 64, arrival)
    (result,) = read_bench(written(path, phased(loop, {"type": "constant", "rate": 1.0}) | {"was_cancelled": True}))
    assert "cancelled" in result.notes[-1]


def test_a_load_that_the_file_does_not_say_is_asked_for(loop: SimulationResult, tmp_path: Path) -> None:
    profiled = {"type": "poisson", "rate": 4.0}
    trace = guidellm(loop)
    trace["benchmarks"][0]["config"]["strategy"] = {"type_": "trace"}
    for data, reason in (
        (phased(loop, {"type": "fixed_schedule"}), "its phase is of type fixed_schedule"),
        (phased(loop, profiled, profiled), "it has 2 profiled phases"),
        (phased(loop, profiled | {"rate_ramp": 5.0}), "its load changes"),
        (nvidia(loop) | {"input_config": {}}, "neither request_rate nor concurrency"),
        (trace, "its strategy is trace"),
        (vllm(loop, detailed=False, request_rate="trace", server_info={}), "it replays the times of a trace"),
    ):
        path = written(tmp_path / "file.json", data)
        with pytest.raises(UserError, match=f"does not say at what rate.*{reason}.*give --rate or --concurrency"):
            errors(path)
        assert errors(path, rate_per_s=5.0)


def test_records_of_aiperf_are_replayed_one_by_one(run: SimulationResult, tmp_path: Path) -> None:
    data = columns(run)
    lines = []
    for i in range(len(run.trace)):
        metrics = {
            "time_to_first_token": {"value": 1e3 * data["ttft_s"][i], "unit": "ms"},
            "request_latency": {"value": 1e3 * data["e2e_s"][i], "unit": "ms"},
            "input_sequence_length": {"value": data["input_tokens"][i], "unit": "tokens"},
            "output_sequence_length": {"value": data["output_tokens"][i], "unit": "tokens"},
        }
        if np.isfinite(data["tpot_s"][i]):
            metrics["inter_token_latency"] = {"value": 1e3 * data["tpot_s"][i], "unit": "ms"}
        begin = int(1e9 * data["arrival_s"][i])
        about = {"request_start_ns": begin, "benchmark_phase": "profiling"}
        lines.append({"metadata": about, "metrics": metrics, "error": None})
    lines += [{"metadata": {"benchmark_phase": "warmup", "request_start_ns": 0}, "metrics": {}, "error": None}]
    lines += [{"metadata": {"request_start_ns": 1}, "metrics": {}, "error": {"code": 500}}]
    found = errors(written(tmp_path / "profile_export.jsonl", *lines))
    assert len(found) == 15
    assert max(map(abs, found.values())) < 1e-4


def test_guidellm_counts_the_first_token_and_weights_by_tokens(loop: SimulationResult, tmp_path: Path) -> None:
    found = errors(written(tmp_path / "benchmarks.json", guidellm(loop)))
    assert {"time_per_output_token_ms mean", "inter_token_latency_ms p95", "request_latency p99"} <= found.keys()
    assert max(map(abs, found.values())) < 1e-9


def test_guidellms_weights_with_outputs_of_all_lengths(run: SimulationResult, tmp_path: Path) -> None:
    result = read_bench(written(tmp_path / "benchmarks.json", guidellm(run)))[0]
    trace = read_bench(written(tmp_path / "b.json", vllm(run)))[0].requests
    known = BenchResult(tool="guidellm", place="x", figures=result.figures, requests=trace)
    (found,) = compare_measured([known], MODEL, ON)
    means = {row.name: row.error for row in found.rows if row.name.endswith("mean")}
    assert abs(means["time_per_output_token_ms mean"]) < 1e-4
    assert abs(means["inter_token_latency_ms mean"]) < 1e-4
    pooled = run.summary["mean_itl_ms"]
    assert result.figures[5].name == "time_per_output_token_ms mean"
    itl = next(f.value for f in result.figures if f.name == "inter_token_latency_ms mean")
    assert itl == pytest.approx(pooled, rel=1e-6)  # its mean ITL is vLLM's
    assert abs(itl / run.summary["mean_tpot_ms"] - 1) > 1e-3


def test_inferencex_gives_seconds_and_figures_per_device(tmp_path: Path) -> None:
    data = {"hw": "h100", "conc": 16, "isl": 1024, "osl": 512, "tp": 2, "framework": "vllm", "model": "llama-3.1-70b"}
    data |= {"median_ttft": 0.2, "mean_tpot": 0.02, "p99_e2el": 12.0, "median_intvty": 50.0}
    data |= {"tput_per_gpu": 700.0, "output_tput_per_gpu": 230.0}
    (result,) = read_bench(written(tmp_path / "agg_x.json", data))
    assert {f.metric: f.value for f in result.figures} == {
        "ttft_p50_ms": 200.0,
        "tpot_mean_ms": 20.0,
        "e2e_p99_ms": 12000.0,
        "output_tok_s_per_gpu": 230.0,
        "total_tok_s": 1400.0,
    }
    load = workload_of(result)
    assert (load.concurrency, load.num_requests, load.input_len) == (16, 160, "uniform(819,1024)")
    (found,) = compare_measured([result], None, {**ON, "cluster": "h100-sxm:2"})
    assert {row.metric for row in found.rows} == {f.metric for f in result.figures}
    with pytest.raises(UserError, match="two pools"):
        read_bench(written(tmp_path / "agg_y.json", {**data, "disagg": True}))


def test_lengths_without_times_are_drawn_from(run: SimulationResult, tmp_path: Path) -> None:
    data = {name: value for name, value in vllm(run).items() if name != "start_times"}
    (result,) = read_bench(written(tmp_path / "s.jsonl", {**data, "server_info": {}}))
    assert result.requests is None
    assert result.input_len == tuple(run.trace.input_tokens.tolist())
    (found,) = compare_measured([result], MODEL, ON)
    assert "80 observed input and 80 observed output tokens" in found.load
    assert abs(next(row.error for row in found.rows if row.name == "mean_tpot_ms")) < 0.05


def test_which_of_rate_and_concurrency_decided() -> None:
    def load(**more: Any) -> Any:
        given: dict[str, Any] = {
            "tool": "t",
            "place": "p",
            "figures": (),
            "num_requests": 10,
            "input_len": 5,
            "output_len": 5,
        }
        return workload_of(BenchResult(**given, **more))

    assert load(concurrency=4).concurrency == 4
    assert load(rate_per_s=2.0).rate_per_s == 2.0
    reached = {"rate_per_s": 2.0, "concurrency": 4, "arrival": "scaled-poisson"}
    assert load(**reached, reached_rate_per_s=1.95).stages[0].duration_s == 5.0
    assert load(**reached, reached_rate_per_s=1.0).concurrency == 4
    nothing = load()
    assert (nothing.concurrency, nothing.rate_per_s, nothing.stages) == (None, None, ())


def test_burstiness_is_the_shape_of_the_gaps(loop: SimulationResult, tmp_path: Path) -> None:
    data = vllm(loop, detailed=False, burstiness=0.25)
    assert read_bench(written(tmp_path / "b.json", data))[0].arrival == "gamma(cv=2)"


def test_zeros_are_what_was_not_measured(loop: SimulationResult, tmp_path: Path) -> None:
    data = vllm(loop, detailed=False, mean_itl_ms=0.0, p99_itl_ms=None)
    names = {f.name for f in read_bench(written(tmp_path / "b.json", data))[0].figures}
    assert not names & {"mean_itl_ms", "p99_itl_ms"}
    assert "median_itl_ms" in names


JUNK: tuple[Any, ...] = (None, -1, 0, "x", [], {}, 1e308, float("nan"), float("inf"), True, [1, "a"], 1e-9, 3, "5")


def spoil(data: Any, rng: random.Random) -> None:
    """Replace or delete one value somewhere."""
    while data:
        key = rng.choice(list(data) if isinstance(data, dict) else range(len(data)))
        if isinstance(data[key], dict | list) and data[key] and rng.random() < 0.7:
            data = data[key]
            continue
        if isinstance(data, dict) and rng.random() < 0.2:
            del data[key]
        else:
            data[key] = copy.deepcopy(rng.choice(JUNK))
        return


@pytest.mark.filterwarnings("error")
def test_whatever_a_file_holds_it_is_a_load_or_one_line(loop: SimulationResult, tmp_path: Path) -> None:
    rng, good = random.Random(0), 0
    record = {"metadata": {"request_start_ns": 5}, "metrics": {"input_sequence_length": {"value": 5, "unit": "tokens"}}}
    record["metrics"]["output_sequence_length"] = {"value": 5, "unit": "tokens"}
    record["metrics"]["time_to_first_token"] = {"value": 25.0, "unit": "ms"}
    agg = {"hw": "h100", "conc": 16, "isl": 1024, "osl": 512, "tp": 2, "median_ttft": 0.2, "tput_per_gpu": 700.0}
    sound = [vllm(loop), {**vllm(loop), "server_info": {}}, nvidia(loop), guidellm(loop), agg, record]
    texts = [json.dumps(data, default=float) for data in sound]
    for _ in range(200):
        data = json.loads(rng.choice(texts))
        for _ in range(rng.randint(1, 4)):
            spoil(data, rng)
        path = written(tmp_path / "spoilt.json", data)
        try:
            good += len(runs_of(read_bench(path), MODEL, ON))
        except UserError as error:
            assert "\n" not in str(error)
    assert 30 < good < 200


def test_the_command_prints_both_and_may_judge(
    loop: SimulationResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates: dict[str, Any] = {"request_rate": "inf", "max_concurrency": 8}
    good = written(tmp_path / "good.json", vllm(loop, detailed=False, **rates))
    slow = vllm(loop, detailed=False, **rates)
    bad = written(tmp_path / "bad.json", {**slow, "mean_tpot_ms": slow["mean_tpot_ms"] * 2})
    command = ["check", "--cluster", "h100-sxm:1", "--measured"]
    assert main([*command, str(good), "--rtol", "0.01"]) == 0
    text = capsys.readouterr().out
    assert "80 requests, a closed loop of 8, 400 input and 50 output tokens" in text
    assert "every prediction is within 1%" in text
    assert main([*command, str(bad)]) == 0
    assert main([*command, str(good), str(bad), "--rtol", "0.01"]) == 1
    assert "FAILED: beyond 1%: mean_tpot_ms -50.0%" in capsys.readouterr().out
    assert main([*command, str(bad), "--rtol", "0.01", "--metric", "mean_ttft_ms"]) == 0
    capsys.readouterr()
    assert main([*command, str(bad), "--json", "-", "--metric", "tpot_mean_ms"]) == 0
    (data,) = json.loads(capsys.readouterr().out)
    assert data["figures"][0]["error"] == pytest.approx(-0.5)


def test_the_api_and_what_ci_reads(
    loop: SimulationResult, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: dict[str, Any] = {"request_rate": "inf", "max_concurrency": 8}
    path = written(tmp_path / "b.json", vllm(loop, detailed=False, **rates) | {"mean_tpot_ms": 70.0})
    (found,) = apex_sim.check_measured(path, "h100-sxm:1", metrics=["mean_tpot_ms", "mean_ttft_ms"])
    assert {row.name: row.inside for row in found.rows} == {"mean_tpot_ms": False, "mean_ttft_ms": True}
    (again,) = apex_sim.check_measured([path], "h100-sxm:1", max_num_batched_tokens=512, concurrency=4, tp=1)
    assert "a closed loop of 4" in again.load
    with pytest.raises(UserError, match="unknown setting 'max_seqs'"):
        apex_sim.check_measured(path, "h100-sxm:1", max_seqs=4)
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    command = ["check", "--measured", str(path), "--cluster", "h100-sxm:1", "--rtol", "0.1", "--format"]
    assert main([*command, "github"]) == 1
    assert "::error title=apex-sim::b.json: mean_tpot_ms measured 70, predicted" in capsys.readouterr().out
    assert "| mean_tpot_ms | tpot_mean_ms | 70 |" in summary.read_text()
    assert main([*command, "markdown"]) == 1
    assert capsys.readouterr().out == summary.read_text()[:-1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("{}", "no known tool"),
        ("[1]", "is no result of a benchmark"),
        ('{"a": 1}\n{"b"', "is no JSON from line 2"),
        ('{"request_throughput": 1, "mean_ttft_ms": 5}', "does not name the model"),
        (
            '{"request_throughput": 1, "mean_ttft_ms": 5, "model_id": "gpt2"}',
            "give --input-len, --output-len, --num-requests",
        ),
        ('{"request_throughput": 0, "mean_ttft_ms": 0, "model_id": "gpt2"}', "has no figure"),
        ('{"metadata": {}, "metrics": {}}', "does not name the model"),
        ('{"benchmarks": [{}], "metadata": {}}', "does not name the model"),
    ],
)
def test_mistakes_of_a_file_are_one_line(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bench.json"
    path.write_text(text)
    assert main(["check", "--measured", str(path), "--cluster", "h100-sxm:1"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_mistakes_of_the_command_are_one_line(
    loop: SimulationResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(written(tmp_path / "good.json", vllm(loop, detailed=False, max_concurrency=8, request_rate="inf")))
    (tmp_path / "x.pytorch.json").write_text("{}")
    for arguments in (
        ["--measured", path],
        ["--measured", path, "--cluster", "h1000:1"],
        ["--measured", path, "--cluster", "h100-sxm:1", "--metric", "mean_tppt_ms"],
        ["--measured", path, "--cluster", "h100-sxm:1", "--rate", "1", "--concurrency", "1"],
        ["--measured", path, "--cluster", "h100-sxm:1", "--rate", "-1"],
        ["--measured", path, "--cluster", "h100-sxm:1", "--input-len", "some"],
        ["--measured", path, "--cluster", "h100-sxm:1", "--model", "llama-3.1-405b"],
        ["--measured", path, "--cluster", "h100-sxm:1", "--strict"],
        ["--measured", str(tmp_path / "none.json"), "--cluster", "h100-sxm:1"],
        ["--measured", str(tmp_path / "x.pytorch.json"), "--cluster", "h100-sxm:1"],
        ["--cluster", "h100-sxm:1"],
        [],
    ):
        assert main(["check", *arguments]) == 2, arguments
        assert capsys.readouterr().err.count("\n") == 1, arguments


def test_two_pools_are_predicted_as_they_were(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pools = ("prefill=tp1", "decode=tp1")
    loop = apex_sim.simulate(
        MODEL,
        "h100-sxm:2",
        disaggregate=pools,
        arrival="closed(concurrency=8)",
        input_len=400,
        output_len=50,
        num_requests=80,
    )
    path = written(tmp_path / "b.json", vllm(loop, detailed=False, request_rate="inf", max_concurrency=8))
    (found,) = apex_sim.check_measured(path, "h100-sxm:2", disaggregate=pools)
    assert len(found.rows) == 15
    assert max(abs(row.error) for row in found.rows) < 1e-9
    assert all(row.low is None for row in found.rows)
    command = ["check", "--measured", str(path), "--cluster", "h100-sxm:2", "--rtol", "1%"]
    assert main([*command, "--disaggregate", *pools]) == 0
    assert main(command) == 1  # one replica on one of the devices
    for more, message in (
        (["--disaggregate", *pools, "--tp", "2"], "--tp beside --disaggregate"),
        (["--kv-link", "50GB/s"], "no meaning without two pools"),
        (["--disaggregate", "prefill=tp1", "decode=tp4"], "device"),
    ):
        capsys.readouterr()
        assert main([*command, *more]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
