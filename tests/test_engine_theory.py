"""The event loop against arithmetic and queueing theory."""

from __future__ import annotations

import math

import numpy as np
import pytest
from engine_helpers import LineModel, make_trace, simulate_small

from simulator.physics.shape import DecodeLine, StepShape, window_pairs
from simulator.replica import steps_until
from workloads.trace import Trace

STEP_S = 0.01


class FixedStep:
    """Every step takes 10 ms; every pipeline stage 10 ms / stages."""

    window = None

    def __init__(self, stages: int = 1) -> None:
        self.stages = stages

    def decode(self, num_seqs: int) -> DecodeLine:
        return DecodeLine(STEP_S, 0.0, 0.0, 1.0, 0.0, 0.0)

    def step(self, shape: StepShape) -> tuple[float, float]:
        return STEP_S, 1.0

    def stage_s(self, shape: StepShape) -> tuple[float, ...]:
        return (STEP_S / self.stages,) * self.stages


def poisson(num_requests: int, rate_per_s: float, seed: int = 1) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate_per_s, num_requests))


def one_server_waits(arrival_s: np.ndarray, service_s: np.ndarray) -> np.ndarray:
    """Lindley's recursion: waits of a first-come-first-served queue with one server."""
    waits = np.zeros(len(arrival_s))
    for i in range(1, len(waits)):
        waits[i] = max(0.0, waits[i - 1] + service_s[i - 1] - (arrival_s[i] - arrival_s[i - 1]))
    return waits


