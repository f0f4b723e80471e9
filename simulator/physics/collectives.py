"""Seconds of collectives on a cluster: which tier of links a group of ranks spans, and what each tier costs."""

from __future__ import annotations

from dataclasses import dataclass

from hardware_profiles.errors import UserError
from hardware_profiles.schema import Cluster, CollectiveFit, Efficiency, Link
from simulator.physics.kernels import CollectiveOp, collective_bytes, collective_s
from simulator.physics.moe import ExpertRouting

DEFAULT_LINK_SHARE = 0.68
"""Share of a link's one-way bandwidth that collectives reach when the profile states none: vLLM's all-reduce in CUDA
graphs reaches 194 of 300, 330 of 450 and 586 of 900 GB/s on A100, H100 and B200 (AIConfigurator tables, Apache-2.0)."""
_ONE_SHOT_S = {"all_reduce": 5.1e-6, "all_gather": 8.6e-6, "reduce_scatter": 11.7e-6, "all_to_all": 12.7e-6}
_RING_S = {"all_reduce": 9.3e-6, "all_gather": 17.8e-6, "reduce_scatter": 9.3e-6, "all_to_all": 14.1e-6}
_RANK_S = {"all_reduce": 0.1e-6, "all_gather": 0.8e-6, "reduce_scatter": 0.5e-6, "all_to_all": 0.14e-6}
"""Medians over A100 to GB300 (same tables): start-up of the one-shot and the ring algorithm, and per further rank."""
P2P_S = 10e-6
"""Start-up of one NCCL send/receive pair: the ring start-ups above without their further hops, rounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One level of a hierarchical group: ``ranks`` peers over one kind of link."""

    ranks: int
    link: Link
    measured: bool
    """True on the device's own scale-up link, where fitted collectives apply."""


def link_share(link: Link) -> float:
    """Share of the bandwidth a large transfer reaches: the profile's, or the default when it says nothing."""
    return link.efficiency if link.efficiency < 1.0 else DEFAULT_LINK_SHARE


def default_fit(op: CollectiveOp, link: Link) -> CollectiveFit:
    """Alpha-beta from a link's datasheet: measured start-ups, one link latency per hop, reachable bandwidth."""
    bandwidth = link.bandwidth_bytes_per_s * link_share(link)
    return CollectiveFit(
        alpha1_s=_ONE_SHOT_S[op] + link.latency_s,
        alpha1_rank_s=_RANK_S[op] + link.latency_s,
        bandwidth1_bytes_per_s=bandwidth,
        alpha2_s=_RING_S[op] + link.latency_s,
        alpha2_rank_s=_RANK_S[op] + link.latency_s,
        bandwidth2_bytes_per_s=bandwidth,
        source="link datasheet, median start-ups",
    )


