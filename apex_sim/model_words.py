"""A model's layers in words, for ``apex-sim models``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workloads.model import ModelSpec


def attention_word(model: ModelSpec) -> str:
    """MHA, GQA 8:1, MQA, MLA; with the window and the layers with a state where there are any."""
    versions = sorted({g.attention.ssm.version for g in model.layers if g.attention.ssm is not None})
    states = " + ".join(f"Mamba {version}" for version in versions)
    reading = [g.attention for g in model.layers if g.attention.reads_context]
    if not reading:
        return states or "linear"
    main = reading[0]
    if main.kind == "mla":
        word = "MLA"
    elif main.num_kv_heads == main.num_heads:
        word = "MHA"
    elif main.num_kv_heads == 1:
        word = "MQA"
    else:
        word = f"GQA {main.num_heads}:{main.num_kv_heads}"
    if main.bidirectional:
        word += " both ways"
    if main.kernels > 1:
        word += " + cross"
    if model.num_window_layers:
        word += f" window {model.sliding_window}"
    if states:
        return f"{word} + {states}"
    return f"{word} + linear" if model.num_linear_layers else word


def layer_words(count: int, attention: Any, mlp: Any) -> str:
    """One layer group in words."""
    parts = [words for words in (_mixer_words(attention), _mlp_words(mlp)) if words]
    return f"{count} x ({'; '.join(parts)})"


def encoder_words(model: ModelSpec) -> list[str]:
    """The layers of the encoder, one line each."""
    if model.encoder is None:
        return []
    own = [g for g in model.encoder.layers if g.attention.kind != "none"]
    lines = [layer_words(g.count, g.attention, g.mlp) for g in own]
    cross = [g for g in model.encoder.layers if g.attention.kind == "none"]
    return lines + [f"{g.count} x (keys and values of cross-attention)" for g in cross]


def _mixer_words(attention: Any) -> str:
    ssm = attention.ssm
    if attention.kind == "none":
        return ""
    if ssm is not None:
        heads = f", {ssm.heads} heads in {ssm.groups} group{'s' if ssm.groups > 1 else ''}" if ssm.version == 2 else ""
        return f"Mamba {ssm.version}, {ssm.inner} channels of {ssm.state} states{heads}"
    if attention.kind == "linear":
        return f"linear attention, {attention.num_heads} value heads, {attention.num_kv_heads} key heads"
    if attention.kind == "mla":
        look = f"MLA, {attention.num_heads} heads, latent {attention.kv_lora_rank} + rope {attention.qk_rope_head_dim}"
    else:
        look = f"{attention.num_heads} heads, {attention.num_kv_heads} KV heads of {attention.head_dim}"
    if attention.kernels > 1:
        look += ", then as many over the encoder's output"
    return look + (f", window {attention.sliding_window}" if attention.sliding_window else "")


def _mlp_words(mlp: Any) -> str:
    if not mlp.matrices:
        return ""
    width = mlp.matrices[-1].cols
    if not mlp.is_moe:
        return f"dense MLP {width}"
    shared = f" + shared {mlp.shared_matrices[-1].cols}" if mlp.shared_matrices else ""
    return f"{mlp.num_experts} experts of {width}, {mlp.experts_per_token} per token{shared}"
