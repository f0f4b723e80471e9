"""Which adapters are on a device: pinned by running requests, on their way, or idle until their memory is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSetup:
    """Adapters as one replica sees them."""

    blocks: tuple[int, ...]
    """KV blocks that an adapter takes, by its rank's place in ``--lora-ranks``; 0: slots of their own memory."""
    load_s: tuple[float, ...]
    """Time of the host link for one [s], likewise."""
    nbytes: tuple[float, ...]
    """Bytes of one on all devices of the replica, likewise."""
    slots: int
    """Adapters that running and loading requests may have at a time."""
    of_row: Sequence[int] = ()
    """Adapter of every request of the trace, -1: none."""


@dataclass(slots=True)
class AdapterCounts:
    """What became of adapters in a run."""

    loads: int = 0
    load_s: float = 0.0
    """Time of the host link."""
    nbytes: float = 0.0
    """Over the host link, all devices [B]."""
    hits: int = 0
    """Admissions that found their adapter on the device without a load of their own."""
    evictions: int = 0
    cancelled: int = 0
    """Loads that decoding sequences took the memory from."""
    peak: int = 0
    """Most adapters on the device at once."""


class AdapterPool:
    """States of the adapters of one replica, and the blocks they take.

    Idle ones stay until others need their place; then the one that was needed last longest ago goes first.
    """

    def __init__(self, setup: AdapterSetup) -> None:
        self.setup = setup
        self.pins: dict[int, int] = {}
        """adapter -> requests that run with it."""
        self.loading: set[int] = set()
        self.idle: dict[int, int] = {}
        """adapter -> when it became idle, counted in such moments."""
        self.busy_blocks = 0
        """Of pinned and loading adapters."""
        self.idle_blocks = 0
        self.counts = AdapterCounts()
        self._moment = 0

    def blocks(self, adapter: int) -> int:
        """KV blocks that an adapter takes."""
        blocks = self.setup.blocks
        return blocks[adapter % len(blocks)]

    def is_here(self, adapter: int) -> bool:
        """On the device, or none is needed."""
        return adapter < 0 or adapter in self.pins or adapter in self.idle

    def has_slot(self) -> bool:
        """Whether another adapter may be pinned or loaded."""
        return len(self.pins) + len(self.loading) < self.setup.slots

    def claim(self, adapter: int) -> int | None:
        """Blocks that are idle now and would be busy if a request ran with an adapter that is here; None: no slot for it."""
        if adapter < 0 or adapter in self.pins:
            return 0
        return self.blocks(adapter) if self.has_slot() else None

    def pin(self, adapter: int) -> None:
        """A request starts to run with it."""
        if adapter < 0:
            return
        if adapter not in self.pins:
            del self.idle[adapter]
            self.idle_blocks -= self.blocks(adapter)
            self.busy_blocks += self.blocks(adapter)
            self.pins[adapter] = 0
        self.pins[adapter] += 1

    def unpin(self, adapter: int) -> None:
        """A request with it no longer runs."""
        if adapter < 0:
            return
        self.pins[adapter] -= 1
        if not self.pins[adapter]:
            del self.pins[adapter]
            self._rest(adapter)

    def begin(self, adapter: int) -> None:
        """Its load begins."""
        self.loading.add(adapter)
        self.busy_blocks += self.blocks(adapter)
        self._fit_slots()
        self._note_peak()

    def end(self, adapter: int) -> None:
        """It is on the device."""
        self.loading.remove(adapter)
        self._rest(adapter)

    def cancel(self, adapter: int) -> None:
        """It will not come."""
        self.loading.remove(adapter)
        self.busy_blocks -= self.blocks(adapter)
        self.counts.cancelled += 1

    def shrink(self, room: int) -> None:
        """Evict idle adapters until they take no more than ``room`` blocks."""
        while self.idle_blocks > room and self.idle:
            self._evict()

    def _rest(self, adapter: int) -> None:
        self._moment += 1
        self.idle[adapter] = self._moment
        self.busy_blocks -= self.blocks(adapter)
        self.idle_blocks += self.blocks(adapter)
        self._fit_slots()

    def _fit_slots(self) -> None:
        """Slots of their own memory hold idle adapters too; in a shared pool only blocks limit those."""
        if not any(self.setup.blocks):
            while self.idle and len(self.pins) + len(self.loading) + len(self.idle) > self.setup.slots:
                self._evict()

    def _evict(self) -> None:
        adapter = next(iter(self.idle))  # moments grow, so the order of entry is theirs
        del self.idle[adapter]
        self.idle_blocks -= self.blocks(adapter)
        self.counts.evictions += 1

    def _note_peak(self) -> None:
        here = len(self.pins) + len(self.loading) + len(self.idle)
        self.counts.peak = max(self.counts.peak, here)
