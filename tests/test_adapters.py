"""Adapters in host memory: who is on the device, what moves, when requests run; spans equal to steps."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from engine_checks import OPTIONS, assert_lawful, assert_same_run, audited, run_options, trace_of
from engine_helpers import make_trace, simulate_small
from hypothesis import given
from hypothesis import strategies as st
from test_engine_properties import bounded
from test_kv_tiers import STACKS, stack_of

from apex_sim import simulate
from hardware_profiles.errors import UserError
from simulator.adapters.pool import AdapterPool, AdapterSetup
from simulator.adapters.setup import adapter_setup
from simulator.build import build_deployment
from simulator.run import RunRecord

DRAWN = st.fixed_dictionaries(
    {name: st.sampled_from(values) for name, values in OPTIONS.items()}
    | {
        "swap": st.just(False),
        "num_blocks": st.sampled_from([0, 69, 80, 120, 1000]),
        "batching": st.sampled_from([name for name in OPTIONS["batching"] if name not in ("orca", "static")]),
    }
)
KINDS = st.tuples(
    st.sampled_from([(0,), (1,), (5,), (2, 7, 20)]),
    st.sampled_from([1e-9, 1e-3, 0.05, 0.7]),
    st.sampled_from([1, 2, 5, 40]),
    st.sampled_from([1, 3, 40]),
)


def setup_of(
    kind: tuple[tuple[int, ...], float, int, int], num_requests: int, seed: int, none_share: float = 0.1
) -> AdapterSetup:
    """Random adapters: blocks by rank, seconds of a load, slots, how many there are."""
    blocks, load_s, slots, adapters = kind
    rng = np.random.default_rng(seed)
    rows = rng.integers(adapters, size=num_requests)
    rows[rng.random(num_requests) < none_share] = -1
    times = tuple(load_s * (1 + i) for i in range(len(blocks)))
    return AdapterSetup(
        blocks=blocks, load_s=times, nbytes=tuple(1e6 * t for t in times), slots=slots, of_row=rows.tolist()
    )


def assert_adapters_conserved(record: RunRecord, setup: AdapterSetup) -> None:
    """What was loaded was evicted, cancelled or is there; admissions needed a load of their own or found theirs."""
    asked = sum(adapter >= 0 for adapter in setup.of_row)
    for replica in record.replicas:
        counts = replica.adapters
        assert counts is not None
        assert counts.evictions + counts.cancelled <= counts.loads
        assert counts.peak <= counts.loads
    preemptions = sum(record.table.preemptions)
    hits = sum(r.adapters.hits for r in record.replicas if r.adapters)
    assert hits <= asked + preemptions


@bounded(40)
@given(options=DRAWN, kind=KINDS, stack=st.none() | STACKS)
def test_spans_and_single_steps_give_the_same_run_with_adapters(
    options: dict[str, Any], kind: tuple[tuple[int, ...], float, int, int], stack: Any
) -> None:
    trace = trace_of(options)
    setup = setup_of(kind, len(trace), options["trace_seed"])
    least = -(-options["max_model_len"] // 16) + max(setup.blocks)
    options = options | {"num_blocks": max(options["num_blocks"], least)}
    changes: dict[str, Any] = {"adapters": setup}
    if stack is not None and options["prefix_block_tokens"]:
        changes["tiers"] = stack_of(stack)
    spans = run_options(options, trace, **changes)
    steps = run_options(options, trace, **changes, exact_steps=True, policy=audited(options["batching"]))
    assert_lawful(spans, trace, options)
    assert_adapters_conserved(spans, setup)
    assert_same_run(spans, steps, options["ticks_per_s"])
    assert [r.adapters for r in spans.replicas] == [r.adapters for r in steps.replicas]


def _pair(slots: int, rows: list[int], **more: Any) -> RunRecord:
    trace = make_trace([0.0] * len(rows), [50] * len(rows), [20] * len(rows))
    adapters = AdapterSetup(blocks=(3,), load_s=(0.5,), nbytes=(1e6,), slots=slots, of_row=rows)
    return simulate_small(trace, adapters=adapters, **more)


def test_a_request_waits_for_its_adapter_and_others_run_meanwhile() -> None:
    record = _pair(4, [0, -1])
    assert record.table.scheduled_s[0] >= 0.5
    assert record.table.finish_s[1] < 0.5


def test_loads_share_the_link_and_one_adapter_is_loaded_once() -> None:
    record = _pair(4, [0, 1, 0, 1])
    first, second = record.table.scheduled_s[0], record.table.scheduled_s[1]
    assert 0.5 <= first < 0.51 and 1.0 <= second < 1.01
    assert record.table.scheduled_s[2] == first and record.table.scheduled_s[3] == second
    assert record.replicas[0].adapters is not None and record.replicas[0].adapters.loads == 2


def test_one_slot_runs_one_adapter_at_a_time() -> None:
    record = _pair(1, [0, 1, 1])
    assert record.table.scheduled_s[1] >= record.table.finish_s[0] + 0.5
    assert record.table.scheduled_s[2] == record.table.scheduled_s[1]


def test_idle_adapters_leave_when_the_kv_cache_needs_their_memory() -> None:
    trace = make_trace([0.0, 5.0, 20.0], [50, 900, 50], [5, 100, 5])
    adapters = AdapterSetup(blocks=(20,), load_s=(0.1,), nbytes=(1e6,), slots=9, of_row=[0, -1, 0])
    roomy = simulate_small(trace, adapters=adapters, num_blocks=400).replicas[0].adapters
    full = simulate_small(trace, adapters=adapters, num_blocks=75, max_model_len=1010).replicas[0].adapters
    assert roomy is not None and (roomy.loads, roomy.evictions, roomy.hits) == (1, 0, 1)
    assert full is not None and (full.loads, full.evictions, full.hits) == (2, 1, 0)


def test_the_adapter_that_was_needed_last_longest_ago_leaves_first() -> None:
    pool = AdapterPool(AdapterSetup(blocks=(2,), load_s=(0.0,), nbytes=(1.0,), slots=9))
    for adapter in (0, 1, 2):
        pool.begin(adapter)
        pool.end(adapter)
    pool.pin(0)
    pool.unpin(0)
    pool.shrink(4)
    assert list(pool.idle) == [2, 0]
    pool.shrink(3)
    assert list(pool.idle) == [0] and pool.idle_blocks == 2 and pool.busy_blocks == 0


@pytest.mark.parametrize("blocks", [(0,), (4,)])
def test_slots_hold_idle_adapters_and_a_shared_pool_holds_more(blocks: tuple[int, ...]) -> None:
    pool = AdapterPool(AdapterSetup(blocks=blocks, load_s=(0.0,), nbytes=(1.0,), slots=2))
    for adapter in range(5):
        pool.begin(adapter)
        pool.end(adapter)
    assert len(pool.idle) == (2 if blocks == (0,) else 5)


# -- settings ----------------------------------------------------------------------------------------------------------

LOAD: dict[str, Any] = {
    "rate": 8.0,
    "num_requests": 80,
    "input_len": "uniform(50,400)",
    "output_len": "uniform(20,150)",
}
PAGED: dict[str, Any] = {
    **{"enable_lora": True, "num_loras": 60, "lora_skew": 1.0, "lora_loading": "paged", "lora_ranks": "8,16,64"},
    **{"num_gpu_blocks_override": 500, "max_model_len": 1024},
}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"tp": 2, "dp": 2, "cluster": "a100-sxm-80gb:4"},
        {"pp": 2, "cluster": "a100-sxm-80gb:2"},
        {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3, "acceptance": 0.5}},
        {"enable_prefix_caching": True, "kv_offloading_size": 4.0, "engine": "sglang", "num_gpu_blocks_override": 8000},
        {"scheduling_policy": "sjf", "lora_dtype": "int1", "lora_target_modules": "attention"},
    ],
    ids=str,
)
def test_spans_equal_steps_on_real_models_with_other_techniques(more: dict[str, Any]) -> None:
    settings = {"cluster": "a100-sxm-80gb:1"} | PAGED | LOAD | more
    runs = [simulate("llama-2-7b", exact_steps=steps, **settings) for steps in (False, True)]
    for column in ("scheduled_s", "first_token_s", "finish_s", "num_preemptions"):
        np.testing.assert_array_equal(runs[0].column(column), runs[1].column(column))
    assert runs[0].summary["adapters"] == runs[1].summary["adapters"]
    assert runs[0].summary["completed"] == 80


def test_bytes_of_an_adapter_follow_rank_format_and_projections() -> None:
    """Punica: rank 16 on all seven projections of Llama-2-7B is 80 MB."""

    def nbytes(**more: Any) -> float:
        settings = {"enable_lora": True, "num_loras": 4, "lora_loading": "paged", "max_lora_rank": 16} | more
        setup = adapter_setup(build_deployment("llama-2-7b", "a100-sxm-80gb:1", **settings))
        assert setup is not None
        return setup.nbytes[0]

    assert nbytes() == pytest.approx(80e6, rel=0.01)
    assert nbytes(lora_dtype="int1") == pytest.approx(nbytes() / 16)
    assert nbytes(max_lora_rank=2) == pytest.approx(nbytes() / 8)  # MoS: an eighth of the parameters
    assert nbytes(lora_target_modules="attention") == pytest.approx(16 * 32 * 8 * 4096 * 2)


def test_prefixes_of_different_adapters_are_different_unless_they_share_kv() -> None:
    trace = make_trace([0.0, 5.0, 10.0], [512] * 3, [4] * 3, adapter=np.array([0, 1, 0]))
    ids = np.tile(np.arange(32), 3)
    trace = dataclasses.replace(trace, prefix_ids=ids, prefix_offsets=np.arange(4) * 32, prefix_block_tokens=16)
    common: dict[str, Any] = {"trace": trace, "enable_lora": True, "num_loras": 2, "enable_prefix_caching": True}
    apart = simulate("llama-3.1-8b", "h100-sxm:1", **common)
    shared = simulate("llama-3.1-8b", "h100-sxm:1", **common, lora_shared_kv=True, max_lora_rank=8)
    assert apart.column("cached_tokens").tolist() == [0, 0, 496]
    assert shared.column("cached_tokens").tolist() == [0, 496, 496]
    beside = shared.deployment.memory.kv_bytes_per_token - apart.deployment.memory.kv_bytes_per_token
    assert beside == pytest.approx(32 * 2 * 8 * 2)  # layers x (K and V) x rank x bytes


def test_a_trace_names_adapters_and_their_popularity() -> None:
    trace = make_trace([0.0] * 4, [50] * 4, [4] * 4, adapter=np.array([0, 0, 0, -1]))
    one = simulate("llama-2-7b", "a100-sxm-80gb:1", trace=trace, enable_lora=True, max_loras=4)
    lora = one.deployment.plan.techniques.lora
    assert lora is not None and lora.shares == (0.75, 0.0, 0.0, 0.0)
    with pytest.raises(UserError, match="asks for adapter 5; give num_loras 6"):
        more = dataclasses.replace(trace, adapter=np.array([0, 5, 0, 0]))
        simulate("llama-2-7b", "a100-sxm-80gb:1", trace=more, enable_lora=True, max_loras=4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lora_loading": "paged"}, "lora_loading without adapters; add enable_lora"),
        ({"enable_lora": True, "lora_loading": "disk"}, "unknown way of loading adapters"),
        ({"enable_lora": True, "lora_ranks": "8,0"}, "lora_ranks is '8,0'"),
        ({"enable_lora": True, "lora_ranks": "8,64", "max_lora_rank": 16}, "raise it or leave it out"),
        ({"enable_lora": True, "lora_dtype": "int3"}, "unknown format of adapters"),
        (
            {"enable_lora": True, "lora_shared_kv": True, "enable_prefix_caching": False},
            "needs enable_prefix_caching",
        ),
        ({"enable_lora": True, "lora_loading": "paged", "preemption_mode": "swap"}, "use recompute"),
        ({"enable_lora": True, "lora_loading": "slots", "batching": "static"}, "use another engine"),
        ({"enable_lora": True, "lora_loading": "slots", "scheduling_policy": "priority(levels=3)"}, "does not go with"),
        ({"enable_lora": True, "lora_loading": "paged", "num_loras": 10**6}, "host memory of a node"),
        (
            {"enable_lora": True, "lora_loading": "paged", "num_gpu_blocks_override": 64, "max_model_len": 1024},
            "do not fit together",
        ),
    ],
)
def test_senseless_settings_are_refused_in_one_line(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        simulate("llama-2-7b", "a100-sxm-80gb:1", **LOAD, **settings)
    assert "\n" not in str(error.value)


def test_two_pools_refuse_adapters_that_are_loaded() -> None:
    with pytest.raises(UserError, match="lora_loading"):
        simulate(
            *("llama-2-7b", "a100-sxm-80gb:2"),
            **LOAD,
            **{"disaggregate": ("prefill=tp1,dp1", "decode=tp1,dp1"), "enable_lora": True, "lora_loading": "slots"},
        )
