"""What sets each model family apart: biases, norms, gates, defaults of fields its configs leave out.

Each entry restates the modelling code of the named ``model_type`` in transformers
(https://github.com/huggingface/transformers/tree/main/src/transformers/models). Everything a config says itself
(widths, heads, experts, windows) is read from the config, not from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from workloads.hf_fields import Fields

Bias = Literal["config", "none", "qkv", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One ``model_type``; the defaults are Llama's."""

    attention_bias: Bias = "config"
    """Which projections have a bias: as ``attention_bias`` says (all four), none, q/k/v only, all four."""
    qk_norm: Literal["none", "head", "config"] = "config"
    """Norm over each query and key head; config: as ``use_qk_norm`` says."""
    gated_mlp: bool = True
    """Three matrices (gate, up, down) rather than two."""
    mlp_bias: Literal["config", "none", "all"] = "config"
    norms: int = 2
    """Norms per layer."""
    norm_bias: bool = False
    """LayerNorm (weight and bias) rather than RMSNorm."""
    tied: bool = False
    """Default of ``tie_word_embeddings``."""
    lm_head_bias: bool = False
    embedding_norm: bool = False
    """A norm between the embedding and the first layer."""
    position_offset: int | None = None
    """Learned position embeddings: rows beyond max_position_embeddings; None: rotary or ALiBi."""
    window_default: Literal["config", "qwen", "alternate", "gemma3", "chunked"] = "config"
    """Which layers slide when ``layer_types`` is absent: all, above max_window_layers, every other, 5 of 6, 3 of 4."""
    router_bias: bool = False
    expert_bias: bool = False
    sinks: bool = False
    """One learned attention sink per head (gpt-oss)."""
    shared_gate: bool = False
    """A gate on the shared expert (hidden to 1)."""
    output_gate: bool = False
    """Queries carry an output gate of the same width (Qwen3-Next)."""
    ssm: Literal[1, 2] | None = None
    """Version of its state-space layers, where it has them."""
    ssm_norms: bool = False
    """Norms with weights over step sizes, B and C (Jamba)."""
    gated_recurrence: bool = False
    """Every layer mixes tokens by a gated recurrence with one state per channel (MatMul-free models)."""
    bare_mixers: bool = False
    """Layers are a mixer or a feed-forward part, not both."""
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def params_per_norm(self) -> int:
        """Parameters of a norm per hidden element."""
        return 2 if self.norm_bias else 1

    def norms_per_layer(self, fields: Fields) -> int:
        """Norms of one layer; Falcon has one before its parallel branches (7B) or one for each branch (40B, 180B)."""
        if fields.get("model_type") == "falcon":
            parallel = fields.flag("parallel_attn", True)
            new = fields.flag("new_decoder_architecture", False)
            two = fields.count("num_ln_in_parallel_attn", 2) == 2 if new else not parallel
            return 2 if two else 1
        return self.norms

    def final_norm(self, fields: Fields) -> bool:
        """Whether a norm follows the last layer (OPT-350m has none)."""
        return fields.flag("do_layer_norm_before", True) and not fields.flag("_remove_final_layer_norm", False)


