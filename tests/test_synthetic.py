"""Synthetic workloads: moments of the arrivals and lengths, streams that do not disturb each other, sharing."""

from __future__ import annotations

import numpy as np
import pytest

from hardware_profiles.errors import UserError
from workloads.arrivals import parse_arrival
from workloads.describe import describe
from workloads.lengths import parse_length
from workloads.prefixes import prompt_blocks_hit
from workloads.streams import stream
from workloads.synthetic import PromptPool, Sessions, SharedPrefix, generate
from workloads.trace import Trace


def arrivals(arrival: str, **kwargs: object) -> Trace:
    return generate(arrival=arrival, input_len=1, output_len=1, **kwargs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arrival", "cv"), [("poisson", 1.0), ("gamma(cv=2)", 2.0), ("gamma(0.5)", 0.5), ("constant", 0)]
)
def test_renewal_arrivals_have_the_rate_and_variation_asked_for(arrival: str, cv: float) -> None:
    facts = describe(arrivals(arrival, num_requests=40_000, rate_per_s=5))
    assert facts["request_rate_per_s"] == pytest.approx(5, rel=0.04)  # cv / sqrt(n), four of them
    assert facts["interarrival_cv"] == pytest.approx(cv, rel=0.05, abs=1e-9)


@pytest.mark.parametrize(
    "arrival", ["poisson", "gamma(cv=2)", "constant", "bursty(20, 1, 10, 30)", "diurnal(1, 9, 600)"]
)
def test_longer_run_continues_a_shorter_one(arrival: str) -> None:
    long = arrivals(arrival, num_requests=5_000, rate_per_s=4).arrival_s
    short = arrivals(arrival, num_requests=1_000, rate_per_s=4).arrival_s
    until = arrivals(arrival, duration_s=100.0, rate_per_s=4).arrival_s
    assert np.array_equal(short, long[:1_000])
    assert np.allclose(until, long[: len(until)], rtol=0, atol=2e-6) and long[len(until)] >= 100.0


def test_piecewise_rates_hold_in_each_piece() -> None:
    times = arrivals("piecewise(0:5, 1000:20, 2000:0, 3000:10)", duration_s=4000.0).arrival_s
    counts = np.histogram(times, [0, 1000, 2000, 3000, 4000])[0]
    assert counts[2] == 0
    assert counts[[0, 1, 3]] == pytest.approx([5_000, 20_000, 10_000], abs=600)  # four standard deviations
    scaled = arrivals("piecewise(0:1, 1000:3)", duration_s=2000.0, rate_per_s=10).arrival_s
    assert np.histogram(scaled, [0, 1000, 2000])[0] == pytest.approx([5_000, 15_000], abs=500)


