"""Routing policies: which replica takes a request. They see what a load balancer sees, never an output length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from simulator.request import RequestView


class ReplicaView(Protocol):
    """What a router knows of a replica at the instant of the decision."""

    @property
    def num_outstanding(self) -> int:
        """Requests sent there and not finished."""

    @property
    def outstanding_tokens(self) -> int:
        """Prompt tokens of those requests."""


class RoutingPolicy(Protocol):
    """What the simulation needs of a router."""

    def choose(self, request: RequestView, replicas: Sequence[ReplicaView]) -> int:
        """Index of the replica that takes the request."""


class RoundRobin:
    """Replicas in turn."""

    def __init__(self, seed: int) -> None:
        self._next = 0

    def choose(self, request: RequestView, replicas: Sequence[ReplicaView]) -> int:
        """The next one."""
        index = self._next
        self._next = (index + 1) % len(replicas)
        return index


class Random:
    """Uniformly at random."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng([seed, 0x52414E44])

    def choose(self, request: RequestView, replicas: Sequence[ReplicaView]) -> int:
        """Any one."""
        return int(self._rng.integers(len(replicas)))


class LeastOutstanding:
    """Fewest unfinished requests; the lowest index among equals."""

    def __init__(self, seed: int) -> None:
        pass

    def choose(self, request: RequestView, replicas: Sequence[ReplicaView]) -> int:
        """The least busy by requests."""
        loads = [replica.num_outstanding for replica in replicas]
        return loads.index(min(loads))


class ShortestQueueByTokens:
    """Fewest prompt tokens outstanding: join the shortest queue, measured in tokens."""

    def __init__(self, seed: int) -> None:
        pass

    def choose(self, request: RequestView, replicas: Sequence[ReplicaView]) -> int:
        """The least busy by tokens."""
        loads = [replica.outstanding_tokens for replica in replicas]
        return loads.index(min(loads))


class PowerOfTwoChoices:
    """The less busy of two replicas drawn at random (Mitzenmacher, 2001)."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng([seed, 0x50324332])

    def choose(self, request: RequestView, replicas: Sequence[ReplicaView]) -> int:
        """The better of two."""
        if len(replicas) == 1:
            return 0
        first, second = (int(i) for i in self._rng.choice(len(replicas), size=2, replace=False))
        if replicas[second].num_outstanding < replicas[first].num_outstanding:
            return second
        return first


ROUTING: dict[str, Callable[[int], RoutingPolicy]] = {
    "round-robin": RoundRobin,
    "random": Random,
    "least-outstanding": LeastOutstanding,
    "jsq-tokens": ShortestQueueByTokens,
    "power-of-two": PowerOfTwoChoices,
}
"""Names for the CLI and YAML: name -> constructor taking the run's seed."""
