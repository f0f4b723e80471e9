"""Experts of a kind of block and how tokens get to the ranks that hold them: one way, or the quickest of several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from simulator.physics.cost import Bound, Cost
from simulator.physics.kernels import CollectiveOp
from simulator.physics.layout import MLP_KERNELS, RankExperts
from simulator.physics.moe_load import ExpertLoad, MoeLoads
from simulator.physics.precision import KernelFormat
from simulator.physics.stage_context import StageContext
from simulator.physics.sums import in_order

OVERLAP_DEGREES = (1, 2, 4, 8)
"""Pieces that an adaptive layer splits a step into (Tutel, arXiv:2206.03382, section 4.2)."""


Gemm = Callable[[str, float, int, int, KernelFormat, int], Cost]
"""Name, rows, outputs, inputs, format, how many blocks."""


class Way(NamedTuple):
    """One way to run a layer."""

    experts: Cost
    exchange: list[Cost]

    @property
    def seconds(self) -> float:
        """All of it [s]."""
        return self.experts.seconds + in_order(cost.seconds for cost in self.exchange)


class MoeLayer:
    """Experts and exchange on one rank of one stage."""

    def __init__(
        self, context: StageContext, kernels: Callable[[RankExperts, ExpertLoad, int], Cost], gemm: Gemm
    ) -> None:
        """``kernels``: the experts' products under a load, for so many blocks; ``gemm``: any other product."""
        self._context = context
        self.loads = MoeLoads(context)
        self._products, self._gemm = kernels, gemm
        self._moe = context.plan.techniques.moe
        launches = (self._moe.kernels or MLP_KERNELS) - MLP_KERNELS
        launches += self._moe.adapters is not None  # tokens' choices become places in the table of all experts
        self._launch_s = launches * context.precision.base.gemm.launch_s
        """Each further kernel starts like a 16-bit GEMM [s per block]."""

    def costs(self, experts: RankExperts, tokens: float, count: int) -> tuple[Cost, list[Cost]]:
        """(experts, exchange) of ``count`` blocks for ``tokens`` tokens of a replica, the quickest way that the plan allows."""
        way = min(self._ways(experts, tokens, count), key=lambda way: way.seconds)
        return way.experts, [*self._masked(experts, tokens, count), *way.exchange]

    def _masked(self, experts: RankExperts, tokens: float, count: int) -> list[Cost]:
        """Products of a rank's tokens with the mask of tokens x slots, into the slots and back: 2 T (E slots) hidden FLOP each
        (the einsums SEC,SM->ECM and SEC,ECM->SM of GShard, arXiv:2006.16668)."""
        slots = self.loads.slots(experts, tokens)
        if slots is None or self._moe.dispatch == "sorted":
            return []
        own, all_slots = tokens * experts.replicas / experts.sources, slots * experts.num_experts
        hidden, fmt = self._context.layout.hidden, self._context.precision.base
        return [
            self._gemm("moe.encode", all_slots, hidden, max(1, round(own)), fmt, count),
            self._gemm("moe.decode", own, hidden, max(1, round(all_slots)), fmt, count),
        ]

    def _ways(self, experts: RankExperts, tokens: float, count: int) -> Iterator[Way]:
        moe = self._moe
        adaptive = moe.parallelism == "adaptive"
        if experts.ep <= self._context.plan.tp:
            yield Way(
                self._kernels(experts, self.loads.load(experts, tokens), count), self._exchange(experts, tokens, count)
            )
            return
        if adaptive or moe.parallelism == "exchange":
            degrees = [d for d in OVERLAP_DEGREES if d <= moe.overlap_degree] if adaptive else [moe.overlap_degree]
            for degree in degrees:
                yield self._in_pieces(experts, tokens, count, degree)
        if adaptive or moe.parallelism == "gather-tokens":
            load = self.loads.load(experts, tokens)
            load = load._replace(routed_rows=load.mean_rows * experts.ep)  # every rank sorts all pairs
            yield Way(self._kernels(experts, load, count), self._gathered_tokens(experts, tokens, count))
        if adaptive or moe.parallelism == "gather-weights":
            yield Way(
                self._kernels(experts, self.loads.own_load(experts, tokens), count),
                self._gathered_weights(experts, tokens, count),
            )

    def _kernels(self, experts: RankExperts, load: ExpertLoad, count: int) -> Cost:
        cost = self._products(experts, load, count)
        return cost._replace(seconds=cost.seconds + count * self._launch_s) if self._launch_s else cost

    # -- how tokens get there -----------------------------------------------------------------------------------------

    def _exchange(self, experts: RankExperts, tokens: float, count: int) -> list[Cost]:
        """What follows the MLP: an all-reduce over TP, or dispatch, combine and a gather when experts span replicas."""
        tp = self._context.plan.tp
        element = self._context.precision.element_bytes
        hidden = self._context.layout.hidden
        if experts.ep <= tp:
            return reduce_mlp(self._context, tokens, count)
        once = tokens / tp * hidden
        slots = self.loads.slots(experts, tokens)
        if slots is not None:
            once = slots * experts.num_experts * hidden
        dispatch = min(element, experts.format.activation_bytes)
        costs = [self._sent("all_to_all.dispatch", once * dispatch, experts, count)]
        measured = self._context.expert_routing
        if measured is None or measured.exchanges > 1:
            costs.append(self._sent("all_to_all.combine", once * element, experts, count))
        return costs + self._after(tokens, count)

    def _after(self, tokens: float, count: int) -> list[Cost]:
        """Ranks of a TP group gather the slices that each has computed."""
        tp, context = self._context.plan.tp, self._context
        nbytes = tokens * context.layout.hidden * context.precision.element_bytes
        return [collective(context, "all_gather.moe", "all_gather", nbytes, tp, count)] if tp > 1 else []

    def _sent(self, name: str, nbytes: float, experts: RankExperts, count: int) -> Cost:
        """Tokens of one rank to the ranks of their experts, or whole buffers of slots."""
        link = self._context.interconnect
        algorithms = ("hierarchical", "flat") if self._moe.all_to_all == "adaptive" else (self._moe.all_to_all,)

        def one(nbytes: float, flat: bool) -> tuple[float, float]:
            if self._moe.capacity_factor is not None:
                return link.buffers(nbytes, experts.ep, flat)
            return link.routed(
                nbytes, experts.choices, experts.ep, self._context.expert_routing, experts.compute_share, flat
            )

        seconds, sent, flat = min((*one(nbytes, name == "flat"), name == "flat") for name in algorithms)
        start_s, _ = one(0.0, flat)
        return Cost(name, seconds * count, "link" if seconds > 2 * start_s else "latency", link_bytes=sent * count)

    def _gathered_tokens(self, experts: RankExperts, tokens: float, count: int) -> list[Cost]:
        """All tokens to all ranks, and the sums of what each of them computed back: 2 (n-1)/n of all tokens per rank."""
        context = self._context
        everything = tokens * experts.replicas * context.layout.hidden
        dispatch = min(context.precision.element_bytes, experts.format.activation_bytes)
        costs = [collective(context, "all_gather.dispatch", "all_gather", everything * dispatch, experts.ep, count)]
        summed = everything * context.precision.element_bytes
        costs.append(collective(context, "reduce_scatter.combine", "reduce_scatter", summed, experts.ep, count))
        return costs + self._after(tokens, count)

    def _gathered_weights(self, experts: RankExperts, tokens: float, count: int) -> list[Cost]:
        """All experts of the layer to all ranks: (n-1)/n of their weights per rank, whatever the tokens."""
        nbytes = experts.weight_bytes * experts.ep
        gather = collective(self._context, "all_gather.experts", "all_gather", nbytes, experts.ep, count)
        return [gather, *self._after(tokens, count)]

    def _in_pieces(self, experts: RankExperts, tokens: float, count: int, degree: int) -> Way:
        """Tokens are exchanged; in pieces, the exchange of one runs beside the experts of another.

        Makespan of ``degree`` equal pieces on two resources, link and arithmetic: dispatch + experts + combine
        + (degree - 1) max(experts, dispatch + combine), all of one piece.
        """
        if degree == 1:
            return Way(
                self._kernels(experts, self.loads.load(experts, tokens), count), self._exchange(experts, tokens, count)
            )
        part = self._kernels(experts, self.loads.load(experts, tokens / degree), count)
        exchange = self._exchange(experts, tokens / degree, count)
        moved = [cost for cost in exchange if cost.name.startswith("all_to_all")]
        moved_s = in_order(cost.seconds for cost in moved)
        total_s = part.seconds + moved_s + (degree - 1) * max(part.seconds, moved_s)
        exposed = (total_s - degree * part.seconds) / moved_s if moved_s else 0.0
        whole = part._replace(
            seconds=degree * part.seconds,
            peak_s=degree * part.peak_s,
            flop=degree * part.flop,
            nbytes=degree * part.nbytes,
        )
        hidden = [c._replace(seconds=exposed * c.seconds, link_bytes=degree * c.link_bytes) for c in moved]
        return Way(whole, hidden + self._after(tokens, count))


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
