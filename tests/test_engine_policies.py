"""What each batching policy, preemption mode, cache and router does, on the smallest run that shows it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from engine_checks import COARSE, assert_same_run, audited, gap_counts, ticks
from engine_helpers import LineModel, make_trace, random_prefixes, random_trace, simulate_small

from hardware_profiles.errors import UserError
from simulator.build import build_deployment
from simulator.core import EngineCore
from simulator.physics.shape import StepShape
from simulator.request import RequestView
from simulator.routing import ReplicaView
from simulator.run import RunRecord
from simulator.simulate import simulate_deployment
from workloads.trace import Trace

FINE = 10**15


def times(record: RunRecord, column: str) -> list[float]:
    return np.array(getattr(record.table, column)).tolist()


def step_s(**shape: int) -> float:
    return LineModel().step(StepShape(**shape))[0]


def test_chunked_prefill_splits_a_long_prompt_at_the_token_budget() -> None:
    log: list[Any] = []
    simulate_small(
        make_trace([0.0], [4096], [2]),
        max_num_batched_tokens=2048,
        max_model_len=5000,
        policy=audited("chunked", log),
    )
    assert [batch for _, _, batch, _ in log] == [[(0, 2048)], [(0, 2048)]]


def test_chunked_prefill_lets_decodes_go_first_and_on() -> None:
    """The running sequence takes one token of the budget and keeps producing while the long prompt is computed."""
    log: list[Any] = []
    record = simulate_small(
        make_trace([0.0, 0.02], [10, 900], [40, 1]), max_num_batched_tokens=301, policy=audited("chunked", log)
    )
    assert [batch for _, _, batch, _ in log if batch] == [[(0, 10)], [(1, 300)], [(1, 300)], [(1, 300)]]
    assert record.replicas[0].counters.decode_tokens == 39
    assert max(gap_counts(record, FINE)) / FINE < 0.03, "no stall longer than a chunk"


def test_prefill_first_stalls_decodes_while_prompts_are_computed() -> None:
    trace = make_trace([0.0, 0.02], [10, 900], [40, 1])
    record = simulate_small(trace, batching="prefill-first", max_num_batched_tokens=2048)
    prompt_s = step_s(prefill_tokens=900, prefill_pairs=900 * 901 // 2, window_pairs=900 * 901 // 2)
    longest_s = max(gap_counts(record, FINE)) / FINE
    assert longest_s > prompt_s, "the stalled token waits for the whole prompt and its own step"
    assert longest_s == pytest.approx(prompt_s + step_s(decode_seqs=1, context_tokens=13), rel=0.01)
    assert sum(gap_counts(record, FINE).values()) == 39


def test_in_flight_batching_never_cuts_a_prompt() -> None:
    """A prompt that does not fit into the rest of the budget waits for the next step; one beyond the budget goes alone."""
    log: list[Any] = []
    trace = make_trace([0.0] * 4, [200, 200, 200, 900], [5, 5, 5, 5])
    simulate_small(trace, batching="in-flight", max_num_batched_tokens=500, policy=audited("in-flight", log))
    assert [batch for _, _, batch, _ in log if batch] == [[(0, 200), (1, 200)], [(2, 200)], [(3, 900)]]


def test_output_reserve_admits_only_what_can_finish() -> None:
    """100 + 100 tokens are 13 blocks: three requests fit into 40 blocks, a fourth waits; without the reserve it would not."""
    trace = make_trace([0.0] * 4, [100] * 4, [100] * 4)
    engine: dict[str, Any] = dict(batching="in-flight", num_blocks=40, max_model_len=400)
    reserved = simulate_small(trace, output_reserve=1.0, **engine)
    assert reserved.replicas[0].counters.peak_running == 3
    assert reserved.replicas[0].counters.preemptions == 0
    assert times(reserved, "scheduled_s")[3] == times(reserved, "finish_s")[0]
    greedy = simulate_small(trace, **engine)
    assert greedy.replicas[0].counters.peak_running == 4
    assert greedy.replicas[0].counters.preemptions > 0


def test_prefill_priority_computes_all_prompts_before_it_decodes() -> None:
    """Chunks of 500; the third prompt is cut; nobody decodes until the last prompt is done."""
    log: list[Any] = []
    trace = make_trace([0.0] * 4, [200] * 4, [5] * 4)
    engine: dict[str, Any] = dict(max_num_batched_tokens=500)
    simulate_small(trace, batching="prefill-priority", policy=audited("prefill-priority", log), **engine)
    assert [(decode, batch) for _, decode, batch, _ in log if batch] == [
        (False, [(0, 200), (1, 200), (2, 100)]),
        (False, [(2, 100), (3, 200)]),
    ]


def test_prefill_priority_stops_starting_prompts_at_its_second_limit() -> None:
    """With 150 prompt tokens or more in a step no further prompt starts, although the chunk has room."""
    log: list[Any] = []
    trace = make_trace([0.0] * 3, [100] * 3, [5] * 3)
    engine: dict[str, Any] = dict(max_num_batched_tokens=500, max_prefill_tokens=150)
    simulate_small(trace, policy=audited("prefill-priority-mixed", log), batching="prefill-priority-mixed", **engine)
    assert [batch for _, _, batch, _ in log if batch] == [[(0, 100), (1, 100)], [(2, 100)]]
    assert all(decode for _, decode, _, _ in log), "mixed: decoding goes on beside the prompts"


def test_static_batching_runs_to_its_longest_and_returns_all_at_once() -> None:
    record = simulate_small(
        make_trace([0.0, 0.0, 0.0, 0.001], [10, 10, 10, 10], [3, 30, 1, 5]), batching="static", num_blocks=1000
    )
    finish = times(record, "finish_s")
    assert finish[0] == finish[1] == finish[2]
    assert times(record, "scheduled_s")[3] == finish[1], "the next batch starts when the whole batch is done"


def test_static_batching_with_one_token_each_ends_with_the_prefill() -> None:
    record = simulate_small(make_trace([0.0] * 3, [10] * 3, [1] * 3), batching="static", num_blocks=1000)
    assert times(record, "finish_s") == times(record, "first_token_s")
    assert record.replicas[0].counters.steps == 1


def test_orca_reserves_the_longest_request_for_everybody() -> None:
    """1100 tokens are 69 blocks; 207 blocks hold three requests, however short they are."""
    record = simulate_small(make_trace([0.0] * 5, [16] * 5, [10] * 5), batching="orca", num_blocks=3 * 69)
    assert record.replicas[0].counters.peak_running == 3
    assert times(record, "scheduled_s")[3] == times(record, "finish_s")[0]


def test_orca_lets_a_prompt_join_running_sequences_at_once() -> None:
    record = simulate_small(make_trace([0.0, 0.02], [10, 900], [40, 1]), batching="orca", num_blocks=1000)
    assert sum(gap_counts(record, FINE).values()) == 39
    assert record.replicas[0].counters.mixed_steps == 2


def preempting(swap: bool, **more: Any) -> RunRecord:
    """Two requests of 320 + 64 tokens in 44 blocks: 22 blocks each at first, 24 in the end."""
    return simulate_small(
        make_trace([0.0, 0.0], [320, 320], [64, 64]),
        num_blocks=44,
        max_model_len=400,
        max_num_batched_tokens=2048,
        swap=swap,
        **more,
    )


@pytest.mark.parametrize("batching", ["chunked", "prefill-first"])
def test_preempted_request_keeps_its_generated_tokens(batching: str) -> None:
    record = preempting(False, batching=batching)
    counters = record.replicas[0].counters
    assert list(record.table.preemptions) == [0, 1]
    assert list(record.table.output_tokens) == [64, 64]
    assert sum(gap_counts(record, FINE).values()) == 126
    # 22 blocks hold 352 tokens: the newer request leaves with 33 tokens produced and computes 320 + 33 again.
    assert counters.prefill_tokens == 320 + 320 + 353
    assert counters.decode_tokens == 63 + 63 - 1, "the recomputation produces a token as well"


@pytest.mark.parametrize("batching", ["chunked", "prefill-first"])
def test_swapped_request_returns_without_recomputing(batching: str) -> None:
    record = preempting(True, batching=batching)
    counters = record.replicas[0].counters
    assert list(record.table.preemptions) == [0, 1]
    assert counters.prefill_tokens == 640
    assert counters.swapped_tokens == 2 * 352, "there and back"
    assert counters.decode_tokens == 126
    assert sum(gap_counts(record, FINE).values()) == 126


def test_swapping_without_host_memory_falls_back_to_recomputing() -> None:
    assert_same_run(preempting(True, host_blocks=21), preempting(False))


def test_async_scheduling_sees_an_arrival_one_step_later() -> None:
    """A request arrives in the third decode step of another: seen at its end, or one step after it."""
    trace = make_trace([0.0, 0.025], [10, 10], [40, 5])
    sync = simulate_small(trace)
    late = simulate_small(trace, async_scheduling=True)
    gaps = sorted(gap_counts(simulate_small(make_trace([0.0], [10], [40])), FINE))
    assert times(late, "scheduled_s")[1] - times(sync, "scheduled_s")[1] == pytest.approx(gaps[3] / FINE, rel=1e-3)
    assert times(late, "scheduled_s")[0] == times(sync, "scheduled_s")[0] == 0.0, "an idle engine starts at once"


def shared_prompt(
    inputs: Sequence[int],
    ids: Sequence[Sequence[int]],
    gap_s: float,
    block_tokens: int = 16,
    outputs: Sequence[int] = (),
) -> Trace:
    trace = make_trace([i * gap_s for i in range(len(inputs))], list(inputs), list(outputs) or [2] * len(inputs))
    return dataclasses.replace(
        trace,
        prefix_ids=np.array([i for row in ids for i in row], dtype=np.int64),
        prefix_offsets=np.cumsum([0] + [len(row) for row in ids]),
        prefix_block_tokens=block_tokens,
    )


def test_prefix_hit_skips_whole_blocks_and_leaves_one_token_to_compute() -> None:
    trace = shared_prompt([64, 64, 70], [[1, 2, 3, 4]] * 3, 1.0)
    record = simulate_small(trace, prefix_caching=True)
    assert list(record.table.cached_tokens) == [0, 48, 64]
    assert record.replicas[0].counters.prefill_tokens == 64 + 16 + 6


def test_pieces_smaller_than_a_kv_block_are_cached_in_whole_blocks() -> None:
    """Pieces of 6 tokens and blocks of 16: 48 tokens, eight pieces, are the smallest whole segment."""
    record = simulate_small(shared_prompt([100, 100], [range(17)] * 2, 1.0, block_tokens=6), prefix_caching=True)
    assert list(record.table.cached_tokens) == [0, 96]


def test_the_next_turn_of_a_session_finds_the_piece_in_which_the_last_prompt_ended() -> None:
    """Turn 1 caches 100 + 99 tokens: three whole pieces of 64, in the second of which its prompt ended. Turn 2 registers
    the pieces behind them for turn 3."""
    trace = shared_prompt([100, 300, 400], [range(4), range(5), range(7)], 10.0, 64, [100, 60, 1])
    record = simulate_small(trace, prefix_caching=True)
    assert list(record.table.cached_tokens) == [0, 3 * 64, 5 * 64]


def test_prompts_that_share_a_prefix_share_its_blocks_while_they_run() -> None:
    ids = [[*range(20), 100 + row] for row in range(4)]
    trace = shared_prompt([330] * 4, ids, 0.05)
    long = dataclasses.replace(trace, output_tokens=np.full(4, 100))
    alone = simulate_small(long).replicas[0].counters.peak_blocks
    shared = simulate_small(long, prefix_caching=True).replicas[0].counters.peak_blocks
    assert alone - shared == 3 * 20


def test_prefix_is_forgotten_when_its_blocks_are_needed() -> None:
    """30 blocks: a prompt of 20 blocks stays cached until another one of 20 needs room; its head survives longest."""
    ids = [list(range(20)), list(range(100, 120)), list(range(20))]
    record = simulate_small(shared_prompt([321] * 3, ids, 1.0), prefix_caching=True, num_blocks=30, max_model_len=400)
    assert record.table.cached_tokens[2] == (30 - 21) * 16, "what the second request left: all but its 21 blocks"


def test_hits_on_own_tokens_after_a_preemption_are_not_reported_as_cached() -> None:
    ids = [list(range(100 * row, 100 * row + 20)) for row in range(2)]
    trace = dataclasses.replace(shared_prompt([320, 320], ids, 0.0), output_tokens=np.full(2, 64))
    record = simulate_small(trace, num_blocks=44, max_model_len=400, max_num_batched_tokens=2048, prefix_caching=True)
    assert sum(record.table.preemptions) >= 1
    assert list(record.table.cached_tokens) == [0, 0]


def test_a_request_that_ends_with_its_prefill_does_not_count_blocks_of_decodes_twice() -> None:
    """Two sequences begin a block in the step in which a prompt ends at once and another takes the rest of the memory."""
    trace = shared_prompt([16, 16, 10, 320], [[0], [1], [2], list(range(10, 30))], 0.0)
    trace = dataclasses.replace(
        trace, arrival_s=np.array([0.0, 0.0, 0.001, 0.001]), output_tokens=np.array([20, 20, 1, 5])
    )
    record = simulate_small(trace, prefix_caching=True, num_blocks=25, max_model_len=400, policy=audited("chunked"))
    assert list(record.table.status) == [1] * 4


def test_watermark_does_not_starve_a_request_that_fills_the_memory() -> None:
    record = simulate_small(
        make_trace([0.0], [390], [10]), num_blocks=25, max_model_len=400, watermark_blocks=3, batching="prefill-first"
    )
    assert list(record.table.status) == [1]


def test_peak_of_blocks_counts_requests_that_end_with_their_prefill() -> None:
    record = simulate_small(make_trace([0.0], [320], [1]))
    assert record.replicas[0].counters.peak_blocks == 20


def test_pipelines_that_starve_each_other_of_blocks_make_progress() -> None:
    """Found by fuzzing: first chunks in different batches took each other's blocks forever."""
    trace = random_trace(11374, 15, 1000.0)
    record = simulate_small(
        trace, stages=3, num_blocks=44, max_model_len=700, max_num_batched_tokens=256, reserve_full_prompt=False
    )
    assert (np.array(record.table.status) > 0).all()


