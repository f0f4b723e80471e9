"""The feed-forward part of one layer (dense, or routed and shared experts), from the fields of a config."""

from __future__ import annotations

from hardware_profiles.errors import UserError
from workloads.hf_families import Family
from workloads.hf_fields import Fields
from workloads.hf_ssm import mixer_kind
from workloads.model import Matrix, MlpSpec


def mlp_of(fields: Fields, family: Family, index: int) -> MlpSpec:
    """Feed-forward part of layer ``index`` (0-based)."""
    if family.bare_mixers and mixer_kind(fields, family, index) in ("mamba", "full"):
        return MlpSpec(matrices=())
    if _is_moe_layer(fields, family, index):
        return _moe(fields, family)
    hidden = fields.count("hidden_size")
    width = fields.optional_count("intermediate_size_mlp") or fields.optional_count("intermediate_size")
    width = (
        fields.optional_count("shared_intermediate_size") or width
    )  # Granite 4: without experts the shared MLP alone
    if not width:
        if family.gated_mlp:
            fields.count("intermediate_size")
        width = 4 * hidden
    matrices = _matrices(family, hidden, width)
    bias = sum(m.rows for m in matrices) if _has_bias(fields, family) else 0
    return MlpSpec(matrices=matrices, small_params=bias)


def _is_moe_layer(fields: Fields, family: Family, index: int) -> bool:
    """Whether a layer routes: Qwen's, DeepSeek's, Llama 4's and Jamba's ways of saying which layers stay dense."""
    if family.bare_mixers:
        return mixer_kind(fields, family, index) == "moe"
    if not fields.optional_count("num_experts"):
        return False
    period = fields.optional_count("expert_layer_period")
    if period:
        return index % period == (fields.optional_count("expert_layer_offset") or 0) % period
    if fields.get("moe_layers") is not None:
        return index in fields.counts("moe_layers")
    if index in fields.counts("mlp_only_layers") or index < (fields.optional_count("first_k_dense_replace") or 0):
        return False
    if index % fields.count("moe_layer_freq", 1):
        return False
    step = fields.optional_count("decoder_sparse_step")
    if step is None:
        step = fields.optional_count("interleave_moe_layer_step")
    return step != 0 and (index + 1) % (step or 1) == 0


def _moe(fields: Fields, family: Family) -> MlpSpec:
    hidden = fields.count("hidden_size")
    experts, chosen = fields.count("num_experts"), fields.count("num_experts_per_tok")
    if chosen > experts:
        raise UserError(f"{fields.place}: num_experts_per_tok {chosen} exceeds the {experts} experts")
    width = fields.optional_count("moe_intermediate_size") or fields.count("intermediate_size")
    expert = _matrices(family, hidden, width)
    shared_width = _shared_width(fields, width)
    shared = _matrices(family, hidden, shared_width, "shared_") if shared_width else ()
    expert_bias = sum(m.rows for m in expert) if family.expert_bias else 0
    router_bias = experts if family.router_bias or fields.get("topk_method") == "noaux_tc" else 0
    router_bias = router_bias or (experts if fields.get("model_type") == "glm4_moe" else 0)
    extra = hidden if shared and family.shared_gate else 0
    if fields.flag("enable_moe_block", False):  # Gemma 4: router scale (hidden) and a scale per expert
        extra += hidden + experts
    return MlpSpec(
        matrices=expert,
        num_experts=experts,
        experts_per_token=chosen,
        shared_matrices=shared,
        router=Matrix(name="router", rows=experts, cols=hidden, parallel="replicated"),
        small_params=experts * expert_bias + router_bias + extra,
        expert_small_params=expert_bias,
    )


def _shared_width(fields: Fields, expert_width: int) -> int:
    """Width of the always-active experts together; 0 without any."""
    if fields.get("model_type") in ("llama4", "llama4_text"):
        return expert_width
    if fields.flag("enable_moe_block", False):  # Gemma 4: a dense MLP beside the experts in every layer
        return fields.count("intermediate_size")
    width = fields.optional_count("shared_expert_intermediate_size")
    width = width or fields.optional_count("moe_shared_expert_intermediate_size")  # Nemotron-H
    width = width or fields.optional_count("shared_intermediate_size")  # Granite 4
    return width or (fields.optional_count("n_shared_experts") or 0) * expert_width


def _matrices(family: Family, hidden: int, width: int, prefix: str = "") -> tuple[Matrix, ...]:
    up = "gate_up_proj" if family.gated_mlp else "up_proj"
    return (
        Matrix(name=f"{prefix}{up}", rows=width * (2 if family.gated_mlp else 1), cols=hidden),
        Matrix(name=f"{prefix}down_proj", rows=hidden, cols=width, parallel="row"),
    )


def _has_bias(fields: Fields, family: Family) -> bool:
    if family.mlp_bias == "config":
        return fields.flag("mlp_bias", fields.flag("bias", False))
    return family.mlp_bias == "all"
