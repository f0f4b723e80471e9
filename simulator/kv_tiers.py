"""Tiers of memory below the device's for cached prefixes: what moves down, what is found there, what is lost. No clock."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from heapq import heapify, heappop, heappush

Key = int | tuple[int, int]
"""A whole piece by its id; the ragged end of a prompt by its id and how many blocks of it there are."""


class History:
    """How old pieces are and how often they were used while they are cached anywhere; for orders that ask."""

    __slots__ = ("_born", "born", "uses")

    def __init__(self) -> None:
        self.born: dict[Key, int] = {}
        self.uses: dict[Key, int] = {}
        self._born = 0

    def touch(self, key: Key) -> None:
        """A request takes the piece."""
        uses = self.uses.get(key)
        if uses is None:
            self._born += 1
            self.born[key] = self._born
            uses = 0
        self.uses[key] = uses + 1

    def forget(self, key: Key) -> None:
        """The piece is cached nowhere any more."""
        if self.born:
            self.born.pop(key, None)
        self.uses.pop(key, None)


class Lru(OrderedDict[Key, int]):
    """Pieces -> blocks; the one that has been idle longest leaves first."""

    def __init__(self, history: History) -> None:
        super().__init__()

    def leave(self) -> tuple[Key, int]:
        """Remove the piece that goes next."""
        return self.popitem(last=False)


_put = dict.__setitem__


class Lfu(dict[Key, int]):
    """Pieces -> blocks; the one least often used since it was cached first leaves first, among equals the one that has been
    idle longest."""

    def __init__(self, history: History) -> None:
        super().__init__()
        self._uses = history.uses
        self._queues: dict[int, deque[tuple[Key, int]]] = {}
        """Uses -> (piece, blocks) in the order in which they came; also pieces that have left or come again since."""
        self._ranks: list[int] = []
        """Heap of the keys of ``_queues``."""
        self._entry_of: dict[Key, tuple[Key, int]] = {}
        """The latest entry of a piece."""
        self._entries, self._most = 0, 64
        """Entries of all queues, and how many there may be before those of no use go."""

    def __setitem__(self, key: Key, blocks: int) -> None:
        rank = self._uses.get(key, 0)
        queue = self._queues.get(rank)
        if queue is None:
            queue = self._queues[rank] = deque()
            heappush(self._ranks, rank)
        entry = self._entry_of[key] = (key, blocks)
        queue.append(entry)
        _put(self, key, blocks)
        self._entries += 1
        if self._entries > self._most:
            self._forget_others()

    def _forget_others(self) -> None:
        """Drop entries of pieces that have left or come again since."""
        self._entry_of = latest = {key: entry for key, entry in self._entry_of.items() if key in self}
        for rank, queue in self._queues.items():
            self._queues[rank] = deque(entry for entry in queue if latest.get(entry[0]) is entry)
        self._entries = len(self)
        self._most = 2 * len(self) + 64

    def leave(self) -> tuple[Key, int]:
        """Remove the piece that goes next."""
        latest = self._entry_of
        while True:
            queue = self._queues[self._ranks[0]]
            while queue:
                entry = queue.popleft()
                key = entry[0]
                self._entries -= 1
                if latest.get(key) is entry:
                    del latest[key]
                    if self.pop(key, -1) >= 0:
                        return entry
            del self._queues[heappop(self._ranks)]


class Fifo(dict[Key, int]):
    """Pieces -> blocks; the one that was cached first leaves first, used since or not."""

    def __init__(self, history: History) -> None:
        super().__init__()
        self._born = history.born
        self._heap: list[tuple[int, int, Key]] = []
        self._stamps: dict[Key, int] = {}
        self._clock = 0

    def __setitem__(self, key: Key, blocks: int) -> None:
        self._clock += 1
        self._stamps[key] = self._clock
        heappush(self._heap, (self._born.get(key, 0), self._clock, key))
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

    def supersede(self, key: Key) -> None:
        """A piece that is here is on the device again without having been loaded."""
        self.counts.superseded += self.take(key)


class TierStack:
    """Host memory, and disk below it. A piece is in one place only: device, one of the tiers, or on its way up."""

    def __init__(self, limits: TierLimits, history: History) -> None:
        self._history = history
        self._counts_uses = limits.eviction != "lru"
        self.tiers = [Tier(blocks, EVICTION[limits.eviction](history)) for blocks in limits.blocks]
        self._lowest = len(limits.blocks) - 1

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
        room, pieces = tier.num_blocks, tier.pieces
        if blocks > room:
            self._send_on(tier, level, key, blocks)
            return
        used = tier.used_blocks + blocks
        while used > room:
            leaving, size = pieces.leave()
            used -= size
            self._send_on(tier, level, leaving, size)
        pieces[key] = blocks
        tier.used_blocks = used

    def _send_on(self, tier: Tier, level: int, key: Key, blocks: int) -> None:
        if level < self._lowest:
            tier.counts.moved_down += blocks
            self.store(key, blocks, level + 1)
        else:
            tier.counts.dropped += blocks
            if self._counts_uses:
                self._history.forget(key)

    def load(self, key: Key) -> int:
        """A piece moves up; its blocks."""
        tier = self.tiers[self.find(key)]
        blocks = tier.take(key)
        tier.counts.loaded += blocks
        return blocks

    def account(self) -> list[TierCounts]:
        """What came, went and is there, tier by tier."""
        for tier in self.tiers:
            tier.counts.there = tier.used_blocks
        return [tier.counts for tier in self.tiers]
