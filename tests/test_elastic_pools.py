"""Prefill and decode pools that come and go: exact in both modes, nothing lost, the prefill pool in its ratio."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from test_elastic import POLICIES, traffic

import apex_sim as apex
from apex_sim.cli import main
from hardware_profiles.errors import UserError
from simulator.elastic.pools import ElasticPoolsRecord
from simulator.elastic.settings import Elasticity
from simulator.handover import ReceivingCore
from simulator.result_disaggregated import DisaggregatedResult
from simulator.simulate_disaggregated import simulate_disaggregated
from workloads.trace import Trace

COLUMNS = (
    "scheduled_s",
    "first_token_s",
    "finish_s",
    "replica",
    "prefill_replica",
    "kv_begin_s",
    "kv_end_s",
    "kv_bytes",
)
PAIRS: dict[str, apex.DisaggregatedDeployment] = {}


def pair(elasticity: Elasticity | None, prefill: str = "dp3", decode: str = "dp4", **engine: Any) -> Any:
    key = repr((prefill, decode, sorted(engine.items())))
    if key not in PAIRS:
        pools = apex_pools(prefill, decode)
        PAIRS[key] = apex.build_disaggregated("llama-3.1-8b", "h100-sxm:8", pools, **engine)
    return dataclasses.replace(PAIRS[key], elasticity=elasticity)


def apex_pools(prefill: str, decode: str) -> Any:
    from simulator.build_disaggregated import parse_pools

    return parse_pools([f"prefill={prefill}", f"decode={decode}"])


def both(served: Any, trace: Trace, seed: int = 0) -> tuple[DisaggregatedResult, DisaggregatedResult]:
    spans, steps = (simulate_disaggregated(served, trace, seed=seed, exact_steps=exact) for exact in (False, True))
    return spans, steps


@settings(max_examples=15, deadline=None, phases=(Phase.generate,))
@given(
    st.sampled_from([None, *POLICIES]),
    st.sampled_from([None, 0.5, 1.0, "arrivals(target=2)", "busy(0.5)"]),
    st.integers(0, 1000),
    st.sampled_from([None, 3.0, 15.0]),
    st.sampled_from(["round-robin", "least-outstanding"]),
    st.sampled_from([{}, {"cooldown_s": 20.0}, {"soft_stop_s": 9.0}]),
    st.sampled_from(["50GB/s", "0.3GB/s", "inf"]),
    st.sampled_from(
        [
            {},
            {"async_scheduling": True, "num_gpu_blocks_override": 140},
            {"engine": "vllm-v0", "preemption_mode": "swap", "num_gpu_blocks_override": 140},
            {"scheduling_policy": "sjf", "max_num_seqs": 4},
        ]
    ),
)
def test_both_modes_agree_and_nothing_is_lost(
    policy: str | None,
    prefill: float | str | None,
    seed: int,
    mtbf_s: float | None,
    routing: str,
    more: dict[str, Any],
    link: str,
    engine: dict[str, Any],
) -> None:
    ratio = prefill if isinstance(prefill, float) and policy else None
    own = prefill if isinstance(prefill, str) and policy else None
    elasticity = Elasticity(
        policy=policy,
        pd_ratio=ratio,
        prefill_policy=own,
        interval_s=3.0,
        startup_s=2.0,
        mtbf_s=mtbf_s,
        repair_s=2.0,
        retry_s=0.5,
        **more,
    )
    served = pair(elasticity, routing=routing, max_model_len=2048, kv_link=link, **engine)
    spans, steps = both(served, traffic(80, seed), seed)
    for name in COLUMNS:
        assert np.array_equal(spans.column(name), steps.column(name), equal_nan=True), name
    for mine, theirs in zip(spans.record.replicas, steps.record.replicas, strict=True):
        one, other = dataclasses.asdict(mine.counters), dataclasses.asdict(theirs.counters)
        assert one.pop("joules") == pytest.approx(other.pop("joules"), rel=1e-12)
        assert one == other
    assert isinstance(spans.record, ElasticPoolsRecord) and isinstance(steps.record, ElasticPoolsRecord)
    assert spans.record.histories == steps.record.histories
    assert spans.completed.all()
    assert_paid(spans)


def assert_paid(run: DisaggregatedResult) -> None:
    """Devices are held while they work; hours, joules and dollars of the pools add up."""
    for view in run.pools.values():
        busy = [replica.counters.busy_ticks / 1e15 for replica in view.record.replicas]
        assert all(b <= h + 1e-9 and h <= run.duration_s + 1e-9 for b, h in zip(busy, view.held_s, strict=True))
    pools = run.summary["pools"].values()
    assert run.summary["gpu_hours"] == pytest.approx(sum(p["replica_hours"] for p in pools))
    assert run.summary["energy_j"] == pytest.approx(sum(p["energy_j"] for p in pools))
    counted = run.trace.input_tokens[run.trace.output_tokens > 1].sum() * run.deployment.kv_token_bytes
    moved = run.summary["kv_transfer"]["bytes"]
    assert moved >= counted * (1 - 1e-9)
    if not run.summary["requests_retried"] and not run.summary["replica_failures"]:
        assert moved == pytest.approx(counted)


def test_the_prefill_pool_keeps_its_ratio_to_the_decode_pool() -> None:
    elasticity = Elasticity(policy="outstanding(target=4)", pd_ratio=0.5, interval_s=2.0, startup_s=1.0)
    run, _ = both(pair(elasticity), traffic(400))
    record = run.record
    assert isinstance(record, ElasticPoolsRecord)
    decode = {t: held for t, _, held in record.histories[1].counts}
    prefill = {t: held for t, _, held in record.histories[0].counts}
    assert max(decode.values()) > 2
    assert max(prefill.values()) == math.ceil(max(decode.values()) / 2)
    assert run.summary["gpu_hours"] < 7 * run.duration_s / 3600
    assert run.summary["pools"]["prefill"]["held_utilisation"] > run.summary["pools"]["prefill"]["utilisation"]


def test_replicas_that_serve_all_the_time_are_two_pools_as_ever() -> None:
    trace = traffic(80)
    plain = simulate_disaggregated(pair(None), trace)
    held, _ = both(pair(Elasticity(mtbf_s=1e9)), trace)
    for name in COLUMNS:
        assert np.array_equal(plain.column(name), held.column(name), equal_nan=True), name
    assert "gpu_hours" not in plain.summary
    assert held.summary["gpu_hours"] == pytest.approx(7 * held.duration_s / 3600)
    assert held.summary["usd_per_hour"] == pytest.approx(plain.summary["usd_per_hour"])


def test_soft_stops_hold_replicas_longer_and_cooldowns_keep_them() -> None:
    trace = traffic(300, low=0.2, high=12.0)
    variants: list[dict[str, Any]] = [{}, {"soft_stop_s": 10.0}, {"cooldown_s": 15.0}]
    hours = [
        both(pair(Elasticity(policy="outstanding(target=4)", interval_s=2.0, startup_s=1.0, **more)), trace)[0].summary[
            "gpu_hours"
        ]
        for more in variants
    ]
    assert hours[0] < hours[1]
    assert hours[0] < hours[2]


def test_kv_of_a_lost_decode_replica_is_computed_again_and_that_still_with_its_sender_goes_elsewhere() -> None:
    """The link is so slow that KV is always on its way; decode replicas fail often."""
    elasticity = Elasticity(mtbf_s=4.0, repair_s=1.0, startup_s=0.5, retry_s=0.2)
    run, again = both(pair(elasticity, kv_link="1GB/s", max_model_len=2048), traffic(60, 3), 3)
    assert np.array_equal(run.column("finish_s"), again.column("finish_s"))
    assert run.completed.all()
    assert run.summary["replica_failures"] > 3
    assert run.summary["requests_retried"] > 0
    assert_paid(run)


def test_nobody_expects_kv_when_its_sender_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten: list[int] = []
    forget = ReceivingCore.forget

    def noted(self: ReceivingCore, request: Any, tick: int) -> None:
        forgotten.append(request.row)
        forget(self, request, tick)

    monkeypatch.setattr(ReceivingCore, "forget", noted)
    elasticity = Elasticity(mtbf_s=3.0, repair_s=1.0, startup_s=0.5, retry_s=0.2)
    run = simulate_disaggregated(pair(elasticity, kv_link="0.3GB/s", max_model_len=2048), traffic(60, 4), seed=4)
    assert forgotten
    assert run.completed.all()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"policy": "busy(0.5)", "pd_ratio": 0.5, "prefill_policy": "busy(0.5)"}, "drop one"),
        ({"mtbf_s": 9.0, "pd_ratio": 0.5}, "--autoscale POLICY"),
        ({"policy": "busy(0.5)", "pd_ratio": -1.0}, "prefill:decode"),
        ({"policy": "busy(0.5)", "pd_ratio": "2:"}, "prefill:decode"),
        ({"policy": "busy(0.5)", "pd_ratio": (1, 2)}, "prefill:decode"),
        ({"policy": "busy(0.5)", "prefill_policy": "tokens(5)"}, "one token per request"),
        ({"policy": "busy(0.5)", "min_replicas": 5}, "from 1 to --dp, 4"),
        ({"policy": "busy(0.5)", "cooldown_s": -1.0}, "--cooldown"),
    ],
)
def test_what_makes_no_sense_is_one_line(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        pair(Elasticity(**fields))
    assert "\n" not in str(error.value)


def test_a_ratio_is_a_number_or_a_text_as_on_the_command_line() -> None:
    number, text = Elasticity(policy="busy(0.5)", pd_ratio=2 / 3), Elasticity(policy="busy(0.5)", pd_ratio="2:3")
    pair(text)
    assert [text.prefill_count(n, 8) for n in range(1, 9)] == [number.prefill_count(n, 8) for n in range(1, 9)]


def test_ratios_are_about_two_pools() -> None:
    with pytest.raises(UserError, match="about two pools"):
        Elasticity(policy="busy(0.5)", pd_ratio=0.5).check(4)


def test_the_command_scales_two_pools(capsys: pytest.CaptureFixture[str]) -> None:
    command = "simulate --model llama-3.1-8b --cluster h100-sxm:8 --disaggregate prefill=dp3 decode=dp4 --rate 8"
    command += " --num-requests 60 --input-len 500 --output-len 60 --autoscale tokens(300) --startup 2s --interval 2s"
    assert main([*command.split(), "--pd-ratio", "1:2", "--cooldown", "0", "--soft-stop", "5s"]) == 0
    out = capsys.readouterr().out
    assert "GPU-hours; prefill" in out
    assert main([*command.split(), "--pd-ratio", "1:0"]) == 2
    assert "write prefill:decode" in capsys.readouterr().err