class Interconnect:
    """Collectives of consecutively numbered ranks on a cluster.

    Groups fill a scale-up domain, then a node, then further nodes. Ranks are assumed to be packed without holes.
    """

    def __init__(self, cluster: Cluster, efficiency: Efficiency) -> None:
        device = cluster.device
        self._efficiency = efficiency
        self._network = cluster.node.network
        self._scaleup = device.scaleup
        self._host_link = device.host_link
        self._domain = cluster.scaleup_devices
        self._node = cluster.devices_before_network
        self._fits: dict[tuple[CollectiveOp, str], CollectiveFit] = {}

    def tiers(self, ranks: int) -> tuple[Tier, ...]:
        """Levels that ``ranks`` consecutive devices span, innermost first; levels of one rank are left out."""
        inner = min(ranks, self._domain)
        middle = -(-min(ranks, self._node) // inner)
        outer = -(-ranks // self._node)
        levels = []
        if inner > 1 and self._scaleup is not None:
            levels.append(Tier(ranks=inner, link=self._scaleup, measured=True))
        if middle > 1:
            link = self._host_link or self._scaleup or self._network
            levels.append(Tier(ranks=middle, link=link, measured=False))
        if outer > 1:
            levels.append(Tier(ranks=outer, link=self._network, measured=False))
        for tier in levels:
            if tier.link.bandwidth_bytes_per_s <= 0:
                raise UserError(
                    f"link {tier.link.name!r}: bandwidth_bytes_per_s must be positive to connect {ranks} ranks"
                )
        return tuple(levels)

    def _fit(self, op: CollectiveOp, tier: Tier) -> CollectiveFit:
        if tier.measured and op in self._efficiency.collectives:
            return self._efficiency.collectives[op]
        key = (op, tier.link.name)
        if key not in self._fits:
            self._fits[key] = default_fit(op, tier.link)
        return self._fits[key]

    def seconds(self, op: CollectiveOp, nbytes: float, ranks: int) -> float:
        """Time of one collective over ``ranks`` consecutive devices [s]; ``nbytes`` as in ``collective_bytes``.

        Across tiers it is hierarchical, levels one after the other: all-reduce is reduce-scatter inside, all-reduce of
        the shard outside, all-gather inside; all-gather and reduce-scatter move the outer share first; all-to-all sends
        to other groups over the outer link, then redistributes inside.
        """
        return self._over(op, nbytes, self.tiers(ranks))

    def _over(self, op: CollectiveOp, nbytes: float, tiers: tuple[Tier, ...]) -> float:
        if not tiers:
            return 0.0
        inner, rest = tiers[0], tiers[1:]
        if not rest:
            return float(collective_s(op, nbytes, inner.ranks, self._fit(op, inner)))
        if op == "all_reduce":
            scatter = float(collective_s("reduce_scatter", nbytes, inner.ranks, self._fit("reduce_scatter", inner)))
            gather = float(collective_s("all_gather", nbytes, inner.ranks, self._fit("all_gather", inner)))
            return scatter + self._over(op, nbytes / inner.ranks, rest) + gather
        inside = float(collective_s(op, nbytes, inner.ranks, self._fit(op, inner)))
        outer_bytes = nbytes if op == "all_to_all" else nbytes / inner.ranks
        return inside + self._over(op, outer_bytes, rest)

    def routed(
        self,
        token_bytes: float,
        choices: int,
        ranks: int,
        measured: ExpertRouting | None = None,
        share: float = 1.0,
        flat: bool = False,
    ) -> tuple[float, float]:
        """(seconds, bytes sent per rank) of an all-to-all that sends every token to ``choices`` of the ranks at random.

        ``token_bytes``: all tokens of one rank, once [B]. A token crosses a link once per distinct group it goes to,
        n (1 - (1 - s/n)^choices) of n groups, and is copied inside, as DeepSeek's DeepEP does. Tiers one by one. With
        ``measured`` its copies replace that number, and the time is that of the busiest group's. ``share`` s: choices that go
        to a rank at all. ``flat``: a copy to every distinct rank instead, over all tiers at once.
        """
        seconds, sent, peers = 0.0, 0.0, ranks
        for level, tier in enumerate(self.tiers(ranks)):
            copies, tail = peers * (1.0 - (1.0 - share / peers) ** choices), 1.0
            if measured is not None:
                fewer = copies / (peers * (1.0 - (1.0 - 1.0 / peers) ** choices)) if share < 1.0 else 1.0
                copies, tail = fewer * measured.copies[level], measured.tail[level]
            nbytes = token_bytes * copies
            if flat:
                return self._direct(nbytes, ranks, tail)
            seconds += float(collective_s("all_to_all", nbytes * tail, tier.ranks, self._fit("all_to_all", tier)))
            sent += float(collective_bytes("all_to_all", nbytes, tier.ranks))
            peers = max(1, peers // tier.ranks)
        return seconds, sent

    def buffers(self, nbytes: float, ranks: int, flat: bool) -> tuple[float, float]:
        """(seconds, bytes sent per rank) of an all-to-all of equal parts: slots of experts, filled or not."""
        if flat:
            return self._direct(nbytes, ranks)
        return self.seconds("all_to_all", nbytes, ranks), self.link_bytes("all_to_all", nbytes, ranks)

    def _direct(self, nbytes: float, ranks: int, tail: float = 1.0) -> tuple[float, float]:
        """(seconds, bytes sent per rank) of a message to every rank: links of different tiers work at the same time.

        The peers of a tier are those that no inner one reaches; each gets 1/ranks of the bytes. ``tail``: what the busiest
        receives over the mean.
        """
        seconds, sent, reached = 0.0, 0.0, 1
        for tier in self.tiers(ranks):
            peers = min(ranks, reached * tier.ranks) - reached
            part = nbytes * (peers + 1) / ranks
            seconds = max(
                seconds, float(collective_s("all_to_all", part * tail, peers + 1, self._fit("all_to_all", tier)))
            )
            sent += float(collective_bytes("all_to_all", part, peers + 1))
            reached += peers
        return seconds, sent

    def link_bytes(self, op: CollectiveOp, nbytes: float, ranks: int) -> float:
        """Bytes one rank sends over all tiers together [B]."""
        total, size = 0.0, nbytes
        for tier in self.tiers(ranks):
            total += float(collective_bytes(op, size, tier.ranks))
            size = size if op == "all_to_all" else size / tier.ranks
        return total

    def send_s(self, nbytes: float, first: int, second: int) -> float:
        """One message of ``nbytes`` from device ``first`` to device ``second`` [s], over the tier that joins them."""
        if first // self._node != second // self._node:
            link = self._network
        elif first // self._domain != second // self._domain or self._scaleup is None:
            link = self._host_link or self._scaleup or self._network
        else:
            link = self._scaleup
        return P2P_S + link.latency_s + nbytes / (link.bandwidth_bytes_per_s * link_share(link))
