"""What a placement loses when popularity drifts, and what planning again wins back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planners.experts.effect import Effect
from planners.experts.placement import Figures, figures_of
from planners.experts.search import plan_experts
from simulator.experts.placement import Placement
from simulator.experts.routing import Routing, demand_of

if TYPE_CHECKING:
    from planners.experts.outcome import Question


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Tokens of the new popularity under the placement planned before, and under one planned on others of them."""

    tokens: int
    """Tokens that judge; as many were there to plan again."""
    stale: Figures
    replanned: Figures
    stale_effect: Effect
    replanned_effect: Effect


def drift_of(question: Question, stale: Placement) -> Drift:
    """Half of the drifted tokens plan, the other half judges."""
    experts = question.routing.experts[-question.drifted :]
    late = Routing(name=question.routing.name, experts=experts, num_experts=question.routing.num_experts)
    known, unseen = late.split(0.5)
    again = plan_experts(demand_of(known), question.topology, question.settings).chosen.placement
    demand = demand_of(unseen)
    return Drift(
        tokens=unseen.num_tokens,
        stale=figures_of(demand, stale, question.topology),
        replanned=figures_of(demand, again, question.topology),
        stale_effect=question.effect(unseen, stale),
        replanned_effect=question.effect(unseen, again),
    )
