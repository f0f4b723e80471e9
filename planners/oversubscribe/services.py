"""What a row serves: classes of requests with a priority, and how much slower they may become."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hardware_profiles.errors import UserError
from simulator.physics.sums import in_order

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
    total = in_order(s.share for s in services)
    exact = [num_servers * s.share / total for s in services]
    counts = [int(x + 1e-9) for x in exact]
    order = sorted(range(len(services)), key=lambda i: (counts[i] - exact[i], i))
    for i in order[: num_servers - sum(counts)]:
        counts[i] += 1
    return tuple(counts)


_FIELDS = ("name", "priority", "share", "input_len", "output_len")


def read_services(path: str | Path) -> tuple[Service, ...]:
    """Services from a YAML list of mappings with the fields of :class:`Service`."""
    import yaml

    file = Path(path)
    try:
        rows = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--services {file}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"--services {file}: no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(rows, list) or not rows:
        raise UserError(f"--services {file}: must be a list of services, each with {', '.join(_FIELDS)}")
    services = tuple(_service(row, f"--services {file}: service {i + 1}") for i, row in enumerate(rows))
    labels = [s.label for s in services]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"--services {file}: {label} is there twice; add up their shares or name them apart")
    return services


def _service(row: object, where: str) -> Service:
    from workloads.lengths import parse_length

    if not isinstance(row, dict) or set(row) != set(_FIELDS):
        raise UserError(f"{where}: must have exactly the fields {', '.join(_FIELDS)}")
    if row["priority"] not in PRIORITIES:
        raise UserError(f"{where}: priority is {row['priority']!r}; it must be high or low")
    share = row["share"]
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < float("inf"):
        raise UserError(f"{where}: share is {share!r}; it must be a number above 0")
    lengths = {name: str(row[name]) for name in ("input_len", "output_len")}
    for name, text in lengths.items():
        try:
            parse_length(text, what=name)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
    return Service(name=str(row["name"]), priority=row["priority"], share=float(share), **lengths)
