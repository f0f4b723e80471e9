"""Prefix cache of one replica with memories below it: evicted pieces move down, and up again when a prompt needs them."""

from __future__ import annotations

from dataclasses import dataclass, field

from simulator.kv_tiers import EVICTION, History, Key, TierLimits, TierStack
from simulator.prefix_cache import PrefixCache
from simulator.request import Request, RequestView


@dataclass(slots=True)
class Reach:
    """What of a prompt is cached anywhere, from its start on."""

    pieces: list[tuple[Key, int, int]] = field(default_factory=list)
    """(key, blocks, tier) in order; tier -1: on the device."""
    skipped: int = 0
    """Prompt tokens that need no computing."""
    tokens: int = 0
    """Tokens in the pieces."""
    idle_blocks: int = 0
    """Blocks of pieces on the device that nobody holds."""
    ready: int = 0
    """When the last of those that others are loading is there [ticks]."""
    missing: list[int] = field(default_factory=list)
    """Blocks to load from each tier."""
    hits: list[int] = field(default_factory=list)
    """Prompt tokens found in each tier, or on their way from it."""


@dataclass(slots=True)
class _OnItsWay:
    """A piece whose blocks are set aside on the device and not filled yet."""

    waiters: int
    blocks: int
    ready: int
    tier: int


