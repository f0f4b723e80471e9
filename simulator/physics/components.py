"""The breakdown of a step: components of all stages and ranks, added up by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simulator.physics.cost import Bound, Cost
from simulator.physics.sums import in_order


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentCost:
    """One line of a step's breakdown. Seconds are wall time; FLOP and bytes are sums over the replica's devices."""

    name: str
    seconds: float
    flop: float
    hbm_bytes: float
    link_bytes: float
    bound: Bound
    share: float
    """Part of the step's time."""


def merged(costs: Sequence[Cost], ranks: int) -> list[ComponentCost]:
    """One line per name, longest first; FLOP and bytes of all ranks."""
    total_s = in_order(c.seconds for c in costs)
    lines = [_merge(name, costs, ranks, total_s) for name in dict.fromkeys(c.name for c in costs)]
    return sorted(lines, key=lambda c: -c.seconds)


def _merge(name: str, costs: Sequence[Cost], ranks: int, total_s: float) -> ComponentCost:
    """Add up the entries of one name; the bound is that of the longest."""
    same = [c for c in costs if c.name == name]
    seconds = in_order(c.seconds for c in same)
    return ComponentCost(
        name=name,
        seconds=seconds,
        flop=in_order(c.flop for c in same) * ranks,
        hbm_bytes=in_order(c.nbytes for c in same) * ranks,
        link_bytes=in_order(c.link_bytes for c in same) * ranks,
        bound=max(same, key=lambda c: c.seconds).bound,
        share=seconds / total_s if total_s else 0.0,
    )
