"""Figures of a run whose replicas came and went."""

from __future__ import annotations

from typing import Any

from simulator.elastic.history import ElasticHistory
from simulator.physics.sums import in_order


def held_seconds(history: ElasticHistory, begin_s: float, end_s: float) -> list[float]:
    """Time within [begin_s, end_s] for which the devices of each replica are held [s]."""
    return [
        in_order(
            max(0.0, min(end_s, end_s if until is None else until) - max(begin_s, since)) for since, until in spans
        )
        for spans in history.held_s
    ]


def elastic_figures(history: ElasticHistory, held_s: list[float]) -> dict[str, Any]:
    """Fields of the summary: replica-hours, how many served at most, starts, stops, failures, requests sent again."""
    return {
        "replica_hours": in_order(held_s) / 3600,
        "peak_replicas": max((serving for _, serving, _ in history.counts), default=0),
        "replicas_started": history.started,
        "replicas_stopped": history.stopped,
        "replica_failures": history.failures,
        "requests_retried": history.retried,
    }
