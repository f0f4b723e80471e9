"""Power caps and locked clocks as settings: what slows, what does not, and what is refused."""

from __future__ import annotations

import itertools

import pytest

import apex_sim as apex
from apex_sim.cli import main
from hardware_profiles.loader import device_names, load_device
from hardware_profiles.schema import PowerFit
from planners.launch import launch_notes
from simulator.build import build_deployment
from simulator.physics.explain import step_shape
from simulator.physics.powercap import PowerCap
from simulator.physics.shape import StepShape

PROMPT, DECODE, MIXED = (
    step_shape(prefill=2048),
    step_shape(decode_seqs=8, context=2048),
    step_shape(decode_seqs=8, context=2048, prefill=512),
)
SERVERS = [
    ("bloom-176b", "a100-sxm:8", 8, (400, 350, 325, 300, 200, 100)),
    ("llama-3.1-8b", "h100-sxm:1", 1, (700, 699, 500, 350, 200)),
]


def step(model: str, cluster: str, tp: int, shape: StepShape, cap: float | None, clock: float | None = None):
    """(seconds, watts of a device)."""
    server = build_deployment(model, cluster, tp=tp, max_model_len=8192, power_cap=cap, gpu_clock=clock)
    seconds, joules = server.step_model.step(shape)
    parts = sum(c.seconds for c in server.step_model.explain(shape))
    assert parts == pytest.approx(seconds, rel=1e-9)
    return seconds, joules / seconds / tp


@pytest.mark.parametrize(("model", "cluster", "tp", "caps"), SERVERS)
@pytest.mark.parametrize("shape", [PROMPT, DECODE, MIXED])
def test_a_lower_cap_is_never_faster_and_never_draws_more(model, cluster, tp, caps, shape):
    points = [step(model, cluster, tp, shape, cap) for cap in caps]
    assert points[0] == step(model, cluster, tp, shape, None), "at the TDP nothing changes"
    for (fast_s, high_w), (slow_s, low_w) in itertools.pairwise(points):
        assert slow_s >= fast_s and low_w <= high_w * (1 + 1e-9)
    assert all(watts <= cap * (1 + 1e-9) for cap, (_, watts) in zip(caps, points, strict=True))


def test_prompts_slow_down_and_token_steps_hardly_do():
    """POLCA: up to 20 % less peak power for at most 7 % of performance; an answer is mostly token steps."""
    (free_prompt, peak_w), (free_decode, _) = (step("bloom-176b", "a100-sxm:8", 8, s, None) for s in (PROMPT, DECODE))
    (prompt, _), (decode, _) = (step("bloom-176b", "a100-sxm:8", 8, s, 300) for s in (PROMPT, DECODE))
    assert 1.10 < prompt / free_prompt < 1.35
    assert decode / free_decode < 1.02
    (prompt, watts), (decode, _) = (step("bloom-176b", "a100-sxm:8", 8, s, 0.8 * peak_w) for s in (PROMPT, DECODE))
    assert watts <= 0.8 * peak_w
    whole = [a + 256 * b for a, b in ((free_prompt, free_decode), (prompt, decode))]
    assert whole[1] / whole[0] < 1.07


def test_token_steps_of_an_h100_bear_half_its_tdp():
    """Splitwise (ISCA 2024): the token phase of Llama-2-70B on eight H100s at 350 W of 700 W."""
    free, capped = (step("llama-2-70b", "h100-sxm:8", 8, DECODE, cap)[0] for cap in (None, 350))
    assert capped / free < 1.03


