"""Two pools: conservation, causality, equality of stepping and jumping, closed forms of transfers, limits of the model."""

from __future__ import annotations

import math

import numpy as np
import pytest

from simulator import clock
from simulator.batching import BATCHING
from simulator.core import CoreLimits
from simulator.ports import KvPath
from simulator.routing import ROUTING
from simulator.run import ReplicaSetup, run
from simulator.run_disaggregated import DisaggregatedRecord, run_disaggregated
from tests.engine_helpers import LineModel, make_trace, random_prefixes, random_trace
from workloads.trace import Trace

POLICIES = ("chunked", "prefill-first", "in-flight", "prefill-priority", "prefill-priority-mixed")
FAST = KvPath(token_bytes=1e5, send_bytes_per_s=math.inf, receive_bytes_per_s=math.inf)
COUNTERS = ("steps", "busy_ticks", "joules", "decode_tokens", "decode_context", "prefill_tokens", "peak_blocks", "peak_running",
            "peak_waiting", "preemptions", "swapped_tokens", "mixed_steps")  # fmt: skip


def setup(blocks: int = 4096, batching: str = "chunked", stages: int = 1, **more: object) -> ReplicaSetup:
    limits = {"max_num_seqs": 32, "max_num_batched_tokens": 512, "watermark_blocks": 0, "swap": False, "host_blocks": 0}
    own = {name: more.pop(name) for name in list(more) if name in limits}
    return ReplicaSetup(
        limits=CoreLimits(num_blocks=blocks, block_size=16, max_model_len=1024, **(limits | own)),  # type: ignore[arg-type]
        step_model=LineModel(stages=stages, window=more.pop("window", None)),  # type: ignore[arg-type]
        batching=BATCHING[batching],
        stages=stages,
        **more,  # type: ignore[arg-type]
    )


def serve(
    trace: Trace,
    prefill: ReplicaSetup,
    decode: ReplicaSetup,
    counts: tuple[int, int] = (1, 1),
    path: KvPath = FAST,
    exact_steps: bool = False,
    routing: tuple[str, str] = ("round-robin", "least-outstanding"),
) -> DisaggregatedRecord:
    routers = (ROUTING[routing[0]](1), ROUTING[routing[1]](2))
    return run_disaggregated(trace, (prefill, decode), counts, path, routers, exact_steps=exact_steps)


def columns(record: DisaggregatedRecord) -> dict[str, list[float]]:
    tables = (record.table, record.transfers)
    return {name: list(column) for table in tables for name, column in vars(table).items()}


def same(a: DisaggregatedRecord, b: DisaggregatedRecord) -> None:
    ours, theirs = columns(a), columns(b)
    for name, values in ours.items():
        np.testing.assert_array_equal(values, theirs[name], err_msg=name)
    for left, right in zip(a.replicas, b.replicas, strict=True):
        for name in COUNTERS:
            if name == "joules":
                assert getattr(left.counters, name) == pytest.approx(getattr(right.counters, name), rel=1e-9)
            else:
                assert getattr(left.counters, name) == getattr(right.counters, name), name


