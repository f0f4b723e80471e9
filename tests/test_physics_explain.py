"""The printed breakdown: shapes from flags, text and JSON."""

from __future__ import annotations

import argparse
import json

import pytest
from physics_helpers import ENGINE, LLAMA_70B, cluster

from apex_sim.commands import explain as command
from simulator.physics.explain import explain_values, format_explanation, step_shape
from simulator.physics.memory import memory_plan
from simulator.physics.shape import window_pairs
from simulator.physics.step_model import StepModel
from simulator.plan import ParallelPlan


@pytest.mark.parametrize(("q", "p", "w"), [(5, 0, 3), (5, 2, 4), (1, 9, 4), (7, 1, 100), (4, 4, 4)])
def test_window_pairs_count_every_query(q, p, w):
    assert window_pairs(q, p, w) == sum(min(p + i, w) for i in range(1, q + 1))


def test_shape_from_flags():
    shape = step_shape(decode_seqs=3, context=10, prefill=4, cached=2, window=5)
    assert shape.context_tokens == 30 and shape.window_tokens == 15
    assert shape.prefill_pairs == 4 * 2 + 10 and shape.prefill_context == 2
    assert shape.logits_rows == 4


def test_text_and_values_agree():
    plan = ParallelPlan(tp=2, pp=2)
    model = StepModel(LLAMA_70B, cluster(), plan, ENGINE)
    memory = memory_plan(LLAMA_70B, cluster(), plan, ENGINE)
    shape = step_shape(decode_seqs=8, context=1000, prefill=256)
    values = json.loads(json.dumps(explain_values(model, shape, memory)))
    assert values["seconds"] == model.step(shape)[0]
    assert 0 < values["mfu"] < 1 and 0 < values["mbu"] < 1
    text = format_explanation(model, shape, memory)
    for component in values["components"]:
        assert component["name"] in text
    assert f"{values['seconds'] * 1e3:.4f}" in text and "blocks of 16 tokens" in text and "pipeline stages" in text


def test_command_parses_its_flags():
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(
        [
            "explain",
            "step",
            "--model",
            "m",
            "--cluster",
            "c",
            "--tp",
            "2",
            "--decode",
            "4",
            "--context",
            "9",
            "--kv-cache-dtype",
            "fp8",
            "--json",
        ]
    )
    assert args.run is command.run
    assert (args.tp, args.decode, args.context, args.kv_cache_dtype, args.json) == (2, 4, 9, "fp8", "-")
