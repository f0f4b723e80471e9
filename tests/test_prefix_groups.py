"""Offline batches grouped by prefix: the closed form of the tokens saved, and what a cache alone saves in mixed order."""

from __future__ import annotations

import numpy as np
import pytest
from engine_helpers import make_trace

from hardware_profiles.errors import UserError
from simulator.build import build_deployment
from simulator.prefix_order import group_prefixes
from simulator.simulate import simulate_deployment
from workloads.trace import Trace


def shared_batch(groups: int, degree: int, shared: int, own: int, seed: int = 0) -> Trace:
    """``groups`` prefixes of ``shared`` tokens with ``degree`` prompts each, ``own`` tokens more, mixed, all at once."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(np.repeat(np.arange(groups), degree))
    n, piece = len(order), 200
    each = (shared + own) // piece
    ids = [[int(g) * 1000 + p if p < shared // piece else 10**6 + i * 1000 + p for p in range(each)]
           for i, g in enumerate(order)]  # fmt: skip
    return make_trace(
        [0.0] * n, [shared + own] * n, [1] * n,
        prefix_ids=np.array(ids).ravel(), prefix_offsets=np.arange(n + 1) * each, prefix_block_tokens=piece,
    )  # fmt: skip


@pytest.mark.parametrize(("shared", "published"), [(2_000, 0.852), (16_000, 0.926)])
def test_grouped_batches_save_the_closed_form(shared: int, published: float) -> None:
    """BatchLLM: (d - 1) s / (d (s + u)); s = 2k and 16k, d = 16, u = 200 give the published 85.2 % and 92.6 %."""
    degree, own = 16, 200
    trace = shared_batch(12 if shared > 2_000 else 40, degree, shared, own)
    deployment = build_deployment("llama-3.1-8b", "a100-sxm-80gb:1", order="prefix-groups", block_size=8)
    saved = simulate_deployment(deployment, trace).summary["prefix_hit_rate"]
    assert saved == (degree - 1) * shared / (degree * (shared + own))
    assert saved == pytest.approx(published, abs=5e-4)


def test_a_cache_alone_saves_less_of_a_mixed_batch_than_groups_do() -> None:
    trace = shared_batch(100, 16, 16_000, 200)
    rates = {}
    for order in ("arrival", "prefix-groups"):
        deployment = build_deployment("llama-3.1-8b", "a100-sxm-80gb:1", order=order, block_size=8)
        summary = simulate_deployment(deployment, trace).summary
        rates[order] = summary["prefix_hit_rate"]
    assert rates["arrival"] < 0.4 < 0.92 < rates["prefix-groups"]


def test_batches_are_grouped_apart_and_reach_the_engine_whole() -> None:
    ids = [[1, 2], [5, 6], [1, 3], [5, 6], [7, 8], [1, 2], [7, 9]]
    trace = make_trace(
        [0.0] * 4 + [1.0] * 3, [32] * 7, [1] * 7,
        prefix_ids=np.array(ids).ravel(), prefix_offsets=np.arange(8) * 2, prefix_block_tokens=16,
    )  # fmt: skip
    times_s = trace.arrival_s + np.array([0.1, 0.3, 0.2, 0.1, 0.5, 0.1, 0.2])
    rows, reached_s = group_prefixes(trace, np.arange(7), times_s)
    assert rows.tolist() == [0, 2, 1, 3, 4, 6, 5]
    assert reached_s.tolist() == [0.3] * 4 + [1.5] * 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": "groups"}, "prefix-groups"),
        ({"order": "prefix-groups", "enable_prefix_caching": False}, "needs --enable"),
    ],
)
def test_bad_orders_are_one_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        build_deployment("llama-3.1-8b", "h100-sxm:1", **settings)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