class TieredPrefixCache(PrefixCache):
    """As :class:`PrefixCache`; what it evicts goes to host memory, and from there to disk. ``kv-eviction`` orders them all."""

    __slots__ = ("_counts_births", "_history", "_tiers", "_uses", "below", "loading")

    def __init__(self, block_size: int, segment_tokens: int, limits: TierLimits) -> None:
        super().__init__(block_size, segment_tokens)
        self._history = History()
        self._uses = self._history.uses if limits.eviction == "lfu" else None
        self._counts_births = limits.eviction == "fifo"
        self.idle = EVICTION[limits.eviction](self._history)
        self.below = TierStack(limits, self._history)
        self._tiers = self.below.tiers
        self.loading: dict[Key, _OnItsWay] = {}

    # -- as in any prefix cache -------------------------------------------------------------------------------------

    def hold(self, key: Key, blocks: int) -> None:
        """Take a reference; a piece that was computed again is not needed below."""
        uses = self._uses
        if uses is not None:
            uses[key] = uses.get(key, 0) + 1
        elif self._counts_births:
            self._history.touch(key)
        entry = self.held.get(key)
        if entry is not None:
            entry[0] += 1
            return
        idle = self.idle.pop(key, 0)
        if idle:
            self.evictable_blocks -= idle
        else:
            for tier in self._tiers:
                if key in tier.pieces:
                    tier.supersede(key)
        self.held[key] = [1, blocks]
        self.held_blocks += blocks

    def _keep(self, segment: int) -> None:
        blocks, idle = self.segment_blocks, self.idle
        known = segment in self.held
        if not known and segment not in idle:
            for tier in self._tiers:
                if segment in tier.pieces:
                    tier.supersede(segment)
            uses = self._uses
            if uses is not None:
                uses[segment] = uses.get(segment, 0) + 1
            elif self._counts_births:
                self._history.touch(segment)
        if not known and blocks:
            self.evictable_blocks += blocks - idle.pop(segment, 0)
            idle[segment] = blocks

    def shrink(self, free_blocks: int) -> None:
        """Move idle pieces down until the rest fits into the blocks that nobody holds."""
        if self.evictable_blocks <= free_blocks:
            return
        leave, down = self.idle.leave, self.below.store if self.below.tiers else self._down
        while self.evictable_blocks > free_blocks:
            key, blocks = leave()
            self.evictable_blocks -= blocks
            down(key, blocks)

    def _down(self, key: Key, blocks: int) -> None:
        if self.below.tiers:
            self.below.store(key, blocks)
        else:
            self._history.forget(key)

    def tokens_by_tier(self, request: RequestView) -> tuple[int, ...]:
        """Tokens of the prompt by where they are; pieces on their way count where they come from."""
        assert isinstance(request, Request)
        size, held, idle = self.block_size, self.held, self.idle
        left = (request.input_tokens - 1) // size * size
        hits = [0] * (len(self.below.tiers) + 1)
        """Of the device, then of the tiers."""
        for key, blocks in self.pieces(request):
            if left <= 0:
                break
            tier = -1
            if key not in held and key not in idle:
                coming = self.loading.get(key)
                tier = self.below.find(key) if coming is None else coming.tier
                if tier < 0:
                    break
            tokens = min(blocks * size, left)
            hits[tier + 1] += tokens
            left -= tokens
        return tuple(hits)

    # -- loads ------------------------------------------------------------------------------------------------------

    def goes_on(self, request: Request, segments: int, skipped: int) -> bool:
        """Whether the piece behind those that :meth:`match` found is below the device or on its way up."""
        limit = (request.input_tokens - 1) // self.block_size * self.block_size
        if segments >= len(request.prefix) or skipped >= limit:
            return False
        key, _ = self.pieces(request)[segments]
        return key in self.loading or self.below.find(key) >= 0

    def reach(self, request: Request) -> Reach:
        """Longest prefix of the prompt that is cached anywhere; bounds as in :meth:`match`."""
        tiers = len(self.below.tiers)
        found = Reach(missing=[0] * tiers, hits=[0] * tiers)
        limit = (request.input_tokens - 1) // self.block_size * self.block_size
        for key, blocks in self.pieces(request):
            if found.tokens >= limit:
                break
            tier = -1
            if key not in self.held:
                if key in self.idle:
                    found.idle_blocks += blocks
                elif (coming := self.loading.get(key)) is not None:
                    tier = coming.tier
                    found.ready = max(found.ready, coming.ready)
                elif (tier := self.below.find(key)) >= 0:
                    found.missing[tier] += blocks
                else:
                    break
            tokens = blocks * self.block_size
            if tier >= 0:
                found.hits[tier] += min(tokens, limit - found.tokens)
            found.pieces.append((key, blocks, tier))
            found.tokens += tokens
        found.skipped = min(found.tokens, limit)
        return found

    def begin_load(self, reach: Reach, ready: int) -> None:
        """Hold what is on the device, and set blocks aside for the rest, which is there at ``ready`` [ticks]."""
        for key, blocks, tier in reach.pieces:
            if tier < 0:
                super().hold(key, blocks)
            elif key in self.loading:
                self.loading[key].waiters += 1
            else:
                self.below.load(key)
                self.loading[key] = _OnItsWay(1, blocks, ready, tier)
                self.held_blocks += blocks

    def end_load(self, reach: Reach) -> None:
        """All pieces are on the device: idle, and the most recently used, the head of the prompt last."""
        for key, blocks, tier in reversed(reach.pieces):
            coming = self.loading.pop(key, None) if tier >= 0 else None
            if coming is None:
                self._let_go(key, blocks)
                continue
            others = coming.waiters - 1
            if key in self.held or key in self.idle:  # somebody computed it meanwhile; one copy is enough
                self.held_blocks -= blocks
                for _ in range(others):
                    super().hold(key, blocks)
            elif others:
                self.held[key] = [others, blocks]
            else:
                self.held_blocks -= blocks
                self._to_idle(key, blocks)

    def cancel_load(self, reach: Reach) -> None:
        """The blocks set aside are needed for something else: what nobody else waits for goes back down."""
        for key, blocks, tier in reversed(reach.pieces):
            coming = self.loading.get(key) if tier >= 0 else None
            if coming is None:
                self._let_go(key, blocks)
                continue
            coming.waiters -= 1
            if not coming.waiters:
                del self.loading[key]
                self.held_blocks -= blocks
                if key not in self.held and key not in self.idle and self.below.find(key) < 0:
                    self._down(key, blocks)

    def _let_go(self, key: Key, blocks: int) -> None:
        entry = self.held[key]
        entry[0] -= 1
        if not entry[0]:
            del self.held[key]
            self.held_blocks -= blocks
            self._to_idle(key, blocks)

    def _to_idle(self, key: Key, blocks: int) -> None:
        for tier in self._tiers:
            if key in tier.pieces:
                tier.supersede(key)
        self.evictable_blocks += blocks
        self.idle[key] = blocks
