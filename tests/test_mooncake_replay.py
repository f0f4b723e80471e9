"""Replays with prefix caching against an independent count: a least-recently-used cache of single KV blocks, written here."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from engine_helpers import LineModel, random_prefixes, random_trace, simulate_small

from simulator.kv_links import CopyTimes, LinkTimes
from simulator.kv_setup import KvTiers
from simulator.kv_tiers import TierLimits
from workloads.readers import read_trace
from workloads.trace import Trace

MOONCAKE = Path(__file__).parents[2] / "shared/data/traces/mooncake_conversation_head5000.jsonl"
NEED_MOONCAKE = pytest.mark.skipif(not MOONCAKE.exists(), reason=f"no trace at {MOONCAKE}")
BLOCK = 16
FAST = LinkTimes(host=CopyTimes(copies=1, block_s=1e-9, dispatch_s=0.0))


class Quick(LineModel):
    """Steps so fast that each request is done before the next one arrives."""

    def step(self, shape: object) -> tuple[float, float]:
        return 1e-7, 1.0

    def decode(self, num_seqs: int):  # type: ignore[no-untyped-def]
        return super().decode(num_seqs)._replace(base_s=1e-8, context_s=0.0)


def counted_hits(trace: Trace, capacity_blocks: int, *, keep_ragged: bool = False) -> list[int]:
    """Prompt tokens found in the cache, request by request, in the order of the trace.

    A block is named by its piece and its place in it; the blocks of the ragged last piece of a prompt only match a prompt
    that ends in the same block. A request holds the blocks of its whole stream, which evicts the oldest idle ones; when it
    is done, its prompt's blocks become the youngest, the first of them last. Where the output has filled the piece in which
    the prompt ended, that piece is whole from then on, and (unless ``keep_ragged``) a prompt that ends inside it misses it.
    """
    size = trace.prefix_block_tokens
    idle: OrderedDict[tuple[int, int, int], None] = OrderedDict()
    found = []
    for row in range(len(trace)):
        tokens, stream = int(trace.input_tokens[row]), int(trace.input_tokens[row] + trace.output_tokens[row] - 1)
        names = []
        for position, piece in enumerate(trace.prefix_of(row).tolist()):
            inside = min(tokens - position * size, size) // BLOCK
            end = 0 if inside == size // BLOCK else inside
            names += [(piece, end, place) for place in range(inside)]
        piece_of = [name[:2] for name in names]
        hit = 0
        while hit < len(names) and names[hit] in idle:
            hit += 1
        while hit and hit < len(names) and piece_of[hit] == piece_of[hit - 1]:
            hit -= 1  # a piece is found whole or not at all
        found.append(min(hit * BLOCK, (tokens - 1) // BLOCK * BLOCK))
        for name in names:
            idle.pop(name, None)
        need = -(-stream // BLOCK)
        while len(idle) > capacity_blocks - need:
            idle.popitem(last=False)
        ids = trace.prefix_of(row).tolist()
        whole = min(len(ids), stream // size)
        if whole > tokens // size and not keep_ragged:
            names = [name for name in names if not name[1]]
            for place in reversed(range(size // BLOCK)):
                idle.pop((ids[whole - 1], 0, place), None)
                idle[ids[whole - 1], 0, place] = None
        for name in reversed(names):
            idle[name] = None
    return found


def one_by_one(trace: Trace) -> Trace:
    """The same requests, each long after the one before."""
    return dataclasses.replace(trace, arrival_s=np.arange(len(trace), dtype=np.float64))


def replayed(trace: Trace, num_blocks: int, tiers: KvTiers | None = None, max_model_len: int = 200_000) -> list[int]:
    """Cached prompt tokens as the simulator has them."""
    record = simulate_small(
        trace, num_blocks=num_blocks, max_num_seqs=4, max_num_batched_tokens=200_000, max_model_len=max_model_len,
        prefix_caching=True, model=Quick(), tiers=tiers,
    )  # fmt: skip
    return list(record.table.cached_tokens)


@NEED_MOONCAKE
def test_mooncake_with_room_for_everything_hits_what_the_count_hits_and_what_is_published() -> None:
    trace = read_trace(MOONCAKE)
    counted = counted_hits(trace, 10**9)
    assert replayed(one_by_one(trace), 10_000_000) == counted
    assert replayed(trace, 10_000_000) == counted, "arrival times do not matter: one replica, places for all"
    strict = counted_hits(trace, 10**9, keep_ragged=True)
    assert sum(counted) <= sum(strict) <= 1.001 * sum(counted), (
        "what repeated prompts lose once an output has filled their end"
    )
    blocks = sum(-(-hit // 512) for hit in counted) / sum(-(-trace.input_tokens // 512))
    assert blocks == pytest.approx(0.333, abs=0.004), "share of pieces with an unbounded cache"


@NEED_MOONCAKE
@pytest.mark.parametrize("num_blocks", [14_000, 30_000, 100_000])
def test_mooncake_under_pressure_hits_what_the_count_hits(num_blocks: int) -> None:
    """The simulator evicts whole pieces (512 tokens), the count single blocks: up to one piece at the end of the queue."""
    trace = read_trace(MOONCAKE).head(1500)
    counted, simulated = counted_hits(trace, num_blocks), replayed(one_by_one(trace), num_blocks)
    assert sum(simulated) == pytest.approx(sum(counted), rel=0.01)
    assert np.mean(np.array(simulated) == np.array(counted)) > 0.98


@NEED_MOONCAKE
@pytest.mark.parametrize("host_blocks", [16_000, 86_000])
def test_mooncake_with_host_memory_hits_what_one_cache_of_both_sizes_hits(host_blocks: int) -> None:
    trace = read_trace(MOONCAKE).head(1500)
    tiers = KvTiers(limits=TierLimits(blocks=(host_blocks,)), links=FAST)
    counted = counted_hits(trace, 14_000 + host_blocks)
    assert sum(replayed(one_by_one(trace), 14_000, tiers)) == pytest.approx(sum(counted), rel=0.02)


@pytest.mark.parametrize("num_blocks", [150, 250, 500, 100_000])
def test_pieces_of_one_block_are_counted_exactly(num_blocks: int) -> None:
    """With pieces of a block whole pieces and single blocks are the same, so the two must agree request by request."""
    drawn = random_trace(1, 600, 1.0)
    drawn = dataclasses.replace(drawn, output_tokens=np.ones(600, dtype=np.int64))
    trace = one_by_one(random_prefixes(1, drawn, BLOCK, groups=40, shared_blocks=30))
    counted = counted_hits(trace, num_blocks)
    assert replayed(trace, num_blocks, max_model_len=1000) == counted
    assert sum(counted) > 0
