"""Experts in a cache and attention elsewhere beside other techniques: both modes, bounds, nonsense, reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from offload_helpers import build, host

from apex_sim import cli, simulate
from apex_sim.case_studies.inline import written
from hardware_profiles.errors import UserError
from hardware_profiles.records import read_yaml
from planners.bounds import bound
from planners.demand import WorkloadStats
from planners.launch import launch_notes
from simulator.physics.explain import step_shape
from workloads.slo import Slo

# -- both modes, combined, bounds --------------------------------------------------------------------------------------

MIXTRAL: dict[str, Any] = {"model": "mixtral-8x7b"}
LLAMA: dict[str, Any] = {"model": "llama-3.1-8b"}
COMBINED = (
    {**MIXTRAL, "expert_cache_size": 3, "enable_prefix_caching": True, "moe_skew": 0.8},
    {
        **MIXTRAL,
        "expert_cache_gb": 30.0,
        "expert_prefetch": "attention",
        "expert_cache_eviction": "lfu",
        "kv_compression": 0.5,
    },
    {
        **MIXTRAL,
        "expert_cache_gb": 30.0,
        "expert_prefetch": "layer",
        "expert_prefetch_accuracy": 0.7,
        "devices": 2,
        "pp": 2,
    },
    {
        **MIXTRAL,
        "expert_cache_size": 3,
        "offload_source": "nvme-pcie4",
        "attention_device": "cpu",
        "attention_device_gb": 4.0,
    },
    {
        **MIXTRAL,
        "expert_cache_size": 3,
        "speculative_config": {"method": "ngram", "num_speculative_tokens": 3, "acceptance": 0.6},
    },
    {
        **LLAMA,
        "attention_device": "cpu",
        "attention_device_gb": 1.0,
        "cpu_offload_gb": 6.0,
        "offload_backend": "prefetch",
    },
    {**LLAMA, "attention_device": "instcsd:2", "attention_device_serial": True, "enable_lora": True, "num_loras": 5},
    {**LLAMA, "attention_device": "nvme-pcie4", "attention_density": 0.2, "devices": 2, "dp": 2},
    {**LLAMA, "attention_device": "cpu", "attention_device_gb": 2.0, "attention_top_k": 128, "devices": 2, "pp": 2},
    {
        **LLAMA,
        "cpu_offload_gb": 5.0,
        "offload_backend": "cpu-neurons",
        "activation_sparsity": 0.9,
        "activation_skew": 0.8,
    },
    {**LLAMA, "cpu_offload_gb": 5.0, "offload_backend": "blocking", "kv_cache_dtype": "fp8"},
)


def _load(settings: dict[str, Any]) -> dict[str, Any]:
    given = dict(settings)
    cluster = host(f"a40:{given.pop('devices', 1)}")
    load = {"rate": 3.0, "input_len": "lognormal(median=200,sigma=0.8)", "output_len": "40", "num_requests": 25}
    return {"cluster": cluster, "max_model_len": 2048, **load, **given}


@pytest.mark.parametrize("settings", COMBINED, ids=str)
def test_spans_equal_single_steps(settings: dict[str, Any]) -> None:
    spans, steps = (simulate(exact_steps=exact, **_load(settings)) for exact in (False, True))
    for name in ("finish_s", "first_token_s"):
        assert spans.requests[name].tolist() == steps.requests[name].tolist()
    for name in ("duration", "engine_steps", "expert_hit_rate", "expert_link_bytes", "mean_itl_ms"):
        assert spans.summary.get(name) == steps.summary.get(name)
    assert spans.summary["energy_j"] == pytest.approx(steps.summary["energy_j"], rel=1e-9)


BASES: tuple[dict[str, Any], ...] = (
    {**MIXTRAL, "expert_cache_size": 3},
    {**MIXTRAL, "expert_cache_gb": 30.0, "expert_prefetch": "layer", "expert_prefetch_accuracy": 0.6, "moe_skew": 0.5},
    {**LLAMA, "attention_device": "cpu", "attention_device_gb": 2.0},
    {**LLAMA, "attention_device": "instcsd", "attention_device_serial": True},
    {**LLAMA, "cpu_offload_gb": 5.0, "offload_backend": "cpu-layers"},
)
BESIDE: tuple[dict[str, Any], ...] = (
    {"batching": "prefill-first"},
    {"scheduling_policy": "sjf"},
    {"enable_lora": True, "num_loras": 9, "max_loras": 2},
    {"enable_prefix_caching": True, "kv_offloading_size": 4.0},
    {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2, "acceptance": 0.5}},
    {"preemption_mode": "swap", "num_gpu_blocks_override": 150},
    {"interference": "memory=1.5,host_link=2,on=3s,off=3s"},
    {"sm_split": "0.5"},
    {"quantization": "int4"},
    {"gpu_clock": 900.0},
    {"num_gpu_blocks_override": 140},
)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_beside_it_both_modes_agree_or_it_is_refused(seed: int) -> None:
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(BESIDE), size=2, replace=False)
    settings = {**BASES[seed % len(BASES)], **BESIDE[chosen[0]], **BESIDE[chosen[1]]}
    runs = []
    for exact in (False, True):
        try:
            runs.append(simulate(exact_steps=exact, **_load(settings)))
        except UserError as error:
            assert "\n" not in str(error)
            return
    spans, steps = runs
    for name in ("finish_s", "first_token_s"):
        assert spans.requests[name].tolist() == steps.requests[name].tolist()
    assert spans.summary["engine_steps"] == steps.summary["engine_steps"]
    assert spans.summary.get("expert_hit_rate") == steps.summary.get("expert_hit_rate")
    outputs = spans.requests["output_tokens"].sum()
    assert outputs == steps.requests["output_tokens"].sum() == 25 * 40


@pytest.mark.parametrize("settings", [c for c in COMBINED if "speculative_config" not in c], ids=str)
def test_breakdown_adds_up_and_no_simulation_beats_the_bounds(settings: dict[str, Any]) -> None:
    keywords = _load(settings)
    result = simulate(**keywords)
    model = result.deployment.step_model
    for seqs, context, prefill in ((20, 900, 0), (20, 900, 400), (0, 0, 1000)):
        shape = step_shape(decode_seqs=seqs, context=context, prefill=prefill, window=model.window)
        assert sum(c.seconds for c in model.explain(shape)) == pytest.approx(model.step(shape)[0], rel=1e-9)
        assert sum(model.stage_s(shape)) == pytest.approx(model.step(shape)[0], rel=1e-9)
    bounds = bound(result.deployment, WorkloadStats.of(result.trace), Slo(ttft_s=1.0))
    assert result.summary["request_throughput"] <= bounds.capacity_per_s * (1 + 1e-9)
    assert result.summary["duration"] >= bounds.duration_s * (1 - 1e-9)
    assert result.summary["p95_tpot_ms"] >= 1e3 * bounds.p95_tpot_s * (1 - 1e-9)
    assert result.summary["p95_ttft_ms"] >= 1e3 * bounds.p95_ttft_s * (1 - 1e-9)


# -- nonsense, and what comes out --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--model mixtral-8x7b --expert-cache-size 1", "a token needs 2"),
        ("--model mixtral-8x7b --expert-cache-gb 5", "Use 21"),
        ("--model mixtral-8x7b --expert-cache-size 9", "at most 8"),
        ("--model mixtral-8x7b --expert-cache-size 4", "host memory"),
        ("--model mixtral-8x7b --expert-cache-size 4 --expert-cache-gb 40", "drop one"),
        ("--model mixtral-8x7b --expert-cache-size 4 --cpu-offload-gb 4", "drop one"),
        ("--model mixtral-8x7b --expert-cache-size 4 --expert-prefetch later", "attention"),
        ("--model mixtral-8x7b --expert-cache-size 4 --expert-cache-eviction mru", "lru"),
        ("--model mixtral-8x7b --expert-cache-size 4 --expert-prefetch-accuracy 0.5", "--expert-prefetch"),
        ("--expert-prefetch layer", "--expert-cache-gb"),
        ("--expert-cache-gb 4", "no routed experts"),
        ("--attention-device cpu", "--attention-device-gb"),
        ("--attention-device cpu --attention-device-gb 900", "Use at most"),
        ("--attention-device cpu:2 --attention-device-gb 9", "write cpu"),
        ("--attention-device instcsd:0", "instcsd:2"),
        ("--attention-device l40s", "computational storage"),
        ("--attention-device-gb 9", "--attention-device"),
        ("--attention-device instcsd --preemption-mode swap", "drop --preemption-mode"),
        ("--attention-device instcsd --nano-batch-tokens 64", "drop one"),
        ("--attention-device instcsd --enable-prefix-caching --kv-offloading-size 9", "drop --kv-offloading-size"),
        (
            '--attention-device instcsd --speculative-config {"method":"ngram","num_speculative_tokens":2,"acceptance":0.5}',
            "one token",
        ),
        ("--cpu-offload-gb 4 --offload-backend cpu-layers --offload-source nvme-pcie4", "cannot read a drive"),
        ("--model mixtral-8x7b --cpu-offload-gb 4 --offload-backend cpu-neurons", "no dense MLP"),
        ("--cpu-offload-gb 13 --offload-backend cpu-neurons", "dense MLPs have"),
        ("--activation-skew 1", "--activation-sparsity"),
    ],
)
def test_nonsense_is_one_line(arguments: str, named: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "device: a40\nhost_memory_bandwidth_bytes_per_s: 2.0e+11\nhost_memory_bytes: 64000000000\n"
    )
    model = [] if "--model" in arguments else ["--model", "llama-3.1-8b"]
    command = ["simulate", *model, "--cluster", str(tmp_path / "c.yaml"), *arguments.split()]
    assert cli.main([*command, "--rate", "1", "--num-requests", "1", "--input-len", "9", "--output-len", "2"]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert len(error.strip().splitlines()) == 1


def test_host_memory_of_unknown_speed_asks_for_a_cluster_file() -> None:
    machines = host(host_memory_bandwidth_bytes_per_s=None)
    for settings in (
        {"attention_device": "cpu", "attention_device_gb": 9.0},
        {"cpu_offload_gb": 4.0, "offload_backend": "cpu-layers"},
    ):
        with pytest.raises(UserError, match="host_memory_bandwidth_bytes_per_s"):
            _ = build("llama-3.1-8b", machines, **settings).step_model


def test_launch_notes_say_what_vllm_has_no_flag_for() -> None:
    notes = launch_notes(build(expert_cache_size=2, expert_prefetch="layer"))
    assert any("expert-cache=2" in note for note in notes)
    assert any(
        "cpu-layers" in n for n in launch_notes(build("llama-3.1-8b", cpu_offload_gb=2, offload_backend="cpu-layers"))
    )


def test_files_of_cases_keep_small_numbers() -> None:
    with written({"files": {"d.yaml": {"latency_s": 1e-5}}, "cluster": "d.yaml:1"}) as settings:
        assert read_yaml(Path(settings["cluster"].removesuffix(":1"))) == {"latency_s": 1e-5}


def test_two_pools_count_their_experts_together() -> None:
    """Every byte over a link is of one of the pools."""
    settings: dict[str, Any] = {
        "expert_cache_size": 3,
        "rate": 3.0,
        "input_len": "100",
        "output_len": "20",
        "num_requests": 8,
    }
    pools = {"prefill": {"tp": 1, "expert_cache_size": 4}, "decode": {"tp": 2}}
    summary = simulate("mixtral-8x7b", host("h100-sxm:4"), disaggregate=pools, max_model_len=512, **settings).summary
    parts = summary["pools"].values()
    assert summary["expert_link_bytes"] == pytest.approx(sum(p["expert_link_bytes"] for p in parts))
    assert [p["expert_hit_rate"] for p in parts] == pytest.approx([0.5, 0.375])
    assert 0.375 < summary["expert_hit_rate"] < 0.5
