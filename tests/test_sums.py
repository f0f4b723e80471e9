"""Results do not depend on how the interpreter's ``sum`` rounds (it compensates since Python 3.12)."""

from __future__ import annotations

import builtins
import math
from collections.abc import Iterable
from typing import Any

import pytest

import apex_sim
from simulator.physics.sums import in_order

DEPLOYMENTS = [
    ("llama-3.1-8b", "h100-sxm:4", {"tp": 2, "pp": 2}),
    ("llama-3.1-70b", "h100-sxm:4", {"tp": 4, "quantization": "fp8"}),
    ("mixtral-8x7b", "a100-sxm:4", {"tp": 4}),
    ("deepseek-v3", "h200-sxm:8", {"tp": 8, "ep": 8}),
]


def compensated(values: Iterable[Any], /, start: Any = 0) -> Any:
    """As ``sum`` of Python 3.12 and later: floats without rounding errors, anything else one after the other."""
    listed = list(values)
    if any(isinstance(v, float) for v in listed) and all(isinstance(v, int | float) for v in listed):
        return math.fsum(listed) + start
    for value in listed:
        start = start + value
    return start


def outcome(model: str, cluster: str, settings: dict[str, Any]) -> tuple[dict[str, Any], str]:
    result = apex_sim.simulate(model, cluster, rate=3, input_len=700, output_len=60, num_requests=60, **settings)
    return result.summary, result.requests.to_csv()


@pytest.mark.parametrize(("model", "cluster", "settings"), DEPLOYMENTS)
def test_results_are_those_of_plain_sums_whatever_the_built_in_does(monkeypatch, model, cluster, settings):
    plain = outcome(model, cluster, settings)
    monkeypatch.setattr(builtins, "sum", compensated)
    assert outcome(model, cluster, settings) == plain


def test_in_order_adds_from_left_to_right():
    assert in_order([1e16, 1.0, -1e16]) == 0.0, "the one is lost; compensated it would be 1"
    assert in_order([]) == 0
    assert in_order([0.1] * 10) == 0.1 + 0.1 + 0.1 + 0.1 + 0.1 + 0.1 + 0.1 + 0.1 + 0.1 + 0.1