@pytest.mark.parametrize("stages", [1, 2])
def test_closed_loop_keeps_its_concurrency_and_goes_on_after_a_rejection(stages: int) -> None:
    inputs = [10, 2000, 10, 2000, 10, 10]
    trace = dataclasses.replace(make_trace([0.0] * 6, inputs, [5] * 6), concurrency=2)
    record = simulate_small(trace, stages=stages)
    assert list(record.table.status) == [1, 2, 1, 2, 1, 1]
    assert not np.isnan(np.array(record.table.arrival_s)).any()
    assert record.replicas[0].counters.peak_running <= 2


def test_a_rejected_turn_does_not_end_its_session() -> None:
    trace = dataclasses.replace(
        make_trace([0.0, 0.0, 0.0], [10, 2000, 10], [5, 5, 5]),
        previous=np.array([-1, 0, 1]),
        think_s=np.array([0.0, 1.0, 1.0]),
    )
    record = simulate_small(trace)
    finish, arrival = times(record, "finish_s"), times(record, "arrival_s")
    assert list(record.table.status) == [1, 2, 1]
    assert arrival[1] == pytest.approx(finish[0] + 1.0)
    assert arrival[2] == pytest.approx(finish[0] + 2.0)


def test_a_request_of_exactly_the_longest_length_is_served_to_its_last_token() -> None:
    record = simulate_small(make_trace([0.0, 1.0, 2.0], [399, 400, 390], [50, 1, 50]), num_blocks=25, max_model_len=400)
    assert list(record.table.status) == [1, 2, 1]
    assert list(record.table.output_tokens) == [1, 0, 10]


