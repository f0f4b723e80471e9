"""The event loop on real models and devices: laws that hold whatever the fitted numbers are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from engine_checks import assert_same_run

from apex_sim import api

WORKLOAD: dict[str, Any] = {
    "rate": 4.0,
    "input_len": "lognormal(median=800, sigma=0.9)",
    "output_len": "lognormal(median=120, sigma=0.8)",
    "num_requests": 150,
}

VLLM_BENCH_FIELDS = {
    f"{statistic}_{metric}_ms"
    for statistic in ("mean", "median", "std", "p99")
    for metric in ("ttft", "tpot", "itl", "e2el")
} | {
    "completed",
    "duration",
    "total_input_tokens",
    "total_output_tokens",
    "request_throughput",
    "request_goodput",
    "output_throughput",
    "total_token_throughput",
}
"""Keys of the JSON that vLLM 0.8 to 0.19 writes with `vllm bench serve --save-result`."""


def simulate(model: str = "llama-3-8b", cluster: str = "h100-sxm:1", **more: Any) -> Any:
    return api.simulate(model, cluster, **{**WORKLOAD, **more})


@pytest.mark.parametrize(
    ("model", "cluster", "layout"),
    [
        ("llama-3-8b", "h100-sxm:1", {}),
        ("mistral-7b-v0.1", "h100-sxm:1", {}),
        ("gpt-oss-20b", "h100-sxm:1", {}),
        ("deepseek-v2-lite", "h100-sxm:1", {}),
        ("mixtral-8x7b", "h100-sxm:4", {"tp": 2, "dp": 2}),
        ("llama-3-8b", "h100-sxm:2", {"pp": 2}),
    ],
)
@pytest.mark.parametrize("engine", ["vllm-v1", "vllm-v0"])
def test_jumping_equals_stepping_with_real_physics(
    model: str, cluster: str, layout: dict[str, int], engine: str
) -> None:
    spans = simulate(model, cluster, engine=engine, **layout)
    steps = simulate(model, cluster, engine=engine, exact_steps=True, **layout)
    assert_same_run(spans.record, steps.record)


@pytest.mark.parametrize("pp", [1, 2])
def test_scarce_blocks_preempt_and_still_agree(pp: int) -> None:
    scarce = {"num_gpu_blocks_override": 300, "max_model_len": 4800, "pp": pp, "rate": 20.0, "max_num_seqs": 64}
    scarce |= {"input_len": "uniform(100, 900)", "output_len": "uniform(50, 400)"}
    spans = simulate(cluster="h100-sxm:2", **scarce)
    assert spans.summary["num_preemptions"] > 0
    assert_same_run(spans.record, simulate(cluster="h100-sxm:2", exact_steps=True, **scarce).record)


def test_more_tensor_parallel_gpus_give_shorter_token_times() -> None:
    medians = [simulate(cluster=f"h100-sxm:{n}", tp=n, rate=1.0).summary["median_tpot_ms"] for n in (1, 2, 4)]
    assert medians[0] > medians[1] > medians[2]


def test_more_load_never_helps_the_slowest_first_tokens() -> None:
    """The same requests on a faster clock."""
    tails = [simulate(rate=rate, num_requests=400).summary["p95_ttft_ms"] for rate in (2.0, 20.0, 100.0)]
    assert tails[0] < tails[1] < tails[2]


def test_two_replicas_at_twice_the_rate_carry_twice_the_load() -> None:
    """Random thinning of a Poisson stream: each replica sees the load of one alone."""
    one = simulate(num_requests=1000).summary
    two = simulate(cluster="h100-sxm:2", dp=2, rate=8.0, num_requests=2000, routing="random").summary
    assert two["request_throughput"] == pytest.approx(2 * one["request_throughput"], rel=0.15)
    assert two["median_tpot_ms"] == pytest.approx(one["median_tpot_ms"], rel=0.15)


def test_summary_has_the_fields_of_vllm_bench_serve() -> None:
    summary = simulate().summary
    assert summary.keys() >= VLLM_BENCH_FIELDS
    assert summary["completed"] == 150
    assert summary["mean_e2el_ms"] > summary["mean_ttft_ms"] > 0


def test_summary_and_request_table_tell_the_same_story() -> None:
    result = simulate()
    requests, summary = result.requests, result.summary
    assert summary["mean_ttft_ms"] == pytest.approx(1e3 * requests.ttft_s.mean())
    assert summary["total_output_tokens"] == requests.output_tokens.sum()
    multi = requests[requests.output_tokens > 1]
    np.testing.assert_allclose(multi.tpot_s, (multi.finish_s - multi.first_token_s) / (multi.output_tokens - 1))
    total_gap_s = (multi.finish_s - multi.first_token_s).sum()
    gaps = (multi.output_tokens - 1).sum()
    assert summary["mean_itl_ms"] == pytest.approx(1e3 * total_gap_s / gaps, rel=1e-9)


def test_static_batching_is_no_match_for_continuous_batching() -> None:
    """Orca's and vLLM's point: under load, request-level batching makes everybody wait for the longest."""
    mean_ms = {
        engine: simulate(engine=engine, rate=15.0, max_model_len=4096).summary["mean_e2el_ms"]
        for engine in ("static", "vllm-v1")
    }
    assert mean_ms["vllm-v1"] < mean_ms["static"]
