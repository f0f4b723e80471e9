"""TensorRT-LLM's YAML of options: what trtllm-serve has no flag for."""

from __future__ import annotations

from typing import Any

from simulator.deployment import Deployment

TRTLLM_BLOCK_SIZE = 32
"""TensorRT-LLM's own tokens_per_block (llm_args.py of 1.0, as in its engine profile)."""


def trtllm_options(pool: Deployment, role: str) -> dict[str, Any]:
    """Options of a server that plays a role, under the names of the LLM API.

    Read in llm_args.py: enable_chunked_prefill and the fields of kv_cache_config; the rest is from memory (1.0).
    """
    share = pool.engine.gpu_memory_utilization  # once more, since the file replaces what flags say of the cache
    cache: dict[str, Any] = {"free_gpu_memory_fraction": share, "enable_block_reuse": pool.engine.prefix_caching}
    if pool.plan.kv_cache_dtype != "auto":
        cache["dtype"] = "fp8" if pool.plan.kv_cache_dtype.startswith("fp8") else pool.plan.kv_cache_dtype
    if pool.kv_offload.host_bytes:
        cache["host_cache_size"] = int(pool.kv_offload.host_bytes / pool.plan.devices_per_replica)
    if pool.num_gpu_blocks_override is not None:
        cache["max_tokens"] = pool.memory.kv_tokens
    if pool.engine.block_size != TRTLLM_BLOCK_SIZE:
        cache["tokens_per_block"] = pool.engine.block_size
    chunked = (
        pool.engine.batching == "chunked"
    )  # the server by itself takes whole prompts, as the profile does (in-flight)
    options: dict[str, Any] = {"enable_chunked_prefill": chunked, "kv_cache_config": cache}
    if pool.plan.dtype != "auto":
        options["dtype"] = pool.plan.dtype
    if pool.engine.cuda_graphs == "none":
        options["cuda_graph_config"] = None
    if role in ("prefill", "decode"):
        options["cache_transceiver_config"] = {"backend": "DEFAULT"}
    if role == "prefill" or not pool.engine.async_scheduling:
        options["disable_overlap_scheduler"] = True
    return options
