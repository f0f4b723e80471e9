"""Routing by what replicas have cached: from the router's own record of what it sent, from the replicas' cache events, or by
session."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulator.request import RequestView
    from simulator.routing import ReplicaView


class PrefixAffinity:
    """To the replica that was sent most of the prompt's prefix before, unless loads are too unequal.

    The router only *estimates* what is cached: it keeps, per replica, the prompts it sent there, and is not told of
    evictions. The scheme and the defaults are those of SGLang's router (its policy cache_aware; 0.3, 64 and 1.5:
    https://raw.githubusercontent.com/lightseekorg/smg/main/docs/getting-started/load-balancing.md).
    """

    def __init__(
        self, seed: int, *, match: float = 0.3, abs: float = 64, rel: float = 1.5, size: float = 1 << 20
    ) -> None:
        self._match, self._abs, self._rel = match, abs, rel
        self._size = int(size)
        """Pieces of prompts remembered per replica, least recently used forgotten first."""
        self._known: dict[int, OrderedDict[int, None]] = {}

    def choose(self, request: RequestView, replicas: Sequence[ReplicaView]) -> int:
        """Loads differ by more than ``abs`` requests and a factor ``rel``: the shortest queue. Else the longest known prefix,
        if it is more than the share ``match`` of the prompt; else the replica with the smallest record."""
        records = [self._known.setdefault(replica.index, OrderedDict()) for replica in replicas]
        index = self._pick(request.prompt_ids, records, [replica.num_outstanding for replica in replicas])
        known = records[index]
        for piece in reversed(request.prompt_ids):  # the head of a prompt is forgotten last
            known[piece] = None
            known.move_to_end(piece)
        while len(known) > self._size:
            known.popitem(last=False)
        return index

    def _pick(self, ids: tuple[int, ...], records: list[OrderedDict[int, None]], loads: list[int]) -> int:
        low, high = min(loads), max(loads)
        if not ids or (high - low > self._abs and high > self._rel * low):
            return loads.index(low)
        matched = [self._matched(known, ids) for known in records]
        best = max(matched)
        if best > self._match * len(ids):
            return min((loads[i], i) for i, pieces in enumerate(matched) if pieces == best)[1]
        return min((len(known), loads[i], i) for i, known in enumerate(records))[2]

    @staticmethod
    def _matched(known: OrderedDict[int, None], ids: tuple[int, ...]) -> int:
        """Pieces of the prompt that are known from its start. Equal ids mean equal tokens up to there, so a walk along the ids
        is a walk down a radix tree."""
        for index, piece in enumerate(ids):
            if piece not in known:
                return index
        return len(ids)


class KvAware:
    """To the replica with the least work: prompt tokens it would have to compute, and tokens it would be busy with.

    The router *knows* what is cached: replicas report what they store and evict, here without delay. Cost of a replica =
    ``overlap`` x (prompt tokens - credited cached tokens) + ``load`` x prompt tokens of its unfinished requests and this one,
    where what several share counts once, as in NVIDIA Dynamo's router (overlap weight 1 and credits 0.75 for host memory:
    https://docs.nvidia.com/dynamo/v1.3.0/components/router/configuration-and-tuning; ``disk`` 0.25 is from memory).
    """

    def __init__(
        self, seed: int, *, overlap: float = 1.0, load: float = 1.0, host: float = 0.75, disk: float = 0.25
    ) -> None:
        self._overlap, self._load = overlap, load
        self._credits = (1.0, host, disk)

    def choose(self, request: RequestView, replicas: Sequence[ReplicaView]) -> int:
        """The least cost; among equals fewest requests, then the lowest index."""
        return min((self._cost(request, replica), replica.num_outstanding, i) for i, replica in enumerate(replicas))[2]

    def _cost(self, request: RequestView, replica: ReplicaView) -> float:
        cached = replica.cached_tokens(request)
        credit = sum(weight * tokens for weight, tokens in zip(self._credits, cached, strict=False))
        return self._overlap * (request.input_tokens - credit) + self._load * replica.tokens_with(request)


class SessionAffinity:
    """All turns of a session to the replica of its first one, which goes where fewest requests are (sticky sessions)."""

    def __init__(self, seed: int) -> None:
        self._home: dict[int, int] = {}

    def choose(self, request: RequestView, replicas: Sequence[ReplicaView]) -> int:
        """The session's home; a new one when that does not serve any more."""
        home = self._home.get(request.session)
        indices = [replica.index for replica in replicas]
        if home not in indices:
            loads = [replica.num_outstanding for replica in replicas]
            home = self._home[request.session] = indices[loads.index(min(loads))]
        return indices.index(home)
