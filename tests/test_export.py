"""Exports start what was planned: flags of the version, memory enough, and every file reads back to the plan."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from export_cases import MORE, export, made, requests
from test_planner_launch import CASES

from apex_sim.api import load_trace
from hardware_profiles.errors import UserError
from planners.export.benchmark import Benchmark, benchmark_of, trace_of
from planners.export.bundle import at_version, files_of, from_json_values, to_json_values
from planners.export.flags import check_flags, engines, parse, version_of
from planners.export.kubernetes import image_of
from planners.export.make import export_of, export_of_mix
from planners.export.memory import check_memory
from planners.export.readback import Mismatch, check_export
from planners.export.replay import replay_files
from simulator.build import build_deployment
from workloads.slo import parse_slo
from workloads.synthetic import SharedPrefix, generate
from workloads.trace import Trace


@pytest.mark.parametrize("name", [*CASES, *MORE, "pools"])
def test_every_file_reads_back_to_the_plan(name: str) -> None:
    what = export(name)
    files = files_of(what)
    check_export(what, files)
    deployment = made(name)
    pools = [pool for _, pool in deployment.pools] if name.startswith("pools") else [deployment]  # type: ignore[union-attr]
    for server, pool in zip(what.servers, pools, strict=True):
        assert server.count * server.devices == pool.plan.num_devices
    assert from_json_values(json.loads(json.dumps(to_json_values(what))), "x") == what


def words(text: str, flag: str, value: str) -> str:
    assert flag in text
    return text.replace(flag, value)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("serve.sh", "--tensor-parallel-size 1", "--tensor-parallel-size 2"),
        ("serve.sh", "--max-num-seqs", "--max-num-seq"),
        ("kubernetes-llama-3-1-8b-serve.yaml", "nvidia.com/gpu: '1'", "nvidia.com/gpu: '2'"),
        ("kubernetes-llama-3-1-8b-serve.yaml", "NVIDIA-H100-80GB-HBM3", "NVIDIA-L4"),
        ("kubernetes-llama-3-1-8b-serve.yaml", "replicas: 1", "replicas: 3"),
        ("kubernetes-llama-3-1-8b-serve.yaml", "- '131072'", "- '4096'"),
        ("bench.sh", "--request-rate 2", "--request-rate 3"),
        ("export.json", '"count": 1', '"count": 2'),
    ],
)
def test_a_file_that_says_something_else_is_found(file: str, old: str, new: str) -> None:
    """A check that finds nothing is no check."""
    what = export("one")
    files = files_of(what)
    with pytest.raises((Mismatch, ValueError)):
        check_export(what, files | {file: words(files[file], old, new)})


def test_memory_that_does_not_suffice_is_refused() -> None:
    need = export("one").servers[0].memory
    check_memory(need, 0.9, "here")
    with pytest.raises(UserError, match=r"here: weights, activations and KV cache need .* GB at 0.5"):
        check_memory(need, 0.5, "here")


def test_versions_in_the_table_are_in_order() -> None:
    for engine in engines().values():
        for flag in engine.flags.values():
            assert version_of(flag.first) <= version_of(flag.last or engine.checked)
            assert flag.takes in ("none", "int", "float", "text", "json", "list")


def test_flags_belong_to_versions() -> None:
    assert check_flags("vllm", "0.33", ["--swap-space", "4"]) == [
        "--swap-space needs vllm 0.2 to 0.17, the plan is for 0.33"
    ]
    assert check_flags("vllm", "0.7", ["--swap-space", "4"]) == []
    assert check_flags("vllm", "0.10", ["--kv-offloading-size", "4"]) != []
    assert check_flags("sglang", "0.5", ["--tensor-parallel-size"]) != []


def test_values_belong_to_versions() -> None:
    """Blocks of 48 tokens are for vLLM from 0.18 on, a KV cache in float16 from 0.19."""
    assert check_flags("vllm", "0.12", ["--block-size", "48"]) == [
        "--block-size of vllm 0.12 takes 8, 16, 32, 64, 128, 1, 256, not 48"
    ]
    assert check_flags("vllm", "0.19", ["--block-size", "48"]) == []
    assert check_flags("vllm", "0.16", ["--kv-cache-dtype", "float16"]) != []
    assert check_flags("vllm", "0.19", ["--kv-cache-dtype", "float16"]) == []
    assert check_flags("sglang", "0.5.5", ["--cpu-offload-gb", "2.5"]) == [
        "--cpu-offload-gb of sglang takes a whole number, not 2.5"
    ]


def test_a_flag_that_an_old_server_needs_not_is_left_out() -> None:
    """vLLM 0.8 schedules synchronously and knows no flag for it; 0.12 does with a flag."""
    for version, given in (("0.8.5", False), ("0.12", True)):
        plan = build_deployment("llama-3.1-8b", "h100-sxm:1", engine=f"vllm-v1@{version}")
        assert ("--no-async-scheduling" in export_of(plan, requests()).servers[0].command) is given


def test_another_version_is_checked_again() -> None:
    what = export("tiers")
    assert at_version(what, what.servers[0].version) == what
    assert any("figures are those of version 0.19.0" in note for note in at_version(what, "0.33").notes)
    assert image_of(at_version(what, "0.33").servers[0]) == "vllm/vllm-openai:v0.33.0"
    with pytest.raises(UserError, match=r"--kv-offloading-size needs vllm 0\.11\.1 or later, not 0\.10\.0"):
        at_version(what, "0.10")
    with pytest.raises(UserError, match="--engine-version is 'new'"):
        at_version(what, "new")


def test_other_engines_get_what_was_planned() -> None:
    """Blocks, memory, schedule and whole prompts, where they are not the engine's own choice; else a note."""

    def server(engine: str, **settings: object) -> tuple[str, dict[str, Any]]:
        plan = build_deployment("llama-3.1-8b", "h100-sxm:1", engine=engine, **settings)  # type: ignore[arg-type]
        found = export_of(plan, requests()).servers[0]
        return " ".join(found.command), dict(found.config)

    assert "--mem-fraction-static" not in server("sglang")[0]
    share = parse("sglang", server("sglang", gpu_memory_utilization=0.7)[0].split())["flags"]["--mem-fraction-static"]
    pool = build_deployment("llama-3.1-8b", "h100-sxm:1", engine="sglang", gpu_memory_utilization=0.7)
    needed = (pool.memory.weight_bytes + pool.memory.kv_bytes) / pool.memory.device_bytes
    assert needed - 1e-3 <= share <= needed
    assert "--max-total-tokens 1000" in server("sglang", num_gpu_blocks_override=1000)[0]
    assert "--disable-overlap-schedule" in server("sglang", async_scheduling=False)[0]
    plain = server("trtllm")[1]
    assert plain == {
        "enable_chunked_prefill": False,
        "kv_cache_config": {"free_gpu_memory_fraction": 0.9, "enable_block_reuse": True},
    }
    assert server("trtllm", num_gpu_blocks_override=1000)[1]["kv_cache_config"]["max_tokens"] == 32_000
    assert server("trtllm", block_size=64)[1]["kv_cache_config"]["tokens_per_block"] == 64
    assert server("trtllm", async_scheduling=False, dtype="float16")[1] == plain | {
        "dtype": "float16",
        "disable_overlap_scheduler": True,
    }
    assert server("trtllm", batching="chunked")[1]["enable_chunked_prefill"] is True
    static = build_deployment("llama-3.1-8b", "h100-sxm:1", engine="trtllm", batching="static")
    assert "The plan batches static; trtllm has no such setting." in export_of(static, requests()).notes
    for engine, says in (("sglang", "--enable-priority-scheduling"), ("trtllm", "no setting of trtllm-serve")):
        plan = build_deployment("llama-3.1-8b", "h100-sxm:1", engine=engine, scheduling_policy="priority")
        assert says in " ".join(export_of(plan, requests()).notes)


