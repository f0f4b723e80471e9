"""What the event loop needs of physics, in ticks: the line of a decode-only step and the duration of any other step."""

from __future__ import annotations

from typing import Protocol

from simulator import clock
from simulator.physics.shape import DecodeLine, StepShape


class StepModelLike(Protocol):
    """Physics of one replica (see simulator.physics.step_model.StepModel)."""

    @property
    def window(self) -> int | None:
        """Sliding window of the model's windowed layers [tokens], or None."""

    def decode(self, num_seqs: int) -> DecodeLine:
        """Cost of a decode-only step of ``num_seqs`` sequences as a line in its context."""

    def step(self, shape: StepShape) -> tuple[float, float]:
        """(seconds, joules) of any step."""

    def stage_s(self, shape: StepShape) -> tuple[float, ...]:
        """Seconds in each pipeline stage, the send to the next one included."""


DecodeTicks = tuple[int, int, int, float, float, float, int, float]
"""base, per context token, per window token [ticks]; the same in joules; least duration [ticks], and joules per tick that
is added to reach it."""


class StepCosts:
    """Step costs in ticks; lines of decode steps are kept by batch size."""

    def __init__(self, model: StepModelLike) -> None:
        self.model = model
        self.window = model.window
        self._decode: dict[int, DecodeTicks] = {}
        self._ticks_per_s = clock.TICKS_PER_S

    @property
    def ticks_per_s(self) -> int:
        """As the clock's when the costs were made."""
        return self._ticks_per_s

    @property
    def wait_j(self) -> float:
        """Joules per tick of devices that wait for their host."""
        return self.decode(1)[7]

    def decode(self, num_seqs: int) -> DecodeTicks:
        """Line of a decode-only step."""
        known = self._decode.get(num_seqs)
        if known is None:
            line = self.model.decode(num_seqs)
            known = self._decode[num_seqs] = (
                max(1, clock.to_ticks(line.base_s)),
                clock.to_ticks(line.context_s),
                clock.to_ticks(line.window_s),
                line.base_j,
                line.context_j,
                line.window_j,
                clock.to_ticks(line.floor_s),
                line.wait_w / self._ticks_per_s,
            )
        return known

    def step(self, shape: StepShape) -> tuple[int, float]:
        """(ticks, joules) of a step with prefill work."""
        seconds, joules = self.model.step(shape)
        return max(1, round(seconds * self._ticks_per_s)), joules

    def stages(self, shape: StepShape) -> tuple[list[int], float]:
        """Ticks per pipeline stage and joules of a step."""
        return [max(1, clock.to_ticks(s)) for s in self.model.stage_s(shape)], self.model.step(shape)[1]
