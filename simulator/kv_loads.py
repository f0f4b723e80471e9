"""Requests that wait for cached KV from memory below the device's: outside the queue, with blocks set aside for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulator.kv_links import ReplicaPaths
from simulator.kv_tiers import TierCounts
from simulator.request import Request
from simulator.tiered_cache import Reach, TieredPrefixCache

if TYPE_CHECKING:
    from simulator.core import EngineCore


@dataclass(slots=True, eq=False)
class Load:
    """One request's load."""

    request: Request
    reach: Reach
    number: int
    cancelled: bool = False


class Loads:
    """Loads of one engine, as vLLM's KV connectors do them: asynchronous, before the request runs.

    A request whose prefix goes on in a lower tier, and for which places and blocks would be free, leaves the queue; its
    blocks are set aside, other requests run meanwhile, and when the last piece has arrived it is back at the head of the
    queue, its prefix idle on the device. Requests that need the same pieces wait for the same load. Each admission loads
    once at most.
    """

    def __init__(self, core: EngineCore, cache: TieredPrefixCache, paths: ReplicaPaths) -> None:
        self._core = core
        self._cache = cache
        self._paths = paths
        self._count = 0
        self.pending: list[Load] = []
        self.abandoned = False
        """The engine has stopped for good."""
        self.one_may_begin = False
        """A waiting request has room and an idle prefix on the device; once that has moved down, its load begins."""
        self.match: tuple[int, int, int, int] | None = None
        """What the cache has of the request that :meth:`begin` looked at last, as long as nothing else has happened."""
        self.wake: Callable[[Load, int], None]
        """Called with a load and the tick of its end. Set before the first event."""

    def begin(self, request: Request) -> bool:
        """Start the load of a waiting request, if it needs one and its blocks are free; True when it has left the queue."""
        core, cache = self._core, self._cache
        self.match = None
        if request.loaded or not request.prefix or core.num_running >= core.max_num_seqs:
            return False
        core.settle_cache()
        self.match = segments, skipped, tokens, idle = cache.match(request)
        if not cache.goes_on(request, segments, skipped):
            if idle and not self.one_may_begin:
                self.one_may_begin = core.has_room(request, skipped, tokens, idle)
            return False
        reach = cache.reach(request)
        if not core.has_room(request, reach.skipped, reach.tokens, reach.idle_blocks + sum(reach.missing)):
            return False
        self.match = None
        ready, seconds = self._paths.load(core.now, reach.missing)
        ready = max(ready, reach.ready)
        first = request.scheduled_tick < 0
        for tier, spent_s, tokens in zip(cache.below.tiers, seconds, reach.hits, strict=True):
            tier.counts.load_s += spent_s
            tier.counts.hit_tokens += tokens if first else 0
        cache.begin_load(reach, ready)
        core.settle_cache()
        core.waiting.remove(request)
        self._count += 1
        request.load_number = self._count
        load = Load(request, reach, self._count)
        self.pending.append(load)
        self.wake(load, ready)
        return True

    def end(self, load: Load, tick: int) -> None:
        """The last piece is on the device."""
        self.pending.remove(load)
        self._cache.end_load(load.reach)
        load.request.loaded = True
        self._rejoin(load, tick)

    def cancel_newest(self) -> bool:
        """Give the blocks of the newest load back to the sequences that run; False when there is none."""
        if not self.pending:
            return False
        load = self.pending.pop()
        load.cancelled = True
        self._cache.cancel_load(load.reach)
        self._rejoin(load, self._core.now)
        return True

    def abandon(self) -> tuple[list[Request], list[TierCounts]]:
        """The server has failed, and its memories with it: the requests that were loading, and the tiers' accounts."""
        self.abandoned = True
        counts = self._cache.below.account()
        for tier in counts:
            tier.dropped, tier.there = tier.dropped + tier.there, 0
        return [load.request for load in self.pending], counts

    def _rejoin(self, load: Load, tick: int) -> None:
        """Back to the queue: behind preempted requests and earlier loads, before all others."""
        request, waiting = load.request, self._core.waiting
        request.arrival_tick = tick
        place = 0
        while place < len(waiting) and (
            waiting[place].scheduled_tick >= 0 or 0 < waiting[place].load_number < load.number
        ):
            place += 1
        waiting.insert(place, request)
