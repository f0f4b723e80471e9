"""The power manager of a row as an event loop: readings, slow commands, the brake."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from planners.oversubscribe.policy import Policy
from planners.oversubscribe.row import Row
from planners.oversubscribe.services import PRIORITIES, Priority
from simulator.physics.sums import in_order

if TYPE_CHECKING:
    import simpy

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlRun:
    """What happened. Arrays have one entry per second."""

    power_w: Floats
    clock_mhz: dict[Priority, Floats]
    braked: npt.NDArray[np.bool_]
    num_brakes: int
    num_commands: int


@dataclass(frozen=True, slots=True)
class _State:
    """Clocks in force, and whether the brake is on."""

    clock_mhz: tuple[float, ...]
    braked: bool


@dataclass(slots=True)
class _Manager:
    """State of the loop. ``changes``: (second, state from then on)."""

    row: Row
    policy: Policy
    budget_w: float
    brake_w: float
    max_mhz: float
    changes: list[tuple[int, _State]] = field(default_factory=list)
    active: set[int] = field(default_factory=set)
    asked_mhz: dict[Priority, float] = field(default_factory=dict)
    brake_asked: bool = False
    num_brakes: int = 0
    num_commands: int = 0

    def state_at(self, second: int) -> _State:
        """The state in force in a second (readings lag by a few seconds: the search is from the end)."""
        for begin, state in reversed(self.changes):
            if begin <= second:
                return state
        raise AssertionError("the first change is at 0")

    def power_at(self, second: int) -> float:
        """Power of the row in a second [W]."""
        state = self.state_at(second)
        if state.braked:
            return self.brake_w
        pairs = zip(PRIORITIES, state.clock_mhz, strict=True)
        return float(sum(self.row.power_w[p, mhz][second] for p, mhz in pairs))

    def reading(self, end: int) -> float:
        """Mean over the period that ended at ``end``, as a share of the budget."""
        begin = end - self.policy.telemetry_period_s
        return in_order(self.power_at(t) for t in range(begin, end)) / (end - begin) / self.budget_w

    def change(self, now: int, *, braked: bool | None = None, clocks: dict[Priority, float] | None = None) -> None:
        """Put a new state in force."""
        old = self.changes[-1][1]
        mhz = tuple((clocks or {}).get(p, c) for p, c in zip(PRIORITIES, old.clock_mhz, strict=True))
        self.changes.append((now, _State(mhz, old.braked if braked is None else braked)))

    def update_rules(self, share: float, read_from: int) -> None:
        """Which rules hold after a reading that began at ``read_from``."""
        for index, rule in enumerate(self.policy.rules):
            if share > rule.threshold:
                if not rule.last or self._in_force(index, read_from):
                    self.active.add(index)
            elif share < rule.threshold - self.policy.hysteresis:
                self.active.discard(index)

    def _in_force(self, index: int, since: int) -> bool:
        """Whether the clocks of all earlier rules were in force from ``since`` on."""
        state = self.state_at(since)
        now = dict(zip(PRIORITIES, state.clock_mhz, strict=True))
        return all(now[r.priority] <= self.mhz(r.clock_share) for r in self.policy.rules[:index])

    def mhz(self, share: float) -> float:
        """Clock of a share [MHz]."""
        return clock_mhz(share, self.max_mhz)

    def target_mhz(self, priority: Priority) -> float:
        """The lowest clock of the rules that hold."""
        rules = [self.policy.rules[i] for i in self.active]
        return min((self.mhz(r.clock_share) for r in rules if r.priority == priority), default=self.max_mhz)


def clock_mhz(share: float, max_mhz: float) -> float:
    """A share of the largest clock in whole MHz: the key of the tables."""
    return float(round(share * max_mhz))


def control(row: Row, policy: Policy, *, budget_w: float, brake_w: float, max_mhz: float) -> ControlRun:
    """Run the manager over the row's whole time. ``brake_w``: power of the braked row [W]."""
    import simpy

    env = simpy.Environment()
    manager = _Manager(row, policy, budget_w, brake_w, max_mhz)
    manager.changes.append((0, _State((max_mhz,) * len(PRIORITIES), False)))
    manager.asked_mhz = dict.fromkeys(PRIORITIES, max_mhz)
    env.process(_telemetry(env, manager))
    env.run(until=row.seconds)
    return _collect(manager)


