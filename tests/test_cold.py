"""A fresh server: steps that need a new variant of the MoE kernels wait for the compiler, once."""

from __future__ import annotations

import pytest

from simulator.build import build_deployment
from simulator.cold import ColdKernels, ColdStart
from simulator.simulate import simulate_deployment
from workloads.trace import Trace

START = ColdStart(compile_s=1.0, experts_per_token=2, captured_tokens=512, profiled_tokens=2048)


def test_a_variant_is_compiled_once() -> None:
    cold = ColdKernels(START)
    waits = {tokens: cold.wait_s(tokens) for tokens in (500, 513, 601, 2048, 608, 616, 1210, 611, 608)}
    assert waits == {500: 0.0, 513: 1.0, 601: 0.0, 2048: 0.0, 608: 0.0, 616: 1.0, 1210: 1.0, 611: 0.0}
    assert ColdKernels(START).wait_s(608) == 1.0, "a multiple of 16 is a variant of its own"


def served(cold: bool, model: str = "mixtral-8x7b", **settings: object) -> list[float]:
    deployment = build_deployment(
        model, "h100-sxm:4", tp=2, max_num_batched_tokens=2048, max_model_len=4096, cold_start=cold, **settings
    )  # type: ignore[arg-type]
    trace = Trace(arrival_s=[0.0, 5.0, 10.0], input_tokens=[601, 601, 1210], output_tokens=[4, 4, 4])
    return list(simulate_deployment(deployment, trace).column("ttft_s"))


def test_a_cold_server_makes_its_first_prompts_wait() -> None:
    warm, cold = served(False), served(True)
    assert [round(c - w, 3) for c, w in zip(cold, warm, strict=True)] == [0.95, 0.0, 0.95]


@pytest.mark.parametrize(("model", "settings"), [("llama-3.1-8b", {}), ("mixtral-8x7b", {"quantization": "fp8"})])
def test_dense_models_and_quantised_experts_do_not_compile(model: str, settings: dict[str, object]) -> None:
    assert served(True, model, **settings) == served(False, model, **settings)
