"""Corners of the engine: sizes that are larger or smaller than they usually are, everything at once, refused requests."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from engine_checks import assert_same_run
from engine_helpers import make_trace, random_prefixes, random_trace, simulate_small

from simulator.recorder import COMPLETED, REJECTED
from workloads.trace import Trace

CORNERS: dict[str, dict[str, Any]] = {
    "one sequence at a time": {"max_num_seqs": 1},
    "one token per block": {"block_size": 1, "num_blocks": 1100},
    "blocks larger than prompts": {"block_size": 1024, "num_blocks": 3, "max_model_len": 3000},
    "window smaller than a block": {"window": 3},
    "window of one token": {"window": 1},
    "memory for one request": {"num_blocks": 69},
    "memory for one request, swapped": {"num_blocks": 69, "swap": True},
    "host memory for one block": {"num_blocks": 80, "swap": True, "host_blocks": 1},
    "cached prefixes under pressure": {"num_blocks": 75, "prefix_caching": True, "reserve_full_prompt": False},
    "blocks of three, pieces of sixteen": {"num_blocks": 400, "block_size": 3, "prefix_caching": True},
}


@pytest.mark.parametrize("together", [False, True], ids=["spread", "at once"])
@pytest.mark.parametrize("corner", CORNERS)
def test_every_request_ends_and_jumping_equals_stepping(corner: str, together: bool) -> None:
    options = CORNERS[corner]
    trace = random_trace(7, 60, 20.0)
    if together:
        trace = dataclasses.replace(trace, arrival_s=np.zeros(60))
    if options.get("prefix_caching"):
        trace = random_prefixes(7, trace, 16, shared_blocks=4)
    record = simulate_small(trace, **options)
    assert set(record.table.status) == {COMPLETED}
    assert list(record.table.output_tokens) == trace.output_tokens.tolist()
    gaps = sum(int(replica.gaps.weighted()[1].sum()) for replica in record.replicas)
    assert gaps == int((trace.output_tokens - 1).sum())
    assert_same_run(record, simulate_small(trace, exact_steps=True, **options))


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize(("swap", "most"), [(False, 1), (True, 3)])
def test_a_request_that_is_preempted_even_repeatedly_keeps_its_first_token(swap: bool, most: int, stages: int) -> None:
    """Five requests whose prompts fit and whose outputs do not: the newest are thrown out, some again and again."""
    trace = make_trace([0.0, 0.001, 0.002, 0.003, 0.004], [200] * 5, [300, 260, 220, 300, 300])
    options: dict[str, Any] = {"max_num_batched_tokens": 1024, "stages": stages}
    roomy = simulate_small(trace, num_blocks=400, **options).table
    tight = simulate_small(trace, num_blocks=69, swap=swap, **options).table
    assert max(roomy.preemptions) == 0 and max(tight.preemptions) == most
    assert list(tight.first_token_s) == list(roomy.first_token_s)
    assert list(tight.scheduled_s) == list(roomy.scheduled_s)
    assert max(tight.finish_s) > 1.2 * max(roomy.finish_s)


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("replicas", [1, 3])
def test_the_turn_after_a_refused_one_still_comes(replicas: int, stages: int) -> None:
    """The second turn is too long; the third waits for its refusal, not for ever."""
    trace = Trace(
        arrival_s=np.zeros(4),
        input_tokens=np.array([50, 5000, 60, 70]),
        output_tokens=np.array([10, 10, 10, 10]),
        previous=np.array([-1, 0, 1, 2]),
        think_s=np.array([0.0, 1.0, 2.0, 3.0]),
    )
    table = simulate_small(trace, num_replicas=replicas, stages=stages).table
    assert list(table.status) == [COMPLETED, REJECTED, COMPLETED, COMPLETED]
    finish, arrival = table.finish_s, table.arrival_s
    assert arrival[1] == pytest.approx(finish[0] + 1.0)
    assert arrival[2] == pytest.approx(arrival[1] + 2.0)
    assert arrival[3] == pytest.approx(finish[2] + 3.0)


def test_a_closed_loop_goes_on_when_requests_are_refused() -> None:
    inputs = [5000 if i % 3 == 0 else 100 for i in range(30)]
    trace = make_trace([0.0] * 30, inputs, [5] * 30, concurrency=4)
    table = simulate_small(trace, num_replicas=2).table
    assert list(table.status) == [REJECTED if i % 3 == 0 else COMPLETED for i in range(30)]
