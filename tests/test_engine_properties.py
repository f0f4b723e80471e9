"""Laws of the event loop on random settings: jumping equals stepping, books balance, policies are blind to the future."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from engine_checks import (
    COARSE,
    COARSEST,
    FINE,
    OPTIONS,
    Audited,
    assert_lawful,
    assert_same_run,
    audited,
    run_options,
    trace_of,
)
from engine_helpers import make_trace, random_trace, simulate_small
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator.batching import BATCHING, BatchingPolicy

SOME_OPTIONS = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in OPTIONS.items()})
ONE_ENGINE = st.fixed_dictionaries(
    {
        name: st.just(1) if name in ("num_replicas", "stages") else st.sampled_from(values)
        for name, values in OPTIONS.items()
    }
)


def bounded(examples: int) -> settings:
    """The same examples on every machine, however slow."""
    return settings(
        max_examples=examples, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )


@bounded(250)
@given(options=SOME_OPTIONS)
def test_spans_and_single_steps_give_the_same_run(options: dict[str, Any]) -> None:
    trace = trace_of(options)
    spans = run_options(options, trace)
    steps = run_options(options, trace, exact_steps=True, policy=audited(options["batching"]))
    assert_lawful(spans, trace, options)
    assert_same_run(spans, steps, options["ticks_per_s"])


@bounded(80)
@given(options=ONE_ENGINE, ticks_per_s=st.sampled_from([COARSE, COARSEST]))
def test_spans_and_single_steps_agree_where_events_meet_in_one_instant(
    options: dict[str, Any], ticks_per_s: int
) -> None:
    options = {**options, "ticks_per_s": ticks_per_s, "rate_per_s": 30.0, "num_requests": 40, "async_scheduling": True}
    assert_same_run(run_options(options), run_options(options, exact_steps=True), ticks_per_s)


@bounded(40)
@given(options=SOME_OPTIONS)
def test_the_same_run_twice_is_the_same_run(options: dict[str, Any]) -> None:
    one, other = run_options(options), run_options(options)
    assert_same_run(one, other, options["ticks_per_s"])
    assert [r.timeline.rows for r in one.replicas] == [r.timeline.rows for r in other.replicas]


@bounded(40)
@given(options=ONE_ENGINE)
def test_asking_a_steady_policy_more_often_changes_nothing(options: dict[str, Any]) -> None:
    def restless() -> BatchingPolicy:
        policy = BATCHING[options["batching"]]()
        policy.steady = False
        return policy

    assert_same_run(run_options(options), run_options(options, policy=restless), options["ticks_per_s"])


@bounded(60)
@given(options=SOME_OPTIONS, cut=st.floats(0.2, 0.8))
def test_decisions_do_not_depend_on_outputs_that_are_still_to_come(options: dict[str, Any], cut: float) -> None:
    """Requests unfinished at ``cut`` of the run get other output lengths; everything decided before stays the same.

    Not so with an output reserve: such engines are told max_tokens, which stands for the output's length here. Without a
    queue of tokens on their way out, "finished" is the same for engine and client.
    """
    options = {**options, "ticks_per_s": FINE, "flow": "open", "prefix_block_tokens": 0, "max_model_len": 1100}
    options.update(output_reserve=0.0, stream_token_s=0.0)
    trace = trace_of(options)
    log: list[Any] = []
    before = run_options(options, trace, policy=audited(options["batching"], log), exact_steps=True)
    cut_s = cut * before.end_s
    finish_s = np.array(before.table.finish_s)
    longer = np.where(finish_s <= cut_s, trace.output_tokens, trace.output_tokens + 37)
    changed = dataclasses.replace(trace, output_tokens=longer)
    other_log: list[Any] = []
    after = run_options(options, changed, policy=audited(options["batching"], other_log), exact_steps=True)
    early = [entry for entry in log if entry[0] < cut_s * FINE]
    assert early == [entry for entry in other_log if entry[0] < cut_s * FINE]
    for column in ("scheduled_s", "first_token_s", "finish_s"):
        mine, theirs = np.array(getattr(before.table, column)), np.array(getattr(after.table, column))
        np.testing.assert_array_equal(mine[mine <= cut_s], theirs[mine <= cut_s])


@bounded(40)
@given(options=ONE_ENGINE)
def test_requests_start_in_the_order_in_which_they_reach_the_queue(options: dict[str, Any]) -> None:
    options = {**options, "flow": "open"}
    record = run_options(options)
    scheduled = np.array(record.table.scheduled_s)
    started = scheduled[~np.isnan(scheduled)]
    assert (np.diff(started) >= 0).all()


@pytest.mark.parametrize("stages", [1, 2])
def test_littles_law_holds_exactly(stages: int) -> None:
    """Time-average number in the system = completions per time x mean time in the system, from the table alone."""
    record = simulate_small(random_trace(3, 400, 20.0), stages=stages)
    arrival, finish = np.array(record.table.arrival_s), np.array(record.table.finish_s)
    edges = np.concatenate([arrival, finish])
    jumps = np.concatenate([np.ones(400), -np.ones(400)])
    order = np.argsort(edges, kind="stable")
    in_system = np.cumsum(jumps[order])[:-1]
    duration_s = edges.max() - edges.min()
    mean_in_system = (in_system * np.diff(edges[order])).sum() / duration_s
    rate_per_s = 400 / duration_s
    assert mean_in_system == pytest.approx(rate_per_s * (finish - arrival).mean(), rel=1e-9)


def test_a_faster_engine_finishes_every_request_of_a_single_queue_no_later() -> None:
    """True for one place and whole prompts (a G/D/1 queue); not for batches in general."""

    class Doubled:
        """The line model at half the speed."""

        window = None

        def __init__(self) -> None:
            from engine_helpers import LineModel

            self._model = LineModel()

        def decode(self, num_seqs: int) -> Any:
            line = self._model.decode(num_seqs)
            return line._replace(base_s=2 * line.base_s, context_s=2 * line.context_s)

        def step(self, shape: Any) -> tuple[float, float]:
            seconds, joules = self._model.step(shape)
            return 2 * seconds, joules

    trace = random_trace(5, 100, 2.0)
    one = {"max_num_seqs": 1, "max_num_batched_tokens": 2048}
    fast = np.array(simulate_small(trace, **one).table.finish_s)  # type: ignore[arg-type]
    slow = np.array(simulate_small(trace, model=Doubled(), **one).table.finish_s)  # type: ignore[arg-type]
    assert (fast < slow).all()


@pytest.mark.parametrize("batching", sorted(BATCHING))
@pytest.mark.parametrize("ticks_per_s", [FINE, COARSEST])
def test_requests_that_arrive_together_all_end(batching: str, ticks_per_s: int) -> None:
    trace = make_trace([1.0] * 30, list(range(10, 310, 10)), list(range(1, 31)))
    options = {name: values[0] for name, values in OPTIONS.items()}
    options |= {"ticks_per_s": ticks_per_s, "batching": batching, "max_num_seqs": 4, "num_replicas": 2}
    record = run_options(options, trace, policy=lambda: Audited(BATCHING[batching]()))
    assert_lawful(record, trace, options)
    assert_same_run(record, run_options(options, trace, exact_steps=True), ticks_per_s)