def test_a_part_at_its_limit_spends_the_limit_or_less():
    cap = PowerCap(cap_w=300.0, floor_w=60.0, line=PowerFit(base_w=110.0, compute_w=470.0, memory_w=290.0))
    fits = cap.fit(1.0, 250.0, 0.1, 0.2, lambda share: 1 / 0.0)
    assert fits == (1.0, 250.0), "what fits is untouched, and no other clock is asked for"
    seconds, joules = cap.fit(1.0, 400.0, 0.5, 0.1, lambda share: 0.9 * (1 / share - 1))
    assert 1.1 < seconds < 1.3 and 0.98 * 300.0 * seconds < joules <= 300.0 * seconds
    seconds, joules = cap.fit(1.0, 400.0, 0.0, 1.0, lambda share: 0.0)
    assert joules == pytest.approx(300.0 * seconds), "memory's joules are left: below the lowest clock only time grows"


def test_a_run_under_a_cap_is_slower_and_thriftier_and_at_the_tdp_the_same():
    load = {"rate": 8.0, "input_len": 1500, "output_len": 100, "num_requests": 80}
    free, same, capped, locked = (
        apex.simulate("llama-3.1-8b", "a100-sxm:1", **load, **power)
        for power in ({}, {"power_cap": 400}, {"power_cap": 250}, {"gpu_clock": 1110})
    )
    assert same.requests.equals(free.requests) and same.timeline.equals(free.timeline)
    assert capped.summary["mean_ttft_ms"] > free.summary["mean_ttft_ms"]
    assert locked.summary["mean_ttft_ms"] > free.summary["mean_ttft_ms"]
    assert capped.timeline["power_w"].max() <= 250 * (1 + 1e-6)


def test_the_deployment_line_the_configuration_and_the_notes_name_them(tmp_path, capsys):
    run = [
        "--model",
        "llama-3.1-8b",
        "--cluster",
        "a100-sxm:1",
        "--num-requests",
        "3",
        "--power-cap",
        "300",
        "--gpu-clock",
        "1275",
    ]
    assert main(["simulate", *run, "--out", str(tmp_path / "run")]) == 0
    assert "power-cap=300W gpu-clock=1275MHz" in capsys.readouterr().out
    config = next((tmp_path / "run").glob("config*")).read_text()
    assert "power_cap_w" in config and "--gpu-clock 1275" in config
    server = build_deployment("llama-3.1-8b", "a100-sxm:1", power_cap=300, gpu_clock=1275)
    assert any("nvidia-smi -pl 300 and nvidia-smi -lgc 1275" in note for note in launch_notes(server))


@pytest.mark.parametrize(
    ("cluster", "option", "words"),
    [
        ("a100-sxm:1", ("--power-cap", "401"), "100 (min_cap_w) to 400 W (tdp_w)"),
        ("a100-sxm:1", ("--power-cap", "99"), "100 (min_cap_w) to 400 W (tdp_w)"),
        ("a100-sxm:1", ("--power-cap", "-5"), "at least 1"),
        ("a100-pcie:1", ("--power-cap", "60"), "10 % above idle"),
        ("a100-sxm:1", ("--gpu-clock", "1411"), "282 to 1410 MHz"),
        ("a100-sxm:1", ("--gpu-clock", "100"), "282 to 1410 MHz"),
        ("m2-ultra", ("--power-cap", "100"), "has no tdp_w"),
    ],
)
def test_what_a_device_cannot_be_set_to_is_refused(cluster, option, words, capsys):
    assert main(["simulate", "--model", "llama-3.1-8b", "--cluster", cluster, "--num-requests", "2", *option]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_largest_clocks_agree_with_the_peaks_they_stand_for():
    """float32 peak = SMs x lanes x 2 x clock, with 64 or 128 lanes per SM; the H20's table has a different peak."""
    checked = 0
    for name in device_names():
        device = load_device(name)
        if device.max_clock_mhz is None or name == "h20":
            continue
        assert device.base_clock_mhz is None or device.base_clock_mhz < device.max_clock_mhz
        peak = device.dense_flop_per_s["float32"]
        clocks = [peak / (device.num_sms * lanes * 2) / 1e6 for lanes in (64, 128)]
        assert min(abs(mhz / device.max_clock_mhz - 1) for mhz in clocks) < 0.01, name
        checked += 1
    assert checked > 15