def case(seed: int) -> tuple[Trace, dict[str, object]]:
    """A random set-up of two pools and a trace; blocks scarce in half of them."""
    rng = np.random.default_rng(seed)
    trace = random_trace(seed, 60, float(rng.choice([3.0, 10.0, 40.0])))
    scarce = rng.random(2) < 0.5
    more: list[dict[str, object]] = []
    for side in range(2):
        stages = int(rng.choice([1, 1, 2]))
        more.append(
            {
                "blocks": int(rng.integers(66, 110)) if scarce[side] else 4096,
                "batching": str(rng.choice(POLICIES)),
                "stages": stages,
                "async_scheduling": bool(stages == 1 and rng.random() < 0.5),
                "max_num_seqs": int(rng.choice([4, 32])),
                "window": int(rng.choice([0, 64])) or None,
                "swap": bool(rng.random() < 0.3),
                "host_blocks": 1000,
            }
        )
    rate = float(rng.choice([2e8, 2e9, math.inf]))
    path = KvPath(
        token_bytes=1e5,
        request_bytes=float(rng.choice([0.0, 1e6])),
        send_bytes_per_s=rate,
        receive_bytes_per_s=rate * float(rng.choice([0.5, 1.0, 3.0])),
        latency_s=float(rng.choice([0.0, 1e-3])),
        exposed_share=float(rng.choice([1.0, 0.1])),
    )
    routing = (str(rng.choice(list(ROUTING))), str(rng.choice(list(ROUTING))))
    if rng.random() < 0.3:
        trace = random_prefixes(seed, trace, 16)
        more[0]["prefix_caching"] = True
    return trace, {
        "prefill": setup(**more[0]),  # type: ignore[arg-type]
        "decode": setup(**more[1]),  # type: ignore[arg-type]
        "counts": (int(rng.integers(1, 4)), int(rng.integers(1, 4))),
        "path": path,
        "routing": routing,
    }