def test_more_places_in_the_closed_loop_than_requests_is_an_open_loop() -> None:
    trace = random_trace(1, 20, 50.0)
    assert_same_run(simulate_small(dataclasses.replace(trace, concurrency=100)), simulate_small(trace))


def test_limits_under_which_a_legal_request_never_fits_are_refused() -> None:
    with pytest.raises(UserError, match="Use --max-model-len 160 or less"):
        simulate_small(make_trace([0.0], [1], [1]), num_blocks=10, max_model_len=200)


def test_least_outstanding_avoids_the_busy_replica() -> None:
    trace = make_trace([0.0, 0.1, 0.2, 0.3], [10] * 4, [200, 1, 1, 1])
    record = simulate_small(trace, num_replicas=2, routing="least-outstanding")
    assert list(record.table.replica) == [0, 1, 1, 1]


def test_round_robin_takes_turns() -> None:
    record = simulate_small(random_trace(1, 9, 100.0), num_replicas=3, routing="round-robin")
    assert list(record.table.replica) == [0, 1, 2] * 3


class OneAtATime:
    """A policy of the test's own: the next prompt starts when nothing decodes (docs/policies.md)."""

    steady = True

    def plan(self, core: EngineCore) -> bool:
        core.make_room_for_decode()
        if not core.num_decoding:
            for request in core.admissible():
                core.admit(request, request.prompt_left)
                break
        return True


