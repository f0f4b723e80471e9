"""Whether a checkpoint's generation_config.json asks for top-p or top-k sampling: engines then sort every row of logits."""

from __future__ import annotations

from workloads.hf_fields import Json

TOP_P_MODELS = (
    "meta-llama/llama-2-",
    "meta-llama/meta-llama-3",
    "meta-llama/llama-3",
    "meta-llama/llama-4",
    "qwen/qwen2.5-coder-instruct",
    "qwen/qwen3",
    "qwen/qwq",
    "deepseek-ai/deepseek-r1",
    "google/gemma-3",
    "nvidia/llama",
    "redhatai/",
    "neuralmagic/",
)
"""Beginnings of Hub names (lower case) whose generation_config.json sets top_p < 1 or top_k, as on their Hub pages: Llama
temperature 0.6 top_p 0.9; Qwen2.5 (instruct) top_p 0.8 top_k 20; Qwen3 top_p 0.95 top_k 20; DeepSeek-R1 top_p 0.95;
Gemma 3 top_k 64 top_p 0.95. Mistral, Mixtral, CodeLlama, gpt-oss, Phi, OPT, Falcon and DeepSeek-V3 set none."""

INSTRUCT_ONLY = ("qwen/qwen2", "qwen/qwen2.5")
"""Families of which the instruct models alone do."""


def asks_for_top_p(name: str) -> bool:
    """Whether the checkpoint of that Hub name samples with top-p or top-k by default."""
    key = name.lower()
    if key.startswith(INSTRUCT_ONLY):
        return "instruct" in key
    return key.startswith(TOP_P_MODELS) and not key.endswith("-base")


def config_asks_for_top_p(generation_config: Json) -> bool:
    """The same from a generation_config.json."""
    top_p, top_k = generation_config.get("top_p"), generation_config.get("top_k")
    filters_p = isinstance(top_p, int | float) and top_p < 1
    return filters_p or (isinstance(top_k, int) and top_k > 0)
