"""Exports start what was planned: flags of the version, memory enough, and every file reads back to the plan."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_planner_launch import CASES
from test_planner_launch import deployment as launched

import apex_sim
from apex_sim.api import load_trace
from apex_sim.cli import main
from hardware_profiles.errors import UserError
from planners.export.benchmark import Benchmark, benchmark_of, trace_of
from planners.export.bundle import Export, at_version, files_of, from_json_values, to_json_values
from planners.export.flags import check_flags, engines, parse, version_of
from planners.export.kubernetes import image_of, name_of, node_selector
from planners.export.make import export_of
from planners.export.memory import check_memory
from planners.export.readback import Mismatch, check_export
from planners.export.replay import replay_files
from planners.launch import VLLM_FLAGS
from planners.launch_engines import SGLANG_FLAGS, TRTLLM_FLAGS
from planners.pools import AnyDeployment
from simulator.build import build_deployment
from simulator.build_disaggregated import build_disaggregated
from workloads.slo import parse_slo
from workloads.synthetic import SharedPrefix, generate
from workloads.trace import Trace

POOLS = {"prefill": {"tp": 1, "dp": 2}, "decode": {"tp": 2, "dp": 2}}
MORE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "sglang": ("llama-3.1-8b", "h100-sxm:8", {"engine": "sglang", "tp": 2, "dp": 2}),
    "trtllm": ("llama-3.1-8b", "h100-sxm:8", {"engine": "trtllm", "tp": 2, "dp": 2, "kv_cache_dtype": "fp8"}),
    "old": ("llama-3.1-8b", "h100-sxm:8", {"engine": "vllm-v0", "tp": 2, "dp": 2}),
    "experts on two nodes": ("deepseek-ai/DeepSeek-V3", "h200-sxm:8x2", {"tp": 1, "dp": 16, "ep": 16}),
    "sglang on two nodes": ("llama-3.1-405b", "h100-sxm:8x2", {"engine": "sglang", "tp": 8, "pp": 2}),
    "trtllm on two nodes": ("llama-3.1-405b", "h100-sxm:8x2", {"engine": "trtllm", "tp": 8, "pp": 2}),
    "AMD": ("llama-3.1-8b", "mi300x:8", {"tp": 2}),
    "slices": ("llama-3.1-8b", "h100-sxm@3g.40gb:2", {"dp": 2}),
}


def requests() -> Trace:
    return generate(input_len=500, output_len=50, num_requests=20, rate_per_s=2.0)


def made(name: str) -> AnyDeployment:
    if name == "pools":
        return build_disaggregated("llama-3.1-8b", "h100-sxm:8", POOLS)
    if name not in MORE:
        return launched(name)
    model, cluster, settings = MORE[name]
    return build_deployment(model, cluster, **settings)


def export(name: str) -> Export:
    return export_of(made(name), requests(), parse_slo("ttft=1s,tpot=50ms"))


@pytest.mark.parametrize("name", [*CASES, *MORE, "pools"])
def test_every_file_reads_back_to_the_plan(name: str) -> None:
    what = export(name)
    files = files_of(what)
    check_export(what, files)
    deployment = made(name)
    pools = [pool for _, pool in deployment.pools] if name == "pools" else [deployment]  # type: ignore[union-attr]
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


def test_the_table_has_every_flag_of_the_launch_commands() -> None:
    table = engines()
    for engine, flags in (("vllm", VLLM_FLAGS), ("sglang", SGLANG_FLAGS), ("trtllm", TRTLLM_FLAGS)):
        assert flags <= set(table[engine].flags)
    for engine in table.values():
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


def test_a_flag_that_an_old_server_needs_not_is_left_out() -> None:
    """vLLM 0.8 schedules synchronously and knows no flag for it; 0.12 does with a flag."""
    for version, given in (("0.8.5", False), ("0.12", True)):
        plan = build_deployment("llama-3.1-8b", "h100-sxm:1", engine=f"vllm-v1@{version}")
        assert ("--no-async-scheduling" in export_of(plan, requests()).servers[0].command) is given


def test_another_version_is_checked_again() -> None:
    what = export("tiers")
    assert image_of(at_version(what, "0.33").servers[0]) == "vllm/vllm-openai:v0.33.0"
    with pytest.raises(UserError, match=r"--kv-offloading-size needs vllm 0\.11\.1 or later, not 0\.10\.0"):
        at_version(what, "0.10")
    with pytest.raises(UserError, match="--engine-version is 'new'"):
        at_version(what, "new")


def test_a_server_over_nodes_is_a_leader_worker_set() -> None:
    what = export("experts on two nodes")
    file = files_of(what)[f"kubernetes-{name_of(what.servers[0])}.yaml"]
    group = next(yaml.safe_load_all(file))
    template = group["spec"]["leaderWorkerTemplate"]
    assert group["kind"] == "LeaderWorkerSet" and template["size"] == 2
    leader, worker = (template[f"{who}Template"]["spec"]["containers"][0]["args"][0] for who in ("leader", "worker"))
    assert "--data-parallel-size 16" in leader and "--data-parallel-size-local 8" in leader
    assert "--headless --data-parallel-start-rank $((LWS_WORKER_INDEX*8))" in worker


def test_nodes_join_by_ray_before_vllm_could_do_it_itself() -> None:
    what, name = export("two nodes"), "kubernetes-llama-3-1-405b-serve.yaml"
    new, old = files_of(what), files_of(at_version(what, "0.10"))
    assert "--nnodes 2 --node-rank" in new[name] and "--headless" in new[name] and "ray" not in new[name]
    assert "ray start --head" in old[name] and "ray start --address" in old[name] and "--nnodes" not in old[name]
    check_export(at_version(what, "0.10"), old)


def test_a_server_keeps_its_schedule_in_another_version() -> None:
    """Asynchronous scheduling is the default from 0.14, a flag before, and not there before 0.10."""
    what = export_of(build_deployment("llama-3.1-8b", "h100-sxm:1", engine="vllm-v1@0.19"), requests())
    given = {v: "--async-scheduling" in at_version(what, v).servers[0].command for v in ("0.9", "0.12", "0.33")}
    assert given == {"0.9": False, "0.12": True, "0.33": False}


def test_two_pools_become_an_inference_service_and_values_of_a_chart() -> None:
    files = files_of(export("pools"))
    service = yaml.safe_load(files["kserve.yaml"])
    assert service["kind"] == "LLMInferenceService"
    assert service["spec"]["parallelism"]["tensor"] == 2 and service["spec"]["prefill"]["parallelism"]["tensor"] == 1
    values = yaml.safe_load(files["llm-d-values.yaml"])
    assert values["decode"]["parallelism"] == {"tensor": 2, "data": 1, "dataLocal": 1, "workers": 1}
    assert values["decode"]["replicas"] == values["prefill"]["replicas"] == 2
    assert "--tensor-parallel-size" not in values["decode"]["containers"][0]["args"]
    assert not any(name.startswith("kubernetes-") for name in files)


def test_pools_over_nodes_are_written_for_what_can_have_them() -> None:
    """KServe takes pipelines over nodes, llm-d's chart does not; without either there are plain objects."""

    def files(decode: dict[str, int]) -> set[str]:
        pools = {"prefill": {"tp": 8}, "decode": decode}
        what = export_of(build_disaggregated("llama-3.1-70b", "h100-sxm:8x4", pools), requests())
        check_export(what, files_of(what))
        return {name.partition("-")[0] for name in files_of(what) if name.endswith(".yaml")}

    assert files({"tp": 8, "dp": 2}) == {"kserve.yaml", "llm"}
    assert files({"tp": 8}) == {"kserve.yaml", "llm"}
    assert files({"tp": 8, "pp": 2}) == {"kserve.yaml"}


