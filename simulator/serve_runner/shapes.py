"""Which models the engine can run: dense and mixture-of-experts decoders with grouped-query attention, and their shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hardware_profiles.errors import UserError
from workloads.catalog import load_model
from workloads.huggingface import model_from_config
from workloads.model import LayerGroup, ModelSpec

_OWN = "shape of this project's own, no published model"
_TINY = {
    "_source": _OWN,
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 256,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}
_EXPERTS = {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}
_SMALL = {
    **_TINY,
    "hidden_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 2816,
    "vocab_size": 8192,
    "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
}
_WIDE = {
    **_SMALL,
    "hidden_size": 2048,
    "num_hidden_layers": 3,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "intermediate_size": 5632,
}
OWN_SHAPES: Mapping[str, Mapping[str, Any]] = {
    "tiny": _TINY,
    "tiny-moe": {**_TINY, **_EXPERTS},
    "small": _SMALL,
    "small-wide": _WIDE,
    "small-moe": {**_SMALL, **_EXPERTS, "intermediate_size": 1024, "num_hidden_layers": 6},
}
"""Shapes for machines without an accelerator, as config.json fields: ``tiny`` for tests, ``small`` (107 million weights,
so that reading them and not the interpreter sets the pace) and its relatives for measurements."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The numbers the network is built from; all layers are alike."""

    hidden: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate: int
    """Width of the feed-forward part, or of one expert."""
    vocab: int
    tied: bool
    num_experts: int = 0
    experts_per_token: int = 0
    shared_intermediate: int = 0
    """Width of the experts that every token passes; 0: none."""


def serve_model(name: str) -> ModelSpec:
    """A shape of this module by name, or a model as everywhere else (name or config.json)."""
    if name in OWN_SHAPES:
        return model_from_config(OWN_SHAPES[name], name)
    return load_model(name)


def architecture_of(model: ModelSpec) -> Architecture:
    """What the network needs of a model description. UserError for what the engine cannot run."""
    group = model.layers[0]
    if model.encoder is not None or model.pooling:
        raise _unsupported(model, "an encoder or no decode")
    if len(model.layers) > 1:
        raise _unsupported(model, f"{len(model.layers)} kinds of layers")
    attention, mlp = group.attention, group.mlp
    if attention.kind != "gqa" or attention.head_dim != attention.v_head_dim:
        raise _unsupported(model, f"{attention.kind.upper()} attention with heads of {attention.head_dim}")
    if attention.sliding_window is not None:
        raise _unsupported(model, "a sliding window")
    if attention.head_dim % 2:
        raise _unsupported(model, f"heads of an odd width ({attention.head_dim})")
    if model.quant is not None:
        raise _unsupported(model, f"weights quantised by {model.quant.method}")
    return Architecture(
        hidden=model.hidden_size,
        num_layers=model.num_layers,
        num_heads=attention.num_heads,
        num_kv_heads=attention.num_kv_heads,
        head_dim=attention.head_dim,
        intermediate=_gated_width(model, group),
        vocab=model.vocab_size,
        tied=model.tie_word_embeddings,
        num_experts=mlp.num_experts,
        experts_per_token=mlp.experts_per_token,
        shared_intermediate=mlp.shared_matrices[-1].cols if mlp.shared_matrices else 0,
    )


def _gated_width(model: ModelSpec, group: LayerGroup) -> int:
    """Inputs of the down projection; the matrices before it must hold gate and up."""
    *before, down = group.mlp.matrices
    if down.rows != model.hidden_size or sum(m.rows for m in before) != 2 * down.cols:
        raise _unsupported(model, "a feed-forward part without a gate")
    return down.cols


def _unsupported(model: ModelSpec, what: str) -> UserError:
    return UserError(
        f"--model {model.name}: has {what}; the serving engine runs unquantised decoders of equal layers with full "
        f"grouped-query attention and gated MLPs, such as llama-3.1-8b, qwen3-30b-a3b, {', '.join(OWN_SHAPES)}"
    )
