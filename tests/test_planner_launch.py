"""The launch command of a plan starts: known flags, lengths within the KV cache, what vLLM means by EP and DP."""

from __future__ import annotations

import shlex

import pytest

from planners.launch import VLLM_FLAGS, launch_notes, launch_script, vllm_command
from simulator.build import build_deployment
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
    assert set(given) <= VLLM_FLAGS
    assert 0 < int(given["--max-model-len"]) <= made.memory.kv_tokens
    assert int(given["--max-model-len"]) <= made.model.max_position_embeddings
    assert all(
        line.startswith("#") or "vllm serve" in line or line == "wait" for line in launch_script(made).splitlines()
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
    script = launch_script(made)
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
