"""The command that starts what was planned."""

from __future__ import annotations

import shlex

from simulator.deployment import Deployment

_FLAGS = {
    "max_num_seqs": "--max-num-seqs",
    "max_num_batched_tokens": "--max-num-batched-tokens",
    "block_size": "--block-size",
}


def vllm_command(deployment: Deployment) -> str:
    """``vllm serve`` with the layout and limits of the deployment. Flags as of vLLM 0.15 to 0.33 (arg_utils.py).

    Replicas beyond one engine are started with --data-parallel-size; expert parallelism is a switch there (its degree is
    tp * dp).
    """
    plan, engine = deployment.plan, deployment.engine
    parts = ["vllm", "serve", deployment.model.name, "--tensor-parallel-size", str(plan.tp)]
    if plan.pp > 1:
        parts += ["--pipeline-parallel-size", str(plan.pp)]
    if plan.dp > 1:
        parts += ["--data-parallel-size", str(plan.dp)]
    if plan.ep > 1:
        parts.append("--enable-expert-parallel")
    for name, flag in _FLAGS.items():
        parts += [flag, str(getattr(engine, name))]
    parts += ["--gpu-memory-utilization", f"{engine.gpu_memory_utilization:g}"]
    parts += ["--max-model-len", str(deployment.effective_max_model_len)]
    if plan.dtype != "auto":
        parts += ["--dtype", plan.dtype]
    if plan.quantization:
        parts += ["--quantization", plan.quantization]
    if plan.kv_cache_dtype != "auto":
        parts += ["--kv-cache-dtype", plan.kv_cache_dtype]
    if not engine.prefix_caching:
        parts.append("--no-enable-prefix-caching")
    return shlex.join(parts)
