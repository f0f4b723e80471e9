"""A replica whose rates change at known times: spans end where they change, and the step under way goes on at the new rate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulator.costs import StepCosts, StepModelLike
from simulator.lane import Lane
from simulator.physics.tenants import Factors
from simulator.replica import Replica, step_shape
from simulator.sharing.tenants import Tenant
from simulator.sharing.timetable import Timetable

if TYPE_CHECKING:
    from simulator.driver import Driver
    from simulator.run import ReplicaSetup


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangingRates:
    """What slows the replicas of a deployment down in the course of a run."""

    tenants: tuple[Tenant, ...]
    model: Callable[[Factors], StepModelLike]
    """Physics of a replica under these factors."""
    seed: int = 0


def with_seed(setup: ReplicaSetup, seed: int) -> ReplicaSetup:
    """The setup with bursts of a run's seed."""
    if setup.rates is None:
        return setup
    return dataclasses.replace(setup, rates=dataclasses.replace(setup.rates, seed=seed))


def decode_step(costs: StepCosts, lane: Lane) -> tuple[int, float]:
    """(ticks, joules) of one decode step of the lane as it is."""
    base, per_token, per_window, base_j, token_j, window_j, floor, wait_j = costs.decode(lane.num_seqs)
    ticks = base + per_token * lane.context
    joules = base_j + token_j * lane.context
    if lane.window is not None:
        ticks += per_window * lane.window_context
        joules += window_j * lane.window_context
    return max(ticks, floor), joules + wait_j * max(0, floor - ticks)


class ChangingReplica(Replica):
    """Drives one engine core whose step costs depend on the time."""

    timetable: Timetable
    """Set, as the next, before the first event."""
    costs_under: Callable[[Factors], StepCosts]
    _until = 0
    """When the rates change next [ticks]."""

    def _schedule(self) -> bool:
        factors, self._until = self.timetable.at(self._now)
        self.costs = self.costs_under(factors)
        if not super()._schedule():
            return False
        if self._end > self._until:
            self._meet_change()
        return True

    def _meet_change(self) -> None:
        """Take the steps that end before the change; when there is none, the one that it falls into."""
        done = self._done_by(self._until)
        if done:
            self._steps = done
            self._end = self._begin + done * self._first + self._slope * (done * (done - 1) // 2)
        else:
            self._stretch()

    def _cost(self, costs: StepCosts) -> tuple[int, float]:
        """(ticks, joules) of the step being scheduled at these rates, without what it waits for."""
        if self._batch:
            return costs.step(step_shape(self.core, self._decode, costs.window))
        return decode_step(costs, self.core.lane)

    def _stretch(self) -> None:
        """One step across changes: after each, what is left of it takes as long as that part of the step at the new rates.

        What the step waits for besides (swaps, compilers) is a part of it whose rate does not change.
        """
        ticks, joules = self._cost(self.costs)
        waits = self._first - ticks
        line = self._line_j
        planned_j = self._joules
        if line is not None:
            lane = self.core.lane
            planned_j = line[0] + line[1] * lane.context
            planned_j += line[2] * lane.window_context if lane.window is not None else 0.0
        waits_j = planned_j - joules
        at, until, duration, left, spent_j = self._begin, self._until, self._first, self._first, 0.0
        while at + left > until:
            done = until - at
            spent_j += planned_j * done / duration
            at = until
            factors, until = self.timetable.at(at)
            ticks, joules = self._cost(self.costs_under(factors))
            left = -(-(left - done) * (ticks + waits) // duration)
            duration, planned_j = ticks + waits, joules + waits_j
        self._first, self._slope, self._steps = at + left - self._begin, 0, 1
        self._end = at + left
        self._line_j, self._joules = None, spent_j + planned_j * left / duration


def connect_rates(replicas: Sequence[Driver], rates: ChangingRates) -> None:
    """Give changing replicas their timetables; those of one pool share the costs."""
    known: dict[Factors, StepCosts] = {}

    def under(factors: Factors) -> StepCosts:
        costs = known.get(factors)
        if costs is None:
            costs = known[factors] = StepCosts(rates.model(factors))
        return costs

    for replica in replicas:
        assert isinstance(replica, ChangingReplica)
        replica.timetable = Timetable(rates.tenants, rates.seed, replica.index)
        replica.costs_under = under
