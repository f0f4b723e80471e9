"""What a row serves: classes of requests with a priority, and how much slower they may become."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Priority = Literal["high", "low"]
PRIORITIES: tuple[Priority, ...] = ("high", "low")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """Largest increase of end-to-end latency against the uncapped row: shares at the median and the 99th percentile."""

    p50: float
    p99: float


SLOS: dict[Priority, Slo] = {"high": Slo(p50=0.01, p99=0.05), "low": Slo(p50=0.05, p99=0.50)}
"""POLCA's limits (from memory of the paper, medium confidence; zero power brakes besides)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Requests of one kind on servers of their own."""

    name: str
    priority: Priority
    share: float
    """Part of the row's servers."""
    input_len: str
    output_len: str
    """Distributions as in docs/workloads.md."""

    @property
    def label(self) -> str:
        """Name and priority: a kind may be there in both."""
        return f"{self.name}/{self.priority}"

    @property
    def lengths(self) -> tuple[str, str]:
        """What decides the simulation of a server, priority apart."""
        return (self.input_len, self.output_len)


PAPER_MIX = (
    Service(
        name="summarize", priority="low", share=0.25, input_len="uniform(2048, 8192)", output_len="uniform(256, 512)"
    ),
    Service(
        name="search", priority="high", share=0.25, input_len="uniform(512, 2048)", output_len="uniform(1024, 2048)"
    ),
    Service(name="chat", priority="high", share=0.25, input_len="uniform(2048, 4096)", output_len="uniform(128, 2048)"),
    Service(name="chat", priority="low", share=0.25, input_len="uniform(2048, 4096)", output_len="uniform(128, 2048)"),
)
"""POLCA's mix of services (from memory of the paper, medium confidence)."""


def allot(num_servers: int, services: tuple[Service, ...]) -> tuple[int, ...]:
    """Servers per service: shares of the row, the largest remainders get the rest (first named first)."""
    total = sum(s.share for s in services)
    exact = [num_servers * s.share / total for s in services]
    counts = [int(x + 1e-9) for x in exact]
    order = sorted(range(len(services)), key=lambda i: (counts[i] - exact[i], i))
    for i in order[: num_servers - sum(counts)]:
        counts[i] += 1
    return tuple(counts)
