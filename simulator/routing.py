"""Routing policies: which replica takes a request. They see what a load balancer sees, never an output length."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from hardware_profiles.errors import unknown_name
from simulator.cache_routing import KvAware, PrefixAffinity, SessionAffinity
from simulator.request import RequestView
from workloads.expressions import bind, number, parse_call


class ReplicaView(Protocol):
    """What a router knows of a replica at the instant of the decision."""

    @property
    def index(self) -> int:
        """Which one it is, also where replicas come and go."""

    @property
    def num_outstanding(self) -> int:
        """Requests sent there and not finished."""

    @property
    def outstanding_tokens(self) -> int:
        """Prompt tokens of those requests."""

    def tokens_with(self, request: RequestView) -> int:
        """Prompt tokens of those requests and of this one; with prefix caching, what several share counts once."""

    def cached_tokens(self, request: RequestView) -> tuple[int, ...]:
        """Tokens of the prompt that it has cached now, by tier: device memory, then host memory and disk where used."""


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
        index = self._next % len(replicas)
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
    "prefix-affinity": PrefixAffinity,
    "kv-aware": KvAware,
    "session-affinity": SessionAffinity,
}
"""Names for the CLI and YAML: name -> constructor taking the run's seed and, as keywords, the policy's parameters."""
BY_PREFIX = ("prefix-affinity", "kv-aware")
"""Policies that make no sense without prefix caching."""


def parse_routing(text: str) -> tuple[str, Callable[[int], RoutingPolicy]]:
    """(name, constructor) of ``kv-aware`` or ``kv-aware(overlap=1, load=2)``. UserError for unknown names and parameters."""
    call = parse_call(text, "--routing", "a name such as kv-aware(load=2)")
    if call.name not in ROUTING:
        raise unknown_name("routing policy", call.name, ROUTING)
    policy = ROUTING[call.name]
    names = [p.name for p in inspect.signature(policy).parameters.values() if p.kind is p.KEYWORD_ONLY]
    given = {name: number(call, name, value) for name, value in bind(call, (), names).items()}
    return call.name, partial(policy, **given)
