"""Engine core whose requests need adapters: they share the memory of the KV cache, or slots, and come over the host link."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from simulator.adapters.pool import AdapterPool, AdapterSetup
from simulator.core import EngineCore
from simulator.kv_links import Queue
from simulator.request import Request


@dataclass(slots=True, eq=False)
class AdapterLoad:
    """One adapter on its way, and the requests that wait for it."""

    adapter: int
    requests: list[Request] = field(default_factory=list)
    cancelled: bool = False
    arrived: int | None = None
    """When it came [ticks]; until the scheduler has seen that, it keeps its place and its memory."""


class AdapterCore(EngineCore):
    """A waiting request whose adapter is not here leaves the queue while it is loaded, if place and blocks for both would be
    free; others run meanwhile (S-LoRA, arXiv:2311.03285). Loads of a replica use its host links one after the other."""

    def use_adapters(self, setup: AdapterSetup) -> None:
        """Before the first event."""
        self.adapters = AdapterPool(setup)
        self.has_idle = True
        self.wake: Callable[[AdapterLoad, int], None]
        """Called with a load and the tick of its end. Set before the first event."""
        self._link = Queue()
        self.coming: list[AdapterLoad] = []
        self._pending_blocks = 0
        """Blocks that the prompts of requests that wait for loads will need."""
        self._pending = 0
        self._claimed = 0
        """Blocks of the idle adapter of the request that is being admitted."""
        self._number = 0
        self._loaded: set[int] = set()
        """Rows whose next admission follows a load that they waited for."""

    def adapter_of(self, request: Request) -> int:
        """The adapter of a request, -1: none."""
        return self.adapters.setup.of_row[request.row]

    # -- loads ----------------------------------------------------------------------------------------------------

    def admissible(self) -> Iterator[Request]:
        """As without adapters; requests whose load begins are passed over."""
        self._see_arrived()
        for request in super().admissible():
            if not self._begin_load(request):
                yield request

    def visible(self) -> list[Request]:
        """As without adapters; requests whose load begins are left out."""
        self._see_arrived()
        return [request for request in super().visible() if not self._begin_load(request)]

    def _begin_load(self, request: Request) -> bool:
        """Load what a request needs, or wait for the load that others began; True when it has left the queue."""
        pool, adapter = self.adapters, self.adapter_of(request)
        self.settle_cache()
        if pool.is_here(adapter) or self.num_running + self._pending >= self.max_num_seqs:
            return False
        coming = next((load for load in self.coming if load.adapter == adapter), None)
        if not pool.has_slot() if coming is None else coming.arrived is not None:
            return False
        blocks = self._pending_blocks + (pool.blocks(adapter) if coming is None else 0)
        if not self._fits(request, blocks):
            return False
        if coming is None:
            coming = self._start_load(adapter)
        coming.requests.append(request)
        self.waiting.remove(request)
        if not request.load_number:
            self._number += 1
            request.load_number = self._number
        self._pending += 1
        self._pending_blocks += self.blocks_for(request.prompt_left)
        self.in_transfer += 1
        return True

    def _fits(self, request: Request, blocks: int) -> bool:
        """Room for a whole prompt and ``blocks`` more: never less than what admitting it takes, so that an adapter that is
        evicted while its request waits cannot open a way in."""
        limits = self.limits
        if limits.output_reserve and self.num_running and not self._claim_fits(request):
            return False
        need = self.blocks_for(request.prompt_left) + blocks
        if self.num_running:
            need += limits.watermark_blocks
        return need <= self.free_blocks(at_least=need + self.promised) - self.promised

    def _start_load(self, adapter: int) -> AdapterLoad:
        pool = self.adapters
        place = adapter % len(pool.setup.load_s)
        load = AdapterLoad(adapter)
        self.coming.append(load)
        pool.begin(adapter)
        self.settle_cache()
        seconds = pool.setup.load_s[place]
        pool.counts.loads += 1
        pool.counts.load_s += seconds
        pool.counts.nbytes += pool.setup.nbytes[place]
        self.wake(load, max(self._link.serve(self.now, seconds), self.now + 1))
        return load

    def end_load(self, load: AdapterLoad, tick: int) -> None:
        """The adapter is here: those that waited for it are at the head of the queue."""
        load.arrived = tick
        self._loaded.update(request.row for request in load.requests)
        self._release(load, tick)

    def _see_arrived(self) -> None:
        """Adapters that came before the scheduler's last look are idle until a request takes them."""
        for load in [load for load in self.coming if load.arrived is not None]:
            if load.arrived is not None and load.arrived <= self.admissible_until:
                self._rest(load)

    def _rest(self, load: AdapterLoad) -> None:
        self._forget(load)
        self.adapters.end(load.adapter)

    def _cancel_load(self) -> bool:
        """Give the memory of the newest load back to the sequences that run; False when there is none."""
        if not self.coming:
            return False
        load = self.coming[-1]
        if load.arrived is not None:
            self._rest(load)
            return True
        self._forget(load)
        load.cancelled = True
        self.adapters.cancel(load.adapter)
        self._release(load, self.now)
        return True

    def _release(self, load: AdapterLoad, tick: int) -> None:
        """Its requests wait in the queue again."""
        for request in load.requests:
            self.in_transfer -= 1
            self._rejoin(request, tick)

    def _forget(self, load: AdapterLoad) -> None:
        """Neither it nor the prompts behind it are expected any more."""
        self.note_peak()
        self.coming.remove(load)
        self._pending -= len(load.requests)
        self._pending_blocks -= sum(self.blocks_for(request.prompt_left) for request in load.requests)

    def _rejoin(self, request: Request, tick: int) -> None:
        """Back to the queue: preempted requests first, then those that began to load, each in the order of their first load,
        so that one whose adapter had to leave again is not overtaken for ever."""
        request.arrival_tick = tick
        place, waiting = 0, self.waiting
        mine = (request.scheduled_tick < 0, request.load_number)
        while place < len(waiting):
            other = waiting[place]
            theirs = (other.scheduled_tick < 0, other.load_number)
            if theirs > mine or (theirs[0] and not theirs[1]):
                break
            place += 1
        waiting.insert(place, request)

    # -- blocks ---------------------------------------------------------------------------------------------------

    def admit(self, request: Request, tokens: int) -> bool:
        """As without adapters; the request's own must be here, and its memory counts."""
        pool, adapter = self.adapters, self.adapter_of(request)
        self.settle_cache()
        claim = pool.claim(adapter) if pool.is_here(adapter) else None
        if claim is None:
            return False
        self._claimed = claim
        admitted = super().admit(request, tokens)
        self._claimed = 0
        if admitted and adapter >= 0:
            pool.counts.hits += request.row not in self._loaded
            self._loaded.discard(request.row)
        return admitted

    def _join_running(self, request: Request) -> None:
        self._claimed = 0
        self.adapters.pin(self.adapter_of(request))
        super()._join_running(request)

    def _leave_running(self, request: Request) -> None:
        super()._leave_running(request)
        self.adapters.unpin(self.adapter_of(request))

    def preempt_newest(self, spare: list[tuple[Request, int]] | None = None) -> bool:
        """As without adapters; when nobody can be preempted, a load gives way."""
        return super().preempt_newest(spare) or self._cancel_load()

    def used_blocks(self) -> int:
        """Blocks of running requests, of their adapters and of those on their way."""
        return super().used_blocks() + self.adapters.busy_blocks

    def free_blocks(self, at_least: int) -> int:
        """As without adapters; idle ones count as free."""
        busy = self.adapters.busy_blocks + self._claimed
        return super().free_blocks(at_least + busy) - busy

    def unclaimed_blocks(self, at_least: int) -> int:
        """Free blocks that keep neither an idle prefix nor an idle adapter."""
        idle = self.adapters.idle_blocks
        return super().unclaimed_blocks(at_least + idle) - idle

    def note_peak(self) -> None:
        """Update the highest number of blocks in use."""
        self.peak_blocks = max(self.peak_blocks, self.used_blocks())

    def settle_cache(self) -> None:
        """Evict idle prefixes, then idle adapters, whose blocks are in use by now."""
        self._settle(self.limits.num_blocks - self.used_blocks() - self.promised)

    def settle_ahead(self, steps: int | None) -> None:
        """As without adapters: evict what ``steps`` decode steps certainly need."""
        lane = self.lane
        growth = self.promised if steps is None else lane.blocks_after(steps) - lane.blocks()
        used = self.used_blocks() + growth
        self._settle(self.limits.num_blocks - used)
        self.peak_blocks = max(self.peak_blocks, used)

    def _settle(self, free: int) -> None:
        """Prefixes before adapters: what a prefix saves is one prompt's work, an adapter stops all requests that need it."""
        pool, cache = self.adapters, self.prefix_cache
        if cache is not None:
            cache.shrink(max(0, free - pool.idle_blocks))
            free -= cache.evictable_blocks
        pool.shrink(free)