def test_every_token_of_a_request_alone_comes_when_arithmetic_says() -> None:
    model = LineModel()
    record = simulate_small(make_trace([1.0], [1000], [5]), max_num_batched_tokens=400)
    chunks = [(400, 0), (400, 400), (200, 800)]
    prefill_s = [
        model.step(StepShape(0, 0, 0, new, new * past + new * (new + 1) // 2, 0, 1, past, 0))[0] for new, past in chunks
    ]
    # without a window the pairs of windowed layers equal all pairs: 1e-9 s each in the line model
    prefill_s = [
        s + 1e-9 * (new * past + new * (new + 1) // 2) for s, (new, past) in zip(prefill_s, chunks, strict=True)
    ]
    line = model.decode(1)
    gaps_s = [line.base_s + line.context_s * (1001 + i) for i in range(4)]
    first_s = 1.0 + sum(prefill_s)
    assert record.table.scheduled_s[0] == 1.0
    assert record.table.first_token_s[0] == pytest.approx(first_s, rel=1e-12)
    assert record.table.finish_s[0] == pytest.approx(first_s + sum(gaps_s), rel=1e-12)
    gaps, counts = record.replicas[0].gaps.weighted()
    np.testing.assert_allclose(np.repeat(gaps, counts), gaps_s, rtol=1e-10)


def test_places_that_never_run_out_make_the_engine_a_delay() -> None:
    """M/D/infinity: with a fixed step and room for all, the time in the engine is output tokens x step, and up to one
    step of waiting for the step under way."""
    arrival_s = poisson(500, 20.0)
    outputs = np.random.default_rng(2).integers(1, 20, 500)
    trace = Trace(arrival_s=arrival_s, input_tokens=np.full(500, 10), output_tokens=outputs)
    record = simulate_small(trace, model=FixedStep(), num_blocks=10_000, max_num_seqs=500)
    extra_s = np.array(record.table.finish_s) - arrival_s - outputs * STEP_S
    assert extra_s.min() > -1e-9
    assert extra_s.max() < STEP_S + 1e-9


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_one_place_and_equal_requests_are_the_md1_queue(load: float) -> None:
    """Mean wait rho / (2 (1 - rho)) service times; and every single wait equals Lindley's recursion."""
    num_requests, service_s = 40_000, 10 * STEP_S
    arrival_s = poisson(num_requests, load / service_s)
    trace = Trace(
        arrival_s=arrival_s,
        input_tokens=np.full(num_requests, 10),
        output_tokens=np.full(num_requests, 10),
    )
    record = simulate_small(trace, model=FixedStep(), max_num_seqs=1)
    wait_s = np.array(record.table.scheduled_s) - arrival_s
    np.testing.assert_allclose(wait_s, one_server_waits(arrival_s, np.full(num_requests, service_s)), atol=1e-9)
    expected_s = load / (2 * (1 - load)) * service_s
    # Busy periods hold 1 / (1 - rho) requests on average, correlated: about n (1 - rho)^2 independent waits, each with
    # a standard deviation of about its mean. Four standard errors:
    assert wait_s.mean() == pytest.approx(expected_s, rel=4 / math.sqrt(num_requests * (1 - load) ** 2))


def test_geometric_outputs_are_nearly_the_mm1_queue() -> None:
    """A geometric number of equal steps has squared coefficient of variation 1 - p: Pollaczek-Khinchine, and within
    1 % of M/M/1 at a mean of 100 tokens."""
    num_requests, mean_tokens, load = 40_000, 100, 0.7
    outputs = np.random.default_rng(3).geometric(1 / mean_tokens, num_requests)
    service_s = mean_tokens * STEP_S
    arrival_s = poisson(num_requests, load / service_s)
    trace = Trace(arrival_s=arrival_s, input_tokens=np.full(num_requests, 1), output_tokens=outputs)
    record = simulate_small(trace, model=FixedStep(), max_num_seqs=1, max_model_len=6000, num_blocks=400)
    wait_s = np.array(record.table.scheduled_s) - arrival_s
    np.testing.assert_allclose(wait_s, one_server_waits(arrival_s, outputs * STEP_S), atol=1e-8)
    mm1_s = load / (1 - load) * service_s
    assert wait_s.mean() == pytest.approx(mm1_s, rel=0.01 + 4 / math.sqrt(num_requests * (1 - load) ** 2))


@pytest.mark.parametrize("stages", [2, 4])
def test_equal_pipeline_stages_with_full_lanes_multiply_throughput(stages: int) -> None:
    """With a batch per stage in flight a step leaves every step / stages seconds; alone a batch would take the whole
    step. Every lane holds one request, so the run takes 1 / stages of the time, plus the last pass."""
    outputs, requests = 50, 8 * stages
    trace = make_trace([0.0] * requests, [10] * requests, [outputs] * requests)
    one = simulate_small(trace, model=FixedStep(), max_num_seqs=1, max_num_batched_tokens=10)
    many = simulate_small(trace, model=FixedStep(stages), max_num_seqs=stages, max_num_batched_tokens=10, stages=stages)
    assert one.end_s == pytest.approx(requests * outputs * STEP_S, rel=1e-9)
    assert many.end_s == pytest.approx(one.end_s / stages, rel=2 / (outputs * requests / stages))
    np.testing.assert_allclose(many.replicas[0].gaps.weighted()[0], STEP_S, rtol=1e-9)


def test_a_single_request_gains_nothing_from_a_pipeline() -> None:
    trace = make_trace([0.0], [10], [50])
    piped = simulate_small(trace, model=FixedStep(4), stages=4)
    assert piped.end_s == pytest.approx(50 * STEP_S, rel=1e-12)


@pytest.mark.parametrize(("first", "slope"), [(7, 0), (7, 3), (1, 10), (5 * 10**12, 4 * 10**9)])
def test_steps_until_is_the_smallest_number_of_steps_that_reach_the_time(first: int, slope: int) -> None:
    ends, at, step = [], 0, first
    for _ in range(60):
        at += step
        step += slope
        ends.append(at)
    for index, end in enumerate(ends):
        assert steps_until(end, first, slope) == index + 1, "the boundary itself can see what happens at it"
        assert steps_until(end + 1, first, slope) == index + 2
        assert steps_until(end - 1, first, slope) == index + 1 if end - 1 > (ends[index - 1] if index else -1) else True
    assert steps_until(0, first, slope) == 1


def test_window_pairs_count_what_each_token_sees() -> None:
    for new, cached, window in [(1, 0, 4), (10, 0, 4), (3, 2, 4), (5, 10, 4), (4, 0, 4), (7, 3, 100)]:
        seen = sum(min(window, cached + i + 1) for i in range(new))
        assert window_pairs(new, cached, window) == seen


@pytest.mark.parametrize("exact_steps", [False, True])
def test_an_arrival_in_the_instant_a_step_ends_joins_the_next_step(exact_steps: bool) -> None:
    trace = make_trace([0.0, 5 * STEP_S], [10, 10], [20, 2])
    record = simulate_small(trace, model=FixedStep(), exact_steps=exact_steps)
    assert list(record.table.scheduled_s) == [0.0, 5 * STEP_S]


@pytest.mark.parametrize("exact_steps", [False, True])
def test_a_router_knows_what_finished_in_the_instant_of_its_decision(exact_steps: bool) -> None:
    """Replica 0 becomes idle exactly when the third request arrives: both are idle but the second is still on 1."""
    trace = make_trace([0.0, 0.0, 5 * STEP_S], [10, 10, 10], [5, 9, 1])
    record = simulate_small(
        trace, model=FixedStep(), num_replicas=2, routing="least-outstanding", exact_steps=exact_steps
    )
    assert list(record.table.replica) == [0, 1, 0]
    three = make_trace([0.0, 0.0, 5 * STEP_S], [10, 10, 10], [9, 5, 1])
    record = simulate_small(
        three, model=FixedStep(), num_replicas=2, routing="least-outstanding", exact_steps=exact_steps
    )
    assert list(record.table.replica) == [0, 1, 1]


def test_the_slowest_stage_sets_the_pace_of_a_pipeline() -> None:
    """Stages of 2 and 8 ms, two batches in flight: one leaves every 8 ms, not two every 10 ms."""

    class Uneven(FixedStep):
        def stage_s(self, shape: StepShape) -> tuple[float, ...]:
            return 0.2 * STEP_S, 0.8 * STEP_S

    outputs, requests = 50, 20
    trace = make_trace([0.0] * requests, [10] * requests, [outputs] * requests)
    record = simulate_small(trace, model=Uneven(), max_num_seqs=2, max_num_batched_tokens=10, stages=2)
    assert record.end_s == pytest.approx(requests * outputs * 0.8 * STEP_S, rel=1 / outputs)
