"""What a run of replicas that come and go leaves behind besides the record of any run."""

from __future__ import annotations

from dataclasses import dataclass, field

from simulator.run import RunRecord


@dataclass(slots=True)
class ElasticHistory:
    """What became of the replicas; seconds since the start of the trace."""

    held_s: list[list[tuple[float, float | None]]] = field(default_factory=list)
    """Per replica: (from, until) for which its devices are held; None: to the end of the run."""
    changes: list[tuple[float, int, str]] = field(default_factory=list)
    """(time, replica, new state)."""
    counts: list[tuple[float, int, int]] = field(default_factory=list)
    """(time, replicas that serve, replicas held) after every change."""
    started: int = 0
    stopped: int = 0
    failures: int = 0
    retried: int = 0
    """Requests sent again."""


@dataclass(slots=True, kw_only=True)
class ElasticRecord(RunRecord):
    """A run whose replicas came and went."""

    history: ElasticHistory