def _telemetry(env: simpy.Environment, manager: _Manager) -> Generator[simpy.Event, None, None]:
    policy = manager.policy
    yield env.timeout(policy.telemetry_period_s + policy.telemetry_delay_s)
    while True:
        end = int(env.now) - policy.telemetry_delay_s
        share = manager.reading(end)
        manager.update_rules(share, end - policy.telemetry_period_s)
        if share > policy.brake_threshold and not manager.brake_asked:
            env.process(_brake(env, manager))
        if not manager.brake_asked:
            _ask(env, manager, {p: manager.target_mhz(p) for p in PRIORITIES})
        yield env.timeout(policy.telemetry_period_s)


def _ask(env: simpy.Environment, manager: _Manager, wanted: dict[Priority, float]) -> None:
    """Send a command for every priority whose clock should change."""
    changed = {p: mhz for p, mhz in wanted.items() if mhz != manager.asked_mhz[p]}
    if changed:
        manager.asked_mhz |= changed
        manager.num_commands += len(changed)
        env.process(_command(env, manager, changed))


def _command(
    env: simpy.Environment, manager: _Manager, clocks: dict[Priority, float]
) -> Generator[simpy.Event, None, None]:
    yield env.timeout(manager.policy.command_s)
    manager.change(int(env.now), clocks=clocks)


def _brake(env: simpy.Environment, manager: _Manager) -> Generator[simpy.Event, None, None]:
    """Brake, lock every clock as low as the rules go, release the brake when that is in force (our reading: POLCA does not
    say how the brake is released)."""
    manager.brake_asked = True
    manager.num_brakes += 1
    manager.active = set(range(len(manager.policy.rules)))
    _ask(env, manager, {p: manager.target_mhz(p) for p in PRIORITIES})
    yield env.timeout(manager.policy.brake_s)
    manager.change(int(env.now), braked=True)
    yield env.timeout(manager.policy.command_s)
    manager.change(int(env.now), braked=False)
    # readings of the braked row say nothing about the row without the brake
    yield env.timeout(manager.policy.telemetry_period_s + manager.policy.telemetry_delay_s)
    manager.brake_asked = False


def _collect(manager: _Manager) -> ControlRun:
    seconds = manager.row.seconds
    clocks = {p: np.full(seconds, manager.max_mhz) for p in PRIORITIES}
    braked = np.zeros(seconds, dtype=bool)
    power = np.zeros(seconds)
    ends = [begin for begin, _ in manager.changes[1:]] + [seconds]
    for (begin, state), end in zip(manager.changes, ends, strict=True):
        braked[begin:end] = state.braked
        part = np.full(end - begin, manager.brake_w) if state.braked else np.zeros(end - begin)
        for priority, mhz in zip(PRIORITIES, state.clock_mhz, strict=True):
            clocks[priority][begin:end] = mhz
            if not state.braked:
                part += manager.row.power_w[priority, mhz][begin:end]
        power[begin:end] = part
    return ControlRun(
        power_w=power,
        clock_mhz=clocks,
        braked=braked,
        num_brakes=manager.num_brakes,
        num_commands=manager.num_commands,
    )


def rack_power_w(row: Row, run: ControlRun, brake_w: float) -> Floats:
    """Power of each rack under the clocks that were in force [W], float64[rack, second]; ``brake_w``: the whole row's."""
    racks = next(iter(row.rack_w.values())).shape[0]
    total = np.zeros((racks, row.seconds))
    for priority in PRIORITIES:
        clocks = run.clock_mhz[priority]
        for mhz in np.unique(clocks):
            total += np.where(clocks == mhz, row.rack_w[priority, float(mhz)], 0.0)
    total[:, run.braked] = brake_w / racks
    return total
