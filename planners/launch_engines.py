"""Commands of engines other than vLLM: ``sglang.launch_server`` and ``trtllm-serve``, one replica each."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping

from simulator.deployment import Deployment
from simulator.techniques import GIB, HOST_DRAM

BATCHING = {"sglang": ("prefill-priority",), "trtllm": ("in-flight", "chunked")}
"""Engine -> how it can batch: its profile's way, and what a setting turns on."""
EAGLE = {"eagle": "EAGLE", "eagle3": "EAGLE3"}


def sglang_command(deployment: Deployment) -> str:
    """``python -m sglang.launch_server`` for one replica."""
    plan, engine, on = deployment.plan, deployment.engine, deployment.plan.techniques
    parts = ["python", "-m", "sglang.launch_server", "--model-path", deployment.model.name, "--tp-size", str(plan.tp)]
    parts += ["--pp-size", str(plan.pp)] * (plan.pp > 1) + ["--ep-size", str(plan.ep)] * (plan.ep > 1)
    parts += ["--max-running-requests", str(engine.max_num_seqs)]
    parts += ["--chunked-prefill-size", str(engine.max_num_batched_tokens)]
    if engine.max_prefill_tokens is not None:
        parts += ["--max-prefill-tokens", str(engine.max_prefill_tokens)]
    parts += ["--context-length", str(deployment.effective_max_model_len)]
    parts += ["--dtype", plan.dtype] if plan.dtype != "auto" else []
    parts += ["--quantization", "fp8"] if plan.quantization == "fp8" else []
    parts += ["--kv-cache-dtype", "fp8_e4m3"] if plan.kv_cache_dtype.startswith("fp8") else []
    parts += ["--page-size", str(engine.block_size)] if engine.block_size > 1 else []
    parts += ["--disable-radix-cache"] * (not engine.prefix_caching)
    parts += ["--disable-cuda-graph"] * (engine.cuda_graphs == "none")
    parts += ["--disable-overlap-schedule"] * (not engine.async_scheduling)
    parts += _sglang_memory(deployment)
    if on.offload is not None and on.offload.source == HOST_DRAM:
        parts += ["--cpu-offload-gb", f"{on.offload.nbytes / GIB:g}"]
    if deployment.kv_offload.host_bytes:
        per_rank = deployment.kv_offload.host_bytes / plan.devices_per_replica / 1e9
        parts += ["--enable-hierarchical-cache", "--hicache-size", f"{per_rank:.0f}"]
    return shlex.join([*parts, *_drafts(deployment)])


def _sglang_memory(deployment: Deployment) -> list[str]:
    """Where the plan says how much: tokens of KV, or the share of a device for weights and KV (SGLang keeps the rest)."""
    if deployment.num_gpu_blocks_override is not None:
        return ["--max-total-tokens", str(deployment.memory.kv_tokens)]
    if deployment.engine.gpu_memory_utilization == 1.0:
        return []
    memory = deployment.memory
    static = memory.weight_bytes + memory.state_bytes + memory.kv_bytes
    return ["--mem-fraction-static", f"{math.floor(1e3 * static / memory.device_bytes) / 1e3:g}"]


def _drafts(deployment: Deployment) -> list[str]:
    """Heads in a line; other drafts have a note."""
    config = deployment.speculative
    if config is None or config.method not in EAGLE or config.num_candidates is not None:
        return []
    parts = [
        "--speculative-algorithm",
        EAGLE[config.method],
        "--speculative-num-steps",
        str(config.num_speculative_tokens),
    ]
    parts += ["--speculative-eagle-topk", "1", "--speculative-num-draft-tokens", str(config.num_speculative_tokens + 1)]
    return parts + (["--speculative-draft-model-path", config.model] if config.model is not None else [])


def trtllm_command(deployment: Deployment) -> str:
    """``trtllm-serve`` for one replica."""
    plan, engine = deployment.plan, deployment.engine
    parts = ["trtllm-serve", deployment.model.name, "--tp_size", str(plan.tp)]
    parts += ["--pp_size", str(plan.pp)] * (plan.pp > 1) + ["--ep_size", str(plan.ep)] * (plan.ep > 1)
    parts += ["--max_batch_size", str(engine.max_num_seqs), "--max_num_tokens", str(engine.max_num_batched_tokens)]
    parts += ["--max_seq_len", str(deployment.effective_max_model_len)]
    parts += ["--kv_cache_free_gpu_memory_fraction", f"{engine.gpu_memory_utilization:g}"]
    return shlex.join(parts)


COMMANDS: Mapping[str, Callable[[Deployment], str]] = {"sglang": sglang_command, "trtllm": trtllm_command}
"""Engine -> its command."""


def own_notes(deployment: Deployment, with_options: bool = False) -> list[str]:
    """What the command of such an engine leaves out, a sentence each; ``with_options``: TensorRT-LLM's file is written."""
    notes, config, plan, engine = [], deployment.speculative, deployment.plan, deployment.engine
    if engine.batching not in BATCHING[engine.name]:
        notes.append(f"The plan batches {engine.batching}; {engine.name} has no such setting.")
    if engine.name == "sglang":
        if not _sglang_memory(deployment):
            notes.append("--mem-fraction-static stays at SGLang's own choice, which the plan assumes.")
        if config is not None and not _drafts(deployment):
            notes.append(f"Add SGLang's options for {config.method} drafts of {config.num_speculative_tokens} tokens.")
        if plan.techniques.lora is not None:
            notes.append("Add --lora-paths with the adapters, and --max-loras-per-batch.")
        if deployment.scheduling == "priority":
            notes.append("The plan serves by priority: add --enable-priority-scheduling (SGLang 0.5.5 has it).")
        return notes
    in_options = {
        f"KV in {plan.kv_cache_dtype} (kv_cache_config.dtype)": plan.kv_cache_dtype != "auto",
        "no reuse of blocks (kv_cache_config.enable_block_reuse: false)": not deployment.engine.prefix_caching,
        "KV in host memory (kv_cache_config.host_cache_size)": bool(deployment.kv_offload.host_bytes),
    }
    left_out = {
        "drafts (speculative_config)": config is not None,
        "adapters (lora_config)": plan.techniques.lora is not None,
    }
    missing = left_out if with_options else in_options | left_out
    notes += [f"Say so in the YAML of trtllm-serve: {words}." for words, used in missing.items() if used]
    if plan.techniques.offload is not None:
        notes.append("The plan keeps weights in host memory; no setting of trtllm-serve does that.")
    if deployment.scheduling == "priority":
        notes.append("The plan serves by priority; no setting of trtllm-serve does that.")
    return notes
