"""Several models: every figure of the summary is the same with spans and with single steps, watched or not."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest

from apex_sim import simulate_several

SUMS = re.compile(r"energy|joules|power_w|kwh|gco2e|usd")
"""What is made of joules: sums of floats, in another order where steps are taken one by one."""


def drawn(seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """(models of a cluster, workload): in turns, side by side, or in a cascade."""
    pick = random.Random(seed)
    side_by_side, cascade = pick.random() < 0.4, pick.random() < 0.4
    config: dict[str, Any] = {
        "cluster": "h100-sxm:2",
        "engine": pick.choice(["vllm-v1", "sglang"]),
        "settings": {"enable_prefix_caching": False},
        "models": {
            "chat": {"model": "llama-3.1-8b", "share": 0.7, "group": "a"},
            "code": {"model": "llama-2-7b", "share": 0.3, "group": "b" if side_by_side else "a"},
        },
        "switch": {
            "policy": pick.choice(["run-to-empty", "round-robin", "deadline"]),
            "on_switch": pick.choice(["drain", "suspend"]),
            "residence_s": pick.choice([0.0, 0.1, 2.0]),
            "resident": pick.choice([1, 2]),
        },
    }
    if cascade:
        carry = pick.choice(["prompt", "prompt+answer"])
        config["cascade"] = {"first": "chat", "then": "code", "escalate": 0.4, "carry": carry}
    load = {"rate": pick.choice([2.0, 6.0]), "num_requests": 25, "input_len": "lognormal(median=200,sigma=0.8)",
            "output_len": pick.choice([40, "lognormal(median=80,sigma=0.6)"]), "seed": seed}  # fmt: skip
    return config, load


def flat(found: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(name, value) of every plain value."""
    if isinstance(found, dict):
        for key, value in found.items():
            yield from flat(value, f"{name}.{key}")
    else:
        yield name, found


@pytest.mark.parametrize("seed", range(10))
def test_spans_steps_and_watched_runs_have_one_summary(seed: int) -> None:
    config, load = drawn(seed)
    spans, steps, watched = (
        dict(flat(simulate_several(config, **load, **how).summary))
        for how in ({}, {"exact_steps": True}, {"timeline": True})
    )
    assert list(spans) == list(steps) == list(watched)
    same = [name for name in spans if not SUMS.search(name)]
    assert len(same) > 60
    for other in (steps, watched):
        assert {name: spans[name] for name in same} == {name: other[name] for name in same}
        for name in spans.keys() - set(same):
            assert spans[name] == other[name] or math.isclose(spans[name], other[name], rel_tol=1e-11), name
