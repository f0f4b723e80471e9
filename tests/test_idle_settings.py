"""Settings that would do nothing are refused in one line, or the report says that they did nothing."""

from __future__ import annotations

import pytest

import apex_sim
from apex_sim import UserError
from apex_sim.report import summary_text
from simulator.build import build_deployment

DRAFT = {"method": "draft_model", "model": "llama-3.2-1b", "num_speculative_tokens": 2, "acceptance": 0.5}
WORK = {"rate": 5.0, "input_len": 50, "output_len": 5, "num_requests": 5}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kv_copy_group": 4}, "no KV block crosses the host link"),
        ({"kv_copy_group": 4, "kv_eviction": "lfu"}, "no KV block crosses the host link"),
        ({"swap_space": 8.0}, "add --preemption-mode swap"),
        ({"moe_skew": 0.5}, "has no experts"),
        ({"quantization": "flightllm"}, "use vhk158 or alveo-u280"),
        (
            {"speculative_config": DRAFT | {"draft_device": "h1000"}},
            "--speculative-config: draft_device: unknown device",
        ),
        ({"speculative_config": DRAFT | {"quantization": "fp9"}}, "--speculative-config: quantization: unknown quant"),
        ({"speculative_config": DRAFT | {"model": "llama-9"}}, "--speculative-config: model: unknown model"),
        (
            {"num_gpu_blocks_override": 1, "max_model_len": 50},
            "needs 4 KV blocks of 16 tokens; --num-gpu-blocks-override is 1",
        ),
    ],
)
def test_what_would_do_nothing_is_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UserError) as caught:
        _ = build_deployment("llama-3.1-8b", "h100-sxm:1", **settings).memory  # type: ignore[arg-type]
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"kv_copy_group": 4, "kv_offloading_size": 8.0},
        {"kv_copy_group": 4, "engine": "vllm-v0", "preemption_mode": "swap", "swap_space": 8.0},
        {"moe_skew": 0.0, "swap_space": 0.0},
    ],
)
def test_with_something_to_act_on_they_are_taken(settings: dict[str, object]) -> None:
    assert build_deployment("llama-3.1-8b", "h100-sxm:1", **settings).memory.num_blocks  # type: ignore[arg-type]


def test_tiers_without_shared_prefixes_are_named_in_the_report() -> None:
    idle = apex_sim.simulate("llama-3.1-8b", "h100-sxm:1", kv_offloading_size=8.0, **WORK)  # type: ignore[arg-type]
    plain = apex_sim.simulate("llama-3.1-8b", "h100-sxm:1", **WORK)  # type: ignore[arg-type]
    assert "--kv-offloading-size had no use" in summary_text(idle)
    assert "had no use" not in summary_text(plain)
