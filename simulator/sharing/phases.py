"""What a step of either phase costs on a share of the device, alone and beside a step of the other phase."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from simulator.costs import StepCosts, StepModelLike
from simulator.physics.shape import StepShape
from simulator.sharing.split import SmSplit

GRID = 20
"""Shares are whole twentieths of a device when they are chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitPhysics:
    """Physics of a replica whose devices are divided."""

    split: SmSplit
    model: Callable[[float], StepModelLike]
    """Of a replica on a share of its devices' multiprocessors."""
    nbytes: Callable[[StepShape], float]
    """Memory traffic of a step on all devices [B]."""
    bandwidth_bytes_per_s: float
    """That kernels reach, all devices together."""
    most_w: float | None
    """Power limit of all devices [W]."""


@dataclass(slots=True, eq=False)
class Work:
    """A step in flight: what it does and how much of it is left."""

    shape: StepShape
    prompts: bool
    begin: int = 0
    left: int = 0
    """Ticks to its end at the pace it has."""
    duration: int = 0
    """Ticks of the whole step at that pace."""
    joules: float = 0.0
    """So far."""
    dynamic_j: float = 0.0
    """Beyond the power of waiting, of the whole step."""
    demand_bytes: float = 0.0
    known: dict[float, tuple[int, float]] = field(default_factory=dict)
    """(ticks, joules) by share of the device."""


class PhaseCosts:
    """Ticks and joules of steps by share of the device; kept per share."""

    def __init__(self, physics: SplitPhysics, whole: StepCosts) -> None:
        self.physics = physics
        self.wait_j = whole.wait_j
        """Joules per tick of devices that wait."""
        self._whole = whole
        self._costs: dict[float, StepCosts] = {1.0: whole}
        self._most_j = None if physics.most_w is None else physics.most_w / whole.ticks_per_s

    def _at(self, share: float) -> StepCosts:
        costs = self._costs.get(share)
        if costs is None:
            costs = self._costs[share] = StepCosts(self.physics.model(share))
        return costs

    def start(self, shape: StepShape, prompts: bool) -> Work:
        """A step that has not begun."""
        return Work(shape, prompts, demand_bytes=self.physics.nbytes(shape))

    def alone(self, work: Work, share: float) -> tuple[int, float]:
        """(ticks, joules) of a step on a share of the device, with all of the bandwidth that this share can use."""
        known = work.known.get(share)
        if known is None:
            costs = self._at(share)
            known = work.known[share] = costs.step(work.shape) if work.prompts else decode_cost(costs, work.shape)
        return known

    def beside(self, prompts: Work, tokens: Work, share: float) -> tuple[int, int]:
        """Ticks of both steps while they run beside each other, prompts on ``share`` of the device.

        Each asks for bandwidth as it would alone on its share; where both together ask for more than there is, both go
        slower by the same factor, as requests to a memory that serves them in the order in which they come.
        """
        mine, theirs = self.alone(prompts, share)[0], self.alone(tokens, other(share))[0]
        asked = self.asked(prompts, mine) + self.asked(tokens, theirs)
        if asked <= 1:
            return mine, theirs
        return round(mine * asked), round(theirs * asked)

    def asked(self, work: Work, ticks: int) -> float:
        """Share of the bandwidth that a step asks for when it takes so long."""
        return min(1.0, work.demand_bytes * self._whole.ticks_per_s / (ticks * self.physics.bandwidth_bytes_per_s))

    def set_pace(self, work: Work, share: float, duration: int) -> None:
        """What is left of a step takes its part of a new duration."""
        ticks, joules = self.alone(work, share)
        work.dynamic_j = max(0.0, joules - self.wait_j * ticks)
        if not work.duration:
            work.left = work.duration = duration
        elif duration != work.duration:
            work.left = -(-work.left * duration // work.duration)
            work.duration = duration

    def spend(self, works: list[Work], ticks: int) -> None:
        """Energy of so many ticks: each step's own, and the power of waiting once, in equal parts; no more than the limit."""
        own = [work.dynamic_j * ticks / work.duration for work in works]
        base = self.wait_j * ticks
        total = base + sum(own)
        scale = 1.0 if self._most_j is None else min(1.0, self._most_j * ticks / total) if total else 1.0
        for work, joules in zip(works, own, strict=True):
            work.joules += scale * (joules + base / len(works))


def other(share: float) -> float:
    """What the first phase leaves to the second; exact for whole hundredths."""
    return round(1.0 - share, 6)


def decode_cost(costs: StepCosts, shape: StepShape) -> tuple[int, float]:
    """As :func:`simulator.sharing.changing.decode_step`, of known sums."""
    base, per_token, per_window, base_j, token_j, window_j, floor, wait_j = costs.decode(shape.decode_seqs)
    ticks = base + per_token * shape.context_tokens
    joules = base_j + token_j * shape.context_tokens
    if costs.window is not None:
        ticks += per_window * shape.window_tokens
        joules += window_j * shape.window_tokens
    return max(ticks, floor), joules + wait_j * max(0, floor - ticks)
