"""Cached prefixes in host memory and on disk: what moves, what is found, how long it takes; spans equal to steps."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from engine_checks import FINE, OPTIONS, assert_lawful, assert_same_run, audited, run_options, trace_of
from engine_helpers import random_prefixes, random_trace, simulate_small
from hypothesis import given
from hypothesis import strategies as st
from test_engine_properties import bounded

from apex_sim import api
from apex_sim.report import summary_text
from simulator.kv_links import CopyTimes, LinkTimes, NodePaths, ReplicaPaths
from simulator.kv_setup import KvTiers
from simulator.kv_tiers import EVICTION, Fifo, History, Lfu, TierLimits, TierStack
from simulator.run import RunRecord
from simulator.simulate import simulate_deployment
from workloads.trace import Trace

LINKS = LinkTimes(
    host=CopyTimes(copies=64, block_s=4e-5, dispatch_s=1e-5, group=16),
    dram_block_s=3e-6,
    disk_block_s=3e-4,
    disk_latency_s=1e-4,
    replicas_per_node=2,
)


def tiers(*blocks: int, eviction: str = "lru", links: LinkTimes = LINKS) -> KvTiers:
    return KvTiers(limits=TierLimits(blocks=blocks, eviction=eviction), links=links if blocks else None)


TIERED = st.fixed_dictionaries(
    {name: st.sampled_from(values) for name, values in OPTIONS.items()}
    | {
        "prefix_block_tokens": st.sampled_from([8, 16, 24, 128]),
        "num_blocks": st.sampled_from([0, 69, 80, 120, 1000]),
        "batching": st.sampled_from([name for name in OPTIONS["batching"] if name not in ("orca", "static")]),
    }
)
STACKS = st.tuples(
    st.sampled_from([(), (5,), (40,), (300,), (30, 20), (50, 400), (10_000, 10)]),
    st.sampled_from(sorted(EVICTION)),
    st.sampled_from([0.1, 1.0, 30.0]),
)


def stack_of(choice: tuple[tuple[int, ...], str, float]) -> KvTiers:
    """Random tiers with links faster or slower by a factor."""
    blocks, eviction, slow = choice
    host = dataclasses.replace(LINKS.host, block_s=LINKS.host.block_s * slow)
    links = dataclasses.replace(LINKS, host=host, disk_block_s=LINKS.disk_block_s * slow)
    return tiers(*blocks, eviction=eviction, links=links)


@bounded(70)
@given(options=TIERED, stack=STACKS)
def test_spans_and_single_steps_give_the_same_run_with_tiers(
    options: dict[str, Any], stack: tuple[tuple[int, ...], str, float]
) -> None:
    trace = trace_of(options)
    spans = run_options(options, trace, tiers=stack_of(stack))
    steps = run_options(options, trace, tiers=stack_of(stack), exact_steps=True, policy=audited(options["batching"]))
    assert_lawful(spans, trace, options)
    assert_conserved(spans)
    assert_same_run(spans, steps, options["ticks_per_s"])


def assert_conserved(record: RunRecord) -> None:
    """Blocks that came into a tier left it or are there."""
    for replica in record.replicas:
        for counts in replica.tiers:
            gone = counts.loaded + counts.moved_down + counts.dropped + counts.superseded
            assert counts.stored == counts.there + gone
        for upper, lower in zip(replica.tiers, replica.tiers[1:], strict=False):
            assert lower.stored == upper.moved_down
        assert not replica.tiers or replica.tiers[-1].moved_down == 0


def chats(num_requests: int = 60) -> Trace:
    """Few groups whose prefixes do not fit on the device together."""
    trace = random_trace(5, num_requests, 1.0)
    trace = dataclasses.replace(trace, input_tokens=np.full(num_requests, 650), output_tokens=np.full(num_requests, 5))
    return random_prefixes(5, trace, 16, groups=6, shared_blocks=40)


def hits(trace: Trace, num_blocks: int, stack: KvTiers | None = None) -> int:
    """Cached prompt tokens of requests served one after another."""
    record = simulate_small(
        trace, num_blocks=num_blocks, max_num_seqs=1, max_num_batched_tokens=4096, prefix_caching=True, tiers=stack
    )
    return sum(record.table.cached_tokens)


def test_pieces_found_below_are_cached_tokens_and_their_load_is_in_ttft() -> None:
    trace = chats()
    plain = simulate_small(trace, num_blocks=90, prefix_caching=True)
    slow = dataclasses.replace(LINKS, host=dataclasses.replace(LINKS.host, block_s=0.05, group=None), dram_block_s=0.0)
    record = simulate_small(trace, num_blocks=90, prefix_caching=True, tiers=tiers(10_000, links=slow))
    assert sum(record.table.cached_tokens) > 2 * sum(plain.table.cached_tokens)
    counts = record.replicas[0].tiers[0]
    assert counts.dropped == 0 and counts.loaded > 0
    assert counts.load_s == pytest.approx(counts.loaded * 0.05)
    loaded = np.array(record.table.cached_tokens) > np.array(plain.table.cached_tokens)
    wait_s = np.array(record.table.scheduled_s) - trace.arrival_s
    assert (wait_s[loaded] >= 40 * 0.05 - 1e-9).sum() > 10, "40 blocks of a group's prefix"


def test_host_memory_below_the_device_hits_as_a_larger_device_would() -> None:
    """A piece is in one place only and both tiers are LRU, so together they are one LRU cache, but for the blocks that the
    running request keeps on the device: those move nothing down that a larger device would not evict."""
    trace = chats(120)
    for below in (60, 120, 200):
        together = hits(trace, 90 + below)
        assert hits(trace, 90, tiers(below)) == pytest.approx(together, rel=0.12)
    unbounded = hits(trace, 10_000)
    assert hits(trace, 90, tiers(10_000)) == unbounded
    assert hits(trace, 90, tiers(30, 10_000)) == unbounded


def test_loads_overlap_with_the_steps_of_other_requests() -> None:
    """While one request's prefix is on its way, others run: their times are those of a run without it."""
    trace = chats(40)
    slow = dataclasses.replace(LINKS, host=dataclasses.replace(LINKS.host, block_s=0.2))
    record = simulate_small(trace, num_blocks=90, prefix_caching=True, tiers=tiers(10_000, links=slow))
    finish = np.array(record.table.finish_s)
    assert (np.diff(finish) < 0).any(), "later arrivals overtake one that waits for its load"


