"""Turns of the models on the devices of one replica: who runs, who is in memory, when to switch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from simulator.clock import Clock, Phase, to_ticks
from simulator.several.engine import NEVER, GatedReplica
from simulator.several.settings import Switch

LOADED, TIMER = 14 << 36, 15 << 36
"""Ranks of weights that have come and of turns that may end, plus the number of the group's replica."""


@dataclass(slots=True)
class TurnCounts:
    """What became of the turns."""

    switches: int = 0
    loads: int = 0
    """Switches that found the weights outside the devices."""
    load_s: float = 0.0
    history: list[tuple[int, int, int, bool]] = field(default_factory=list)
    """(begin [tick], when the model may run [tick], its place in the group, whether weights are loaded) of each turn."""


class Turns:
    """One replica's devices. Looks when requests come, when an engine is done or has stopped, and when a turn may end."""

    def __init__(
        self,
        clock: Clock,
        number: int,
        engines: Sequence[GatedReplica],
        load_s: Sequence[float],
        deadline_s: Sequence[float],
        switch: Switch,
    ) -> None:
        self._clock = clock
        self._number = number
        self.engines = engines
        self._load_s = load_s
        self._deadline = [to_ticks(s) for s in deadline_s]
        self._switch = switch
        self._residence = to_ticks(switch.residence_s)
        self._active: int | None = None
        self._coming: int | None = None
        self._since = 0
        self._timer = -1
        self._ending = False
        """The active engine drains or stops."""
        self.resident: list[int] = list(range(min(switch.resident, len(engines))))
        """Longest unused first. The first models of the file are loaded before the trace begins."""
        self.counts = TurnCounts()
        for engine in engines:
            engine.on_stop = self.look

    def look(self, tick: int) -> None:
        """Decide (EXTERNAL phase)."""
        if self._coming is not None:
            return
        active = self._active
        others = [i for i, engine in enumerate(self.engines) if i != active and engine.num_outstanding]
        if active is None or not self.engines[active].num_outstanding:
            if others:
                self._begin(self._next(others), tick)
            return
        if self._ending:
            if self._has_ended(active):
                self._begin(self._next(others), tick)
        elif others and self._may_end(active, others):
            end = self._since + max(1, self._residence)  # every turn begins a step
            if tick < end:
                self._look_again(end)
            else:
                self._end(active, tick)

    def _may_end(self, active: int, others: list[int]) -> bool:
        """Whether the policy would let another model run once the turn is long enough."""
        if self._switch.policy == "deadline":
            mine = self._due(active) if self.engines[active].core.waiting else NEVER
            return min(self._due(i) for i in others) < mine
        return self._switch.policy == "round-robin"

    def _next(self, others: list[int]) -> int:
        if self._switch.policy == "round-robin":
            count, after = len(self.engines), -1 if self._active is None else self._active
            return min(others, key=lambda i: (i - after - 1) % count)
        if self._switch.policy == "deadline":
            return min(others, key=lambda i: (self._due(i), i))
        return min(others, key=lambda i: (self._oldest(i), i))

    def _oldest(self, index: int) -> int:
        waiting = self.engines[index].core.waiting
        return waiting[0].arrival_tick if waiting else 0

    def _due(self, index: int) -> int:
        return self._oldest(index) + self._deadline[index]

    def _look_again(self, tick: int) -> None:
        if self._timer != tick:
            self._timer = tick
            self._clock.at(tick, Phase.EXTERNAL, TIMER + self._number, lambda event: self.look(tick))

    def _end(self, active: int, tick: int) -> None:
        """The active engine is to make room: at once, or when what runs is done."""
        engine, self._ending = self.engines[active], True
        if self._switch.on_switch == "suspend":
            engine.stops_from = tick
            engine.stir()
            engine.notify(tick, False)
        else:
            engine.gated.drains_from = tick
            if engine.gated.drained:
                self.look(tick)

    def _has_ended(self, active: int) -> bool:
        engine = self.engines[active]
        return engine.gated.drained if self._switch.on_switch == "drain" else not engine.is_open

    def _begin(self, index: int, tick: int) -> None:
        """Bring a model's weights, unless they are here, and let it run."""
        if self._active is not None:
            self.engines[self._active].is_open = False
        self._ending = False
        wait, loads = 0, index not in self.resident
        if not loads:
            self.resident.remove(index)
        else:
            del self.resident[: len(self.resident) - self._switch.resident + 1]
            self.counts.loads += 1
            self.counts.load_s += self._load_s[index]
            wait = to_ticks(self._load_s[index])
        self.resident.append(index)
        self.counts.switches += self._active is not None
        self._coming = index
        at = tick + max(1, wait)
        self.counts.history.append((tick, at, index, loads))
        self._clock.at(at, Phase.EXTERNAL, LOADED + self._number, lambda event: self._ready(index, at))

    def _ready(self, index: int, tick: int) -> None:
        self._active, self._coming, self._since = index, None, tick
        self.engines[index].open(tick)
        self.look(tick)
