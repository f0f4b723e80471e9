"""The queue of tokens between engine and clients: closed form against step by step, and what saturation does."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from engine_helpers import make_trace, simulate_small
from hypothesis import given
from hypothesis import strategies as st

from simulator.stream import TokenStream

SPANS = st.lists(
    st.tuples(st.integers(0, 9), st.integers(1, 20), st.integers(1, 50), st.integers(0, 3), st.integers(0, 60)),
    min_size=1,
    max_size=8,
)
"""(tokens, steps, first duration, slope, idle ticks before) of spans one after another."""


@given(spans=SPANS, token_ticks=st.integers(0, 12))
def test_a_span_in_closed_form_equals_its_steps(spans: list[tuple[int, ...]], token_ticks: int) -> None:
    whole, stepwise = TokenStream(token_ticks), TokenStream(token_ticks)
    now = 0
    for tokens, steps, first, slope, idle in spans:
        now += idle
        ends = now + np.cumsum(first + slope * np.arange(steps))
        for end in ends.tolist():
            last = stepwise.send(tokens, 1, end, end)
        now = int(ends[-1])
        assert whole.send(tokens, steps, int(ends[0]), now) == last


def test_tokens_leave_at_the_pace_of_the_slower_of_engine_and_stream() -> None:
    """30 sequences make 1,300 tokens/s; a stream of 1 ms per token lets 1,000 through."""
    trace = dataclasses.replace(make_trace([0.0] * 90, [16] * 90, [200] * 90), concurrency=30)
    kwargs = dict(num_blocks=2000, max_num_seqs=64, max_num_batched_tokens=2048)
    free = simulate_small(trace, **kwargs)  # type: ignore[arg-type]
    bound = simulate_small(trace, stream_token_s=1e-3, **kwargs)  # type: ignore[arg-type]
    assert free.end_s < 14.0
    assert bound.end_s == pytest.approx(90 * 200 * 1e-3, rel=0.02)


def test_a_stream_faster_than_the_engine_only_delays() -> None:
    trace = make_trace([0.0], [16], [50])
    free, slow = simulate_small(trace), simulate_small(trace, stream_token_s=1e-3)
    np.testing.assert_allclose(np.subtract(slow.table.first_token_s, free.table.first_token_s), 1e-3, rtol=1e-9)
    np.testing.assert_allclose(np.subtract(slow.table.finish_s, free.table.finish_s), 1e-3, rtol=1e-9)