class ShortPromptsToTheFirst:
    """A router of the test's own: short prompts to replica 0, long ones to the rest in turn (docs/policies.md)."""

    def __init__(self) -> None:
        self._next = 0

    def choose(self, request: RequestView, replicas: Sequence[ReplicaView]) -> int:
        if request.input_tokens < 100 or len(replicas) == 1:
            return 0
        self._next = self._next % (len(replicas) - 1) + 1
        return self._next


def test_a_policy_object_of_your_own_drives_the_engine() -> None:
    trace = random_trace(4, 30, 20.0)
    record = simulate_small(trace, policy=OneAtATime)
    assert record.replicas[0].counters.peak_running == 1
    assert_same_run(record, simulate_small(trace, policy=OneAtATime, exact_steps=True))
    assert_same_run(record, simulate_small(trace, max_num_seqs=1, max_num_batched_tokens=2048))


class ShortestPromptFirst:
    """Another: whoever has the shortest prompt is next (docs/policies.md)."""

    steady = False

    def plan(self, core: EngineCore) -> bool:
        if core.make_room_for_decode():
            for request in sorted(core.visible(), key=lambda r: r.prompt_left):
                if core.num_running >= core.max_num_seqs or not core.admit(request, request.prompt_left):
                    break
        return True


def test_shortest_prompt_first_shortens_the_mean_wait_of_a_single_server() -> None:
    """Shortest processing time first minimises the mean wait at one server; outputs of one token make the prompt the job."""
    trace = dataclasses.replace(random_trace(6, 200, 50.0), output_tokens=np.ones(200, dtype=np.int64))
    one = {"max_num_seqs": 1, "max_num_batched_tokens": 2048}
    runs = [simulate_small(trace, **one), simulate_small(trace, **one, policy=ShortestPromptFirst)]  # type: ignore[arg-type]
    waits = [np.mean(np.array(run.table.scheduled_s) - trace.arrival_s) for run in runs]
    assert waits[1] < waits[0]
    assert sum(r.counters.busy_ticks for r in runs[0].replicas) == sum(r.counters.busy_ticks for r in runs[1].replicas)