@pytest.mark.parametrize("ticks_per_s", [10**15, 200])
@pytest.mark.parametrize("seed", range(25))
def test_stepping_and_jumping_agree(seed: int, ticks_per_s: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 200 ticks per second nearly everything happens in the same instants."""
    monkeypatch.setattr(clock, "TICKS_PER_S", ticks_per_s)
    trace, arguments = case(seed)
    same(serve(trace, **arguments), serve(trace, **arguments, exact_steps=True))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seed", "ticks_per_s"), [(1118, 10**15), (1134, 200), (1135, 10**15), (1221, 10**15), (1292, 7), (1346, 200)]
)
def test_swapped_requests_and_ready_ones_do_not_wait_for_each_other(
    seed: int, ticks_per_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request whose KV is here holds blocks: it runs before a swapped one that needs them."""
    monkeypatch.setattr(clock, "TICKS_PER_S", ticks_per_s)
    trace, arguments = case(seed)
    same(serve(trace, **arguments), serve(trace, **arguments, exact_steps=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(25))
def test_requests_tokens_and_bytes_are_conserved_and_nothing_happens_before_its_cause(seed: int) -> None:
    """Blocks are: the run asserts that none is held at its end."""
    trace, arguments = case(100 + seed)
    record = serve(trace, **arguments)  # type: ignore[arg-type]
    path: KvPath = arguments["path"]  # type: ignore[assignment]
    table, moved = record.table, record.transfers
    assert list(table.status) == [1] * len(trace)
    assert list(table.output_tokens) == trace.output_tokens.tolist()
    many = trace.output_tokens > 1
    np.testing.assert_array_equal(np.isnan(moved.end_s), ~many)
    expected = np.where(many, path.token_bytes * trace.input_tokens + path.request_bytes, 0.0)
    np.testing.assert_allclose(moved.nbytes, expected)
    exposed = np.array(moved.exposed_bytes)
    assert (exposed <= expected + 1e-6).all()
    assert (exposed >= path.exposed_share * expected - 1e-6).all()
    senders = record.num_prefill_replicas
    replicas = np.array(table.replica)
    np.testing.assert_array_equal(replicas >= senders, many)
    order = [table.arrival_s, table.scheduled_s, moved.prompt_end_s, moved.begin_s, moved.end_s, table.finish_s]
    steps = np.diff(np.array([np.array(times)[many] for times in order]), axis=0)
    assert (steps >= -1e-12).all()
    slowest = min(path.send_bytes_per_s, path.receive_bytes_per_s)
    alone_s = path.latency_s + exposed / slowest
    assert (np.array(moved.end_s)[many] - np.array(moved.begin_s)[many] >= alone_s[many] * (1 - 1e-9) - 1e-12).all()
    produced = sum(replica.counters.decode_tokens for replica in record.replicas)
    recomputed = sum(replica.counters.preemptions for replica in record.replicas)
    assert trace.output_tokens.sum() - len(trace) - recomputed <= produced <= trace.output_tokens.sum() - len(trace)


def shared_ends(record: DisaggregatedRecord, path: KvPath) -> dict[int, float]:
    """Row -> end of its transfer, from the begins alone: a second model of the ports, in floating-point seconds."""
    moved = record.transfers
    rows = [row for row, nbytes in enumerate(moved.nbytes) if nbytes]
    waiting = sorted((moved.begin_s[row] + path.latency_s, row) for row in rows)
    left, ends, now = {}, {}, 0.0
    while waiting or left:
        rates = {}
        for row in left:
            sending = sum(moved.prefill_replica[row] == moved.prefill_replica[other] for other in left)
            receiving = sum(record.table.replica[row] == record.table.replica[other] for other in left)
            rates[row] = min(path.send_bytes_per_s / sending, path.receive_bytes_per_s / receiving)
        end, row = min(((now + left[row] / rates[row], row) for row in left), default=(math.inf, -1))
        begin = waiting[0][0] if waiting else math.inf
        step = min(end, begin)
        left = {r: b - rates[r] * (step - now) for r, b in left.items()}
        now = step
        if end <= begin:
            ends[row] = end
            del left[row]
        else:
            _, row = waiting.pop(0)
            left[row] = moved.exposed_bytes[row]
    return ends


@pytest.mark.parametrize("seed", range(10))
def test_transfers_end_when_a_second_model_of_the_ports_says(seed: int) -> None:
    trace = random_trace(seed, 80, 30.0)
    path = KvPath(token_bytes=1e5, send_bytes_per_s=6e8, receive_bytes_per_s=9e8, latency_s=1e-3, exposed_share=0.5)
    record = serve(trace, setup(), setup(), (3, 2), path=path, routing=("random", "random"))
    ends = shared_ends(record, path)
    assert len(ends) == int((trace.output_tokens > 1).sum())
    for row, end_s in ends.items():
        assert record.transfers.end_s[row] == pytest.approx(end_s, abs=1e-9)
    for port, pace in ((record.transfers.prefill_replica, 6e8), (record.table.replica, 9e8)):
        for index in set(port):
            own = [row for row in ends if port[row] == index]
            span_s = max((ends[row] for row in own), default=0.0) - min(
                (record.transfers.begin_s[row] for row in own), default=0.0
            )
            assert sum(record.transfers.exposed_bytes[row] for row in own) <= pace * span_s * (1 + 1e-9)


def test_an_unloaded_request_takes_its_prompt_its_transfer_and_its_steps() -> None:
    """300 tokens of 1e5 B at 1e9 B/s: 30 ms; 2 ms before the first byte."""
    trace = make_trace([0.0], [300], [11])
    path = KvPath(token_bytes=1e5, send_bytes_per_s=1e9, receive_bytes_per_s=4e9, latency_s=2e-3)
    record = serve(trace, setup(), setup(), path=path)
    model = LineModel()
    first_s = model.base_s + 4e-5 * 300 + 1.1e-8 * 300 * 301 / 2
    assert record.table.first_token_s[0] == pytest.approx(first_s)
    assert record.transfers.end_s[0] == pytest.approx(first_s + 0.032)
    steps_s = 10 * (model.base_s + 3e-5) + 4.5e-6 * sum(range(301, 311))
    assert record.table.finish_s[0] == pytest.approx(first_s + 0.032 + steps_s)


def test_the_gap_after_the_first_token_holds_the_transfer() -> None:
    trace = make_trace([0.0], [300], [3])
    path = KvPath(token_bytes=1e5, send_bytes_per_s=1e9, receive_bytes_per_s=1e9)
    gaps, counts = serve(trace, setup(), setup(), path=path).replicas[1].gaps.weighted()
    assert counts.tolist() == [1, 1]
    assert gaps.max() == pytest.approx(0.030 + 6e-3 + 3e-5 + 4.5e-6 * 301)


def test_transfers_through_one_port_share_it() -> None:
    """Two prompts of one step, 300 tokens each: both take twice the 30 ms of one alone."""
    trace = make_trace([0.0, 0.0], [200, 200], [3, 3])
    path = KvPath(token_bytes=1e5, send_bytes_per_s=1e9, receive_bytes_per_s=1e9)
    moved = serve(trace, setup(), setup(), path=path).transfers
    assert np.array(moved.end_s) - np.array(moved.begin_s) == pytest.approx([0.040, 0.040])
    apart = serve(trace, setup(), setup(), (1, 2), path=path, routing=("round-robin", "round-robin")).transfers
    assert np.array(apart.end_s) - np.array(apart.begin_s) == pytest.approx([0.040, 0.040])
    own = serve(trace, setup(), setup(), (2, 2), path=path, routing=("round-robin", "round-robin")).transfers
    assert np.array(own.end_s) - np.array(own.begin_s) == pytest.approx([0.020, 0.020])


def test_layer_wise_sending_leaves_the_last_layer() -> None:
    trace = make_trace([0.0], [400], [3])
    full = KvPath(token_bytes=1e4, send_bytes_per_s=1e9, receive_bytes_per_s=1e9, exposed_share=0.1)
    record = serve(trace, setup(), setup(), path=full)
    assert record.transfers.exposed_bytes[0] == pytest.approx(4e5)
    slow = KvPath(token_bytes=1e5, send_bytes_per_s=1e9, receive_bytes_per_s=1e9, exposed_share=0.1)
    record = serve(trace, setup(), setup(), path=slow)
    assert record.transfers.exposed_bytes[0] == pytest.approx(4e7 - 1e9 * record.table.first_token_s[0])


def test_a_full_decode_pool_stops_the_prompts() -> None:
    """Decode has blocks for one request at a time; 70 blocks at the prefill side hold two prompts of 512 tokens."""
    trace = make_trace([0.0] * 5, [512] * 5, [60] * 5)
    record = serve(trace, setup(70), setup(66, max_num_seqs=1))
    scheduled, finish = np.array(record.table.scheduled_s), np.array(record.table.finish_s)
    assert record.replicas[0].counters.peak_blocks <= 70
    assert (scheduled[3:] >= finish[:2]).all()
    assert record.replicas[1].counters.peak_running == 1


@pytest.mark.parametrize("batching", POLICIES)
def test_fast_links_and_no_load_are_as_one_replica(batching: str) -> None:
    """Requests one at a time: latencies as of one replica that does both."""
    rows = 12
    arrivals = [3.0 * row for row in range(rows)]
    trace = make_trace(arrivals, [40 * (row + 1) for row in range(rows)], [row + 1 for row in range(rows)])
    two = serve(trace, setup(batching=batching), setup(batching=batching))
    one = run(trace, setup(batching=batching), 1, ROUTING["round-robin"](0))
    np.testing.assert_allclose(two.table.first_token_s, one.table.first_token_s, rtol=0, atol=1e-12)
    np.testing.assert_allclose(two.table.finish_s, one.table.finish_s, rtol=0, atol=1e-12)


def test_clients_of_a_closed_loop_wait_for_their_last_token() -> None:
    trace = make_trace([0.0] * 20, [100] * 20, [1 + row % 7 for row in range(20)], concurrency=3)
    record = serve(trace, setup(), setup())
    times = sorted([(t, 1) for t in record.table.arrival_s] + [(t, -1) for t in record.table.finish_s])
    assert max(np.cumsum([step for _, step in times])) == 3


def test_prompts_too_long_for_either_pool_are_refused() -> None:
    trace = make_trace([0.0, 0.0], [1024, 20], [5, 5])
    assert list(serve(trace, setup(), setup()).table.status) == [2, 1]
