"""Orders of service: whom they serve first, who gives way, and that spans equal single steps with every one of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from engine_checks import OPTIONS, Audited, assert_lawful, assert_same_run, run_options, trace_of
from engine_helpers import make_trace, random_trace, simulate_small
from hypothesis import given
from hypothesis import strategies as st
from test_engine_properties import bounded
from test_kv_tiers import STACKS, assert_conserved, stack_of

import apex_sim
from hardware_profiles.errors import UserError
from simulator.batching import BATCHING, RESERVING, BatchingPolicy
from simulator.run import ReplicaSetup, RunRecord
from simulator.scheduling.orders import Order, Priority, Static, TokenCounters, drawn
from simulator.scheduling.queue import Ordered
from simulator.scheduling.setup import in_order
from workloads.trace import Trace


def orders(trace: Trace, seed: int) -> dict[str, Callable[[], Order]]:
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 3, len(trace)).astype(np.float64)
    clients = rng.integers(0, 4, len(trace))
    return {
        "sjf": lambda: Static(trace.output_tokens.astype(np.float64)),
        "priority": lambda: Priority(levels),
        "preempt": lambda: Priority(levels, preempt=True),
        "redrawn": lambda: Priority(levels, preempt=True, period=7, seed=seed),
        "redrawn, patient": lambda: Priority(levels, period=25, seed=seed),
        "vtc": lambda: TokenCounters(clients),
    }


NAMES = ["sjf", "priority", "preempt", "redrawn", "redrawn, patient", "vtc"]
RANDOM = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in OPTIONS.items()})


def served(options: dict[str, Any], name: str, order: Callable[[], Order], audit: bool) -> Callable[[], BatchingPolicy]:
    def make() -> BatchingPolicy:
        policy = Ordered(BATCHING[options["batching"]](), order())
        return Audited(policy) if audit else policy

    return make


@bounded(60)
@given(options=RANDOM, name=st.sampled_from(NAMES), stack=STACKS)
def test_spans_and_single_steps_give_the_same_run_in_every_order(
    options: dict[str, Any], name: str, stack: tuple[tuple[int, ...], str, float]
) -> None:
    if options["batching"] in RESERVING and name in ("preempt", "redrawn"):
        name = "priority"
    trace = trace_of(options)
    order = orders(trace, options["trace_seed"])[name]
    tiers = stack_of(stack) if options["prefix_block_tokens"] and options["batching"] not in RESERVING else None
    spans = run_options(options, trace, tiers=tiers, policy=served(options, name, order, audit=False))
    steps = run_options(options, trace, tiers=tiers, exact_steps=True, policy=served(options, name, order, audit=True))
    assert_lawful(spans, trace, options)
    if tiers is not None:
        assert_conserved(spans)
    assert_same_run(spans, steps, options["ticks_per_s"])


@bounded(15)
@given(options=RANDOM)
def test_an_order_that_tells_nobody_apart_is_first_come_first_served(options: dict[str, Any]) -> None:
    trace = trace_of(options)
    alike = np.zeros(len(trace))
    options = {**options, "swap": False, "async_scheduling": False, "prefix_block_tokens": 0}
    policy = served(options, "sjf", lambda: Static(alike), audit=False)
    if options["flow"] != "open" or options["num_blocks"] in (0, 69, 80):
        return  # those that were preempted are first in the plain queue, in order of arrival here
    plain, ordered = run_options(options, trace), run_options(options, trace, policy=policy)
    if not sum(plain.table.preemptions):
        assert_same_run(plain, ordered, options["ticks_per_s"])


def small(trace: Trace, order: Order, **engine: Any) -> RunRecord:
    policy = BATCHING[engine.get("batching", "chunked")]
    return simulate_small(trace, policy=lambda: Ordered(policy(), order), **engine)


def starts(record: RunRecord) -> list[int]:
    """Rows in the order of their first step."""
    return [int(row) for row in np.argsort(np.array(record.table.scheduled_s), kind="stable")]


def test_the_shortest_job_that_waits_is_next() -> None:
    trace = make_trace([0.0, 0.01, 0.02, 0.03], [50] * 4, [100, 90, 10, 50])
    record = small(trace, Static(trace.output_tokens.astype(float)), max_num_seqs=1)
    assert starts(record) == [0, 2, 3, 1]


def test_lower_values_of_priority_are_first_and_do_not_push_anybody_out_unasked() -> None:
    trace = make_trace([0.0, 0.01, 0.02, 0.03], [50] * 4, [100, 90, 10, 50])
    record = small(trace, Priority(np.array([5.0, 2.0, 2.0, 0.0])), max_num_seqs=1)
    assert starts(record) == [0, 3, 1, 2]
    assert sum(record.table.preemptions) == 0


@pytest.mark.parametrize("swap", [False, True])
def test_with_preempt_a_request_of_a_higher_class_takes_the_place_of_a_lower_one(swap: bool) -> None:
    """Two places; the third request is more urgent than the second, which comes back when it has ended."""
    trace = make_trace([0.0, 0.0, 0.2], [50, 50, 50], [100, 100, 20])
    order = Priority(np.array([1.0, 2.0, 0.0]), preempt=True)
    record = small(trace, order, max_num_seqs=2, swap=swap)
    assert list(record.table.preemptions) == [0, 1, 0]
    assert record.table.scheduled_s[2] < 0.21
    finish = list(record.table.finish_s)
    assert finish[2] < finish[0] < finish[1]
    assert (record.replicas[0].counters.swapped_tokens > 0) is swap


def test_when_blocks_run_out_the_last_in_the_order_gives_way() -> None:
    """Both grow to more blocks than there are; the first to come is of the lower class."""
    trace = make_trace([0.0, 0.01], [400, 400], [300, 300])
    engine: dict[str, Any] = dict(num_blocks=75)
    assert simulate_small(trace, **engine).table.preemptions[0] == 0
    record = small(trace, Priority(np.array([1.0, 0.0])), **engine)
    assert record.table.preemptions[0] > 0 == record.table.preemptions[1]


def test_priorities_drawn_anew_change_places_and_depend_on_the_seed_alone() -> None:
    trace = random_trace(3, 40, 50.0)
    runs = [small(trace, Priority(np.zeros(40), preempt=True, period=20, seed=s), num_blocks=120) for s in (0, 0, 1)]
    assert_same_run(runs[0], runs[1])
    assert sum(runs[0].table.preemptions) > 5
    assert list(runs[0].table.finish_s) != list(runs[2].table.finish_s)
    values = [drawn(0, epoch, row) for epoch in range(50) for row in range(50)]
    assert 0 <= min(values) < 0.01 < 0.99 < max(values) < 1
    assert np.mean(values) == pytest.approx(0.5, abs=0.02)


def test_a_client_that_sends_little_is_not_kept_waiting_by_one_that_sends_much() -> None:
    """Forty requests of client 0, then four of client 1: first come first served they wait for all, with counters for few."""
    trace = make_trace([0.0] * 40 + [0.001] * 4, [100] * 44, [50] * 44)
    clients = np.array([0] * 40 + [1] * 4)
    engine: dict[str, Any] = dict(max_num_seqs=4)
    plain, fair = simulate_small(trace, **engine), small(trace, TokenCounters(clients), **engine)
    assert max(fair.table.finish_s[40:]) < 0.4 * max(plain.table.finish_s[40:])
    assert fair.end_s == pytest.approx(plain.end_s, rel=0.05)


def test_counters_of_busy_clients_stay_close() -> None:
    """Two clients with work all the time, one with requests of twice the length: equal service, so half as many requests."""
    n = 60
    trace = make_trace([0.0] * 2 * n, [100, 200] * n, [50, 100] * n)
    record = small(trace, TokenCounters(np.array([0, 1] * n)), max_num_seqs=4)
    first = np.array(starts(record)[:60]) % 2
    assert 38 <= (first == 0).sum() <= 42


def chat(**settings: Any) -> Any:
    return apex_sim.simulate(
        "llama-3-8b", "a10g:2", rate=3, input_len=300, output_len=100, num_requests=30, max_model_len=2048, **settings
    )


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("prioritty", "Did you mean 'priority'"),
        ("priority", "no priorities"),
        ("priority(preempt=2)", "it is 0 or 1"),
        ("priority(update=3)", "at most once per step"),
        ("priority(levels=2,update=0.1)", "drop one"),
        ("priority(levels=1.5)", "whole number"),
        ("sjf(error=-1)", "at least 0"),
        ("vtc", "column client"),
        (7, "text"),
    ],
)
def test_policies_that_make_no_sense_are_one_line(policy: Any, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        chat(scheduling_policy=policy)
    assert "\n" not in str(error.value)


def test_preempting_needs_an_engine_that_can() -> None:
    with pytest.raises(UserError, match="reserves memory"):
        chat(scheduling_policy="priority(preempt=1,levels=2)", engine="orca")


@pytest.mark.parametrize(
    "more",
    [
        {"disaggregate": ("prefill=tp1", "decode=tp1,max-num-seqs=2"), "num_gpu_blocks_override": 130},
        {"elasticity": apex_sim.Elasticity(mtbf_s=4, repair_s=1, startup_s=1)},
        {
            "speculative_config": '{"method": "ngram", "num_speculative_tokens": 3, "acceptance": 0.6}',
            "max_num_seqs": 3,
        },
    ],
)
def test_settings_reach_pools_replicas_that_fail_and_drafts(more: dict[str, Any]) -> None:
    spans, steps = (
        chat(scheduling_policy="priority(levels=3,preempt=1)", exact_steps=exact, **more) for exact in (False, True)
    )
    assert spans.requests.equals(steps.requests)
    assert spans.summary["completed"] == 30
    assert not spans.requests.equals(chat(**more).requests)


def test_first_come_first_served_is_the_engine_itself() -> None:
    setup = object.__new__(ReplicaSetup)
    assert in_order(setup, "fcfs", "chunked", random_trace(0, 1, 1.0), 0) is setup
    named = chat(scheduling_policy="fcfs")
    assert named.requests.equals(chat().requests)
    assert dataclasses.replace(named.deployment).scheduling == "fcfs"


def test_copies_of_swapped_sequences_hide_beside_their_steps() -> None:
    """Tokens and preemptions are as many; the run is shorter by at most the time of all copies."""
    trace = random_trace(5, 60, 40.0)
    swap = {"engine": "vllm-v0", "preemption_mode": "swap", "kv_copy_group": 1, "num_gpu_blocks_override": 70}
    runs = {
        (share, exact): apex_sim.simulate(
            "llama-3-8b", "a10g:1", trace=trace, max_model_len=1100, swap_overlap=share, exact_steps=exact, **swap
        )
        for share in (0.0, 0.5, 1.0)
        for exact in (False, True)
    }
    for share in (0.0, 0.5, 1.0):
        assert runs[share, False].requests.equals(runs[share, True].requests)
    whole, half, none = (runs[share, False].summary["duration"] for share in (0.0, 0.5, 1.0))
    assert none < half < whole


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, "add preemption_mode swap"),
        ({"preemption_mode": "swap", "pp": 2}, "one pipeline stage"),
        ({"preemption_mode": "swap", "swap_overlap": 2.0}, "share from 0 to 1"),
    ],
)
def test_overlap_needs_copies(more: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        chat(**{"swap_overlap": 1.0, **more})