def test_diurnal_peaks_at_half_the_period() -> None:
    times = arrivals("diurnal(base=2, peak=10, period_s=2000)", duration_s=20_000.0).arrival_s
    counts = np.bincount((times % 2000 // 200).astype(int))
    middle = (np.arange(10) + 0.5) / 10
    expected = 2_000 * (2 + 8 * (1 - np.cos(2 * np.pi * middle)) / 2)
    assert counts == pytest.approx(expected, rel=0.08)


def test_bursty_mean_rate_and_overdispersion() -> None:
    facts = describe(arrivals("bursty(rate_on=20, rate_off=0, mean_on_s=10, mean_off_s=30)", num_requests=100_000))
    assert facts["request_rate_per_s"] == pytest.approx(5, rel=0.12)  # 500 cycles
    assert facts["dispersion_60s"] > 20
    scaled = arrivals("bursty(20, 0, 10, 30)", num_requests=100_000, rate_per_s=2)
    assert scaled.request_rate_per_s == pytest.approx(2, rel=0.12)


def test_closed_loop_arrives_at_once_and_keeps_its_concurrency() -> None:
    trace = arrivals("closed(concurrency=8)", num_requests=100)
    assert trace.concurrency == 8 and not trace.arrival_s.any()


@pytest.mark.parametrize(
    ("text", "mean", "median"),
    [
        ("128", 128, 128),
        ("uniform(100, 200)", 150, 150),
        ("normal(mean=500, std=50)", 500, 500),
        ("lognormal(median=660, sigma=0.9)", 660 * np.exp(0.405), 660),
        ("lognormal(mean=500, cv=1)", 500, 500 / np.sqrt(2)),
        ("exponential(mean=1000)", 1000, 1000 * np.log(2)),
        ("gamma(mean=300, cv=0.5)", 300, 275.4),  # median of gamma(4) is 3.672
        ("geometric(mean=4)", 4, 3),
    ],
)
def test_lengths_have_the_moments_their_names_say(text: str, mean: float, median: float) -> None:
    drawn = parse_length(text).tokens(stream(1, "x"), 200_000)
    assert drawn.min() >= 1 and drawn.dtype == np.int64
    assert drawn.mean() == pytest.approx(mean, rel=0.015)
    assert np.median(drawn) == pytest.approx(median, rel=0.015, abs=0.6)


def test_uniform_tokens_reach_both_ends_equally() -> None:
    counts = np.bincount(parse_length("uniform(2, 5)").tokens(stream(1, "x"), 40_000))
    assert counts[2:] == pytest.approx([10_000] * 4, abs=400) and len(counts) == 6


def test_clipping_and_yaml_forms() -> None:
    clipped = parse_length({"normal": {"mean": 100, "std": 80, "min": 50, "max": 120}}).tokens(stream(1, "x"), 1000)
    assert (clipped.min(), clipped.max()) == (50, 120)
    assert parse_length(7).tokens(stream(1, "x"), 2).tolist() == [7, 7]
    assert parse_arrival({"piecewise": [[0, 5], [600, 20]]}).steps == ((0.0, 5.0), (600.0, 20.0))


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_arrival, "poison", "Did you mean 'poisson'"),
        (parse_arrival, "gamma", r"cv is missing; write gamma\(cv=...\)"),
        (parse_arrival, "gamma(cv=-1)", "cv is -1; it must be at least 0"),
        (parse_arrival, "gamma(cv=2, sigma=3)", "unknown parameter of gamma 'sigma'"),
        (parse_arrival, "closed(2.5)", "whole number"),
        (parse_arrival, "piecewise(5:1)", "ascending times from 0"),
        (parse_arrival, "5 per second", "write a number or a name"),
        (parse_length, "lognormal(median=x, sigma=1)", "median is 'x'; it must be a number"),
        (parse_length, "lognormal(1,2,3)", "3 values where lognormal takes 2"),
        (parse_length, "lognormal(1,median=2)", "median is given twice"),
        (parse_length, "uniform(5, 2)", "below low"),
        (parse_length, "logormal(1, 2)", "Did you mean 'lognormal'"),
        (parse_length, "empirical(nosuch.csv, column=x)", "cannot read"),
        (parse_length, True, "write a number or a name"),
    ],
)
def test_mistaken_expression_is_one_line_that_helps(parse, text: object, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=message) as error:
        parse(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_requests": 5}, "needs rate_per_s"),
        ({"rate_per_s": 5}, "exactly one"),
        ({"num_requests": 0, "rate_per_s": 5}, "at least 1"),
        ({"num_requests": 5, "rate_per_s": -1}, "rate_per_s is -1"),
        ({"num_requests": 5, "rate_per_s": 1, "arrival": "closed(2)"}, "has no rate"),
        ({"duration_s": 5.0, "arrival": "closed(2)"}, "needs num_requests"),
        ({"num_requests": 50, "arrival": "piecewise(0:1, 10:0)"}, "use duration_s"),
        ({"duration_s": 1e-9, "rate_per_s": 1}, "gives no request"),
    ],
)
def test_impossible_request_counts_and_rates_are_refused(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        generate(input_len=1, output_len=1, **kwargs)  # type: ignore[arg-type]


def test_adding_a_consumer_leaves_the_other_streams_alone() -> None:
    plain = generate(num_requests=100, rate_per_s=1, input_len="uniform(10, 90)", output_len="uniform(1, 9)", seed=4)
    shared = generate(
        num_requests=100,
        rate_per_s=1,
        input_len="uniform(10, 90)",
        output_len="lognormal(50, 1)",
        seed=4,
        prefix=SharedPrefix(tokens=100, groups=4),
    )
    assert np.array_equal(plain.arrival_s, shared.arrival_s)
    assert np.array_equal(plain.input_tokens + 100, shared.input_tokens)


def test_shared_prefix_hits_all_but_the_first_use_of_each_group() -> None:
    trace = generate(
        num_requests=1000, rate_per_s=1, input_len=16, output_len=1, prefix=SharedPrefix(tokens=160, groups=5)
    )
    assert prompt_blocks_hit(trace) == (10 * (1000 - 5), 11 * 1000)
    half = generate(
        num_requests=4000, rate_per_s=1, input_len=16, output_len=1, prefix=SharedPrefix(tokens=160, share=0.5)
    )
    assert np.count_nonzero(half.input_tokens == 176) == pytest.approx(2000, abs=130)


def test_zipf_popularity_follows_its_law() -> None:
    trace = generate(
        num_requests=60_000, rate_per_s=1, input_len=1, output_len=1,
        prefix=SharedPrefix(tokens=16, groups=3, popularity="zipf(1)"),
    )  # fmt: skip
    assert trace.prefix_ids is not None
    assert np.bincount(trace.prefix_ids) == pytest.approx(np.array([6, 3, 2]) / 11 * 60_000, rel=0.03)


def test_pool_of_prompts_repeats_whole_requests() -> None:
    trace = generate(
        num_requests=100,
        rate_per_s=1,
        input_len="uniform(50, 90)",
        output_len="uniform(1, 9)",
        prompts=PromptPool(distinct=10),
    )
    for row in range(10, 100):
        assert trace.input_tokens[row] == trace.input_tokens[row % 10]
        assert trace.output_tokens[row] == trace.output_tokens[row % 10]
        assert trace.prefix_of(row).tolist() == trace.prefix_of(row % 10).tolist()
    full = (trace.input_tokens // 16)[10:].sum()
    assert prompt_blocks_hit(trace)[0] == full
    assert len(set(map(tuple, (trace.prefix_of(r).tolist() for r in range(10))))) == 10


def chat(**kwargs: object) -> Trace:
    spec = Sessions(
        turns="geometric(mean=4)", think_s="exponential(mean=20)", max_context_tokens=kwargs.pop("limit", None)
    )  # type: ignore[arg-type]
    return generate(
        input_len="uniform(20, 60)", output_len="uniform(10, 90)", sessions=spec, rate_per_s=8, seed=3, **kwargs
    )  # type: ignore[arg-type]


def test_session_turn_contains_the_whole_history() -> None:
    trace = chat(num_requests=500, prefix=SharedPrefix(tokens=100, groups=2))
    assert trace.previous is not None and len(trace) == 500
    for row in np.flatnonzero(trace.previous >= 0):
        before = trace.previous[row]
        stream_tokens = trace.input_tokens[before] + trace.output_tokens[before]
        assert 20 <= trace.input_tokens[row] - stream_tokens <= 60
        shared = -(-stream_tokens // 16)
        assert trace.prefix_of(row)[:shared].tolist() == trace.prefix_of(before).tolist()[:shared]
        assert len(trace.prefix_of(before)) == shared
    first = trace.previous < 0
    assert set(trace.input_tokens[first] - 100) <= set(range(20, 61))


def test_sessions_share_nothing_beyond_the_system_prompt() -> None:
    trace = chat(num_requests=300)
    roots = trace.session_roots()
    owner: dict[int, int] = {}
    for row in range(len(trace)):
        for i in trace.prefix_of(row).tolist():
            assert owner.setdefault(i, int(roots[row])) == roots[row]


def test_session_rate_counts_requests_and_limit_ends_sessions() -> None:
    long = chat(duration_s=4000.0)
    assert len(long) / 4000 == pytest.approx(8, rel=0.06)
    assert long.previous is not None
    assert len(long) / np.count_nonzero(long.previous < 0) == pytest.approx(4, rel=0.05)
    short = chat(duration_s=400.0, limit=300)
    assert (short.input_tokens + short.output_tokens).max() <= 300
    assert len(chat(num_requests=200, limit=300)) == 200
    with pytest.raises(UserError, match="no first turn fits"):
        chat(num_requests=20, limit=10)


def test_sessions_refuse_closed_loops_and_prompt_pools() -> None:
    with pytest.raises(UserError, match="exclude each other"):
        generate(num_requests=5, arrival="closed(2)", input_len=1, output_len=1, sessions=Sessions(turns=2))
    with pytest.raises(UserError, match="exclude each other"):
        chat(num_requests=5, prompts=PromptPool(distinct=2))


def test_empirical_pairs_of_one_file_stay_together(tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "pairs.csv"
    file.write_text("input_tokens,output_tokens\n10,1\n20,2\n30,3\n")
    trace = generate(num_requests=60, rate_per_s=1, input_len=f"empirical({file})", output_len=f"empirical({file})")
    assert set(zip(trace.input_tokens.tolist(), trace.output_tokens.tolist(), strict=True)) == {
        (10, 1),
        (20, 2),
        (30, 3),
    }
    apart = generate(
        num_requests=60,
        rate_per_s=1,
        input_len=f"empirical({file}, column=input_tokens)",
        output_len=f"empirical({file})",
    )
    assert len(set(zip(apart.input_tokens.tolist(), apart.output_tokens.tolist(), strict=True))) > 3


def test_too_many_prefix_identities_are_refused_before_memory_is_taken() -> None:
    with pytest.raises(UserError, match="use larger pieces"):
        generate(
            num_requests=100_000, rate_per_s=1, input_len=100_000, output_len=1, prompts=PromptPool(distinct=100_000)
        )
