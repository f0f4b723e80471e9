"""The controller of replicas that come and go: looks every interval, asks its policy, starts and drains."""

from __future__ import annotations

from simulator import clock
from simulator.clock import to_ticks
from simulator.elastic.fleet import Fleet
from simulator.elastic.lifecycle import State
from simulator.elastic.policies import ScalingPolicy, Signals
from simulator.elastic.settings import Elasticity


class Controller:
    """Keeps as many replicas as its policy wants, within limits."""

    def __init__(self, fleet: Fleet, policy: ScalingPolicy, elasticity: Elasticity, begin: int) -> None:
        self._fleet, self._policy, self._min_replicas = fleet, policy, elasticity.min_replicas
        self._cooldown, self._changed = to_ticks(elasticity.cooldown_s), begin
        self._seen = (begin, 0, 0, 0)
        """(tick, rows, busy ticks, tokens) at the last look."""

    def look(self, tick: int) -> None:
        """One look, and what follows from it."""
        fleet = self._fleet
        fleet.settle_drained()
        wanted = self._policy.wanted(self._signals(tick))
        wanted = max(self._min_replicas, min(wanted, len(fleet.replicas)))
        count = self.count()
        if wanted < count and tick - self._changed < self._cooldown:
            return
        if wanted != count:
            self._changed = tick
        self.scale(wanted, tick)

    def count(self) -> int:
        """Replicas that serve or will."""
        return sum(life.state in (State.SERVING, State.STARTING) for life in self._fleet.lives)

    def _signals(self, tick: int) -> Signals:
        fleet = self._fleet
        begin, rows, busy, tokens = self._seen
        seconds = (tick - begin) / clock.TICKS_PER_S
        progress = [replica.progress(tick) for replica in fleet.replicas]
        self._seen = (tick, fleet.arrived, sum(p[0] for p in progress), sum(p[1] for p in progress))
        serving = sum(life.state is State.SERVING for life in fleet.lives)
        working = sum(life.state in (State.SERVING, State.DRAINING) for life in fleet.lives)
        return Signals(
            time_s=tick / clock.TICKS_PER_S,
            replicas=self.count(),
            serving=serving,
            outstanding=sum(replica.num_outstanding for replica in fleet.replicas) + len(fleet.stranded),
            arrivals_per_s=(fleet.arrived - rows) / seconds,
            tokens_per_s=(self._seen[3] - tokens) / seconds,
            busy=(self._seen[2] - busy) / clock.TICKS_PER_S / (seconds * max(1, working)),
        )

    def scale(self, wanted: int, tick: int) -> None:
        """Draining replicas serve again before others start; those that are starting stop before others drain, the
        emptiest first."""
        fleet = self._fleet
        while self.count() < wanted:
            draining, off = self._in(State.DRAINING), self._in(State.OFF)
            if draining:
                fleet.serve(draining[0], tick)
            elif off:
                fleet.start(off[0], tick)
            else:
                return
        while self.count() > wanted:
            fleet.history.stopped += 1
            starting = self._in(State.STARTING)
            if starting:
                fleet.change(starting[-1], State.OFF, tick)
                continue
            serving = self._in(State.SERVING)
            index = min(serving, key=lambda i: (fleet.replicas[i].num_outstanding, -i))
            fleet.change(index, State.DRAINING, tick)
            fleet.settle_drained()

    def _in(self, state: State) -> list[int]:
        """Replicas in a state."""
        return [i for i, life in enumerate(self._fleet.lives) if life.state is state]
