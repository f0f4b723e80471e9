"""The launch command of a plan starts: known flags, lengths within the KV cache, what vLLM means by EP and DP."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from planners.export.flags import engines
from planners.export.server import servers_of
from planners.export.shell import one_node_script
from planners.launch import launch_notes, script_of, vllm_command, vllm_commands
from planners.launch_techniques import technique_notes
from simulator.build import build_deployment
from simulator.build_disaggregated import build_disaggregated
from simulator.deployment import Deployment

CASES: dict[str, tuple[str, str, dict[str, object]]] = {
    "one": ("llama-3.1-8b", "h100-sxm:1", {}),
    "everything": (
        "llama-3.1-8b",
        "h100-sxm:8",
        {"tp": 2, "pp": 2, "dp": 2, "quantization": "fp8", "kv_cache_dtype": "fp8", "dtype": "bfloat16",
         "enable_prefix_caching": False, "async_scheduling": False, "num_gpu_blocks_override": 5000, "block_size": 32},
    ),
    "moe ep": ("mixtral-8x7b", "h100-sxm:8", {"tp": 2, "dp": 4, "ep": 8}),
    "moe replicas": ("mixtral-8x7b", "h100-sxm:8", {"tp": 2, "dp": 4}),
    "moe replicas ep": ("mixtral-8x7b", "h100-sxm:8", {"tp": 2, "dp": 4, "ep": 2}),
    "two nodes": ("llama-3.1-405b", "h100-sxm:8x2", {"tp": 8, "pp": 2}),
    "replicas on two nodes": ("llama-3.1-70b", "h100-sxm:8x2", {"tp": 4, "dp": 4}),
    "awq": ("llama-3.1-70b", "h100-sxm:4", {"tp": 2, "quantization": "awq"}),
    "tiers": ("llama-3.1-8b", "h100-sxm:1", {"kv_offloading_size": 64.0, "kv_offloading_disk": 512.0, "kv_eviction": "lfu"}),
    "priorities": ("llama-3.1-8b", "h100-sxm:2", {"scheduling_policy": "priority", "dp": 2, "routing": "jsq-tokens"}),
    "adapters and drafts": (
        "llama-3.1-8b", "h100-sxm:1",
        {"enable_lora": True, "max_loras": 4, "num_loras": 9, "cpu_offload_gb": 2.0,
         "speculative_config": {"method": "ngram", "num_speculative_tokens": 3, "acceptance": 0.4}},
    ),
    "checkpoint fp8": ("deepseek-ai/DeepSeek-V3", "h200-sxm:8", {"tp": 8}),
}  # fmt: skip


def deployment(name: str) -> Deployment:
    model, cluster, settings = CASES[name]
    return build_deployment(model, cluster, **settings)  # type: ignore[arg-type]


def flags(command: str) -> dict[str, str]:
    words = shlex.split(command)[3:]
    found = {}
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("--"):
            found[word] = "" if following.startswith("--") else following
    return found


@pytest.mark.parametrize("name", CASES)
def test_every_flag_is_known_to_vllm(name: str) -> None:
    made = deployment(name)
    given = flags(vllm_command(made))
    assert set(given) <= set(engines()["vllm"].flags)
    assert 0 < int(given["--max-model-len"]) <= made.memory.kv_tokens
    assert int(given["--max-model-len"]) <= made.model.max_position_embeddings
    assert all(
        line.startswith(("#", "pids=", "trap ")) or "vllm serve" in line or line == "wait"
        for line in script_of(made).splitlines()
    )


def test_settings_become_flags() -> None:
    given = flags(vllm_command(deployment("everything")))
    assert given["--quantization"] == "fp8"
    assert given["--kv-cache-dtype"] == "fp8"
    assert given["--data-parallel-size"] == given["--pipeline-parallel-size"] == "2"
    assert given["--block-size"] == "32"
    assert {"--no-enable-prefix-caching", "--no-async-scheduling"} <= set(given)


def test_expert_parallelism_is_one_server_over_all_ranks() -> None:
    given = flags(vllm_command(deployment("moe ep")))
    assert given["--data-parallel-size"] == "4"
    assert "--enable-expert-parallel" in given
    assert launch_notes(deployment("moe ep")) == []


@pytest.mark.parametrize("name", ["moe replicas", "moe replicas ep"])
def test_replicas_with_experts_of_their_own_are_servers_of_their_own(name: str) -> None:
    """--data-parallel-size would split the experts over the replicas."""
    made = deployment(name)
    given = flags(vllm_command(made))
    assert "--data-parallel-size" not in given
    assert ("--enable-expert-parallel" in given) == (name == "moe replicas ep")
    assert launch_notes(made)[0].startswith("Start 4 such servers")
    script = script_of(made)
    assert "trap 'kill $pids" in script and script.count('& pids="$pids $!"') == 4
    assert [f"--port {port} &" in script for port in range(8000, 8005)] == [True] * 4 + [False]
    assert "CUDA_VISIBLE_DEVICES=6,7 vllm" in script


def test_a_server_over_two_nodes_asks_for_ray() -> None:
    made = deployment("two nodes")
    assert flags(vllm_command(made))["--distributed-executor-backend"] == "ray"
    assert any("ray start" in note for note in launch_notes(made))


def test_replicas_over_two_nodes_say_how() -> None:
    notes = launch_notes(deployment("replicas on two nodes"))
    assert any("--data-parallel-size-local 2" in note for note in notes)


def test_a_quantised_checkpoint_needs_no_flag() -> None:
    assert "--quantization" not in vllm_command(deployment("checkpoint fp8"))
    assert "--quantization" not in vllm_command(deployment("awq"))
    assert any("checkpoint quantised to awq" in note for note in launch_notes(deployment("awq")))


def test_tiers_become_a_flag_and_what_has_none_a_note() -> None:
    made = deployment("tiers")
    assert flags(vllm_command(made))["--kv-offloading-size"] == "64"
    notes = " ".join(launch_notes(made))
    assert "512 GiB per replica" in notes and "evicts by lfu" in notes
    assert flags(vllm_command(deployment("priorities")))["--scheduling-policy"] == "priority"
    assert "jsq-tokens" in " ".join(launch_notes(deployment("priorities")))


EAGLE = {"method": "eagle3", "model": "llama-3.2-1b", "num_speculative_tokens": 3, "acceptance": 0.7}
ENGINES = {
    "sglang": ("python -m sglang.launch_server", "--chunked-prefill-size"),
    "trtllm": ("trtllm-serve meta-llama/Llama-3.1-8B", "--max_num_tokens"),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"tp": 2, "dp": 2, "quantization": "fp8", "kv_cache_dtype": "fp8"},
        {"enable_prefix_caching": False, "enforce_eager": True, "cpu_offload_gb": 2.0},
        {"kv_offloading_size": 64.0, "enable_lora": True},
        {"speculative_config": EAGLE},
    ],
)
def test_other_engines_get_their_own_command(engine: str, settings: dict[str, object]) -> None:
    made = build_deployment("llama-3.1-8b", "h100-sxm:4", engine=engine, **settings)  # type: ignore[arg-type]
    begin, budget = ENGINES[engine]
    command = vllm_commands(made)
    given = {word for word in shlex.split(command) if word.startswith("--")}
    assert command.startswith(begin) and budget in given and given <= set(engines()[engine].flags)
    assert script_of(made).count(begin) == script_of(made).count("--host 0.0.0.0 --port ") == made.plan.dp
    assert not any("a current vLLM batches differently" in note for note in launch_notes(made))


@pytest.mark.parametrize(("engine", "who"), [("sglang", "SGLang"), ("trtllm", "TensorRT-LLM"), ("vllm-v1", "vLLM")])
def test_notes_name_the_engine_that_is_started(engine: str, who: str) -> None:
    tiers = {"kv_offloading_size": 8.0, "kv_offloading_disk": 64.0, "enable_prefix_caching": True, "kv_eviction": "lfu"}
    made = build_deployment("llama-3.1-8b", "h100-sxm:1", engine=engine, scheduling_policy="sjf", **tiers)  # type: ignore[arg-type]
    notes = technique_notes(made)
    assert len(notes) == 3 and all(who in note for note in notes)
    assert ("--radix-eviction-policy" in " ".join(notes)) is (engine == "sglang")


@pytest.mark.parametrize(("engine", "who"), [("sglang", "SGLang"), ("trtllm", ""), ("vllm-v1", "vLLM")])
def test_weights_copied_ahead_are_told_in_the_words_of_the_engine(engine: str, who: str) -> None:
    settings = {"cpu_offload_gb": 2.0, "offload_backend": "prefetch"}
    made = build_deployment("llama-3.1-8b", "h100-sxm:1", engine=engine, **settings)  # type: ignore[arg-type]
    notes = [note for note in launch_notes(made) if "--offload-group-size" in note]
    assert len(notes) == bool(who) and all(f"{who}'s --offload-group-size" in note for note in notes)
    assert ("in place of --cpu-offload-gb" in " ".join(notes)) is (who == "SGLang")


@pytest.mark.parametrize(("engine", "who"), [("sglang", "SGLang"), ("trtllm", "TensorRT-LLM"), ("vllm-v1", "vLLM")])
def test_models_that_the_engine_does_not_serve(engine: str, who: str) -> None:
    made = build_deployment("google-t5/t5-base", "h100-sxm:1", engine=engine)
    assert any(note.startswith(f"{who} does not serve t5 models") for note in technique_notes(made))


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("two nodes", "replicas on two nodes")])
def test_the_plan_and_its_export_start_the_same_servers(name: str) -> None:
    """Line by line, but for what an export leaves to the version of its engine."""
    made = deployment(name)
    exported = one_node_script(servers_of(made), launch_notes(made))
    assert script_of(made) == exported


def test_devices_are_chosen_where_the_variable_is_read() -> None:
    made = build_deployment("llama-3.1-8b", "gaudi-2:8", tp=2, dp=2, engine="sglang")
    assert "CUDA_VISIBLE_DEVICES=" not in "".join(line for line in script_of(made).splitlines(True) if line[0] != "#")
    assert script_of(made).count(" --port 800") == 2


def test_pools_on_two_nodes_are_started_by_role(tmp_path: Path) -> None:
    made = build_disaggregated("llama-3.1-70b", "h100-sxm:8x2", {"prefill": "tp8", "decode": "tp8"})
    (tmp_path / "serve.sh").write_text(script_of(made))
    (tmp_path / "vllm").write_text("#!/bin/sh\necho $CUDA_VISIBLE_DEVICES $@\n")
    (tmp_path / "vllm").chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}

    def start(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["sh", tmp_path / "serve.sh", *words], env=env, capture_output=True, text=True)

    assert start("decode").stdout.startswith("serve meta-llama/Llama-3.1-70B --tensor-parallel-size 8")
    assert start("prefill").returncode == 0 and start("other").returncode == start().returncode == 2
