"""Prompts and tokens at once on a divided device: equal in both modes, nothing lost, paces add up, mistakes in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import apex_sim as apex
from apex_sim.cli import main
from hardware_profiles.errors import UserError
from simulator import clock
from simulator.physics.shape import StepShape
from simulator.result import SimulationResult
from simulator.sharing.phases import PhaseCosts, SplitPhysics, Work
from simulator.sharing.share_policy import SharePolicy
from simulator.sharing.split import SmSplit, parse_split
from simulator.simulate import simulate_deployment
from workloads.spec import workload_from_dict
from workloads.synthetic import generate
from workloads.trace import Trace

SPLITS = st.sampled_from([0.3, 0.6, 0.9, "proactive", "proactive(slack=1.1, kv=0.2, hysteresis=0, order=shortest)"])
OTHERS: list[dict[str, Any]] = [
    {},
    {"enable_prefix_caching": True},
    {"enable_prefix_caching": True, "num_gpu_blocks_override": 100},
    {"num_gpu_blocks_override": 90},
    {"num_gpu_blocks_override": 90, "max_num_batched_tokens": 256, "max_num_seqs": 64},
    {"enable_lora": True, "max_loras": 4, "num_loras": 20, "quantization": "fp8"},
    {"engine": "vllm-v0"},
    {"engine": "trtllm"},
    {"interference": "memory=1.5"},
    {"power_cap": 400.0},
    {"attention_top_k": 256},
]


def traffic(requests: int, seed: int, rate: float = 14.0) -> Trace:
    return generate(
        input_len="uniform(1,1100)", output_len="uniform(1,90)", num_requests=requests, rate_per_s=rate, seed=seed
    )


def build(split: object, cluster: str = "h100-sxm:1", **more: Any) -> apex.Deployment:
    return apex.build_deployment("llama-3.1-8b", cluster, sm_split=split, **{"max_model_len": 1300, **more})  # type: ignore[arg-type]


def both(built: apex.Deployment, trace: Trace) -> SimulationResult:
    spans, steps = (simulate_deployment(built, trace, exact_steps=exact) for exact in (False, True))
    for name in ("scheduled_s", "first_token_s", "finish_s", "replica", "num_preemptions", "cached_tokens"):
        assert np.array_equal(spans.column(name), steps.column(name), equal_nan=True), name
    for mine, other in zip(spans.record.replicas, steps.record.replicas, strict=True):
        for name in mine.counters.__slots__:
            if name != "joules":
                assert getattr(mine.counters, name) == getattr(other.counters, name), name
        assert mine.split == other.split
        assert int(mine.gaps.weighted()[1].sum()) == int(other.gaps.weighted()[1].sum())
        assert _mean_gap(mine) == pytest.approx(_mean_gap(other), rel=1e-12, nan_ok=True)
    assert spans.energy_j == pytest.approx(steps.energy_j, rel=1e-11)
    assert spans.completed.all()
    return spans


def _mean_gap(record: Any) -> float:
    gaps, counts = record.gaps.weighted()
    return float((gaps * counts).sum() / counts.sum()) if counts.sum() else float("nan")


@settings(max_examples=30, deadline=None)
@given(SPLITS, st.sampled_from(OTHERS), st.integers(0, 1000), st.sampled_from([2.0, 14.0, 60.0]))
def test_both_modes_agree_and_nothing_is_lost(split: object, more: dict[str, Any], seed: int, rate: float) -> None:
    trace = traffic(50, seed, rate)
    result = both(build(split, **more), trace)
    counters = result.record.replicas[0].counters
    outputs = int(result.column("output_tokens").sum())
    gaps = result.record.replicas[0].gaps.weighted()[1].sum()
    assert int(gaps) == outputs - len(trace)
    assert counters.busy_ticks <= (result.duration_s + 1e-6) * clock.TICKS_PER_S
    power_w = result.energy_j / result.duration_s
    assert 0 < power_w <= 700.001


@pytest.mark.parametrize("ticks_per_s", [1000, 200])
def test_modes_agree_at_coarse_ticks_where_events_meet(ticks_per_s: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "TICKS_PER_S", ticks_per_s)
    for seed in range(4):
        for split in (0.6, "proactive(hysteresis=0)"):
            both(build(split, num_gpu_blocks_override=100), traffic(40, seed, 30.0))


def test_shared_prefixes_sessions_and_several_replicas() -> None:
    trace = workload_from_dict(
        {
            "rate_per_s": 8, "num_requests": 120, "input_len": "uniform(50,400)", "output_len": "uniform(1,60)",
            "sessions": {"turns": 4, "think_s": 0.5, "max_context_tokens": 1250}, "seed": 4,
        }
    )  # fmt: skip
    built = build("proactive", "h100-sxm:2", dp=2, routing="least-outstanding", enable_prefix_caching=True)
    result = both(built, trace)
    assert result.column("cached_tokens").sum() > 0


def test_tokens_alone_are_as_fast_as_without_a_split() -> None:
    trace = generate(input_len=100, output_len=200, num_requests=1, rate_per_s=1.0)
    plain, split = (simulate_deployment(build(s), trace) for s in (None, 0.5))
    assert split.column("tpot_s")[0] == pytest.approx(plain.column("tpot_s")[0], rel=1e-3)
    assert split.record.replicas[0].split is not None and split.record.replicas[0].split.both_ticks == 0


class _Line:
    """Physics with a closed form: a step of tokens takes 10 ms, of prompts 100 ms, both over their share."""

    window = None

    def __init__(self, share: float) -> None:
        self.share = share

    def step(self, shape: StepShape) -> tuple[float, float]:
        return 0.1 / self.share, 1.0

    def decode(self, num_seqs: int) -> Any:
        from simulator.physics.shape import DecodeLine

        return DecodeLine(0.01 / self.share, 0.0, 0.0, 0.1, 0.0, 0.0)

    def stage_s(self, shape: StepShape) -> tuple[float, ...]:
        return (self.step(shape)[0],)


def _costs(split: SmSplit, asked: float = 0.0) -> PhaseCosts:
    from simulator.costs import StepCosts

    physics = SplitPhysics(
        split=split, model=_Line, nbytes=lambda shape: asked * (0.1 if shape.prefill_tokens else 0.01) / 0.5,
        bandwidth_bytes_per_s=1.0, most_w=None,
    )  # fmt: skip
    return PhaseCosts(physics, StepCosts(_Line(1.0)))


def _works(costs: PhaseCosts) -> tuple[Work, Work]:
    prompt = costs.start(StepShape(0, 0, 0, 500, 1, 1, 1, 0, 1), True)
    return prompt, costs.start(StepShape(4, 100, 100, 0, 0, 0, 0, 0, 4), False)


def test_what_is_left_of_a_step_goes_on_at_the_new_pace() -> None:
    costs = _costs(SmSplit(share=0.5))
    prompt, _ = _works(costs)
    ms = clock.TICKS_PER_S // 1000
    costs.set_pace(prompt, 1.0, costs.alone(prompt, 1.0)[0])
    prompt.left -= 25 * ms  # a quarter is done, then tokens come: three quarters of 200 ms are left
    costs.set_pace(prompt, 0.5, costs.alone(prompt, 0.5)[0])
    assert prompt.left == 150 * ms
    prompt.left -= 50 * ms  # half of it is done; tokens end
    costs.set_pace(prompt, 1.0, costs.alone(prompt, 1.0)[0])
    assert prompt.left == 50 * ms


def test_both_slow_down_by_what_they_ask_for_beyond_the_bandwidth() -> None:
    for asked, factor in ((0.4, 1.0), (0.5, 1.0), (0.8, 1.6), (1.0, 2.0)):
        costs = _costs(SmSplit(share=0.5), asked)
        prompt, token = _works(costs)
        slow = costs.beside(prompt, token, 0.5)
        assert slow[0] == pytest.approx(0.2 * clock.TICKS_PER_S * factor)
        assert slow[1] == pytest.approx(0.02 * clock.TICKS_PER_S * factor)


def test_the_proactive_share_is_the_largest_that_tokens_can_spare() -> None:
    costs = _costs(SmSplit(slack=2.0, hysteresis=0.0))
    prompt, token = _works(costs)
    policy = SharePolicy(costs)
    assert policy.choose(prompt, token, kv_usage=0.1) == 0.5  # tokens take twice as long on half of the device
    assert policy.choose(prompt, token, kv_usage=0.9) == 0.5  # and so do prompts
    costs = _costs(SmSplit(slack=4.0, hysteresis=0.0))
    policy = SharePolicy(costs)
    assert policy.choose(prompt, token, kv_usage=0.1) == 0.75
    assert policy.choose(prompt, token, kv_usage=0.9) == 0.25
    lazy = SharePolicy(_costs(SmSplit(slack=2.4, hysteresis=0.2)))
    assert lazy.choose(prompt, token, kv_usage=0.1) == 0.5 and lazy.changes == 0


def test_prompts_gain_and_tokens_lose_with_the_share() -> None:
    trace = traffic(80, 7, 20.0)
    runs = [simulate_deployment(build(share), trace).summary for share in (0.2, 0.5, 0.8)]
    ttft, tpot = ([run[f"mean_{name}_ms"] for run in runs] for name in ("ttft", "tpot"))
    assert ttft == sorted(ttft, reverse=True)
    assert tpot == sorted(tpot)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "from 0.05 to 0.95"),
        (1.0, "from 0.05 to 0.95"),
        ("half", "fixed"),
        ("fixed", "prompts is missing"),
        ("fixed(prompts=0.5, slack=2)", "slack"),
        ("proactive(slack=0.5)", "at least 1"),
        ("proactive(memory_knee=0)", "memory_knee"),
        ("proactive(order=longest)", "shortest"),
        ([0.5], "--sm-split"),
    ],
)
def test_what_makes_no_sense_is_one_line(value: object, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        parse_split(value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"pp": 2}, "pp 2"),
        ({"speculative_config": '{"method": "ngram", "num_speculative_tokens": 3}'}, "speculative"),
        ({"engine": "orca"}, "orca"),
        ({"engine": "vllm-v0", "preemption_mode": "swap"}, "swap"),
        ({"enable_prefix_caching": True, "kv_offloading_size": 8.0}, "kv-offloading"),
        ({"cold_start": True}, "cold-start"),
        ({"interference": "memory=2,on=1s,off=1s"}, "comes and goes"),
    ],
)
def test_combinations_that_are_not_simulated_are_refused(more: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build(0.5, "h100-sxm:2", **more)


def test_the_command_line_divides_devices_and_repeats_the_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = ["--model", "llama-3.1-8b", "--cluster", "h100-sxm:2"]
    assert (
        main(["explain", "step", *model, "--decode", "8", "--context", "500", "--prefill", "512", "--sm-split", "0.6"])
        == 0
    )
    assert "60.0% of the multiprocessors" in capsys.readouterr().out
    tenants = tmp_path / "tenants.yaml"
    tenants.write_text("tenants:\n  - {memory: 1.5}\n")
    load = ["--rate", "8", "--input-len", "300", "--output-len", "20", "--num-requests", "20"]
    shared = ["--sm-split", "proactive(slack=1.5)", "--interference", str(tenants)]
    assert main(["simulate", *model, *load, *shared, "--out", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "SM split" in out and "sm-split=proactive interference(1 co-tenant)" in out
    config = (tmp_path / "run" / "config.yaml").read_text()
    assert "proactive(slack=1.5)" in config and str(tenants) in config
    assert main(["simulate", *model, *load, "--dp", "2", "--pair-instances"]) == 0
    assert "pair-instances" in capsys.readouterr().out
    assert main(["simulate", *model, *load, "--sm-split", "2"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
