"""Replicas that come and go: exact in both modes, nothing lost, devices paid for while they are held, and no longer."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import apex_sim as apex
from hardware_profiles.errors import UserError
from simulator.elastic.history import ElasticRecord
from simulator.elastic.policies import Forecast, Reactive, Signals, Target, parse_policy
from simulator.elastic.settings import Elasticity
from simulator.result import SimulationResult
from simulator.simulate import simulate_deployment
from workloads.synthetic import generate
from workloads.trace import Trace

POLICIES = (
    "outstanding(target=6)",
    "busy(0.5)",
    "tokens(target=300, patience=1)",
    "arrivals(target=2)",
    "reactive(up=8, down=3)",
    "forecast(capacity=2, window=3)",
)


def deployment(elasticity: Elasticity | None, dp: int = 4, **settings: Any) -> apex.Deployment:
    built = apex.build_deployment("llama-3.1-8b", f"h100-sxm:{dp}", dp=dp, **settings)
    return dataclasses.replace(built, elasticity=elasticity, _cache={})


def traffic(requests: int = 300, seed: int = 1, low: float = 1.0, high: float = 12.0) -> Trace:
    return generate(
        input_len="uniform(50,900)",
        output_len="uniform(1,200)",
        num_requests=requests,
        arrival=f"diurnal({low},{high},60)",
        seed=seed,
    )


def both(served: apex.Deployment, trace: Trace, seed: int = 0) -> tuple[SimulationResult, SimulationResult]:
    spans, steps = (simulate_deployment(served, trace, seed=seed, exact_steps=exact) for exact in (False, True))
    return spans, steps


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(POLICIES),
    st.integers(0, 1000),
    st.sampled_from([None, 8.0, 40.0]),
    st.sampled_from([0.0, 7.5]),
    st.sampled_from(["round-robin", "least-outstanding", "power-of-two"]),
    st.sampled_from(["vllm-v1", "vllm-v0", "orca", "static"]),
)
def test_both_modes_agree_and_nothing_is_lost(
    policy: str, seed: int, mtbf_s: float | None, startup_s: float, routing: str, engine: str
) -> None:
    elasticity = Elasticity(
        policy=policy, interval_s=3.0, startup_s=startup_s, mtbf_s=mtbf_s, repair_s=5.0, retry_s=0.5, min_replicas=1
    )
    served = deployment(elasticity, routing=routing, engine=engine, max_model_len=2048)
    spans, steps = both(served, traffic(120, seed), seed)
    for name in ("scheduled_s", "first_token_s", "finish_s", "replica"):
        assert np.array_equal(spans.column(name), steps.column(name), equal_nan=True), name
    assert isinstance(spans.record, ElasticRecord) and isinstance(steps.record, ElasticRecord)
    assert spans.record.history == steps.record.history
    assert spans.completed.all()
    assert spans.energy_j == pytest.approx(steps.energy_j, rel=1e-12)
    held = spans.held_s
    busy = [replica.counters.busy_ticks / 1e15 for replica in spans.record.replicas]
    assert all(b <= h + 1e-9 and h <= spans.duration_s + 1e-9 for b, h in zip(busy, held, strict=True))


def test_no_policy_and_no_failure_is_the_plain_run() -> None:
    trace = traffic()
    plain = simulate_deployment(deployment(None), trace)
    elastic = simulate_deployment(deployment(Elasticity()), trace)
    assert np.array_equal(plain.column("finish_s"), elastic.column("finish_s"))
    assert elastic.summary["replica_hours"] == pytest.approx(4 * plain.duration_s / 3600)
    for name in ("usd_per_request", "energy_j", "gco2e_per_request"):
        assert elastic.summary[name] == pytest.approx(plain.summary[name])


def test_replicas_follow_the_load_and_cost_less() -> None:
    trace = traffic(2000, low=0.5, high=30.0)
    still = simulate_deployment(deployment(Elasticity()), trace)
    elasticity = Elasticity(policy="outstanding(target=8)", interval_s=2.0, startup_s=3.0)
    moved = simulate_deployment(deployment(elasticity), trace)
    s = moved.summary
    assert s["replicas_started"] > 1 and s["replicas_stopped"] > 1 and s["peak_replicas"] > 2
    assert s["usd_per_request"] < 0.8 * still.summary["usd_per_request"]
    assert s["energy_j"] < still.summary["energy_j"]
    held = sum(moved.held_s)
    assert s["replica_hours"] == pytest.approx(held / 3600)
    assert s["usd_per_hour"] * moved.duration_s == pytest.approx(6.88 * held, rel=1e-6)


def test_a_slow_start_is_felt() -> None:
    trace = traffic(1500, low=0.5, high=60.0)
    quick, slow = (
        simulate_deployment(deployment(Elasticity(policy="outstanding(target=8)", interval_s=2.0, startup_s=s)), trace)
        for s in (0.0, 30.0)
    )
    assert slow.summary["p99_ttft_ms"] > quick.summary["p99_ttft_ms"]


def test_failures_resend_what_was_lost_and_cost_time() -> None:
    trace = traffic(1000, low=4.0, high=8.0)
    sound = simulate_deployment(deployment(Elasticity()), trace)
    frail = simulate_deployment(deployment(Elasticity(mtbf_s=20.0, repair_s=5.0, startup_s=5.0)), trace)
    s = frail.summary
    assert s["replica_failures"] > 5 and s["requests_retried"] > 0 and frail.completed.all()
    assert s["p99_ttft_ms"] > sound.summary["p99_ttft_ms"]
    assert s["replica_hours"] < sound.summary["replica_hours"], "nobody pays for a replica under repair"


def test_the_only_replica_may_fail_and_requests_wait_for_it() -> None:
    trace = traffic(60, low=2.0, high=3.0)
    result = simulate_deployment(deployment(Elasticity(mtbf_s=6.0, repair_s=3.0, startup_s=2.0), dp=1), trace)
    assert result.summary["replica_failures"] > 0 and result.completed.all()
    assert result.column("ttft_s").max() > 4.0


def test_failures_before_any_request_can_finish_end_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulator.elastic.run.HOPELESS", 50)
    for exact in (False, True):
        with pytest.raises(UserError, match=r"^--mtbf is 0\.001 s: 50 failures in a row"):
            simulate_deployment(deployment(Elasticity(mtbf_s=0.001)), traffic(20), exact_steps=exact)


def test_failures_depend_on_the_seed_alone() -> None:
    served = deployment(Elasticity(mtbf_s=10.0, repair_s=3.0, startup_s=1.0))
    runs = [simulate_deployment(served, traffic(), seed=seed) for seed in (3, 3, 4)]
    histories = [run.record.history for run in runs if isinstance(run.record, ElasticRecord)]
    assert histories[0] == histories[1] != histories[2]


def signals(**values: Any) -> Signals:
    base = {"time_s": 0.0, "replicas": 4, "serving": 4, "outstanding": 0, "arrivals_per_s": 0.0, "tokens_per_s": 0.0}
    return Signals(**{**base, "busy": 0.0, **values})


def test_target_tracking_by_hand() -> None:
    policy = Target("outstanding", 10, patience=2)
    assert policy.wanted(signals(outstanding=43)) == 4, "within a tenth of the target"
    assert policy.wanted(signals(outstanding=61)) == 7
    assert policy.wanted(signals(outstanding=10)) == 4, "fewer only when it lasts"
    assert policy.wanted(signals(outstanding=15)) == 2
    assert Target("busy", 0.5).wanted(signals(busy=1.0)) == 8
    assert Target("tokens", 100).wanted(signals(tokens_per_s=900.0)) == 9


def test_reactive_and_forecast_by_hand() -> None:
    policy = Reactive(up=10, down=2)
    assert [policy.wanted(signals(outstanding=n)) for n in (41, 40, 8, 7)] == [5, 4, 4, 3]
    ahead = Forecast(capacity=2, quantile=1.0, window=3)
    assert [ahead.wanted(signals(arrivals_per_s=r)) for r in (6.0, 1.0, 1.0, 1.0)] == [3, 3, 3, 1]


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"policy": "magic(3)"}, "unknown autoscaling policy 'magic'"),
        ({"policy": "busy"}, "target is missing"),
        ({"policy": "busy(target=0)"}, "must be above 0"),
        ({"policy": "reactive(up=2, down=5)"}, "down must be below up"),
        ({"policy": "forecast(capacity=1, quantile=3)"}, "from 0 to 1"),
        ({"min_replicas": 0}, "--min-replicas is 0"),
        ({"min_replicas": 5}, "--dp, 4"),
        ({"initial_replicas": 9}, "--initial-replicas is 9"),
        ({"interval_s": 0.0}, "--interval is 0"),
        ({"startup_s": -1.0}, "--startup is -1"),
        ({"mtbf_s": 0.0}, "--mtbf is 0"),
        ({"repair_s": float("nan")}, "--repair is nan"),
        ({"retry_s": float("inf")}, "--retry is inf"),
    ],
)
def test_wrong_settings_are_one_line(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as error:
        deployment(Elasticity(**wrong))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_every_policy_has_a_parser() -> None:
    assert [parse_policy(text)() for text in POLICIES]
