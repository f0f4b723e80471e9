"""One instance of a pair, and how long KV takes to the other one."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, isinf

from simulator import clock
from simulator.gaps import Stragglers
from simulator.ports import KvPath
from simulator.recorder import ReplicaRecord
from simulator.request import Request

INSTANCES = 2
"""Of a pair."""


@dataclass(slots=True)
class Instance:
    """One of the pair: its step in flight, and who joins its batch when that has ended."""

    record: ReplicaRecord
    busy: bool = False
    prompts: bool = False
    """The step in flight computes prompts."""
    begin: int = 0
    joules: float = 0.0
    joining: list[Request] = field(default_factory=list)
    """Their blocks count as prompts'."""
    stragglers: Stragglers = field(default_factory=Stragglers)
    moved: int = 0
    """Sequences that went on here after a step elsewhere."""


def _pace(path: KvPath) -> float:
    return min(path.send_bytes_per_s, path.receive_bytes_per_s)


def copy_ticks(path: KvPath, tokens: int) -> int:
    """Time that KV of so many tokens, one of each sequence, takes to the other instance; constant states change as a whole
    [ticks]."""
    nbytes = tokens * (path.token_bytes + path.request_bytes)
    return 0 if isinf(_pace(path)) else ceil(nbytes / _pace(path) * clock.TICKS_PER_S)


def exposed_ticks(path: KvPath, tokens: int, requests: int, step_ticks: int) -> int:
    """What the copy of a step's KV takes beyond the step: all but the last layer goes over while later layers compute."""
    if isinf(_pace(path)):
        return 0
    nbytes = tokens * path.token_bytes + requests * path.request_bytes
    meanwhile = _pace(path) * step_ticks / clock.TICKS_PER_S
    exposed = max(nbytes * path.exposed_share, nbytes - meanwhile)
    return ceil((path.latency_s + exposed / _pace(path)) * clock.TICKS_PER_S)
