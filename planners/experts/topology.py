"""Which links join expert-parallel ranks, and how much dearer a token is on one than on another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hardware_profiles.errors import UserError
from hardware_profiles.schema import Cluster
from simulator.experts.routing import Floats, Ints
from simulator.physics.collectives import Interconnect, link_share
from simulator.physics.efficiency import efficiency_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Ranks in numbered nodes; ``weights[g, h]`` is the cost of one token from g to h, 0 at home, 1 on the fastest link."""

    node_of: Ints
    weights: Floats

    @property
    def num_ranks(self) -> int:
        """Expert-parallel ranks, one GPU each."""
        return len(self.node_of)

    @property
    def num_nodes(self) -> int:
        """Nodes (of racks on one scale-up link, the racks)."""
        return int(self.node_of.max()) + 1

    @property
    def uniform(self) -> bool:
        """All links between different ranks cost the same."""
        off = self.weights[~np.eye(self.num_ranks, dtype=bool)]
        return bool(off.size == 0 or np.ptp(off) == 0)

    @property
    def network_weight(self) -> float:
        """Cost of a token to another node, in tokens inside a node; 1 with one node."""
        return float(self.weights.max(initial=1.0))


def two_level(ranks: int, per_node: int, network_weight: float) -> Topology:
    """``ranks`` numbered through nodes of ``per_node``; a token to another node costs ``network_weight``."""
    node = np.arange(ranks) // per_node
    weights = np.where(node[:, None] == node[None, :], 1.0, network_weight)
    np.fill_diagonal(weights, 0.0)
    return Topology(node_of=node.astype(np.int64), weights=weights)


def topology_of(cluster: Cluster, ranks: int) -> Topology:
    """The first ``ranks`` devices of a cluster.

    Costs are inverse reachable bandwidths (link times its share, as in the simulator's collectives). Inside a node all pairs
    cost the same: what differs between bridges and the host's link is not modelled here.
    """
    if ranks > cluster.num_devices:
        raise UserError(
            f"--ep is {ranks}; {cluster.name} has {cluster.num_devices} devices. Use --ep {cluster.num_devices}"
        )
    per_node = cluster.devices_before_network
    if ranks <= per_node:
        return two_level(ranks, ranks, 1.0)
    if ranks % per_node:
        raise UserError(f"--ep is {ranks}; across nodes it must be a multiple of the {per_node} devices of a node")
    tiers = Interconnect(cluster, efficiency_of(cluster.device)).tiers(ranks)
    speed = [tier.link.bandwidth_bytes_per_s * link_share(tier.link) for tier in tiers]
    return two_level(ranks, per_node, max(1.0, speed[0] / speed[-1]))
