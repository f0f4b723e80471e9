"""What lies between the matrix products: cheap while activations stay in the cache, memory speed beyond it."""

from __future__ import annotations

import pytest

from simulator.physics.elementwise import CACHE_SHARE, activation, elementwise_s, norms, rotary

PARTS = (norms(4096, 2.0), rotary(32, 8, 128, 2.0), activation(2 * 14336, 14336, 2.0))
BANDWIDTH = 1e12
CACHE = 60e6


def seconds(tokens: float, memory: float = 0.8) -> float:
    return float(
        elementwise_s(
            tokens,
            PARTS,
            fixed_s=8e-6,
            token_s=5e-8,
            memory=memory,
            bandwidth_bytes_per_s=BANDWIDTH,
            cache_bytes=CACHE,
        )
    )


def test_small_batches_are_a_line() -> None:
    assert seconds(100) == pytest.approx(8e-6 + 100 * 5e-8)


def test_the_largest_activations_leave_the_cache_first() -> None:
    """Gate, up and product of Llama-3.1-8B are 86 kB per token: a third of 60 MB holds 232 tokens."""
    knee = CACHE_SHARE * CACHE / PARTS[2].working_bytes
    assert knee == pytest.approx(232, abs=1)
    assert seconds(knee) == pytest.approx(8e-6 + knee * 5e-8)
    assert seconds(knee + 10) > 8e-6 + (knee + 10) * 5e-8


def test_large_batches_cost_their_traffic() -> None:
    """Beyond every knee one more token costs all its bytes at the memory's speed."""
    slope = (seconds(20_000) - seconds(10_000)) / 10_000
    assert slope == pytest.approx(sum(p.total_bytes for p in PARTS) / (0.8 * BANDWIDTH))


def test_without_a_memory_share_the_line_goes_on() -> None:
    assert seconds(20_000, memory=0.0) == pytest.approx(8e-6 + 20_000 * 5e-8)
