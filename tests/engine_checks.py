"""Random engine settings, checks of a run, and a policy wrapper that audits the engine's books at every decision."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from engine_helpers import random_prefixes, random_trace, simulate_small

from simulator import clock
from simulator.batching import BATCHING, BatchingPolicy, ChunkedPrefill
from simulator.core import EngineCore
from simulator.run import RunRecord
from simulator.tiered_cache import TieredPrefixCache
from workloads.trace import Trace

FINE, COARSE, COARSEST = 10**15, 1000, 200
"""Ticks per second: no ties, some ties, ties everywhere (5 ms; a step takes 6 ms or more)."""

TABLE_COLUMNS = (
    "status",
    "replica",
    "arrival_s",
    "scheduled_s",
    "first_token_s",
    "finish_s",
    "output_tokens",
    "cached_tokens",
    "preemptions",
)

OPTIONS: dict[str, list[Any]] = {
    "ticks_per_s": [FINE, COARSE, COARSEST],
    "batching": [
        *["chunked", "chunked", "chunked", "prefill-first", "prefill-first"],
        *["in-flight", "in-flight", "prefill-priority", "prefill-priority-mixed", "orca", "static"],
    ],
    "output_reserve": [0.0, 0.0, 0.7, 1.0],
    "max_prefill_tokens": [None, None, 100, 4000],
    "num_replicas": [1, 1, 2, 3],
    "routing": [
        "round-robin",
        "random",
        "least-outstanding",
        "jsq-tokens",
        "power-of-two",
        "kv-aware",
        "prefix-affinity",
        "session-affinity",
    ],
    "num_blocks": [0, 69, 80, 120, 200, 1000],
    "max_num_seqs": [1, 4, 16, 64],
    "max_num_batched_tokens": [64, 256, 2048],
    "max_model_len": [1100, 1100, 700, 300],
    "swap": [False, False, True],
    "host_blocks": [20, 10_000],
    "window": [None, None, 64, 300],
    "async_scheduling": [False, True],
    "reserve_full_prompt": [True, False],
    "watermark_blocks": [0, 0, 1],
    "stages": [1, 1, 1, 1, 2, 3],
    "request_fixed_s": [0.0, 0.01],
    "stream_token_s": [0.0, 0.0, 0.0, 0.001, 0.02],
    "num_requests": [1, 15, 40],
    "rate_per_s": [2.0, 8.0, 30.0, 1000.0],
    "flow": ["open", "open", "closed", "sessions"],
    "concurrency": [1, 5, 100],
    "think_s": [0.0, 0.5],
    "prefix_block_tokens": [0, 0, 8, 16, 24, 128],
    "shared_blocks": [1, 4, 40],
    "trace_seed": list(range(500)),
}
"""Values the random settings are drawn from; repeated ones are drawn more often. No blocks: just enough for one request."""

TRACE_OPTIONS = ("num_requests", "rate_per_s", "flow", "concurrency", "think_s", "shared_blocks", "trace_seed")


@contextmanager
def ticks(per_s: int) -> Iterator[None]:
    """Run with another tick. Coarse ticks make events meet in one instant, which fine ones never do."""
    before, clock.TICKS_PER_S = clock.TICKS_PER_S, per_s
    try:
        yield
    finally:
        clock.TICKS_PER_S = before


def trace_of(options: dict[str, Any]) -> Trace:
    """The trace of a set of options."""
    trace = random_trace(options["trace_seed"], options["num_requests"], options["rate_per_s"])
    if options["flow"] == "closed":
        trace = dataclasses.replace(trace, concurrency=options["concurrency"])
    elif options["flow"] == "sessions":
        previous = np.random.default_rng(options["trace_seed"]).integers(-1, np.arange(len(trace)))
        think_s = np.where(previous >= 0, options["think_s"], 0.0)
        trace = dataclasses.replace(trace, previous=previous, think_s=think_s)
    if options["prefix_block_tokens"]:
        trace = random_prefixes(
            options["trace_seed"], trace, options["prefix_block_tokens"], shared_blocks=options["shared_blocks"]
        )
    return trace


def engine_of(options: dict[str, Any]) -> dict[str, Any]:
    """Keywords of simulate_small of a set of options."""
    engine = {k: v for k, v in options.items() if k not in TRACE_OPTIONS and k != "ticks_per_s"}
    engine["prefix_caching"] = engine.pop("prefix_block_tokens") > 0
    engine["num_blocks"] = max(engine["num_blocks"], -(-engine["max_model_len"] // 16))
    engine["max_num_seqs"] = min(engine["max_num_seqs"], engine["max_num_batched_tokens"])
    return engine


def run_options(options: dict[str, Any], trace: Trace | None = None, **changes: Any) -> RunRecord:
    """Simulate a set of options at its tick."""
    with ticks(options["ticks_per_s"]):
        return simulate_small(trace or trace_of(options), **{**engine_of(options), **changes})


def gap_counts(record: RunRecord, ticks_per_s: int) -> Counter[int]:
    """ITL in ticks -> how often, over all replicas."""
    counts: Counter[int] = Counter()
    with ticks(ticks_per_s):
        for replica in record.replicas:
            gaps, weights = replica.gaps.weighted()
            for gap, weight in zip(np.rint(gaps * ticks_per_s).tolist(), weights.tolist(), strict=True):
                counts[int(gap)] += weight
    return +counts


def assert_same_run(one: RunRecord, other: RunRecord, ticks_per_s: int = clock.TICKS_PER_S) -> None:
    """Times, counts, decisions and gaps equal with ``==``; energy up to the order of additions."""
    for column in TABLE_COLUMNS:
        np.testing.assert_array_equal(getattr(one.table, column), getattr(other.table, column), err_msg=column)
    for mine, theirs in zip(one.replicas, other.replicas, strict=True):
        first, second = dataclasses.asdict(mine.counters), dataclasses.asdict(theirs.counters)
        joules = first.pop("joules"), second.pop("joules")
        assert first == second
        np.testing.assert_allclose(*joules, rtol=1e-12)
    assert gap_counts(one, ticks_per_s) == gap_counts(other, ticks_per_s)
    assert [r.tiers for r in one.replicas] == [r.tiers for r in other.replicas]
    assert one.end_s == other.end_s


def assert_lawful(record: RunRecord, trace: Trace, options: dict[str, Any]) -> None:
    """Conservation and causality of one run."""
    table = record.table
    status = np.array(table.status)
    rejected = trace.input_tokens >= options["max_model_len"]
    np.testing.assert_array_equal(status, np.where(rejected, 2, 1), err_msg="every request ends exactly once")
    done = status == 1
    arrival, scheduled, first, finish = (
        np.array(getattr(table, name))[done] for name in ("arrival_s", "scheduled_s", "first_token_s", "finish_s")
    )
    half_tick_s = 0.5 / options["ticks_per_s"] + 1e-12  # arrival_s is the trace's, not rounded to ticks
    assert (arrival <= scheduled + half_tick_s).all()
    assert (scheduled < first).all(), "a first token takes at least one step"
    assert (first <= finish).all()
    outputs = np.array(table.output_tokens)
    expected = np.minimum(trace.output_tokens, options["max_model_len"] - trace.input_tokens)
    np.testing.assert_array_equal(outputs, np.where(done, expected, 0))
    counters = [replica.counters for replica in record.replicas]
    assert sum(gap_counts(record, options["ticks_per_s"]).values()) == outputs.sum() - done.sum()
    assert sum(c.preemptions for c in counters) == sum(table.preemptions)
    assert max(c.peak_blocks for c in counters) <= engine_of(options)["num_blocks"]
    assert max(c.peak_running for c in counters) <= options["max_num_seqs"]
    if not sum(table.preemptions) and not sum(table.cached_tokens):
        assert sum(c.prefill_tokens for c in counters) == trace.input_tokens[done].sum()
        assert sum(c.decode_tokens for c in counters) == outputs.sum() - done.sum()


class Audited:
    """A policy that checks the books around another one and writes down its decisions."""

    def __init__(self, policy: BatchingPolicy, log: list[Any] | None = None, limit: int = 200_000) -> None:
        self.steady = policy.steady
        self._policy = policy
        self._log = log
        self._left = limit

    def plan(self, core: EngineCore) -> bool:
        """Plan as the wrapped policy does, with the books checked before and after."""
        self._left -= 1
        assert self._left > 0, "no progress"
        check_books(core)
        decode = self._policy.plan(core)
        check_books(core)
        check_step(core, decode)
        if isinstance(self._policy, ChunkedPrefill):
            assert core.lane.num_seqs + sum(tokens for _, tokens in core.batch) <= core.max_num_batched_tokens
        if self._log is not None:
            self._log.append((core.now, decode, [(r.row, tokens) for r, tokens in core.batch], core.num_preemptions))
        return decode


def audited(name: str, log: list[Any] | None = None) -> Callable[[], BatchingPolicy]:
    """Constructor of a built-in policy with its books audited."""
    return lambda: Audited(BATCHING[name](), log)


def check_books(core: EngineCore) -> None:
    """The sums an engine keeps equal what its requests add up to."""
    limits = core.limits
    members = [request for lane in core.lanes for _, _, request in lane.heap]
    prefilling = [request for lane in core.lanes for request in lane.prefilling]
    assert core.num_running == len(members) + len(prefilling) + len(core.held)
    assert core.num_running <= limits.max_num_seqs
    if limits.output_reserve:
        claims = [math.ceil(limits.output_reserve * r.output_tokens) for r in members + prefilling + core.held]
        inputs = [r.input_tokens for r in members + prefilling + core.held]
        assert core.claimed_blocks == sum(core.blocks_for(i + c) for i, c in zip(inputs, claims, strict=True))
    assert core.used_blocks() + core.promised <= limits.num_blocks, "more KV blocks in use than there are"
    assert core.host_blocks_used == sum(core.blocks_for(r.swapped_tokens) for r in core.swapped) <= limits.host_blocks
    for lane in core.lanes:
        check_lane(lane)
    if core.reservation_blocks is not None:
        assert core.reserved_blocks == core.num_running * core.reservation_blocks
        return
    assert core.prefill_blocks == sum(r.blocks for r in prefilling)
    assert all(r.blocks == core.blocks_for(r.computed - r.shared) for r in prefilling if r not in in_flight(core))
    check_cache(core, members + prefilling)


def in_flight(core: EngineCore) -> list[Any]:
    """Requests whose blocks already include the chunk of the step being scheduled or in a pipeline."""
    if len(core.lanes) > 1:
        return [request for lane in core.lanes for request in lane.prefilling]
    return [request for request, _ in core.batch]


def check_lane(lane: Any) -> None:
    """Aggregates of a lane against the sum over its members."""
    lengths = [lane.length(request) for _, _, request in lane.heap]
    if lane.hold:
        return
    private = [length - 1 - request.shared for length, (_, _, request) in zip(lengths, lane.heap, strict=True)]
    assert lane.num_seqs == len(lengths)
    assert lane.context == sum(lengths)
    assert lane.private == sum(private)
    assert lane.blocks() == sum(-(-tokens // lane.block_size) for tokens in private) <= lane.blocks_bound()
    assert lane.blocks_for_next_step() == sum(tokens % lane.block_size == 0 for tokens in private)
    if lane.window is not None:
        assert lane.window_context == sum(min(length, lane.window) for length in lengths)
        assert lane.growing == sum(length < lane.window for length in lengths)


def check_cache(core: EngineCore, running: list[Any]) -> None:
    """Who holds which prefix segments, and that idle ones fit into the free blocks."""
    cache = core.prefix_cache
    if cache is None:
        assert all(request.shared == 0 for request in running)
        return
    holders = Counter(key for request in running for key, _ in cache.pieces(request)[: request.segments_held])
    coming: dict[Any, Any] = {}
    if isinstance(cache, TieredPrefixCache):
        coming = cache.loading
        check_tiers(core, cache, holders)
    assert {segment: entry[0] for segment, entry in cache.held.items()} == holders
    assert cache.held_blocks == sum(blocks for _, blocks in cache.held.values()) + sum(
        c.blocks for c in coming.values()
    )
    assert cache.evictable_blocks == sum(cache.idle.values())
    assert not cache.held.keys() & cache.idle.keys()
    assert cache.evictable_blocks <= core.limits.num_blocks - core.used_blocks()
    assert all(request.shared % cache.block_size == 0 for request in running)


def check_tiers(core: EngineCore, cache: TieredPrefixCache, holders: Counter[Any]) -> None:
    """A piece is in one place; sums of every tier; adds to ``holders`` what loads hold on the device."""
    waiters: Counter[Any] = Counter()
    for load in core.loads.pending if core.loads is not None else ():
        for key, _, tier in load.reach.pieces:
            (waiters if tier >= 0 and key in cache.loading else holders)[key] += 1
    assert {key: coming.waiters for key, coming in cache.loading.items()} == waiters
    places = [cache.idle.keys() | cache.held.keys(), *(tier.pieces.keys() for tier in cache.below.tiers)]
    for index, one in enumerate(places):
        assert not any(one & other for other in places[:index])
    for tier in cache.below.tiers:
        counts = tier.counts
        assert tier.used_blocks == sum(tier.pieces.values()) <= tier.num_blocks
        gone = counts.loaded + counts.moved_down + counts.dropped + counts.superseded
        assert counts.stored == tier.used_blocks + gone
    for upper, lower in zip(cache.below.tiers, cache.below.tiers[1:], strict=False):
        assert lower.counts.stored == upper.counts.moved_down


def check_step(core: EngineCore, decode: bool) -> None:
    """The decision is legal and wastes nothing."""
    assert all(0 < tokens <= request.prompt_left for request, tokens in core.batch)
    assert len({request.row for request, _ in core.batch}) == len(core.batch)
    works = bool(core.batch) or (decode and core.lane.num_seqs > 0)
    if not works and len(core.lanes) == 1:
        visible = core.waiting and core.waiting[0].arrival_tick <= core.admissible_until
        loading = getattr(core, "coming", ()) or (core.loads is not None and core.loads.pending)
        assert loading or (not visible and not core.swapped and not core.num_running), "idle with admissible work"
