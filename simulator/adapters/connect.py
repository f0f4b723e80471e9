"""Ends of loads as events of a replica."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulator.adapters.core import AdapterCore, AdapterLoad
from simulator.adapters.pool import AdapterSetup
from simulator.clock import Phase

if TYPE_CHECKING:
    from simulator.driver import Driver

RANK, REPLICAS = 7 << 36, 20
"""Rank of the end of a load among external events of an instant: behind those of other modules, by adapter and replica."""


def connect_adapters(replica: Driver, setup: AdapterSetup) -> None:
    """Give a replica its adapters; call before the first event."""
    core = replica.core
    assert isinstance(core, AdapterCore)
    core.use_adapters(setup)
    replica.record.adapters = core.adapters.counts

    def ended(load: AdapterLoad, tick: int) -> None:
        """Of a cancelled load only a moment like others."""
        replica.settle(tick)
        if not load.cancelled:
            core.end_load(load, tick)
            replica.note_waiting()
            replica.stir()
        replica.notify(tick, True)

    def wake(load: AdapterLoad, tick: int) -> None:
        rank = RANK + (load.adapter << REPLICAS) + replica.index
        replica.clock.at(tick, Phase.EXTERNAL, rank, lambda event: ended(load, tick))

    core.wake = wake
