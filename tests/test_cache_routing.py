"""Routing by what is cached: what each policy decides, hits on a published trace, spans equal to steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_checks import OPTIONS, assert_lawful, assert_same_run, run_options, trace_of
from engine_helpers import make_trace, random_prefixes, random_trace, simulate_small
from hypothesis import given
from hypothesis import strategies as st
from test_engine_properties import bounded

from hardware_profiles.errors import UserError
from simulator.active_prompts import ActivePrompts
from simulator.build import build_deployment
from simulator.cache_routing import KvAware, PrefixAffinity, SessionAffinity
from simulator.request import Request
from simulator.routing import parse_routing
from simulator.simulate import simulate_deployment
from workloads.readers import read_trace

MOONCAKE = Path(__file__).parents[2] / "shared/data/traces/mooncake_conversation_head5000.jsonl"
NEED_MOONCAKE = pytest.mark.skipif(not MOONCAKE.exists(), reason=f"no trace at {MOONCAKE}")


class FakeReplica:
    """A replica as a router sees it."""

    def __init__(self, num_outstanding: int = 0, outstanding_tokens: int = 0, cached: tuple[int, ...] = (0,)) -> None:
        self.num_outstanding, self.outstanding_tokens, self._cached = num_outstanding, outstanding_tokens, cached
        self.index, self.holds_prompt = 0, False

    def cached_tokens(self, request: Any) -> tuple[int, ...]:
        return self._cached

    def tokens_with(self, request: Any) -> int:
        return self.outstanding_tokens + (0 if self.holds_prompt else int(request.input_tokens))


def pool(*replicas: FakeReplica) -> list[FakeReplica]:
    """Replicas numbered in turn."""
    for index, replica in enumerate(replicas):
        replica.index = index
    return list(replicas)


def prompt(ids: tuple[int, ...], row: int = 0, session: int = 0) -> Request:
    request = Request(row, 0, 16 * len(ids), 4, ids)
    request.prompt_pieces = len(ids)
    request.session = session
    return request


def test_prefix_affinity_follows_its_own_record_until_loads_are_unequal() -> None:
    router = PrefixAffinity(0, match=0.5, abs=3, rel=1.5)
    replicas = pool(FakeReplica(), FakeReplica())
    assert router.choose(prompt((1, 2, 3, 4)), replicas) == 0
    assert router.choose(prompt((7, 8, 9)), replicas) == 1, "no match: the smallest record"
    assert router.choose(prompt((1, 2, 3, 5)), replicas) == 0, "three pieces of four are known there"
    assert router.choose(prompt((1, 2, 30, 40, 50)), replicas) == 1, "two of five are too few"
    assert router.choose(prompt((1, 2, 3, 4)), pool(FakeReplica(4), FakeReplica(0))) == 1, "loads are too unequal"
    assert router.choose(prompt((1, 2, 3, 4)), pool(FakeReplica(9), FakeReplica(7))) == 1, (
        "both know it by now: fewer requests"
    )


def test_prefix_affinity_forgets_what_it_was_not_asked_for_longest_tail_first() -> None:
    router = PrefixAffinity(0, match=0.3, size=4)
    replicas = pool(FakeReplica())
    for ids in ((1, 2, 3), (7, 8)):
        router.choose(prompt(ids), replicas)
    assert list(router._known[0]) == [2, 1, 8, 7]


def test_kv_aware_weighs_cached_tokens_by_tier_against_load() -> None:
    request = prompt((1, 2, 3, 4))  # 64 tokens
    cached, idle = FakeReplica(1, 40, (48,)), FakeReplica(0, 0, (0,))
    assert KvAware(0).choose(request, [cached, idle]) == 0, "16 + 40 against 64"
    assert KvAware(0, load=2).choose(request, [cached, idle]) == 1, "16 + 80 against 64, and the prompt itself at both"
    cached.holds_prompt = True
    assert KvAware(0, load=2).choose(request, [cached, idle]) == 0, (
        "16 + 80 against 64 + 128: others hold the prompt there"
    )
    cached.holds_prompt = False
    assert KvAware(0, overlap=0).choose(request, [cached, idle]) == 1
    host = FakeReplica(0, 0, (0, 48, 0))
    assert KvAware(0).choose(request, [host, FakeReplica(0, 0, (40,))]) == 1, "64 - 36 against 64 - 40"
    assert KvAware(0, host=1.0).choose(request, [host, FakeReplica(0, 0, (40,))]) == 0


def test_session_affinity_stays_and_new_sessions_go_where_least_is() -> None:
    router = SessionAffinity(0)
    assert router.choose(prompt((1,), session=5), pool(FakeReplica(3), FakeReplica(1))) == 1
    assert router.choose(prompt((2,), session=6), pool(FakeReplica(0), FakeReplica(1))) == 0
    assert router.choose(prompt((3,), session=5), pool(FakeReplica(0), FakeReplica(9))) == 1


def test_what_a_router_remembers_follows_replicas_that_come_and_go() -> None:
    first, second, third = pool(FakeReplica(), FakeReplica(), FakeReplica(9))
    sticky, prefix = SessionAffinity(0), PrefixAffinity(0, match=0.5)
    assert sticky.choose(prompt((1,), session=5), [second, third]) == 0
    assert sticky.choose(prompt((2,), session=5), [first, second, third]) == 1
    assert sticky.choose(prompt((3,), session=5), [first, third]) == 0, "its home is gone: a new one"
    assert prefix.choose(prompt((1, 2)), [second, third]) == 0
    assert prefix.choose(prompt((1, 2)), [first, second, third]) == 1


def test_sessions_of_a_trace_stay_on_their_replica() -> None:
    previous = np.array([-1, -1, -1, 0, 1, 2, 3])
    trace = make_trace([0.0] * 7, [50] * 7, [5] * 7, previous=previous, think_s=np.where(previous < 0, 0.0, 0.1))
    where = list(simulate_small(trace, num_replicas=3, routing="session-affinity").table.replica)
    assert where == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kv-awre", "Did you mean 'kv-aware'"),
        ("kv-aware(overlpa=2)", "overlpa"),
        ("kv-aware(load=x)", "must be a number"),
        ("round-robin(load=1)", "load"),
    ],
)
def test_bad_routing_is_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        parse_routing(text)
    assert "\n" not in str(error.value)


CACHED = st.fixed_dictionaries(
    {name: st.sampled_from(values) for name, values in OPTIONS.items()}
    | {
        "routing": st.sampled_from(["kv-aware", "prefix-affinity"]),
        "num_replicas": st.sampled_from([2, 3]),
        "prefix_block_tokens": st.sampled_from([8, 16, 24, 128]),
        "num_blocks": st.sampled_from([0, 69, 80, 120]),
    }
)


@bounded(120)
@given(options=CACHED)
def test_routers_see_the_same_cache_in_spans_and_single_steps(options: dict[str, Any]) -> None:
    trace = trace_of(options)
    spans = run_options(options, trace)
    assert_lawful(spans, trace, options)
    assert_same_run(spans, run_options(options, trace, exact_steps=True), options["ticks_per_s"])


def test_prompts_of_a_group_meet_on_one_replica() -> None:
    trace = random_prefixes(3, random_trace(3, 300, 20.0), 16, groups=12, shared_blocks=20)
    tight = {"num_replicas": 4, "num_blocks": 200, "prefix_caching": True}
    hits = {name: sum(simulate_small(trace, routing=name, **tight).table.cached_tokens)  # type: ignore[arg-type]
            for name in ("round-robin", "prefix-affinity", "kv-aware")}  # fmt: skip
    assert hits["kv-aware"] > 1.2 * hits["round-robin"]
    assert hits["prefix-affinity"] > 1.2 * hits["round-robin"]


def test_shared_tokens_of_unfinished_prompts_count_once() -> None:
    active = ActivePrompts(16)
    first, second, odd = prompt((1, 2, 3)), prompt((1, 2, 9)), prompt((1, 5))
    odd.input_tokens = 25  # the last piece is short
    active.add(first)
    assert (active.tokens, active.with_(second), active.with_(odd)) == (48, 64, 57)
    active.add(second)
    active.add(odd)
    assert active.tokens == 48 + 16 + 9
    private = prompt(())
    private.input_tokens = 7
    active.add(private)
    active.remove(first)
    assert active.tokens == 16 + 16 + 16 + 9 + 7, "piece 3 is gone; 1 and 2 have other holders"
    for request in (odd, second, private):
        active.remove(request)
    assert active.tokens == 0


def test_long_shared_prompts_do_not_drive_a_group_from_its_replica() -> None:
    """Prompts that are nearly all prefix, several of a group always in flight: counted per request, their load would outweigh
    the cache after the first (0.79 of the tokens found, as round-robin)."""
    trace = random_prefixes(
        3, make_trace([0.05 * i for i in range(160)], [1000] * 160, [60] * 160), 16, groups=8, shared_blocks=60
    )
    tight = {"num_replicas": 4, "num_blocks": 3000, "prefix_caching": True}
    found = sum(simulate_small(trace, routing="kv-aware", **tight).table.cached_tokens)  # type: ignore[arg-type]
    assert found > 0.9 * sum(trace.input_tokens)


@NEED_MOONCAKE
def test_mooncake_hits_far_more_when_routed_by_what_is_cached() -> None:
    trace = read_trace(MOONCAKE).head(1500)
    rates = {}
    for name in ("round-robin", "prefix-affinity", "kv-aware"):
        deployment = build_deployment("llama-3.1-8b", "h200-sxm:4", dp=4, routing=name)
        summary = simulate_deployment(deployment, trace).summary
        rates[name] = summary["prefix_hit_rate"]
        assert min(summary["replica_prefix_hit_rates"]) <= rates[name] <= max(summary["replica_prefix_hit_rates"])
    assert rates["kv-aware"] > 1.4 * rates["round-robin"]
    assert rates["prefix-affinity"] > 1.8 * rates["round-robin"]


@pytest.mark.parametrize("routing", ["kv-aware", "prefix-affinity(match=0.5)"])
def test_routing_by_prefix_without_prefix_caching_is_refused(routing: str) -> None:
    with pytest.raises(UserError, match="needs --enable-prefix-caching"):
        build_deployment("llama-3.1-8b", "h100-sxm:2", dp=2, routing=routing, enable_prefix_caching=False)