def test_eviction_orders() -> None:
    history = History()
    for key, uses in ((1, 3), (2, 1), (3, 2)):
        for _ in range(uses):
            history.touch(key)
    for name, expected in (("lru", [3, 1, 2]), ("lfu", [2, 3, 1]), ("fifo", [1, 2, 3])):
        order = EVICTION[name](history)
        for key in (3, 1, 2):
            order[key] = 4
        assert [order.leave()[0] for _ in range(3)] == expected, name


def test_orders_forget_pieces_that_left_and_came_again() -> None:
    for kind in (Lfu, Fifo):
        order = kind(History())
        for turn in range(300):
            order[turn % 3] = 1
            if turn % 2:
                order.pop(turn % 3)
        left = dict(order)
        assert sorted(order.leave()[0] for _ in range(len(left))) == sorted(left)
        assert not order


def test_what_does_not_fit_moves_on_and_out() -> None:
    stack = TierStack(TierLimits(blocks=(4, 8)), History())
    for key in range(3):
        stack.store(key, 2)
    stack.store(9, 100)
    host, disk = stack.account()
    assert list(stack.tiers[0].pieces) == [1, 2] and list(stack.tiers[1].pieces) == [0]
    assert (host.stored, host.moved_down, host.there) == (106, 102, 4)
    assert (disk.stored, disk.dropped, disk.there) == (102, 100, 2)


@pytest.mark.parametrize(("group", "gb_per_s"), [(1, 3.28), (4, 13.1), (8, 25.8), (None, 25.8)])
def test_copies_block_by_block_are_bound_by_their_submission(group: int | None, gb_per_s: float) -> None:
    """Llama-3-8B, blocks of 16 tokens, PCIe 4.0 x16: 64 copies of 32 KiB per block. FastSwitch's motive: 3 to 7 GB/s with
    copies of single blocks, the link's rate with groups (10 us per copy here)."""
    nbytes = 16 * 131_072
    copies = CopyTimes(copies=64, block_s=nbytes / (31.5e9 * 0.82), dispatch_s=1e-5, group=group)
    assert 800 * nbytes / copies.seconds(800) / 1e9 == pytest.approx(gb_per_s, rel=0.01)
    assert copies.seconds(0) == 0.0


