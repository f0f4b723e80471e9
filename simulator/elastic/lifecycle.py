"""Which replicas serve, start, drain, are down; and for how long each is held."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class State(Enum):
    """Of one replica."""

    OFF = "off"
    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    """Serves what it has and takes nothing new."""
    DOWN = "down"
    """Failed, under repair."""


@dataclass(slots=True)
class Life:
    """One replica: its state, and the times [ticks] for which its devices are held."""

    state: State = State.OFF
    epoch: int = 0
    """Grows with every change of state: events made for an earlier one are void."""
    since: int = 0
    """When the state began [ticks]."""
    last_done: int = 0
    """When its last request finished [ticks]."""
    used: bool = False
    """It has served before: its memory is not that of a new one."""
    held: list[tuple[int, int | None]] = field(default_factory=list)
    """(from, until) [ticks]; None: to the end of the run."""

    @property
    def paid(self) -> bool:
        """Its devices are held."""
        return self.state in (State.STARTING, State.SERVING, State.DRAINING)

    def to(self, state: State, tick: int) -> None:
        """Change the state at ``tick``."""
        was_paid = self.paid
        self.state, self.since = state, tick
        self.epoch += 1
        if self.paid and not was_paid:
            self.held.append((tick, None))
        elif was_paid and not self.paid:
            self.held[-1] = (self.held[-1][0], tick)
