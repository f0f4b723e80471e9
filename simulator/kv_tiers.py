"""Tiers of memory below the device's for cached prefixes: what moves down, what is found there, what is lost. No clock."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from heapq import heapify, heappop, heappush

Key = int | tuple[int, int]
"""A whole piece by its id; the ragged end of a prompt by its id and how many blocks of it there are."""


class History:
    """How old pieces are and how often they were used while they are cached anywhere; for orders that ask."""

    def __init__(self) -> None:
        self.born: dict[Key, int] = {}
        self.uses: dict[Key, int] = {}
        self._born = 0

    def touch(self, key: Key) -> None:
        """A request takes the piece."""
        if key not in self.born:
            self._born += 1
            self.born[key] = self._born
        self.uses[key] = self.uses.get(key, 0) + 1

    def forget(self, key: Key) -> None:
        """The piece is cached nowhere any more."""
        self.born.pop(key, None)
        self.uses.pop(key, None)


class Lru(OrderedDict[Key, int]):
    """Pieces -> blocks; the one that has been idle longest leaves first."""

    def __init__(self, history: History) -> None:
        super().__init__()

    def leave(self) -> tuple[Key, int]:
        """Remove the piece that goes next."""
        return self.popitem(last=False)


class _Ranked(dict[Key, int]):
    """Pieces -> blocks; the one of the lowest rank leaves first, among equals the one that has been idle longest."""

    def __init__(self, history: History) -> None:
        super().__init__()
        self._history = history
        self._heap: list[tuple[int, int, Key]] = []
        self._stamps: dict[Key, int] = {}
        self._clock = 0

    def _rank(self, key: Key) -> int:
        raise NotImplementedError

    def __setitem__(self, key: Key, blocks: int) -> None:
        self._clock += 1
        self._stamps[key] = self._clock
        heappush(self._heap, (self._rank(key), self._clock, key))
        super().__setitem__(key, blocks)
        if len(self._heap) > 2 * len(self) + 64:  # entries of pieces that have left or come again
            self._heap = [entry for entry in self._heap if entry[2] in self and self._stamps[entry[2]] == entry[1]]
            heapify(self._heap)

    def leave(self) -> tuple[Key, int]:
        """Remove the piece that goes next."""
        while True:
            _, stamp, key = heappop(self._heap)
            if key in self and self._stamps[key] == stamp:
                del self._stamps[key]
                return key, self.pop(key)


class Lfu(_Ranked):
    """The piece least often used since it was cached first leaves first."""

    def _rank(self, key: Key) -> int:
        return self._history.uses.get(key, 0)


class Fifo(_Ranked):
    """The piece that was cached first leaves first, used since or not."""

    def _rank(self, key: Key) -> int:
        return self._history.born.get(key, 0)


Order = Lru | Lfu | Fifo
EVICTION: dict[str, Callable[[History], Order]] = {"lru": Lru, "lfu": Lfu, "fifo": Fifo}
"""Names for --kv-eviction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TierLimits:
    """Sizes of the tiers below device memory and the order in which pieces leave every tier, device memory included."""

    blocks: tuple[int, ...] = ()
    """KV blocks of each tier, nearest first: host memory, disk."""
    eviction: str = "lru"


@dataclass(slots=True)
class TierCounts:
    """Blocks of one tier that came and went; came = went + there."""

    stored: int = 0
    """Moved down into it."""
    loaded: int = 0
    """Moved up to the device."""
    moved_down: int = 0
    """Made room by moving on to the tier below."""
    dropped: int = 0
    """Made room, or did not fit, and are cached nowhere any more."""
    superseded: int = 0
    """Computed again on the device, so not needed here."""
    hit_tokens: int = 0
    """Prompt tokens found here by requests that had not run before."""
    load_s: float = 0.0
    """Time in which their link moved them up [s]."""
    there: int = 0
    """Blocks in it at the end."""


def added(one: list[TierCounts], other: list[TierCounts]) -> list[TierCounts]:
    """Accounts of two lives of a replica as one; either may be empty."""
    if not one or not other:
        return one or other
    names = [entry.name for entry in fields(TierCounts)]
    pairs = zip(one, other, strict=True)
    return [TierCounts(**{name: getattr(a, name) + getattr(b, name) for name in names}) for a, b in pairs]


@dataclass(slots=True)
class Tier:
    """One memory."""

    num_blocks: int
    pieces: Order
    used_blocks: int = 0
    counts: TierCounts = field(default_factory=TierCounts)

    def take(self, key: Key) -> int:
        """Blocks of a piece, which leaves; 0 when it is not here."""
        blocks = self.pieces.pop(key, 0)
        self.used_blocks -= blocks
        return blocks


class TierStack:
    """Host memory, and disk below it. A piece is in one place only: device, one of the tiers, or on its way up."""

    def __init__(self, limits: TierLimits, history: History) -> None:
        self._history = history
        self.tiers = [Tier(blocks, EVICTION[limits.eviction](history)) for blocks in limits.blocks]

    def find(self, key: Key) -> int:
        """Index of the tier that has the piece; -1: none."""
        for index, tier in enumerate(self.tiers):
            if key in tier.pieces:
                return index
        return -1

    def store(self, key: Key, blocks: int, level: int = 0) -> None:
        """A piece was evicted above ``level``; what makes room there moves further down, and out at the end."""
        tier = self.tiers[level]
        tier.counts.stored += blocks
        if blocks > tier.num_blocks:
            self._send_on(tier, level, key, blocks)
            return
        used = tier.used_blocks + blocks
        while used > tier.num_blocks:
            leaving, size = tier.pieces.leave()
            used -= size
            self._send_on(tier, level, leaving, size)
        tier.pieces[key] = blocks
        tier.used_blocks = used

    def _send_on(self, tier: Tier, level: int, key: Key, blocks: int) -> None:
        if level + 1 < len(self.tiers):
            tier.counts.moved_down += blocks
            self.store(key, blocks, level + 1)
        else:
            tier.counts.dropped += blocks
            if self._history.born:
                self._history.forget(key)

    def load(self, key: Key) -> int:
        """A piece moves up; its blocks."""
        tier = self.tiers[self.find(key)]
        blocks = tier.take(key)
        tier.counts.loaded += blocks
        return blocks

    def supersede(self, key: Key) -> None:
        """A piece is on the device again without having been loaded."""
        for tier in self.tiers:
            if key in tier.pieces:
                tier.counts.superseded += tier.take(key)

    def account(self) -> list[TierCounts]:
        """What came, went and is there, tier by tier."""
        for tier in self.tiers:
            tier.counts.there = tier.used_blocks
        return [tier.counts for tier in self.tiers]
