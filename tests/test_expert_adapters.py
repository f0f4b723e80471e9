"""Adapters that own copies of routed experts."""

from __future__ import annotations

from typing import Any

import pytest

from apex_sim import api
from hardware_profiles.errors import UserError
from simulator.build import build_deployment
from simulator.deployment import Deployment
from simulator.physics.shape import StepShape

BASE = {"model": "deepseek-v2-lite", "cluster": "h200-sxm:2"}
EXPERT_BYTES = 3 * 2048 * 1408 * 2.0
"""DeepSeek-V2-Lite: hidden 2048, experts of 1408, three matrices of 16 bits; 26 MoE layers of 64 experts, 6 per token."""


def deployment(**settings: Any) -> Deployment:
    return build_deployment(**(BASE | settings))


def step_s(served: Deployment, decode: int) -> float:
    shape = StepShape(decode_seqs=decode, context_tokens=decode * 500, window_tokens=decode * 500, logits_rows=decode)
    return served.step_model.step(shape)[0]


@pytest.mark.parametrize("layout", [{}, {"tp": 2}, {"dp": 2, "ep": 2}])
def test_memory_holds_every_adapter_s_experts_once(layout: dict[str, int]) -> None:
    plain, many = deployment(**layout), deployment(**layout, expert_adapters=10, expert_adapter_size=4)
    more = many.memory.weight_bytes - plain.memory.weight_bytes
    assert more == pytest.approx(10 * 4 * 26 * EXPERT_BYTES / (2 if layout else 1))


def test_experts_read_by_a_step_follow_the_formula() -> None:
    served = deployment(expert_adapters=5, expert_adapter_size=8, expert_adapter_share=0.25)
    plain = deployment()
    tokens, k = 12, 6
    own = 5 * 8 * (1 - (1 - k * 0.25 / (5 * 8)) ** tokens)
    base = 64 * (1 - (1 - k * 0.75 / 64) ** tokens)
    alone = 64 * (1 - (1 - k / 64) ** tokens)

    def read(d: Deployment) -> float:
        cost = next(c for c in d.step_model.stages[0].token_costs(tokens) if c.name == "moe.experts")
        return cost.nbytes

    rows_bytes = read(plain) - 26 * alone * EXPERT_BYTES
    assert read(served) == pytest.approx(26 * (own + base) * EXPERT_BYTES + rows_bytes, rel=1e-6)


def test_one_adapter_that_is_never_used_costs_a_kernel_per_layer_and_its_memory() -> None:
    idle = deployment(expert_adapters=1, expert_adapter_size=1, expert_adapter_share=1e-12)
    more = step_s(idle, 8) - step_s(deployment(), 8)
    launch = idle.step_model.stages[0]._context.precision.base.gemm.launch_s
    assert more == pytest.approx(26 * launch, rel=1e-3)


def test_more_adapters_and_more_of_their_own_experts_are_never_faster() -> None:
    times = [step_s(deployment(expert_adapters=n, expert_adapter_size=4), 32) for n in (1, 2, 8, 20)]
    assert times == sorted(times)
    skewed = step_s(deployment(expert_adapters=20, expert_adapter_size=4, expert_adapter_skew=1.5), 32)
    assert skewed < times[-1]


def test_both_modes_give_the_same_run() -> None:
    settings: dict[str, Any] = BASE | {"dp": 2, "ep": 2, "expert_adapters": 6, "expert_adapter_size": 6, "rate": 20.0}
    settings |= {"input_len": "300", "output_len": "40", "num_requests": 40}
    runs = [api.simulate(**settings, exact_steps=exact) for exact in (False, True)]
    assert runs[0].summary["mean_e2el_ms"] == runs[1].summary["mean_e2el_ms"]
    assert runs[0].requests["finish_s"].equals(runs[1].requests["finish_s"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"expert_adapter_size": 4.0}, "--expert-adapter-size without adapters"),
        ({"expert_adapters": 4}, "--expert-adapter-size is missing"),
        ({"expert_adapters": 0, "expert_adapter_size": 4.0}, "expert-adapters"),
        ({"expert_adapters": 4, "expert_adapter_size": 65.0}, "has 64 experts"),
        (
            {"expert_adapters": 4, "expert_adapter_size": 4.0, "expert_adapter_share": 1.5},
            "--expert-adapter-share is 1.5",
        ),
        ({"expert_adapters": 4, "expert_adapter_size": 4.0, "cpu_offload_gb": 4.0}, "--cpu-offload-gb counts"),
        ({"expert_adapters": 4, "expert_adapter_size": 4.0, "model": "llama-3.1-8b"}, "has no experts"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as error:
        deployment(**settings)
    assert words in str(error.value) and "\n" not in str(error.value)
