"""The attention part of one layer, from the fields of a Hugging Face config."""

from __future__ import annotations

from hardware_profiles.errors import UserError
from workloads.hf_families import Family
from workloads.hf_fields import Fields
from workloads.hf_ssm import NO_ATTENTION, matmul_free, mixer_kind, ssm_attention
from workloads.model import AttentionSpec, Matrix


def attention_of(fields: Fields, family: Family, index: int) -> AttentionSpec:
    """Attention of layer ``index`` (0-based)."""
    if family.gated_recurrence:
        return matmul_free(fields)
    mixer = mixer_kind(fields, family, index)
    if mixer in ("mlp", "moe"):
        return NO_ATTENTION
    if mixer == "mamba":
        return ssm_attention(fields, family)
    kind = layer_kind(fields, family, index) if mixer is None else mixer
    if kind == "linear":
        return _gated_delta_net(fields)
    window = _window(fields, family) if kind == "sliding" else None
    if fields.optional_count("kv_lora_rank"):
        return _mla(fields, window)
    return _gqa(fields, family, kind, window)


def layer_kind(fields: Fields, family: Family, index: int) -> str:
    """``full``, ``sliding`` or ``linear``: as ``layer_types`` says, else as the family lays its layers out."""
    types = fields.names("layer_types")
    if types:
        return _named_kind(fields, types, index)
    interval = fields.optional_count("full_attention_interval")
    if interval and fields.optional_count("linear_num_value_heads"):
        return "full" if (index + 1) % interval == 0 else "linear"
    if _window(fields, family) is None:
        return "full"
    if family.window_default == "qwen":
        return "sliding" if index >= (fields.optional_count("max_window_layers") or 0) else "full"
    period = {"alternate": 2, "gemma3": 6, "chunked": 4}.get(family.window_default, 0)
    if family.window_default == "chunked" and (flags := fields.counts("no_rope_layers")):
        return "sliding" if index < len(flags) and flags[index] else "full"
    if family.window_default == "chunked":
        period = fields.count("no_rope_layer_interval", period)
    if family.window_default == "gemma3":
        period = fields.count("sliding_window_pattern", period)
    return "full" if period and (index + 1) % period == 0 else "sliding"


def _named_kind(fields: Fields, types: tuple[str, ...], index: int) -> str:
    if len(types) != fields.count("num_hidden_layers"):
        raise UserError(
            f"{fields.place}: layer_types has {len(types)} entries for {fields.count('num_hidden_layers')} layers; "
            "give one per layer"
        )
    known = {
        "full_attention": "full",
        "attention": "full",
        "sliding_attention": "sliding",
        "chunked_attention": "sliding",
        "linear_attention": "linear",
    }
    if types[index] not in known:
        raise UserError(
            f"{fields.place}: layer_types[{index}] is {types[index]!r}, not modelled; known: {', '.join(known)}"
        )
    return known[types[index]]


def _window(fields: Fields, family: Family) -> int | None:
    """Tokens a sliding layer looks back; None when the window is off or as long as the context.

    Chunked attention (Llama 4) is taken as a window of the chunk's length, which is its longest reach.
    """
    if family.window_default == "chunked":
        window = fields.optional_count("attention_chunk_size")
    elif fields.flag("use_sliding_window", True):
        window = fields.optional_count("sliding_window")
    else:
        window = None
    limit = fields.optional_count("max_position_embeddings")
    return None if not window or (limit and window >= limit) else window


def _heads(fields: Fields) -> tuple[int, int, int]:
    """Query heads, KV heads, head width."""
    heads = fields.count("num_attention_heads")
    hidden = fields.count("hidden_size")
    head_dim = fields.optional_count("head_dim")
    if not head_dim:
        if hidden % heads:
            raise UserError(f"{fields.place}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}")
        head_dim = hidden // heads
    if fields.get("model_type") == "falcon" and not fields.flag("new_decoder_architecture", False):
        kv_heads = 1 if fields.flag("multi_query", True) else heads
    else:
        kv_heads = fields.optional_count("num_key_value_heads") or heads
    if heads % kv_heads:
        raise UserError(
            f"{fields.place}: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
        )
    return heads, kv_heads, head_dim


