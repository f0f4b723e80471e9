"""Instances that hold each other's KV: nothing lost, both modes equal, roles and loads as described, mistakes in one line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import apex_sim as apex
from hardware_profiles.errors import UserError
from simulator import clock
from simulator.result import SimulationResult
from simulator.simulate import simulate_deployment
from workloads.spec import workload_from_dict
from workloads.synthetic import generate
from workloads.trace import Trace

OTHERS: list[dict[str, Any]] = [
    {},
    {"num_gpu_blocks_override": 90},
    {"num_gpu_blocks_override": 90, "max_num_batched_tokens": 256, "max_num_seqs": 16},
    {"enable_prefix_caching": True, "num_gpu_blocks_override": 120},
    {"enable_lora": True, "max_loras": 4, "num_loras": 20, "quantization": "fp8"},
    {"engine": "vllm-v0"},
    {"engine": "trtllm"},
    {"interference": "memory=1.5", "power_cap": 400.0},
    {"attention_top_k": 256},
]


def build(paired: bool = True, dp: int = 2, **more: Any) -> apex.Deployment:
    return apex.build_deployment(
        "llama-3.1-8b", f"h100-sxm:{dp}", dp=dp, pair_instances=paired, **{"max_model_len": 1300, **more}
    )


def traffic(requests: int, seed: int, rate: float = 20.0) -> Trace:
    return generate(
        input_len="uniform(1,1100)", output_len="uniform(1,90)", num_requests=requests, rate_per_s=rate, seed=seed
    )


def chats(seed: int) -> Trace:
    return workload_from_dict(
        {
            "rate_per_s": 8, "num_requests": 80, "input_len": "uniform(50,400)", "output_len": "uniform(1,60)",
            "sessions": {"turns": 4, "think_s": 0.5, "max_context_tokens": 1250}, "seed": seed,
        }
    )  # fmt: skip


def check(built: apex.Deployment, trace: Trace) -> SimulationResult:
    """Laws that hold for any run."""
    result, steps = (simulate_deployment(built, trace, exact_steps=exact) for exact in (False, True))
    for name in ("scheduled_s", "first_token_s", "finish_s", "replica"):
        assert np.array_equal(result.column(name), steps.column(name), equal_nan=True), name
    assert result.energy_j == steps.energy_j
    assert result.completed.all()
    records = result.record.replicas
    assert len(records) == built.plan.dp
    assert sum(int(r.gaps.weighted()[1].sum()) for r in records) == int(result.column("output_tokens").sum()) - len(
        trace
    )
    if not built.engine.stream_token_s:
        waited = float((result.column("finish_s") - result.column("first_token_s")).sum())
        assert sum(float((g * n).sum()) for g, n in (r.gaps.weighted() for r in records)) == pytest.approx(
            waited, rel=1e-9
        )
    assert all(0 <= r.counters.busy_ticks <= (result.duration_s + 1e-6) * clock.TICKS_PER_S for r in records)
    assert result.energy_j / result.duration_s <= 700.001 * built.plan.dp
    assert result.summary["peak_kv_usage"] <= 1
    return result


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(OTHERS), st.integers(0, 1000), st.sampled_from([2.0, 20.0, 80.0]), st.sampled_from([2, 4]))
def test_nothing_is_lost_whatever_goes_on(more: dict[str, Any], seed: int, rate: float, dp: int) -> None:
    trace = chats(seed) if more.get("enable_prefix_caching") else traffic(50, seed, rate)
    check(build(dp=dp, routing="least-outstanding", **more), trace)


@pytest.mark.parametrize("ticks_per_s", [1000, 200])
def test_coarse_ticks_at_which_events_meet(ticks_per_s: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "TICKS_PER_S", ticks_per_s)
    for seed in range(4):
        built = build(num_gpu_blocks_override=100)
        result = simulate_deployment(built, traffic(40, seed, 40.0))
        assert result.completed.all()


def test_without_prompts_both_decode_half() -> None:
    trace = generate(input_len=100, output_len=300, num_requests=32, arrival="constant", rate_per_s=1e6)
    paired = check(build(), trace)
    steps = [r.counters.decode_tokens for r in paired.record.replicas]
    assert min(steps) > 0.45 * sum(steps)
    mixed = simulate_deployment(build(False), trace)
    assert paired.duration_s == pytest.approx(mixed.duration_s, rel=0.05)


def test_tokens_do_not_wait_for_prompts() -> None:
    trace = generate(input_len=1000, output_len=60, num_requests=150, rate_per_s=18.0, seed=2)
    mixed, paired = (simulate_deployment(build(p, routing="least-outstanding"), trace).summary for p in (False, True))
    assert paired["p99_itl_ms"] < 0.7 * mixed["p99_itl_ms"]


def test_every_block_is_there_twice() -> None:
    assert build().memory.num_blocks == build(False).memory.num_blocks
    trace = generate(input_len=1000, output_len=150, num_requests=60, arrival="constant", rate_per_s=1e6)
    small = {"num_gpu_blocks_override": 800}
    mixed, paired = (simulate_deployment(build(p, **small), trace) for p in (False, True))
    assert paired.summary["peak_running"] < 0.75 * 2 * mixed.summary["peak_running"]


def test_a_slow_link_delays_decoding() -> None:
    trace = traffic(60, 3, 25.0)
    fast = simulate_deployment(build(), trace)
    slow = apex.build_deployment("llama-3.1-8b", "h100-sxm:1x2", dp=2, pair_instances=True, max_model_len=1300)
    assert simulate_deployment(slow, trace).summary["mean_e2el_ms"] >= fast.summary["mean_e2el_ms"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"dp": 3}, "even number"),
        ({"dp": 1}, "even number"),
        ({"engine": "static"}, "static"),
        ({"ep": 2}, "experts across replicas"),
        ({"sm_split": 0.5}, "sm-split"),
        ({"speculative_config": '{"method": "ngram", "num_speculative_tokens": 3}'}, "speculative"),
        ({"interference": "memory=2,on=1s,off=1s"}, "comes and goes"),
    ],
)
def test_combinations_that_are_not_simulated_are_refused(more: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        build(**more)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["interference", "sm_split", "pair_instances"])
def test_plans_are_not_searched_with_shared_devices(name: str) -> None:
    value: Any = {"interference": "memory=2", "sm_split": 0.5, "pair_instances": True}[name]
    with pytest.raises(UserError, match="not searched"):
        apex.plan("llama-3.1-8b", "h100-sxm:2", rate=1, input_len=10, output_len=10, num_requests=10, **{name: value})


@pytest.mark.parametrize("name", ["sm_split", "pair_instances"])
def test_pools_are_neither_divided_nor_paired(name: str) -> None:
    value: Any = {"sm_split": 0.5, "pair_instances": True}[name]
    with pytest.raises(UserError, match="disaggregate"):
        apex.simulate(
            "llama-3.1-8b", "h100-sxm:4", disaggregate=("prefill=tp1,dp2", "decode=tp1,dp2"), rate=1, input_len=10,
            output_len=10, num_requests=10, **{name: value},
        )  # fmt: skip
