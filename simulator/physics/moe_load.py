"""Which (token, expert) pairs the ranks of a MoE layer compute in a step: rows, active experts, slots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from simulator.physics.expert_adapters import active_growth
from simulator.physics.layout import RankExperts, StageLayout
from simulator.physics.moe import capacity, dropped_share, slowest_rank
from simulator.physics.stage_context import StageContext
from simulator.physics.sums import in_order
from simulator.plan import ParallelPlan

if TYPE_CHECKING:
    from simulator.physics.stage import Stage


class ExpertLoad(NamedTuple):
    """What the ranks of one layer compute in a step."""

    rows: float
    """(token, expert) pairs of the busiest rank, padding of slots included: they set the time."""
    active: float
    """Experts of that rank with at least one."""
    mean_rows: float
    """Pairs of the average rank: what FLOP and bytes count."""
    mean_active: float
    routed_rows: float
    """Pairs that a rank sorts and sums, those of other ranks' experts included where it meets them."""


class MoeLoads:
    """Loads of the layers of one stage."""

    def __init__(self, context: StageContext) -> None:
        self._context = context

    def load(self, experts: RankExperts, tokens: float) -> ExpertLoad:
        """Every rank computes the tokens of all replicas that chose its experts, or the slots that are kept for them."""
        measured = self._context.expert_routing
        rows, active = slowest_rank(
            tokens * experts.replicas,
            experts.num_experts,
            experts.experts_per_token,
            experts.ep,
            self._context.moe_skew,
            None if measured is None else measured.busiest_rank,
        )
        mean_rows, mean_active = self.mean_rank(experts, tokens)
        # beyond TP, tokens are dispatched: a rank meets only those of its experts
        routed = mean_rows * experts.ep if experts.ep <= self._context.plan.tp else rows
        kept = self.slots(experts, tokens)
        if kept is None:
            growth = self._growth(experts, tokens)
            return ExpertLoad(rows, active * growth, mean_rows, mean_active * growth, routed)
        held = experts.num_experts / experts.ep
        rows = held * kept * experts.sources
        return ExpertLoad(rows, held, rows, held, min(routed, rows * experts.ep))

    def _growth(self, experts: RankExperts, tokens: float) -> float:
        """Experts hit over those of the base model: adapters have some of their own."""
        adapters = self._context.plan.techniques.moe.adapters
        if adapters is None:
            return 1.0
        return active_growth(adapters, experts, tokens * experts.replicas, self._context.moe_skew)

    def own_load(self, experts: RankExperts, tokens: float) -> ExpertLoad:
        """Every rank computes its own tokens with all experts."""
        own = tokens / self._context.plan.tp
        rows, active = slowest_rank(own, experts.num_experts, experts.experts_per_token, 1, self._context.moe_skew)
        kept = self.slots(experts, tokens)
        if kept is None:
            return ExpertLoad(rows, active, rows, active, rows)
        filled, held = kept * experts.num_experts, float(experts.num_experts)
        return ExpertLoad(filled, held, filled, held, min(rows, filled))

    def mean_rank(self, experts: RankExperts, tokens: float) -> tuple[float, float]:
        """(rows, active experts) of the average rank."""
        rows, active = slowest_rank(
            tokens * experts.replicas, experts.num_experts, experts.experts_per_token, 1, self._context.moe_skew
        )
        return rows / experts.ep, active / experts.ep

    def slots(self, experts: RankExperts, tokens: float) -> float | None:
        """Slots that every expert keeps for the tokens of one source rank; None: no slots."""
        factor = self._context.plan.techniques.moe.capacity_factor
        if factor is None:
            return None
        own = tokens * experts.replicas / experts.sources
        return capacity(own, experts.num_experts, experts.experts_per_token, factor, self._context.moe_skew)

    def dropped(self, experts: RankExperts, tokens: int) -> float | None:
        """Share of the choices that find no slot; None without slots, and where tokens stay with gathered experts."""
        kept = self.slots(experts, tokens)
        if kept is None or not tokens:
            return None
        own = max(1, round(tokens * experts.replicas / experts.sources))
        return dropped_share(own, experts.num_experts, experts.experts_per_token, kept, self._context.moe_skew)


def dropped_choices(stages: Sequence[Stage], tokens: int) -> float | None:
    """Share of the choices of a step that find no slot, mean over the MoE layers; None without slots."""
    shares = [
        (count, share)
        for stage in stages
        for layer, count in stage.layout.layers
        if layer.experts is not None and (share := stage.moe.loads.dropped(layer.experts, tokens)) is not None
    ]
    return in_order(count * share for count, share in shares) / sum(count for count, _ in shares) if shares else None


def gathered_bytes(stage: StageLayout, plan: ParallelPlan) -> float:
    """Device memory for the experts of one layer that other ranks hold [B], where they may be gathered."""
    if plan.techniques.moe.parallelism not in ("gather-weights", "adaptive") or plan.ep <= plan.tp:
        return 0.0
    experts = [layer.experts for layer, _ in stage.layers if layer.experts is not None]
    return max((e.weight_bytes * (e.ep - 1) for e in experts), default=0.0)
