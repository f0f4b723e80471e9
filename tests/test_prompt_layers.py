"""Prompts of which deeper layers see fewer tokens: products, attention, KV memory; both modes; refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import apex_sim
from hardware_profiles.errors import UserError
from simulator.physics.prompt_layers import PromptLayers, parse_prompt_layers
from simulator.physics.shape import StepShape


def built(**settings: Any) -> apex_sim.Deployment:
    return apex_sim.build_deployment("llama-3.1-8b", "h100-sxm:1", max_model_len=4096, **settings)


def test_means_are_those_of_a_straight_line_over_many_layers() -> None:
    shares = np.linspace(0.9, 0.1, 100_001)
    kept = PromptLayers(first=0.9, last=0.1)
    assert kept.mean == pytest.approx(shares.mean())
    assert kept.mean_square == pytest.approx((shares**2).mean(), rel=1e-4)


def test_decode_steps_are_those_of_a_compressed_cache_and_prompts_cost_less() -> None:
    plain, smaller = built(kv_compression=0.5), built(prompt_layer_shares="0.8,0.2")
    decode = StepShape(decode_seqs=8, context_tokens=8000, window_tokens=8000, logits_rows=8)
    assert smaller.step_model.step(decode) == plain.step_model.step(decode)
    assert smaller.memory.num_blocks == plain.memory.num_blocks
    prompt = StepShape(
        prefill_tokens=4000, prefill_pairs=8_002_000, window_pairs=8_002_000, prefill_seqs=1, logits_rows=1
    )
    ratio = smaller.step_model.step(prompt)[0] / plain.step_model.step(prompt)[0]
    assert 0.45 < ratio < 0.6
    flop = smaller.step_model.flop(prompt) / plain.step_model.flop(prompt)
    assert 0.45 < flop < 0.5, "half of the products, 28 % of the attention"
    assert sum(c.seconds for c in smaller.step_model.explain(prompt)) == pytest.approx(
        smaller.step_model.step(prompt)[0], rel=1e-6
    )


def test_layers_that_keep_everything_change_nothing() -> None:
    shape = StepShape(3, 900, 900, 500, 125_250, 125_250, 1, 40, 4)
    assert built(prompt_layer_shares="1,1").step_model.step(shape) == built().step_model.step(shape)


@pytest.mark.parametrize("more", [{}, {"enable_prefix_caching": True}, {"disaggregate": ("prefill=tp1", "decode=tp1")}])
def test_both_modes_agree(more: dict[str, Any]) -> None:
    spans, steps = (
        apex_sim.simulate(
            *("llama-3.1-8b", "h100-sxm:2"),
            **{"rate": 20, "input_len": 900, "output_len": 40, "num_requests": 30, "max_model_len": 4096, **more},
            prompt_layer_shares="0.8,0.1",
            exact_steps=exact,
        )
        for exact in (False, True)
    )
    assert spans.requests.equals(steps.requests)


@pytest.mark.parametrize("text", ["0.8", "0.2,0.8", "1.2,0.5", "0.5,0", "a,b", "0.5,0.4,0.3"])
def test_shares_that_make_no_sense_are_one_line(text: str) -> None:
    with pytest.raises(UserError, match="--prompt-layer-shares"):
        parse_prompt_layers(text)


def test_drafts_are_refused() -> None:
    with pytest.raises(UserError, match="drop one"):
        built(
            prompt_layer_shares="0.8,0.2",
            speculative_config={"method": "ngram", "num_speculative_tokens": 2, "acceptance": 0.5},
        )
