"""State-space layers from the fields of a config: Mamba 1 and 2, and which layers of a hybrid are what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hardware_profiles.errors import UserError
from workloads.hf_families import Family
from workloads.hf_fields import Fields, Json
from workloads.model import AttentionSpec, Matrix
from workloads.ssm import SsmSpec

NO_ATTENTION = AttentionSpec(kind="none", num_heads=0, num_kv_heads=0, head_dim=0, v_head_dim=0)
"""The attention part of a layer that is a feed-forward part alone."""

_PATTERN = {"M": "mamba", "*": "full", "-": "mlp", "E": "moe"}
"""Letters of ``hybrid_override_pattern`` (Nemotron-H)."""


def mixer_kind(fields: Fields, family: Family, index: int) -> str | None:
    """``mamba``, ``full``, ``mlp`` or ``moe`` for layer ``index`` of a family with state-space layers; None for others.

    ``mlp`` and ``moe`` are layers of a feed-forward part alone.
    """
    if family.ssm is None:
        return None
    pattern = fields.get("hybrid_override_pattern")
    if pattern is not None:
        return _letter(fields, pattern, index)
    types = fields.names("layer_types") or fields.names("layers_block_type")
    if types:
        return _typed(fields, types, index)
    if fields.get("attn_layer_indices") is not None:
        return "full" if index in fields.counts("attn_layer_indices") else "mamba"
    period = fields.optional_count("attn_layer_period")
    if period:
        return "full" if index % period == (fields.optional_count("attn_layer_offset") or 0) % period else "mamba"
    return "mamba"


def _letter(fields: Fields, pattern: Any, index: int) -> str:
    layers = fields.count("num_hidden_layers")
    if not isinstance(pattern, str) or len(pattern) != layers:
        size = len(pattern) if isinstance(pattern, str) else repr(pattern)
        raise UserError(
            f"{fields.place}: hybrid_override_pattern has {size} letters for {layers} layers; give one per layer"
        )
    if pattern[index] not in _PATTERN:
        raise UserError(
            f"{fields.place}: hybrid_override_pattern has {pattern[index]!r} at {index}; known: {' '.join(_PATTERN)}"
        )
    return _PATTERN[pattern[index]]


def _typed(fields: Fields, types: tuple[str, ...], index: int) -> str:
    layers = fields.count("num_hidden_layers")
    if len(types) != layers:
        raise UserError(f"{fields.place}: layer_types has {len(types)} entries for {layers} layers; give one per layer")
    known = {"mamba": "mamba", "attention": "full", "full_attention": "full"}
    if types[index] not in known:
        raise UserError(
            f"{fields.place}: layer_types[{index}] is {types[index]!r}, not modelled; known: {', '.join(known)}"
        )
    return known[types[index]]


def ssm_attention(fields: Fields, family: Family) -> AttentionSpec:
    """The mixer of a state-space layer, with its projections."""
    return _mamba1(fields, family) if family.ssm == 1 else _mamba2(fields)


def _field(fields: Fields, names: tuple[str, ...], default: int | None = None) -> int:
    """The first of several names of a field."""
    for name in names[:-1]:
        if fields.get(name) is not None:
            return fields.count(name)
    return fields.count(names[-1], default)


def _mamba1(fields: Fields, family: Family) -> AttentionSpec:
    hidden = fields.count("hidden_size")
    state = _field(fields, ("mamba_d_state", "state_size"), 16)
    kernel = _field(fields, ("mamba_d_conv", "conv_kernel"), 4)
    inner = _field(fields, ("mamba_expand", "expand"), 2) * hidden
    given = next((fields.get(n) for n in ("mamba_dt_rank", "time_step_rank") if fields.get(n) is not None), "auto")
    if isinstance(given, str):  # "auto": a sixteenth of the hidden size
        rank = -(-hidden // 16)
    else:
        rank = _field(fields, ("mamba_dt_rank", "time_step_rank"))
    ssm = SsmSpec(version=1, inner=inner, state=state, heads=inner, groups=1, conv_kernel=kernel, dt_rank=rank)
    bias = 2 * inner + hidden if fields.flag("mamba_proj_bias", fields.flag("use_bias", False)) else 0
    conv_bias = inner if fields.flag("mamba_conv_bias", fields.flag("use_conv_bias", True)) else 0
    inner_norms = rank + 2 * state if family.ssm_norms else 0
    return _attention(
        ssm,
        head_dim=1,
        matrices=(
            Matrix(name="in_proj", rows=2 * inner, cols=hidden),
            Matrix(name="x_proj", rows=rank + 2 * state, cols=inner, parallel="row"),
            Matrix(name="dt_proj", rows=inner, cols=rank),
            Matrix(name="out_proj", rows=hidden, cols=inner, parallel="row"),
        ),
        # convolution, A, D, bias of the step sizes
        small_params=inner * kernel + conv_bias + inner * state + 2 * inner + bias + inner_norms,
    )


def _mamba2(fields: Fields) -> AttentionSpec:
    hidden = fields.count("hidden_size")
    heads = _field(fields, ("mamba_n_heads", "mamba_num_heads", "num_heads"))
    head_dim = _head_dim(fields, hidden, heads)
    groups = _field(fields, ("mamba_n_groups", "n_groups"), 1)
    state = _field(fields, ("mamba_d_state", "ssm_state_size", "state_size"), 128)
    kernel = _field(fields, ("mamba_d_conv", "conv_kernel"), 4)
    inner = heads * head_dim
    if heads % groups:
        raise UserError(f"{fields.place}: {heads} state-space heads are not a multiple of {groups} groups")
    ssm = SsmSpec(
        version=2,
        inner=inner,
        state=state,
        heads=heads,
        groups=groups,
        conv_kernel=kernel,
        chunk=_field(fields, ("mamba_chunk_size", "chunk_size"), 256),
    )
    rows = 2 * inner + 2 * groups * state + heads
    conv_bias = ssm.conv_channels if fields.flag("mamba_conv_bias", fields.flag("use_conv_bias", True)) else 0
    bias = rows + hidden if fields.flag("mamba_proj_bias", fields.flag("use_bias", False)) else 0
    return _attention(
        ssm,
        head_dim=head_dim,
        matrices=(
            Matrix(name="in_proj", rows=rows, cols=hidden),
            Matrix(name="out_proj", rows=hidden, cols=inner, parallel="row"),
        ),
        # convolution, A, D and step bias per head, norm before the output projection
        small_params=ssm.conv_channels * kernel + conv_bias + 3 * heads + inner + bias,
    )


def _head_dim(fields: Fields, hidden: int, heads: int) -> int:
    """Width of a head: given, or what ``expand`` leaves (``mamba_d_head: auto``)."""
    for name in ("mamba_d_head", "mamba_head_dim"):
        if fields.get(name) not in (None, "auto"):
            return fields.count(name)
    expand = fields.optional_count("mamba_expand")
    if expand:
        return expand * hidden // heads
    return fields.count("head_dim", 64)


def _attention(ssm: SsmSpec, head_dim: int, matrices: tuple[Matrix, ...], small_params: int) -> AttentionSpec:
    return AttentionSpec(
        kind="linear",
        num_heads=ssm.heads,
        num_kv_heads=ssm.groups,
        head_dim=ssm.state,
        v_head_dim=head_dim,
        matrices=matrices,
        small_params=small_params,
        state_elements=ssm.recurrent_elements + ssm.conv_elements,
        conv_elements=ssm.conv_elements,
        ssm=ssm,
    )


def matmul_free(fields: Fields) -> AttentionSpec:
    """The token mixer of MatMul-free models (Zhu et al., arXiv:2406.02528, section 3.3): a gated recurrence with one state per
    channel; input, forget and output gates, then the output projection."""
    hidden = fields.count("hidden_size")
    return AttentionSpec(
        kind="linear",
        num_heads=hidden,
        num_kv_heads=hidden,
        head_dim=1,
        v_head_dim=1,
        matrices=(
            Matrix(name="ifg_proj", rows=3 * hidden, cols=hidden),
            Matrix(name="o_proj", rows=hidden, cols=hidden, parallel="row"),
        ),
        small_params=hidden,
        state_elements=hidden,
    )


def with_model_type(config: Json) -> Json:
    """A checkpoint of the authors' own package (``ssm_cfg``, ``d_model``, ``n_layer``) in the fields of its Hub twin."""
    block = config.get("ssm_cfg")
    if not isinstance(block, Mapping) or config.get("model_type"):
        return config
    if config.get("attn_layer_idx"):
        raise UserError("config: attn_layer_idx names attention layers; hybrids in this format are not modelled")
    second = block.get("layer", "Mamba1") == "Mamba2"
    hidden = config.get("d_model", config.get("hidden_size"))
    multiple = config.get("pad_vocab_size_multiple") or 1
    read: dict[str, Any] = {
        **config,
        "model_type": "mamba2" if second else "mamba",
        "tie_word_embeddings": config.get("tie_embeddings", True),
    }
    if isinstance(config.get("vocab_size"), int) and isinstance(multiple, int):
        read["vocab_size"] = -(-config["vocab_size"] // multiple) * multiple
    if second and isinstance(hidden, int):
        head_dim = int(block.get("headdim", 64))
        read |= {"head_dim": head_dim, "num_heads": int(block.get("expand", 2)) * hidden // head_dim}
        read |= {"n_groups": int(block.get("ngroups", 1)), "state_size": int(block.get("d_state", 128))}
    return read
