"""Work that runs at the same time: collectives under other kernels, and nano-batches that keep several resources busy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from simulator.physics.cost import Cost
from simulator.physics.sums import in_order

_COLLECTIVES = ("all_reduce", "all_gather", "all_to_all", "reduce_scatter")


class Resources(NamedTuple):
    """Seconds that each resource of a device is busy in a step."""

    compute_s: float
    memory_s: float
    link_s: float


def is_collective(cost: Cost) -> bool:
    """Whether a component is communication inside a stage (sends between stages overlap with other micro-batches)."""
    return cost.name.startswith(_COLLECTIVES)


def hide_collectives(costs: Sequence[Cost], share: float) -> list[Cost]:
    """Components with the part of the collectives that is exposed: comm - share * min(comm, work).

    ``work``: the components that depend on the tokens alone, without attention over the cache. With all of it hidden this is
    max(comm, work), as in Ladder-Residual (arXiv:2501.06589).
    """
    comm_s = in_order(c.seconds for c in costs if is_collective(c))
    work_s = in_order(c.seconds for c in costs) - comm_s
    if not share or not comm_s:
        return list(costs)
    exposed = 1.0 - share * min(comm_s, work_s) / comm_s
    return [c._replace(seconds=c.seconds * exposed) if is_collective(c) else c for c in costs]


def hide_exchange(exchange: Sequence[Cost], experts_s: float) -> list[Cost]:
    """Dispatch and combine as a fused kernel has them: what the experts' products do not hide (FlashMoE, arXiv:2506.04667)."""
    total_s = in_order(c.seconds for c in exchange if c.name.startswith("all_to_all"))
    exposed = max(0.0, total_s - experts_s) / total_s if total_s else 1.0
    return [c._replace(seconds=c.seconds * exposed) if c.name.startswith("all_to_all") else c for c in exchange]


def resources_of(costs: Iterable[Cost], bandwidth_bytes_per_s: float) -> Resources:
    """How long components keep each resource busy: their whole time on what bounds them, their work at its peak on others."""
    compute_s = memory_s = link_s = 0.0
    for c in costs:
        traffic_s = c.nbytes / bandwidth_bytes_per_s if bandwidth_bytes_per_s else 0.0
        if c.bound == "link" or is_collective(c):
            link_s += c.seconds
        elif c.bound == "compute":
            compute_s, memory_s = compute_s + c.seconds, memory_s + traffic_s
        else:
            compute_s, memory_s = compute_s + c.peak_s, memory_s + c.seconds
    return Resources(compute_s, memory_s, link_s)
