"""Adapters with experts of their own (ESFT): memory of the copies, and the experts that a step touches (ExpertWeave)."""

from __future__ import annotations

from hardware_profiles.errors import UserError
from simulator.moe_settings import ExpertAdapters, MoeTechniques
from simulator.physics.layout import RankExperts, StageLayout
from simulator.physics.moe import expected_active_experts, expert_probabilities
from simulator.physics.sums import in_order
from simulator.plan import ParallelPlan
from workloads.model import ModelSpec


def own_share(adapters: ExpertAdapters, num_experts: int) -> float:
    """Choices of a token that reach an expert of its adapter; as many as its experts are of all, unless given."""
    return adapters.size / num_experts if adapters.share is None else adapters.share


def active_growth(adapters: ExpertAdapters, experts: RankExperts, tokens: float, skew: float) -> float:
    """Experts hit by ``tokens`` tokens over those that the base model alone would have.

    Every token belongs to adapter a with probability q_a (Zipf) and sends the share s of its k choices to that adapter's m own
    experts, the others to the base: sum_a m (1 - (1 - q_a k s / m)^T) own experts, and the base's with k (1 - s) choices.
    Tokens count as independent; those of one prompt share an adapter, so that prompts hit fewer.
    """
    k, share = experts.experts_per_token, own_share(adapters, experts.num_experts)
    base = expected_active_experts(tokens, experts.num_experts, k, skew)
    if not base:
        return 1.0
    popularity = expert_probabilities(adapters.num, 1, adapters.skew)
    hit = (popularity * (k * share / adapters.size)).clip(max=1.0)
    own = float((adapters.size * (1.0 - (1.0 - hit) ** tokens)).sum())
    rest = k * (1.0 - share)
    kept = expected_active_experts(tokens, experts.num_experts, rest, skew) if rest else 0.0
    return (kept + own) / base


def expert_adapter_bytes(stage: StageLayout, plan: ParallelPlan) -> float:
    """Memory of all adapters' own experts on one device [B]: num x size experts per MoE layer, spread over its ranks."""
    adapters = plan.techniques.moe.adapters
    if adapters is None:
        return 0.0
    return in_order(
        count
        * adapters.num
        * adapters.size
        / layer.experts.ep
        * layer.experts.weight_bytes
        / layer.experts.local_experts
        for layer, count in stage.layers
        if layer.experts is not None
    )


def check_expert_adapters(moe: MoeTechniques, model: ModelSpec) -> None:
    """UserError for more own experts than a layer has."""
    adapters = moe.adapters
    if adapters is None or not model.is_moe:
        return
    most = min(group.mlp.num_experts for group in model.layers if group.mlp.is_moe)
    if adapters.size > most:
        raise UserError(
            f"--expert-adapter-size is {adapters.size:g}; a layer of {model.name} has {most} experts: use at most {most}"
        )