_LLAMA = Family(qk_norm="none")
_MISTRAL = Family(attention_bias="none", qk_norm="none", mlp_bias="none")
_QWEN2 = Family(attention_bias="qkv", qk_norm="none", mlp_bias="none", window_default="qwen")
_QWEN2_MOE = Family(attention_bias="qkv", qk_norm="none", mlp_bias="none", window_default="qwen", shared_gate=True)
_QWEN3 = Family(qk_norm="head", mlp_bias="none", window_default="qwen")
_QWEN3_NEXT = Family(qk_norm="head", mlp_bias="none", shared_gate=True, output_gate=True)
_DEEPSEEK = Family(qk_norm="none", mlp_bias="none")
_GLM4_MOE = Family(attention_bias="qkv", mlp_bias="none")
_PHI3 = Family(attention_bias="none", qk_norm="none", mlp_bias="none")
_GPT_OSS = Family(
    attention_bias="all",
    qk_norm="none",
    mlp_bias="none",
    router_bias=True,
    expert_bias=True,
    sinks=True,
    window_default="alternate",
)
_GEMMA = Family(qk_norm="none", mlp_bias="none", tied=True)
_GEMMA2 = Family(qk_norm="none", mlp_bias="none", tied=True, norms=4, window_default="alternate")
_GEMMA3 = Family(
    qk_norm="head",
    mlp_bias="none",
    tied=True,
    norms=4,
    window_default="gemma3",
    # Gemma3TextConfig; the published 4B, 12B and 27B configs leave these out.
    defaults={
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
    },
)
_GEMMA4 = Family(qk_norm="head", mlp_bias="none", tied=True, norms=7)
_LLAMA4 = Family(qk_norm="none", mlp_bias="none", window_default="chunked")
_PHI = Family(
    attention_bias="all",
    qk_norm="none",
    gated_mlp=False,
    mlp_bias="all",
    norms=1,
    norm_bias=True,
    lm_head_bias=True,
)
_FALCON = Family(qk_norm="none", gated_mlp=False, norm_bias=True, tied=True)
_OPT = Family(
    attention_bias="all",
    qk_norm="none",
    gated_mlp=False,
    mlp_bias="all",
    norm_bias=True,
    tied=True,
    position_offset=2,
)
_GPT2 = Family(
    attention_bias="all",
    qk_norm="none",
    gated_mlp=False,
    mlp_bias="all",
    norm_bias=True,
    tied=True,
    position_offset=0,
)
_GPTJ = Family(
    attention_bias="none",
    qk_norm="none",
    gated_mlp=False,
    mlp_bias="all",
    norms=1,
    norm_bias=True,
    lm_head_bias=True,
)
_BLOOM = Family(
    attention_bias="all",
    qk_norm="none",
    gated_mlp=False,
    mlp_bias="all",
    norm_bias=True,
    tied=True,
    embedding_norm=True,
)
_PHIMOE = Family(qk_norm="none", mlp_bias="none", norm_bias=True, lm_head_bias=True)
_UNBOUNDED = {"max_position_embeddings": 1 << 20}
"""State-space layers have no positions; the bound only keeps requests finite."""
_MAMBA = Family(ssm=1, bare_mixers=True, tied=True, defaults=_UNBOUNDED)
_MAMBA2 = Family(ssm=2, bare_mixers=True, defaults=_UNBOUNDED)
_JAMBA = Family(
    attention_bias="none",
    qk_norm="none",
    mlp_bias="none",
    ssm=1,
    ssm_norms=True,
    defaults={"attn_layer_period": 8, "attn_layer_offset": 4},  # JambaConfig
)
_BAMBA = Family(qk_norm="none", ssm=2)
_GRANITE_H = Family(attention_bias="config", qk_norm="none", mlp_bias="none", tied=True, ssm=2)
_HGRN_BIT = Family(qk_norm="none", mlp_bias="none", gated_recurrence=True, defaults=_UNBOUNDED)
_NEMOTRON_H = Family(qk_norm="none", gated_mlp=False, ssm=2, bare_mixers=True)
_GPT_NEOX = Family(attention_bias="all", qk_norm="none", gated_mlp=False, mlp_bias="all", norm_bias=True)

FAMILIES: Mapping[str, Family] = {
    "llama": _LLAMA,
    "granite": _LLAMA,
    "mistral": _MISTRAL,
    "ministral": _MISTRAL,
    "mixtral": _MISTRAL,
    "qwen2": _QWEN2,
    "qwen2_vl": _QWEN2,
    "qwen2_5_vl": _QWEN2,
    "qwen2_5_vl_text": _QWEN2,
    "qwen2_moe": _QWEN2_MOE,
    "qwen3": _QWEN3,
    "qwen3_moe": _QWEN3,
    "qwen3_vl_text": _QWEN3,
    "qwen3_vl_moe_text": _QWEN3,
    "qwen3_next": _QWEN3_NEXT,
    "qwen3_5": _QWEN3_NEXT,
    "qwen3_5_text": _QWEN3_NEXT,
    "qwen3_5_moe": _QWEN3_NEXT,
    "qwen3_5_moe_text": _QWEN3_NEXT,
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "kimi_k2": _DEEPSEEK,
    "glm4_moe": _GLM4_MOE,
    "gpt_oss": _GPT_OSS,
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3": _GEMMA3,
    "gemma3_text": _GEMMA3,
    "gemma4": _GEMMA4,
    "gemma4_text": _GEMMA4,
    "llama4": _LLAMA4,
    "llama4_text": _LLAMA4,
    "phi": _PHI,
    "phi3": _PHI3,
    "falcon": _FALCON,
    "opt": _OPT,
    "gpt2": _GPT2,
    "gptj": _GPTJ,
    "bloom": _BLOOM,
    "gpt_neox": _GPT_NEOX,
    "phimoe": _PHIMOE,
    "mamba": _MAMBA,
    "falcon_mamba": _MAMBA,
    "mamba2": _MAMBA2,
    "jamba": _JAMBA,
    "bamba": _BAMBA,
    "granitemoehybrid": _GRANITE_H,
    "nemotron_h": _NEMOTRON_H,
    "hgrn_bit": _HGRN_BIT,
}
"""Families by ``model_type``; anything else is read as a Llama, with a warning."""
