"""Two pools from the command line and the API: real models, summaries that add up, mistakes in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

import apex_sim
from apex_sim import UserError
from apex_sim.cli import main
from simulator.disaggregated import DisaggregatedDeployment
from simulator.result_disaggregated import DisaggregatedResult

SMALL = ["simulate", "--model", "llama-3.1-8b", "--cluster", "h100-sxm:4", "--rate", "10", "--num-requests", "80"]
SIZES = ["--input-len", "lognormal(median=1500,sigma=0.5)", "--output-len", "60"]
POOLS = ["--disaggregate", "prefill=tp1,dp2", "decode=tp2,dp1"]


def served(**more: object) -> DisaggregatedResult:
    arguments: dict[str, object] = {
        "disaggregate": ("prefill=tp1,dp2", "decode=tp2"),
        "rate": 10,
        "input_len": 1500,
        "output_len": 60,
        "num_requests": 80,
    }
    result = apex_sim.simulate("llama-3.1-8b", "h100-sxm:4", **(arguments | more))  # type: ignore[arg-type]
    assert isinstance(result, DisaggregatedResult)
    return result


def test_the_command_and_the_api_agree(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--input-len", "1500", "--output-len", "60", *POOLS, "--json", "-"]) == 0
    printed = json.loads(capsys.readouterr().out)
    summary = served().summary
    for name in ("mean_ttft_ms", "p99_tpot_ms", "energy_j", "kv_transfer", "num_gpus"):
        assert printed[name] == summary[name], name


def test_text_names_both_pools_and_what_moved(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, *SIZES, *POOLS, "--slo", "ttft=1s"]) == 0
    text = capsys.readouterr().out
    for part in (
        "prefill on 2 of h100-sxm:4",
        "decode on 2 of h100-sxm:4 (tp=2)",
        "KV transfer  80 requests",
        "NVLink",
        "SLO",
    ):
        assert part in text


def test_files_of_a_run_repeat_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, *SIZES, *POOLS, "--kv-link", "400Gb/s", "--kv-overlap", "--out", str(tmp_path / "a")]) == 0
    config = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
    assert "--disaggregate prefill=tp1,dp2 decode=tp2,dp1" in config["command"]
    assert config["kv_link"]["bandwidth_bytes_per_s"] == 50e9
    assert config["kv_overlap"] is True
    assert (config["prefill"]["parallel"]["dp"], config["decode"]["parallel"]["tp"]) == (2, 2)
    import shlex

    assert main([*shlex.split(config["command"])[1:], "--out", str(tmp_path / "b")]) == 0
    for name in ("summary.json", "timeline.csv", "power.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_pools_add_up_to_the_run() -> None:
    result = served()
    summary, pools = result.summary, result.summary["pools"]
    assert sum(pool["energy_j"] for pool in pools.values()) == pytest.approx(summary["energy_j"])
    assert sum(pool["usd_per_hour"] for pool in pools.values()) == pytest.approx(summary["usd_per_hour"])
    assert sum(pool["num_gpus"] for pool in pools.values()) == summary["num_gpus"] == 4
    parts = summary["prefill_energy_j"] + summary["decode_energy_j"] + summary["idle_energy_j"]
    assert parts == pytest.approx(summary["energy_j"])
    assert result.pools["prefill"].summary["decode_energy_j"] == pytest.approx(0.0, abs=1e-6)
    assert result.pools["decode"].summary["prefill_energy_j"] == pytest.approx(0.0, abs=1e-6)
    hours = summary["duration"] / 3600
    assert summary["usd_per_request"] * summary["completed"] == pytest.approx(summary["usd_per_hour"] * hours)
    assert set(result.timeline["pool"]) == {"prefill", "decode"}
    assert sorted(set(result.timeline["replica"])) == [0, 1, 2]


def test_bytes_are_tokens_times_the_cache_of_a_token() -> None:
    """Llama-3.1-8B: 2 x 32 layers x 8 heads x 128 x 2 B; with fp8 half of it."""
    for kind, expected in (("auto", 131072.0), ("fp8", 65536.0)):
        kv = served(kv_cache_dtype=kind).kv_transfer
        assert kv["bytes_per_token"] == expected
        assert kv["bytes"] == expected * 1500 * 80


def test_pools_may_be_different_devices() -> None:
    result = served(disaggregate=("prefill=tp1,dp1", "decode=tp1,dp1,cluster=a100-sxm-80gb:1,max-num-seqs=8"))
    assert result.summary["kv_transfer"]["link"] == "InfiniBand HDR"
    assert result.deployment.decode.engine.max_num_seqs == 8
    assert result.summary["pools"]["decode"]["peak_running"] <= 8
    apart = [apex_sim.simulate("llama-3.1-8b", c, rate=1, input_len=9, output_len=9, num_requests=9).summary["usd_per_hour"]
             for c in ("h100-sxm:1", "a100-sxm-80gb:1")]  # fmt: skip
    assert result.summary["usd_per_hour"] == pytest.approx(sum(apart))


def test_overlap_and_links_order_latencies() -> None:
    times = [
        served(kv_link=link, kv_overlap=overlap, disaggregate=("prefill=tp1", "decode=tp1")).summary["mean_e2el_ms"]
        for link, overlap in (("inf", False), ("25GB/s", True), ("25GB/s", False), ("2GB/s", False))
    ]
    assert times == sorted(times)


def test_stepping_and_jumping_agree_on_real_models() -> None:
    jumped, stepped = served(), served(exact_steps=True)
    for name in jumped._columns:
        np.testing.assert_array_equal(jumped.column(name), stepped.column(name), err_msg=name)


def test_decoding_is_steadier_without_prompts_beside_it() -> None:
    """2,000 prompt and 200 output tokens at 30 requests/s on four H100s: p99 of TPOT falls by more than a fifth."""
    work = {
        "rate": 30,
        "input_len": "lognormal(median=2000,sigma=0.5)",
        "output_len": "lognormal(median=200,sigma=0.5)",
    }
    two = served(
        disaggregate=("prefill=dp2", "decode=dp2"), **work, num_requests=400, routing="least-outstanding"
    ).summary
    one = apex_sim.simulate(
        "llama-3.1-8b", "h100-sxm:4", dp=4, routing="least-outstanding", num_requests=400, **work  # type: ignore[arg-type]
    ).summary  # fmt: skip
    assert two["p99_tpot_ms"] < 0.8 * one["p99_tpot_ms"]
    assert two["p99_itl_ms"] < 0.3 * one["p99_itl_ms"]


DRAFTS = {"method": "ngram", "num_speculative_tokens": 3, "acceptance": 0.6}


@pytest.mark.parametrize(
    "settings",
    [
        {"speculative_config": DRAFTS},
        {"speculative_config": DRAFTS, "num_gpu_blocks_override": 200, "max_model_len": 2400},
        {"num_gpu_blocks_override": 200, "max_model_len": 2400, "engine": "vllm-v0", "preemption_mode": "swap"},
        {"enable_prefix_caching": True, "routing": "kv-aware"},
        {"engine": "sglang", "kv_cache_dtype": "fp8", "quantization": "fp8"},
        {"engine": "trtllm", "kv_overlap": True},
    ],
    ids=["drafts", "drafts, few blocks", "swap", "prefix cache", "sglang fp8", "trtllm overlap"],
)
def test_pools_go_with_other_techniques(settings: dict[str, object]) -> None:
    """All requests are served, jumps stay exact, and energy is that of the pools."""
    trace = apex_sim.generate_trace(
        rate_per_s=12,
        input_len="lognormal(median=600,sigma=0.5,max=1200)",
        output_len="lognormal(median=80,sigma=0.6,max=300)",
        num_requests=120,
        prefix=apex_sim.SharedPrefix(tokens=400, groups=3),
    )
    work = {"trace": trace, "rate": None, "input_len": None, "output_len": None, "num_requests": None}
    jumped, stepped = served(**work, **settings), served(**work, **settings, exact_steps=True)
    for name in jumped._columns:
        np.testing.assert_array_equal(jumped.column(name), stepped.column(name), err_msg=name)
    summary = jumped.summary
    assert summary["completed"] == 120
    assert sum(pool["energy_j"] for pool in summary["pools"].values()) == pytest.approx(summary["energy_j"])
    assert (summary["prefix_hit_rate"] > 0.1) == (settings.get("engine") != "vllm-v0")


@pytest.mark.parametrize("device", ["h100-sxm", "a100-sxm-80gb"])
def test_a_decode_pool_without_work_has_no_utilisation(device: str) -> None:
    pools = apex_sim.simulate(
        "llama-3.1-8b", f"{device}:2", disaggregate=("prefill=tp1", "decode=tp1"), rate=5, input_len=200, output_len=1,
        num_requests=10,
    ).summary["pools"]  # fmt: skip
    assert pools["decode"]["mfu"] == pools["decode"]["utilisation"] == 0 < pools["prefill"]["mfu"]


def test_prompts_are_found_in_the_caches_of_the_prefill_pool() -> None:
    prefix = apex_sim.SharedPrefix(tokens=400, groups=3)
    trace = apex_sim.generate_trace(rate_per_s=5, input_len=600, output_len=20, num_requests=60, prefix=prefix)
    summary = apex_sim.simulate(
        "llama-3.1-8b", "h100-sxm:4", disaggregate=("prefill=tp1,dp2", "decode=tp1"), trace=trace, kv_offloading_size=10
    ).summary
    prefill, decode = summary["pools"]["prefill"], summary["pools"]["decode"]
    assert min(prefill["replica_prefix_hit_rates"]) > 0.1 < prefill["prefix_hit_rate"] == summary["prefix_hit_rate"]
    assert (decode["replica_prefix_hit_rates"], decode["prefix_hit_rate"], decode["kv_tiers"]) == ([0.0], 0.0, [])
    assert summary["replica_prefix_hit_rates"] == [*prefill["replica_prefix_hit_rates"], 0.0]
    assert [tier["tier"] for tier in summary["kv_tiers"]] == ["host"]


def test_capping_decode_costs_little_and_capping_prompts_does_not() -> None:
    """Splitwise (ISCA 2024): the token phase runs at half the power as fast, the prompt phase takes 1.3 times as long."""

    def mean(prefill: str, decode: str) -> tuple[float, float, float]:
        s = apex_sim.simulate(
            "llama-2-70b",
            "h100-sxm:8x2",
            disaggregate=(f"prefill=tp8{prefill}", f"decode=tp8{decode}"),
            rate=6,
            input_len="lognormal(median=1020,sigma=0.9,max=3500)",
            output_len="lognormal(median=129,sigma=0.9,max=500)",
            num_requests=300,
        ).summary
        return s["mean_ttft_ms"], s["mean_tpot_ms"], s["energy_j"]

    free, capped, both = mean("", ""), mean("", ",power-cap=350"), mean(",power-cap=350", ",power-cap=350")
    assert capped[0] == free[0]
    assert capped[1] < 1.03 * free[1]
    assert capped[2] < 0.95 * free[2]
    assert both[0] > 1.2 * free[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--disaggregate", "prefill=tp1", "x=tp1"], "a pool is prefill"),
        (["--disaggregate", "prefill=tp1", "prefill=tp1"], "twice"),
        (["--disaggregate", "prefill=", "decode=tp1"], "the prefill pool has no devices"),
        (["--disaggregate", "prefill=tp1,dp0", "decode=tp1"], "prefill pool: --dp is 0"),
        (["--disaggregate", "prefill=tp1,dp2", "decode=tp1,dp3"], "prefill needs 2 devices and decode 3"),
        (["--disaggregate", "prefill=tp1,foo=1", "decode=tp1"], "foo=1"),
        (["--disaggregate", "prefill=tp1,tp2", "decode=tp1"], "twice"),
        (["--disaggregate", "prefill=tp1", "decode=tp1,cluster=rtx-4090:1,max-model-len=999999"], "decode pool"),
        (["--disaggregate", "prefill=tp1", "decode=tp1", "--kv-link", "0GB/s"], "--kv-link"),
        (["--disaggregate", "prefill=tp1", "decode=tp1", "--kv-link", "fast"], "--kv-link"),
        (["--disaggregate", "prefill=tp1", "decode=tp1", "--engine", "orca", "--max-model-len", "4096"], "orca"),
        (["--disaggregate", "prefill=tp1", "decode=tp1,kv-cache-dtype=fp8"], "--kv-cache-dtype"),
        (["--disaggregate", "prefill=tp1", "decode=tp1", "--tp", "2"], "prefill=tp2"),
        (["--kv-overlap"], "--disaggregate"),
        (["--kv-link", "1GB/s"], "--disaggregate"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, *SIZES, *arguments]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out


def test_the_code_of_the_page_runs() -> None:
    page = (Path(__file__).parent.parent / "docs" / "disaggregation.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, flags=re.M | re.S)
    assert len(blocks) == 1
    names: dict[str, object] = {}
    exec(compile(blocks[0], "docs/disaggregation.md", "exec"), names)
    result = names["result"]
    assert isinstance(result, DisaggregatedResult)
    for name in (*result.summary["pools"]["prefill"], *result.kv_transfer):
        assert name in page or name in result.summary, name


def test_api_refuses_what_the_command_refuses() -> None:
    for more in ({"tp": 2}, {"disaggregate": 3}, {"disaggregate": {"prefill": {"tp": 1}}}):
        with pytest.raises(UserError):
            served(**more)
    with pytest.raises(UserError, match="one model"):
        DisaggregatedDeployment(
            prefill=apex_sim.build_deployment("llama-3.1-8b", "h100-sxm:1"),
            decode=apex_sim.build_deployment("qwen3-8b", "h100-sxm:1"),
        )