def test_devices_are_selected_by_what_their_driver_calls_them() -> None:
    def selector(cluster: str) -> dict[str, str]:
        return node_selector(export_of(build_deployment("llama-3.2-1b", cluster), requests()).servers[0])

    assert selector("h100-sxm:1") == {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    assert selector("a100-sxm-80gb:1") == {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}
    assert selector("t4:1") == {"nvidia.com/gpu.product": "Tesla-T4"}
    assert "nvidia.com/mig-3g.40gb: '1'" in files_of(export("slices"))["kubernetes-llama-3-1-8b-serve.yaml"]


def test_the_benchmark_sends_what_was_simulated() -> None:
    closed = generate(input_len=100, output_len=10, num_requests=500, arrival="closed(concurrency=8)")
    bench = benchmark_of("m", closed, None, 3)
    read = parse("vllm-bench", bench.command)
    assert read["concurrency"] == 8 and read["rate_per_s"] == float("inf")
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


def run_script(folder: Path, files: dict[str, str], name: str, *words: str, **env: str) -> list[list[str]]:
    """Words that the engines were called with by a script; engines that write them down and end."""
    (folder / "bin").mkdir(exist_ok=True)
    log = folder / "log"
    log.unlink(missing_ok=True)
    for engine in ("vllm", "python", "trtllm-serve", "ray"):
        tool = folder / "bin" / engine
        tool.write_text(f'#!/bin/sh\nwords=$(printf "%s\\037" {engine} "$@")\nprintf "%s\\n" "$words" >> {log}\n')
        tool.chmod(0o755)
    (folder / name).write_text(files[name])
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    subprocess.run(["sh", name, *words], cwd=folder, env={"PATH": path, **env}, check=True)
    return sorted(line.rstrip("\037").split("\037") for line in log.read_text().splitlines())


def test_the_scripts_run_what_they_say(tmp_path: Path) -> None:
    """By a real shell, with engines that only note down their arguments."""
    what = export("moe replicas")
    calls = run_script(tmp_path, files_of(what), "serve.sh")
    assert calls == [[*what.servers[0].command, "--port", str(8000 + i)] for i in range(4)]
    bench = run_script(tmp_path, files_of(what), "bench.sh", "http://there:80")
    assert bench == [["http://there:80" if word == "$URL" else word for word in what.benchmarks[0].command]]
    for name in ("two nodes", "experts on two nodes", "sglang on two nodes"):
        what = export(name)
        script = f"serve-{name_of(what.servers[0])}.sh"
        for rank in ("0", "1"):
            (call,) = run_script(tmp_path, files_of(what), script, HEAD="head", NODE_RANK=rank)
            read = parse(what.servers[0].engine, call)["flags"]
            place = (read.get("--node-rank"), read.get("--data-parallel-start-rank"))
            assert place == ((None, None if rank == "0" else 8) if name.startswith("experts") else (int(rank), None))
            assert read.get("--headless", False) is (rank == "1" and not name.startswith("sglang"))
    drafted = export("adapters and drafts")
    (call,) = run_script(tmp_path, files_of(drafted), "serve.sh")
    assert json.loads(call[call.index("--speculative-config") + 1])["num_speculative_tokens"] == 3


def test_kubernetes_knows_the_objects() -> None:
    """Against the API's own schemas, where the package is installed; LeaderWorkerSet is none of its kinds."""
    validate = pytest.importorskip("kubernetes_validate")
    for name in ("everything", "trtllm", "AMD", "moe replicas", "pools"):
        for file, text in files_of(export(name)).items():
            if file.startswith("kubernetes-"):
                for document in yaml.safe_load_all(text):
                    validate.validate(document, validate.latest_version(), strict=True)


def test_the_command_line_writes_it_and_reads_it_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, plan, again = tmp_path / "first", tmp_path / "plan.json", tmp_path / "again"
    line = ["plan", "--model", "llama-3.2-1b", "--cluster", "l4:1", "--num-requests", "40", "--slo", "ttft=5s"]
    assert main([*line, "--jobs", "1", "--top", "1", "--json", str(plan), "--export", str(first)]) == 0
    assert main(["export", str(plan), "--out", str(again)]) == 0
    names = {path.name for path in again.iterdir()}
    assert names | {"replay.sh", "trace.jsonl"} == {path.name for path in first.iterdir()}
    assert {"README.md", "bench.sh", "expected.json"} <= names
    assert all((first / name).read_bytes() == (again / name).read_bytes() for name in names - {"README.md"})
    assert "wrote serve.sh" in capsys.readouterr().out
    assert main(["export", str(first / "export.json"), "--out", str(again), "--image", "me/it:1"]) == 0
    assert "image: me/it:1" in (again / "kubernetes-llama-3-2-1b-serve.yaml").read_text()


def test_python_exports_plans_and_deployments(tmp_path: Path) -> None:
    pair = made("pools")
    files = apex_sim.export(pair, tmp_path / "a", trace=requests(), slo="ttft=1s", engine_version="0.33", image="me/it")
    assert {file.name for file in files} >= {"kserve.yaml", "llm-d-values.yaml", "replay.sh", "README.md"}
    again = apex_sim.export(tmp_path / "a" / "export.json", tmp_path / "b")
    assert {file.name for file in files} - {file.name for file in again} == {"replay.sh", "trace.jsonl"}
    assert "v0.33.0" in (tmp_path / "b" / "kserve.yaml").read_text()
    with pytest.raises(UserError, match="does not say what it serves"):
        apex_sim.export(pair, tmp_path / "c")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is not JSON"),
        ("[]", "holds a list"),
        ("{}", "has no 'export'"),
        ('{"export": {"format": 1, "servers": [{}]}}', "is damaged"),
        ('{"export": {"refused": "nobody ships it"}}', "nobody ships it"),
    ],
)
def test_bad_input_is_one_line(content: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "plan.json"
    file.write_text(content)
    assert main(["export", str(file), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_nobody_ships_is_refused_before_the_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["plan", "--model", "llama-3.2-1b", "--cluster", "l4:1", "--engine", "orca", "--export", str(tmp_path / "x")]
    assert main(line) == 2
    assert "nobody ships the engine orca" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