def _gqa(fields: Fields, family: Family, kind: str, window: int | None) -> AttentionSpec:
    hidden = fields.count("hidden_size")
    heads, kv_heads, head_dim = _heads(fields)
    stored_kv = 2
    if kind == "full" and fields.optional_count("global_head_dim"):  # Gemma 4: wider heads, values reuse the keys
        head_dim = fields.count("global_head_dim")
        kv_heads = fields.count("num_global_key_value_heads", kv_heads)
        stored_kv = 1 if fields.flag("attention_k_eq_v", False) else 2
    q_rows = heads * head_dim * (2 if family.output_gate else 1)
    qkv_rows = q_rows + stored_kv * kv_heads * head_dim
    return AttentionSpec(
        kind="gqa",
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        v_head_dim=head_dim,
        sliding_window=window,
        matrices=(
            Matrix(name="qkv_proj", rows=qkv_rows, cols=hidden),
            Matrix(name="o_proj", rows=hidden, cols=heads * head_dim, parallel="row"),
        ),
        small_params=_bias(fields, family, qkv_rows, hidden)
        + _qk_norm(fields, family, head_dim)
        + (heads if family.sinks else 0),
    )


def _bias(fields: Fields, family: Family, qkv_rows: int, hidden: int) -> int:
    which = family.attention_bias
    if which == "config":
        which = "all" if fields.flag("attention_bias", fields.flag("bias", False)) else "none"
    if family.attention_bias == "qkv" and not fields.flag("attention_bias", True):
        which = "none"
    return {"none": 0, "qkv": qkv_rows, "all": qkv_rows + hidden}[which]


def _qk_norm(fields: Fields, family: Family, head_dim: int) -> int:
    on = fields.flag("use_qk_norm", False) if family.qk_norm == "config" else family.qk_norm == "head"
    return 2 * head_dim if on else 0


def _mla(fields: Fields, window: int | None) -> AttentionSpec:
    """Multi-head latent attention (DeepSeek-AI, DeepSeek-V2, arXiv 2405.04434, section 2.1)."""
    hidden = fields.count("hidden_size")
    heads = fields.count("num_attention_heads")
    kv_rank = fields.count("kv_lora_rank")
    nope, rope = fields.count("qk_nope_head_dim"), fields.count("qk_rope_head_dim")
    v_dim = fields.count("v_head_dim")
    q_rank = fields.optional_count("q_lora_rank") or None
    down = (q_rank or 0) + kv_rank + rope
    if q_rank:
        first = (
            Matrix(name="fused_qkv_a", rows=down, cols=hidden, parallel="replicated"),
            Matrix(name="q_b_proj", rows=heads * (nope + rope), cols=q_rank),
        )
    else:
        first = (
            Matrix(name="q_proj", rows=heads * (nope + rope), cols=hidden),
            Matrix(name="kv_a_proj", rows=down, cols=hidden, parallel="replicated"),
        )
    bias = down + hidden if fields.flag("attention_bias", False) else 0
    return AttentionSpec(
        kind="mla",
        num_heads=heads,
        num_kv_heads=1,
        head_dim=nope + rope,
        v_head_dim=v_dim,
        sliding_window=window,
        q_lora_rank=q_rank,
        kv_lora_rank=kv_rank,
        qk_rope_head_dim=rope,
        matrices=(
            *first,
            Matrix(name="kv_b_proj", rows=heads * (nope + v_dim), cols=kv_rank),
            Matrix(name="o_proj", rows=hidden, cols=heads * v_dim, parallel="row"),
        ),
        small_params=(q_rank or 0) + kv_rank + bias,
    )


def _gated_delta_net(fields: Fields) -> AttentionSpec:
    """Linear attention of Qwen3-Next: a matrix state per value head and the tail of a short convolution."""
    hidden = fields.count("hidden_size")
    k_heads, v_heads = fields.count("linear_num_key_heads"), fields.count("linear_num_value_heads")
    k_dim, v_dim = fields.count("linear_key_head_dim"), fields.count("linear_value_head_dim")
    kernel = fields.count("linear_conv_kernel_dim", 4)
    keys, values = k_heads * k_dim, v_heads * v_dim
    channels = 2 * keys + values
    return AttentionSpec(
        kind="linear",
        num_heads=v_heads,
        num_kv_heads=k_heads,
        head_dim=k_dim,
        v_head_dim=v_dim,
        matrices=(
            Matrix(name="in_proj_qkvz", rows=channels + values, cols=hidden),
            Matrix(name="in_proj_ba", rows=2 * v_heads, cols=hidden),
            Matrix(name="out_proj", rows=hidden, cols=values, parallel="row"),
        ),
        small_params=channels * kernel + 2 * v_heads + v_dim,
        state_elements=v_heads * k_dim * v_dim + channels * (kernel - 1),
        conv_elements=channels * (kernel - 1),
    )