def test_policies_of_your_own_go_into_a_deployment() -> None:
    deployment = build_deployment("llama-3-8b", "h100-sxm:2", dp=2)
    trace = random_trace(1, 40, 50.0)
    named = simulate_deployment(deployment, trace)
    mine = simulate_deployment(deployment, trace, batching=ShortestPromptFirst, router=ShortPromptsToTheFirst())
    assert set(mine.requests.status) == {"completed"}
    assert (mine.requests.replica == np.where(trace.input_tokens < 100, 0, 1)).all()
    assert mine.summary["total_output_tokens"] == named.summary["total_output_tokens"]


def test_a_router_of_your_own_places_requests() -> None:
    trace = make_trace([0.0, 0.1, 0.2, 0.3], [10, 500, 20, 500], [5] * 4)
    record = simulate_small(trace, num_replicas=3, router=ShortPromptsToTheFirst())
    assert list(record.table.replica) == [0, 1, 0, 2]


def test_a_span_ends_where_an_eviction_lets_the_next_request_in() -> None:
    """Found by fuzzing: without room reserved for whole prompts, a long cached prefix and the chunk behind it can need
    more blocks than the first chunk alone, so losing the prefix admits the request."""
    trace = random_prefixes(10002, random_trace(10002, 60, 1000.0), 128, shared_blocks=1)
    scarce: dict[str, Any] = {"num_blocks": 44, "max_model_len": 700, "max_num_batched_tokens": 64, "swap": True}
    scarce |= {"host_blocks": 20, "reserve_full_prompt": False, "prefix_caching": True, "watermark_blocks": 1}
    scarce |= {"window": 64, "request_fixed_s": 0.01}
    with ticks(COARSE):
        runs = [simulate_small(trace, exact_steps=exact, **scarce) for exact in (False, True)]
    assert_same_run(runs[0], runs[1], COARSE)


@pytest.mark.parametrize("batching", ["chunked", "prefill-first"])
def test_nobody_new_is_admitted_while_a_swapped_request_waits_to_return(batching: str) -> None:
    record = simulate_small(
        make_trace([0.0, 0.0, 0.3], [320, 320, 16], [64, 64, 2]),
        num_blocks=44,
        max_model_len=400,
        max_num_batched_tokens=2048,
        swap=True,
        batching=batching,
    )
    assert list(record.table.preemptions) == [0, 1, 0]
    assert times(record, "scheduled_s")[2] >= times(record, "finish_s")[0]


def test_async_scheduling_sees_who_arrives_just_before_a_step_begins() -> None:
    """A microsecond before the fourth decode step begins is early enough for the fifth: a span knows when its last step
    began, to the tick."""
    alone = simulate_small(make_trace([0.0], [10], [40]), async_scheduling=True)
    gaps_s = [gap / FINE for gap in sorted(gap_counts(alone, FINE))]
    fourth_s = alone.table.first_token_s[0] + sum(gaps_s[:3])
    record = simulate_small(make_trace([0.0, fourth_s - 1e-6], [10, 10], [40, 5]), async_scheduling=True)
    assert record.table.scheduled_s[1] == pytest.approx(fourth_s + gaps_s[3], abs=1e-9)
