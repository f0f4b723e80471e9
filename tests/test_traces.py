"""Trace values: checks at birth, slices that keep links and prefixes, files that give the same arrays back."""

from __future__ import annotations

import numpy as np
import pytest

from hardware_profiles.errors import UserError
from workloads.describe import describe
from workloads.readers import read_trace
from workloads.synthetic import PromptPool, Sessions, SharedPrefix, generate
from workloads.trace import Trace

ARRAYS = ("arrival_s", "input_tokens", "output_tokens", "prefix_ids", "prefix_offsets", "previous", "think_s")


def same(a: Trace, b: Trace) -> bool:
    arrays = all(
        (getattr(a, c) is None) == (getattr(b, c) is None)
        and (getattr(a, c) is None or np.array_equal(getattr(a, c), getattr(b, c)))
        for c in ARRAYS
    )
    return arrays and (a.prefix_block_tokens, a.concurrency) == (b.prefix_block_tokens, b.concurrency)


def tiny(**changes: object) -> Trace:
    columns: dict[str, object] = {
        "arrival_s": [0.0, 1.0, 3.0],
        "input_tokens": [10, 20, 30],
        "output_tokens": [1, 2, 3],
    }
    return Trace(**(columns | changes))  # type: ignore[arg-type]


def sessions(n: int = 400, seed: int = 1) -> Trace:
    return generate(
        num_requests=n,
        rate_per_s=2,
        input_len="uniform(20, 60)",
        output_len="uniform(10, 40)",
        sessions=Sessions(turns="geometric(mean=3)", think_s="exponential(mean=5)"),
        prefix=SharedPrefix(tokens=40, groups=3, popularity="zipf(1)", share=0.5),
        seed=seed,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arrival_s": [0.0, 2.0, 1.0]}, "arrival_s of row 2 is 1.0; it must not decrease"),
        ({"arrival_s": [-1.0, 2.0, 3.0]}, "arrival_s of row 0 is -1.0; it must be finite"),
        ({"arrival_s": [0.0, np.nan, 3.0]}, "arrival_s of row 1 is nan; it must be finite"),
        ({"arrival_s": [], "input_tokens": [], "output_tokens": []}, "no requests"),
        ({"input_tokens": [1, 0, 1]}, "input_tokens of row 1 is 0; it must be at least 1"),
        ({"output_tokens": [1, 1]}, "output_tokens has 2 rows, arrival_s has 3"),
        ({"output_tokens": [1, 1.5, 2]}, "output_tokens has fractions"),
        ({"previous": [-1, 0, 2], "think_s": [0, 1, 1]}, "previous of row 2 is 2; it must be an earlier row"),
        ({"previous": [-1, 0, 1]}, "previous and think_s go together"),
        ({"previous": [-1, -1, 1], "think_s": [0, 1, 1]}, "think_s of row 1 is 1.0; it must be 0"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"prefix_ids": [1]}, "go together"),
        ({"prefix_ids": [1] * 9, "prefix_offsets": [0, 9, 9, 9], "prefix_block_tokens": 4}, "fit the tokens"),
    ],
)
def test_impossible_trace_is_refused_with_row_and_value(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        tiny(**changes)
    assert "\n" not in str(error.value)


def test_arrays_cannot_be_changed_behind_the_checks() -> None:
    with pytest.raises(ValueError, match="read-only"):
        tiny().arrival_s[0] = 5


def test_rate_is_the_reciprocal_of_the_mean_gap() -> None:
    assert tiny().duration_s == 3.0
    assert tiny().request_rate_per_s == 2 / 3
    assert tiny().scale_rate(2).request_rate_per_s == 4 / 3
    assert tiny(arrival_s=[0.0, 0.0, 0.0]).request_rate_per_s == float("inf")


def test_time_slice_is_half_open_and_restarts_the_clock() -> None:
    part = tiny().slice_time(1.0, 3.0)
    assert part.arrival_s.tolist() == [0.0]
    assert part.input_tokens.tolist() == [20]
    with pytest.raises(UserError, match="no request arrives in"):
        tiny().slice_time(1.5, 2.5)


def test_slice_turns_orphans_into_session_starts() -> None:
    trace = tiny(previous=[-1, 0, 1], think_s=[0, 4, 5])
    part = trace.slice_time(1.0, 9.0)
    assert part.previous is not None and part.previous.tolist() == [-1, 0]
    assert part.think_s is not None and part.think_s.tolist() == [0, 5]


def test_head_and_sample_keep_prefixes_of_the_rows_they_keep() -> None:
    trace = sessions()
    for part in (trace.head(100), trace.sample(0.4, seed=3)):
        by_row = {(a, i): r for r, (a, i) in enumerate(zip(trace.arrival_s, trace.input_tokens, strict=True))}
        for row in range(len(part)):
            whole = by_row[part.arrival_s[row], part.input_tokens[row]]
            assert part.prefix_of(row).tolist() == trace.prefix_of(whole).tolist()


def test_sample_keeps_sessions_whole_and_smaller_samples_inside_larger() -> None:
    trace = sessions()
    large, small = trace.sample(0.6, seed=7), trace.sample(0.3, seed=7)
    _, turns = np.unique(trace.session_roots(), return_counts=True)
    _, kept = np.unique(large.session_roots(), return_counts=True)
    assert kept.sum() < turns.sum()
    assert set(small.arrival_s) < set(large.arrival_s)
    starts = {trace.arrival_s[r]: t for r, t in zip(np.unique(trace.session_roots()), turns, strict=True)}
    assert all(starts[large.arrival_s[r]] == k for r, k in zip(np.unique(large.session_roots()), kept, strict=True))


def test_thinned_poisson_keeps_its_character() -> None:
    trace = generate(num_requests=50_000, rate_per_s=10, input_len=1, output_len=1)
    facts = describe(trace.sample(0.25))
    assert facts["request_rate_per_s"] == pytest.approx(2.5, rel=0.03)  # 4 standard errors
    assert facts["interarrival_cv"] == pytest.approx(1.0, abs=0.04)


def test_closed_loop_has_no_rate_or_times_to_cut() -> None:
    trace = tiny(concurrency=2)
    with pytest.raises(UserError, match="no rate to scale"):
        trace.scale_rate(2)
    with pytest.raises(UserError, match=r"use head\(n\)"):
        trace.slice_time(0, 1)
    assert trace.head(2).concurrency == 2


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("kind", ["plain", "closed", "sessions", "prompts"])
def test_saved_trace_reads_back_bit_for_bit(tmp_path, suffix: str, kind: str) -> None:  # type: ignore[no-untyped-def]
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    traces = {
        "plain": generate(num_requests=50, rate_per_s=3, input_len="lognormal(100, 1)", output_len=7).scale_rate(3),
        "closed": generate(num_requests=50, arrival="closed(concurrency=4)", input_len=5, output_len=7),
        "sessions": sessions(60),
        "prompts": generate(
            num_requests=40,
            rate_per_s=1,
            input_len=70,
            output_len=3,
            prompts=PromptPool(distinct=9),
            prefix_block_tokens=8,
        ),
    }
    path = tmp_path / f"trace{suffix}"
    traces[kind].save(path)
    assert same(read_trace(path), traces[kind])


def test_unknown_ending_is_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=r"use \.csv, \.jsonl, \.parquet"):
        tiny().save(tmp_path / "trace.xlsx")
