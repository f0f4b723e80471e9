"""Co-tenants: the same in both modes at any time of a change, limits that hold, one line for what makes no sense."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import apex_sim as apex
from hardware_profiles.errors import UserError
from simulator import clock
from simulator.elastic.settings import Elasticity
from simulator.physics.shape import StepShape
from simulator.result import SimulationResult
from simulator.sharing.tenants import Interference, Tenant, parse_interference
from simulator.sharing.timetable import Timetable
from simulator.simulate import simulate_deployment
from workloads.synthetic import generate
from workloads.trace import Trace

TENANTS = st.builds(
    Tenant,
    compute=st.sampled_from([1.0, 1.3, 4.0]),
    memory=st.sampled_from([1.7, 3.0]),
    host_cpu=st.sampled_from([1.0, 2.5]),
    from_s=st.sampled_from([0.0, 0.05, 2.0]),
    until_s=st.sampled_from([None, 4.0, 9.5]),
    replicas=st.sampled_from([None, (0,), (1,)]),
)
BURSTS = st.builds(lambda tenant, on, off: dataclasses.replace(tenant, on_s=on, off_s=off), TENANTS,
                   st.sampled_from([0.004, 0.3]), st.sampled_from([0.01, 0.5]))  # fmt: skip


def traffic(requests: int, seed: int) -> Trace:
    return generate(
        input_len="uniform(10,900)", output_len="uniform(1,150)", num_requests=requests, rate_per_s=12.0, seed=seed
    )


def both(built: apex.Deployment, trace: Trace, seed: int = 0) -> SimulationResult:
    spans, steps = (simulate_deployment(built, trace, seed=seed, exact_steps=exact) for exact in (False, True))
    for name in ("scheduled_s", "first_token_s", "finish_s", "replica", "num_preemptions"):
        assert np.array_equal(spans.column(name), steps.column(name), equal_nan=True), name
    for mine, other in zip(spans.record.replicas, steps.record.replicas, strict=True):
        assert mine.counters.busy_ticks == other.counters.busy_ticks
        assert mine.counters.decode_context == other.counters.decode_context
        gaps = [sorted(zip(*map(list, record.gaps.weighted()), strict=True)) for record in (mine, other)]
        assert sum(n for _, n in gaps[0]) == sum(n for _, n in gaps[1])
    assert spans.energy_j == pytest.approx(steps.energy_j, rel=1e-12)
    assert spans.completed.all()
    return spans


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.one_of(TENANTS, BURSTS), min_size=1, max_size=3),
    st.integers(0, 1000),
    st.sampled_from(["vllm-v1", "vllm-v0", "sglang", "orca", "static"]),
    st.sampled_from(
        [
            {},
            {"enable_lora": True, "max_loras": 4, "num_loras": 20},
            {"num_gpu_blocks_override": 90, "max_model_len": 1200},
            {"cpu_offload_gb": 8.0},
            {"attention_top_k": 256},
        ]
    ),
    st.sampled_from([None, Elasticity(policy="outstanding(target=3)", interval_s=1.5, startup_s=1.0, mtbf_s=9.0,
                                      repair_s=1.0)]),
)  # fmt: skip
def test_both_modes_agree_whenever_tenants_come_and_go(
    tenants: list[Tenant], seed: int, engine: str, more: dict[str, Any], elasticity: Elasticity | None
) -> None:
    if engine in ("orca", "static", "sglang") and "num_gpu_blocks_override" in more:
        more = {}
    more = {"max_model_len": 1200, **more}
    built = apex.build_deployment(
        "llama-3.1-8b", "h100-sxm:2", dp=2, engine=engine, interference=Interference(tenants=tuple(tenants)), **more
    )
    built = dataclasses.replace(built, elasticity=elasticity, _cache={})
    both(built, traffic(60, seed), seed)


@pytest.mark.parametrize("ticks_per_s", [1000, 200])
def test_modes_agree_at_coarse_ticks_where_events_meet(ticks_per_s: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "TICKS_PER_S", ticks_per_s)
    for seed in range(6):
        built = apex.build_deployment(
            "llama-3.1-8b", "h100-sxm:1", interference="memory=2,compute=1.5,on=40ms,off=30ms", max_model_len=1200
        )
        both(built, traffic(40, seed), seed)


def test_preemption_by_swapping_goes_on_beside_bursts() -> None:
    built = apex.build_deployment(
        "llama-3.1-8b", "h100-sxm:1", engine="vllm-v0", preemption_mode="swap", num_gpu_blocks_override=90,
        max_model_len=1200, interference="memory=2,host-link=3,on=100ms,off=100ms",
    )  # fmt: skip
    result = both(built, traffic(80, 5))
    assert result.summary["num_preemptions"] > 0


def test_pools_have_tenants_by_replica() -> None:
    runs = [
        apex.simulate(
            "llama-3.1-8b", "h100-sxm:2", disaggregate=("prefill=tp1", "decode=tp1"), rate=5, input_len=400,
            output_len=100, num_requests=40, exact_steps=exact,
            interference={"tenants": [{"memory": 2, "replicas": [replica]}]},
        )
        for replica in (0, 1) for exact in (False, True)
    ]  # fmt: skip
    assert np.array_equal(runs[2].column("finish_s"), runs[3].column("finish_s"))
    assert runs[2].summary["mean_tpot_ms"] > 1.4 * runs[0].summary["mean_tpot_ms"]


def test_a_tenant_all_the_time_is_the_same_as_one_from_the_beginning() -> None:
    texts = ("memory=1.5,compute=1.25", "memory=1.5,compute=1.25,until=1000s")
    always, long = (
        apex.simulate(
            "llama-3.1-8b", "h100-sxm:1", rate=6, input_len=300, output_len=120, num_requests=60, interference=t
        )
        for t in texts
    )
    assert np.allclose(always.column("finish_s"), long.column("finish_s"), rtol=1e-9)


def test_a_step_across_a_change_takes_the_sum_of_its_parts() -> None:
    """Closed form: a prompt of T seconds alone, of 2 T under the tenant that comes after a third of it."""
    alone = apex.build_deployment("llama-3.1-8b", "h100-sxm:1", engine="vllm-v0@0.2")
    shape = StepShape(0, 0, 0, 3000, 3000 * 3001 // 2, 3000 * 3001 // 2, 1, 0, 1)
    once = alone.step_model.step(shape)[0]
    slow = apex.build_deployment("llama-3.1-8b", "h100-sxm:1", engine="vllm-v0@0.2", interference="compute=2,memory=2")
    twice = slow.step_model.step(shape)[0]
    trace = generate(input_len=3000, output_len=1, num_requests=1, arrival="constant", rate_per_s=1.0)
    first = simulate_deployment(alone, trace)
    begin = float(first.column("scheduled_s")[0])
    at = begin + once / 3
    built = dataclasses.replace(
        alone, interference=Interference(tenants=(Tenant(compute=2, memory=2, from_s=at),)), _cache={}
    )
    result = simulate_deployment(built, trace)
    took = float(result.column("finish_s")[0] - first.column("finish_s")[0]) + once
    assert took == pytest.approx(once / 3 + twice * 2 / 3, rel=1e-9)


def test_one_resource_slows_what_it_bounds() -> None:
    prompt = StepShape(0, 0, 0, 8192, 8192 * 4096, 8192 * 4096, 1, 0, 1)
    decode = StepShape(16, 32_000, 32_000, 0, 0, 0, 0, 0, 16)

    def ratio(text: str, shape: StepShape) -> float:
        one, other = (
            apex.build_deployment("llama-3.1-8b", "h100-sxm", interference=i).step_model.step(shape)[0]
            for i in (None, text)
        )
        return other / one

    assert ratio("compute=2", prompt) > 1.6 > 1.1 > ratio("memory=2", prompt) > 1
    assert ratio("memory=2", decode) > 1.6 > 1.1 > ratio("compute=2", decode) >= 1
    assert 1 < ratio("host-cpu=2", decode) < 1.3


def test_timetables_depend_on_nothing_but_seed_replica_and_time() -> None:
    tenants = parse_interference("memory=2,on=1s,off=2s").tenants
    one, other = (Timetable(tenants, 7, 0) for _ in range(2))
    ticks = [clock.to_ticks(0.1 * i) for i in range(500)]
    assert [one.at(t) for t in ticks] == [other.at(t) for t in reversed(ticks)][::-1]
    busy = np.mean([one.at(t)[0].memory == 2 for t in ticks])
    assert 0.15 < busy < 0.55
    assert [Timetable(tenants, 7, 1).at(t) for t in ticks] != [one.at(t) for t in ticks]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("memory=0.5", "1 or more"),
        ("memory=nan", "1 or more"),
        ("cache=2", "resource"),
        ("memory", "NAME=VALUE"),
        ("memory=x", "number"),
        ("on=1s,off=1s", "slows nothing"),
        ("memory=2,on=1s", "both on and off"),
        ("memory=2,from=5s,until=4s", "after from"),
        ("memory=2,on=1,off=2", "unit"),
        (5, "compute=1.2"),
        ({"tenants": []}, "no co-tenants"),
        ({"tenants": [{"memory": 2, "replicas": [-1]}]}, "first is 0"),
        ({"tenants": [{"memry": 2}]}, "memory"),
    ],
)
def test_what_makes_no_sense_is_one_line(value: object, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        parse_interference(value)
    assert "\n" not in str(error.value)


def test_a_file_names_itself_in_errors(tmp_path: Path) -> None:
    path = tmp_path / "tenants.yaml"
    path.write_text("tenants:\n  - {memory: 2, from_s: 1, until_s: 3}\n  - {compute: fast}\n")
    with pytest.raises(UserError, match=r"tenants\.yaml"):
        parse_interference(str(path))
    path.write_text("tenants:\n  - {memory: 2, from_s: 1, until_s: 3, replicas: [0, 2]}\n")
    assert parse_interference(path).tenants == (Tenant(memory=2, from_s=1, until_s=3, replicas=(0, 2)),)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"pp": 2}, "pipelines"),
        ({"speculative_config": '{"method": "ngram", "num_speculative_tokens": 3}'}, "speculative"),
        ({"enable_prefix_caching": True, "kv_offloading_size": 8.0}, "kv-offloading"),
    ],
)
def test_combinations_that_are_not_simulated_are_refused(more: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        apex.build_deployment("llama-3.1-8b", "h100-sxm:2", interference="host-link=2,memory=2,on=1s,off=1s", **more)
