"""Formats of weights: bytes, arithmetic, and the batch at which a saving in bytes stops to help."""

from __future__ import annotations

from dataclasses import replace

import pytest

from apex_sim import cli
from hardware_profiles.cluster import parse_cluster
from hardware_profiles.errors import UserError
from hardware_profiles.schema import GemmFit
from simulator.build import build_deployment
from simulator.physics.efficiency import efficiency_of
from simulator.physics.formats import FORMATS, tensor_peak
from simulator.physics.kernels import gemm_s
from simulator.physics.precision import resolve_precision
from simulator.plan import ParallelPlan
from workloads.catalog import load_model

LLAMA = load_model("llama-3.1-8b")
A100 = parse_cluster("a100-sxm-80gb:1").device
IDEAL = GemmFit(compute=1.0, memory=1.0, launch_s=0.0, norm=1e3)


def _weights_gb(model: str, cluster: str, quantization: str | None, tp: int = 1) -> float:
    deployment = build_deployment(model, cluster, tp=tp, quantization=quantization, max_model_len=1024)
    return deployment.memory.weight_bytes / 1e9


@pytest.mark.parametrize(("batch", "expected"), [(1, 3.88), (16, 3.84), (32, 3.79), (64, 3.31), (128, 1.68)])
def test_ideal_weight_only_kernel_on_an_a10_gains_what_the_roofline_says(batch: int, expected: float) -> None:
    """max(2 B K N / peak, (K N b_w / 8 + activations) / bandwidth): A10 125 TFLOPS, 600 GB/s, 4.125 bits, the matrix of the
    MARLIN paper (72k x 18k); published: 4x to a batch of 16 to 32, fading to 64 to 128."""

    def seconds(weight_bytes: float) -> float:
        return float(
            gemm_s(
                batch,
                18432 * 4,
                18432,
                peak_flop_per_s=125e12,
                bandwidth_bytes_per_s=600e9,
                weight_bytes=weight_bytes,
                activation_bytes=2.0,
                fit=IDEAL,
            )
        )

    assert seconds(2.0) / seconds(4.125 / 8) == pytest.approx(expected, rel=0.03)


def test_marlin_streams_weights_under_the_arithmetic_where_nothing_was_measured() -> None:
    device = parse_cluster("rtx-4090:1").device
    plain = resolve_precision(LLAMA, device, ParallelPlan(quantization="gptq")).linear
    marlin = resolve_precision(LLAMA, device, ParallelPlan(quantization="gptq_marlin")).linear
    assert marlin.gemm.norm > plain.gemm.norm
    assert marlin.gemm == replace(plain.gemm, norm=marlin.gemm.norm)
    measured = efficiency_of(A100).gemm["int4_wo"]
    assert resolve_precision(LLAMA, A100, ParallelPlan(quantization="gptq_marlin")).linear.gemm == measured


def test_weight_only_formats_gain_less_with_the_batch() -> None:
    for name in ("gptq_marlin", "ganq", "squeezellm", "fp6"):
        plain = build_deployment("llama-3.1-8b", "a100-sxm-80gb:1", max_model_len=2048).step_model
        quantised = build_deployment(
            "llama-3.1-8b", "a100-sxm-80gb:1", max_model_len=2048, quantization=name
        ).step_model
        gains = [plain.decode(n).base_s / quantised.decode(n).base_s for n in (1, 16, 64, 256)]
        assert gains == sorted(gains, reverse=True)
        assert gains[0] > 1.4


def test_lossless_405b_fits_where_16_bits_do_not() -> None:
    """DFloat11: 567 GB of 810 on 8 devices of 80 GB."""
    with pytest.raises(UserError, match="weights"):
        _weights_gb("llama-3.1-405b", "h100-sxm:8", None, tp=8)
    assert 8 * _weights_gb("llama-3.1-405b", "h100-sxm:8", "df11", tp=8) == pytest.approx(567, rel=0.01)


def test_decompression_costs_the_same_at_every_batch() -> None:
    plain = build_deployment("llama-3.1-8b", "a100-sxm-80gb:1", max_model_len=2048, enforce_eager=True).step_model
    lossless = build_deployment(
        "llama-3.1-8b", "a100-sxm-80gb:1", max_model_len=2048, enforce_eager=True, quantization="df11"
    ).step_model
    extra = [sum(c.seconds for c in lossless.stages[0].token_costs(n) if c.name == "weights.expand") for n in (1, 64)]
    assert extra[0] == extra[1] > 0
    assert lossless.decode(1).base_s > plain.decode(1).base_s
    assert lossless.decode(128).base_s / plain.decode(128).base_s < lossless.decode(1).base_s / plain.decode(1).base_s


def test_six_bit_products_run_on_binary_tensor_cores_or_as_16_bit_ones() -> None:
    assert tensor_peak("int6", A100.dense_flop_per_s) == pytest.approx(4992e12 / 36)
    h100 = parse_cluster("h100-sxm:1").device
    assert resolve_precision(LLAMA, h100, ParallelPlan(quantization="int6")).linear.peak_flop_per_s == 989.4e12


def test_two_of_four_doubles_the_peak_and_halves_the_weights() -> None:
    plain = resolve_precision(LLAMA, A100, ParallelPlan()).linear
    sparse = resolve_precision(LLAMA, A100, ParallelPlan(quantization="sparse24")).linear
    assert sparse.peak_flop_per_s == 2 * plain.peak_flop_per_s
    assert sparse.weight_bytes == 1.125
    assert sparse.gemm.compute == pytest.approx(0.8 * plain.gemm.compute)


def test_every_format_runs_and_says_where_it_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    for name, row in FORMATS.items():
        assert row.source
        cluster = "vhk158:1" if name == "flightllm" else "rtx-4090:1"
        model = build_deployment("llama-3.1-8b", cluster, quantization=name, max_model_len=1024).step_model
        assert model.decode(8).base_s > 0
    assert cli.main(["models", "formats"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in FORMATS)


def test_unknown_format_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    command = "explain step --model llama-3.1-8b --cluster h100-sxm:1 --decode 1 --quantization gptq_marlin24"
    assert cli.main(command.split()) == 2
    error = capsys.readouterr().err
    assert "gptq_marlin_24" in error
    assert len(error.strip().splitlines()) == 1