def test_what_the_options_say_is_no_note() -> None:
    assert not any("Say so in the YAML" in note for note in export("trtllm").notes)


def test_a_configuration_of_ones_own_has_no_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, '
        '"num_hidden_layers": 2, "vocab_size": 100, "max_position_embeddings": 2048, "torch_dtype": "bfloat16"}'
    )
    notes = export_of(build_deployment(str(tmp_path), "l4:1"), requests()).notes
    assert any("put the place of its weights" in note for note in notes)
    assert not any("weights" in note for note in export("one").notes)


def test_ranks_of_adapters_are_those_that_vllm_takes() -> None:
    plan = build_deployment("llama-3.1-8b", "h100-sxm:1", enable_lora=True, max_lora_rank=24)
    with pytest.raises(UserError, match=r"--max-lora-rank of vllm .* takes .*, not 24"):
        export_of(plan, requests())


def test_a_server_keeps_its_schedule_in_another_version() -> None:
    """Asynchronous scheduling is the default from 0.14, a flag before, and not there before 0.10."""
    what = export_of(build_deployment("llama-3.1-8b", "h100-sxm:1", engine="vllm-v1@0.19"), requests())
    given = {v: "--async-scheduling" in at_version(what, v).servers[0].command for v in ("0.9", "0.12", "0.33")}
    assert given == {"0.9": False, "0.12": True, "0.33": False}


