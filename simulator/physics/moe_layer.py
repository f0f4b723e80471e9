"""Experts of a kind of block and the exchange of tokens between the ranks that hold them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from simulator.physics.cost import Bound, Cost
from simulator.physics.kernels import CollectiveOp
from simulator.physics.layout import RankExperts
from simulator.physics.moe import slowest_rank

if TYPE_CHECKING:
    from simulator.physics.stage import StageContext


class ExpertLoad(NamedTuple):
    """What the ranks of one layer compute in a step."""

    rows: float
    """(token, expert) pairs of the busiest rank: they set the time."""
    active: float
    """Experts of that rank with at least one."""
    mean_rows: float
    """Pairs of the average rank: what FLOP and bytes count."""
    mean_active: float
    routed_rows: float
    """Pairs that a rank sorts and sums, those of other ranks' experts included where it meets them."""


class MoeLayer:
    """Experts and exchange on one rank of one stage."""

    def __init__(self, context: StageContext, kernels: Callable[[RankExperts, ExpertLoad, int], Cost]) -> None:
        """``kernels``: the experts' products under a load, for so many blocks."""
        self._context = context
        self._kernels = kernels

    def costs(self, experts: RankExperts, tokens: float, count: int) -> tuple[Cost, list[Cost]]:
        """(experts, exchange) of ``count`` blocks for ``tokens`` tokens of a replica."""
        return self._kernels(experts, self.load(experts, tokens), count), self._exchange(experts, tokens, count)

    def load(self, experts: RankExperts, tokens: float) -> ExpertLoad:
        """Every rank computes the tokens of all replicas that chose its experts."""
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
        return ExpertLoad(rows, active, mean_rows, mean_active, routed)

    def mean_rank(self, experts: RankExperts, tokens: float) -> tuple[float, float]:
        """(rows, active experts) of the average rank."""
        rows, active = slowest_rank(
            tokens * experts.replicas, experts.num_experts, experts.experts_per_token, 1, self._context.moe_skew
        )
        return rows / experts.ep, active / experts.ep

    def _exchange(self, experts: RankExperts, tokens: float, count: int) -> list[Cost]:
        """What follows the MLP: an all-reduce over TP, or dispatch, combine and a gather when experts span replicas."""
        tp = self._context.plan.tp
        element = self._context.precision.element_bytes
        hidden = self._context.layout.hidden
        if experts.ep <= tp:
            return reduce_mlp(self._context, tokens, count)
        once = tokens / tp * hidden
        dispatch = min(element, experts.format.activation_bytes)
        costs = [self._routed("all_to_all.dispatch", once * dispatch, experts, count)]
        measured = self._context.expert_routing
        if measured is None or measured.exchanges > 1:
            costs.append(self._routed("all_to_all.combine", once * element, experts, count))
        if tp > 1:
            costs.append(
                collective(self._context, "all_gather.moe", "all_gather", tokens * hidden * element, tp, count)
            )
        return costs

    def _routed(self, name: str, token_bytes: float, experts: RankExperts, count: int) -> Cost:
        route, measured = self._context.interconnect.routed, self._context.expert_routing
        seconds, sent = route(token_bytes, experts.experts_per_token, experts.ep, measured)
        start_s, _ = route(0.0, experts.experts_per_token, experts.ep, measured)
        return Cost(name, seconds * count, "link" if seconds > 2 * start_s else "latency", link_bytes=sent * count)


def reduce_mlp(context: StageContext, tokens: float, count: int) -> list[Cost]:
    """The all-reduce after an MLP or experts that TP splits."""
    tp = context.plan.tp
    nbytes = tokens * context.layout.hidden * context.precision.element_bytes
    return [collective(context, "all_reduce.mlp", "all_reduce", nbytes, tp, count)] if tp > 1 else []


def collective(context: StageContext, name: str, op: CollectiveOp, nbytes: float, ranks: int, count: int) -> Cost:
    """One collective per block over consecutive ranks."""
    seconds = context.interconnect.seconds(op, nbytes, ranks)
    start_s = context.interconnect.seconds(op, 0.0, ranks)
    sent = context.interconnect.link_bytes(op, nbytes, ranks)
    bound: Bound = "link" if seconds > 2 * start_s else "latency"
    return Cost(name, seconds * count, bound, link_bytes=sent * count)