def test_paths_serve_loads_in_turn_and_a_node_shares_its_disk() -> None:
    node = NodePaths()
    host = CopyTimes(copies=1, block_s=1e-3, dispatch_s=0.0)
    times = LinkTimes(host=host, disk_block_s=5e-3, disk_latency_s=1e-4, replicas_per_node=2)
    one, other = ReplicaPaths(times, node), ReplicaPaths(times, node)
    assert one.load(0, [10, 0]) == (round(10e-3 * FINE), [10e-3, 0.0])
    assert one.load(0, [10, 0])[0] == round(20e-3 * FINE), "behind the first"
    assert other.load(0, [10, 0])[0] == round(10e-3 * FINE), "a host link of its own"
    assert other.load(0, [0, 4])[0] == round((1e-4 + 20e-3) * FINE)
    assert one.load(0, [0, 4])[0] == round(2 * (1e-4 + 20e-3) * FINE), "behind the other replica's"


@pytest.mark.parametrize("eviction", ["lru", "fifo"])
def test_blocks_that_a_load_gives_back_are_seen_at_the_next_step_boundary(eviction: str) -> None:
    """Under pressure, an asynchronous scheduler: new requests are a step late, free blocks are not."""
    deployment = api.build_deployment(
        "llama-3-8b",
        "h100-sxm:1",
        max_model_len=8192,
        gpu_memory_utilization=0.35,
        kv_offloading_size=0.5,
        kv_offloading_disk=1.0,
        kv_eviction=eviction,
    )
    lengths = {"input_len": "lognormal(median=660, sigma=0.9)", "output_len": "lognormal(median=180, sigma=0.8)"}
    trace = with_prefixes(api.make_trace(rate=30.0, num_requests=250, seed=1, **lengths), 64)
    spans, steps = (simulate_deployment(deployment, trace, exact_steps=exact) for exact in (False, True))
    assert spans.summary["num_preemptions"] == steps.summary["num_preemptions"] > 0
    for name in spans._columns:
        assert np.array_equal(spans.column(name), steps.column(name), equal_nan=True), name


def with_prefixes(trace: Trace, piece: int) -> Trace:
    """The same requests, each of one of 16 groups that share up to 512 tokens; all other pieces are their own."""
    rng = np.random.default_rng(2)
    pieces = -(-(trace.input_tokens + trace.output_tokens - 1) // piece)
    offsets = np.concatenate(([0], np.cumsum(pieces)))
    position = np.arange(offsets[-1]) - np.repeat(offsets[:-1], pieces)
    group = np.repeat(rng.integers(16, size=len(trace)), pieces)
    ids = np.where(position < 512 // piece, group * 512 + position, 10**6 + np.arange(offsets[-1]))
    return dataclasses.replace(trace, prefix_ids=ids, prefix_offsets=offsets, prefix_block_tokens=piece)


def test_lfu_keeps_what_it_needs_and_no_more() -> None:
    history = History()
    order, other = Lfu(history), Lfu(history)
    for turn in range(5000):
        key = turn % 7 if turn % 3 else turn
        history.touch(key)
        order[key] = 1
        if len(order) > 20:
            other[order.leave()[0]] = 1
        if turn % 5 == 0:
            order.pop(turn % 7, 0)
    for one in (order, other):
        assert one._entry_of.keys() >= one.keys() and len(one._entry_of) <= one._entries <= 2 * len(one) + 64
        counted = [history.uses[one.leave()[0]] for _ in range(len(one))]
        assert counted == sorted(counted) and not one


@pytest.mark.parametrize("pools", [False, True])
def test_the_report_says_what_every_tier_gave(pools: bool) -> None:
    result = api.simulate(
        model="llama-3.1-8b",
        cluster="h100-sxm:2",
        trace=chats(20),
        num_gpu_blocks_override=2000,
        kv_offloading_size=8,
        kv_offloading_disk=16,
        **({"disaggregate": {"prefill": {"tp": 1}, "decode": {"tp": 1}}} if pools else {}),  # type: ignore[arg-type]
    )
    lines = summary_text(result).splitlines()
    assert any("prefix hits" in line for line in lines)
    (tier_line,) = (line for line in lines if line.startswith("KV tiers"))
    assert "host" in tier_line and "nvme" in tier_line and tier_line.count("of the prompts' tokens") == 2