def test_models_without_prompts_have_no_benchmark_and_those_without_a_server_no_export() -> None:
    for name in ("bert-base", "whisper-tiny"):
        one = generate(input_len=50, output_len=1, num_requests=5, rate_per_s=2.0)
        what = export_of(build_deployment(name, "l4:1"), one)
        check_export(what, files_of(what))
        assert not what.benchmarks and "expected.json" not in files_of(what)
    with pytest.raises(UserError, match="vLLM does not serve t5 models"):
        export_of(build_deployment("t5-small", "l4:1"), requests())


def test_a_mix_has_servers_and_a_benchmark_of_every_type() -> None:
    mix = {
        "h100-sxm:2": (build_deployment("llama-3.1-8b", "h100-sxm:2x3", tp=2, dp=3), requests()),
        "l4": (build_deployment("llama-3.1-8b", "l4:1x2", dp=2), None),
    }
    routes = [{"size": "500 in / 50 out", "shares": {"l4": 0.25, "h100-sxm:2": 0.75}}]
    what = export_of_mix(mix, parse_slo("ttft=1s"), 0, {"usd_per_hour": 9.0}, routes)
    files = files_of(what)
    check_export(what, files)
    assert [(s.role, s.count, s.devices) for s in what.servers] == [("h100-sxm-2", 3, 2), ("l4", 2, 1)]
    assert {"bench-h100-sxm-2.sh", "kubernetes-llama-3-1-8b-l4.yaml", "routes.json"} < set(files)
    assert "bench-l4.sh" not in files  # nothing is sent there
    assert "bench-h100-sxm-2.sh needs the address of a load balancer" in files["serve-llama-3-1-8b-h100-sxm-2.sh"]
    assert json.loads(files["expected.json"])["planned"] == {"usd_per_hour": 9.0}


def test_the_benchmark_sends_what_was_simulated() -> None:
    closed = generate(input_len=100, output_len=10, num_requests=500, arrival="closed(concurrency=8)")
    bench = benchmark_of("m", closed, None, 3)
    read = parse("vllm-bench", bench.command)
    assert read["concurrency"] == 8 and read["rate_per_s"] == float("inf")
    assert read["spread"] == 0  # not the default of every release: 0.8.5 and 0.9.0 have one that they refuse
    sent = trace_of(bench)
    assert sent.concurrency == 8 and len(sent) == 500
    paced = dataclasses.replace(bench, concurrency=None, rate_per_s=4.0)
    assert trace_of(paced).request_rate_per_s == pytest.approx(4.0, rel=0.2)  # 500 Poisson arrivals
    at_once = Benchmark(
        model="m", input_tokens=5, output_tokens=5, rate_per_s=None, concurrency=None, num_requests=9, seed=0
    )
    assert trace_of(at_once).duration_s == 0


def test_the_trace_is_replayed_as_it_was_planned_for(tmp_path: Path) -> None:
    """Read by the reader of Mooncake's traces: times, lengths, and who shares how much of the prompt with whom."""
    shared = generate(
        input_len=90, output_len=7, num_requests=30, rate_per_s=3.0, prefix=SharedPrefix(groups=3, tokens=70)
    )
    for trace in (requests(), shared):
        files = replay_files("m", trace, 0)
        (tmp_path / "t.jsonl").write_text(files["trace.jsonl"])
        block = trace.prefix_block_tokens or 512
        read = load_trace(tmp_path / "t.jsonl", format="mooncake", block_tokens=block)
        assert read.input_tokens.tolist() == trace.input_tokens.tolist()
        assert read.output_tokens.tolist() == trace.output_tokens.tolist()
        assert read.arrival_s == pytest.approx(trace.arrival_s - trace.arrival_s[0], abs=1e-6)
        assert prefix_pairs(read) == prefix_pairs(trace)
    assert prefix_pairs(shared)
    closed = generate(input_len=9, output_len=9, num_requests=9, arrival="closed(concurrency=2)")
    assert replay_files("m", closed, 0) == {}


def prefix_pairs(trace: Trace) -> set[tuple[int, int, int]]:
    """(request, later request, pieces of the prompt that are equal from the start)."""
    found: set[tuple[int, int, int]] = set()
    if trace.prefix_ids is None or trace.prefix_offsets is None:
        return found
    count = trace.input_tokens // trace.prefix_block_tokens
    ids = [
        trace.prefix_ids[a:b].tolist()[:n]
        for a, b, n in zip(trace.prefix_offsets, trace.prefix_offsets[1:], count, strict=False)
    ]
    for i, mine in enumerate(ids):
        for j in range(i + 1, len(ids)):
            same = next((k for k, (x, y) in enumerate(zip(mine, ids[j], strict=False)) if x != y), None)
            length = min(len(mine), len(ids[j])) if same is None else same
            if length:
                found.add((i, j, length))
    return found
