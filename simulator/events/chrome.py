"""A watched run as a Chrome trace, which Perfetto opens: replicas as processes, pipeline stages as threads.

The format: "Trace Event Format" (Google, public document); times in microseconds, here with three decimals.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hardware_profiles.errors import UserError
from simulator.deployment import Deployment
from simulator.events.counters import counter_groups
from simulator.events.requests import load_groups, request_groups, transfer_groups
from simulator.events.slices import slice_groups, thread_names
from simulator.events.states import state_groups
from simulator.events.text import LINK, REQUESTS, Group, event, metadata, process_of, us
from simulator.events.turns import turn_groups, turn_names
from simulator.result import SimulationResult
from simulator.result_disaggregated import DisaggregatedResult
from simulator.several.result import SeveralResult

MOST_EVENTS = 1_000_000
"""In a trace; more make browsers slow."""
NOTES = 2
"""Thread of a note, in the process of the requests; another number than the process's."""


@dataclass(frozen=True, slots=True)
class ChromeTrace:
    """The events of a trace as JSON texts, in the order of their times, and what is not among them."""

    header: list[str]
    events: list[tuple[int, str]]
    """(time [ns], JSON)."""
    note: str | None
    """What was left out and why; None: nothing."""
    about: dict[str, Any]

    def lines(self) -> Iterator[str]:
        """The file, line by line."""
        yield '{"displayTimeUnit":"ms",'
        yield f'"otherData":{json.dumps(self.about)},'
        yield '"traceEvents":['
        last = len(self.header) + len(self.events) - 1
        for place, text in enumerate((*self.header, *(text for _, text in self.events))):
            yield text + ("," if place < last else "")
        yield "]}"


def trace_of(
    result: SimulationResult, window_s: tuple[float, float] | None = None, most_events: int = MOST_EVENTS
) -> ChromeTrace:
    """The trace of a run that was watched; ``window_s``: what overlaps (from, until) alone, in seconds of the trace."""
    records = result.record.replicas
    if not records or any(record.step_log is None for record in records):
        raise UserError("the run was not watched, so its steps are gone; simulate with timeline=True")
    groups = [
        *slice_groups(result),
        *counter_groups(result),
        *request_groups(result),
        *load_groups(result),
        *transfer_groups(result),
        *state_groups(result),
        *turn_groups(result),
    ]
    if window_s is not None:
        groups = list(_within(groups, *(round(1e9 * limit) for limit in window_s)))
    groups.sort(key=lambda group: group.begin)
    kept, total = _first(groups, most_events)
    unkept = sum(record.step_log.left_out for record in records if record.step_log is not None)
    note = _note(groups[kept].begin if kept < len(groups) else None, total, most_events, unkept)
    if window_s is not None and all(group.counter for group in groups):
        note = f"nothing runs in the window: the run ends at {result.record.end_s:.3f} s"
    events = [entry for group in groups[:kept] for entry in group.events]
    events.sort(key=lambda entry: entry[0])
    header = names_of(result, note is not None)
    if note is not None:
        events.insert(0, _bar(note, events))
    return ChromeTrace(header, events, note, _about(result, window_s, note))


def names_of(result: SimulationResult, noted: bool) -> list[str]:
    """Names of processes and threads: the requests (and a note) first, then the replicas, then the link of two pools."""
    lines = metadata(REQUESTS, "requests", {NOTES: "note"} if noted else {}, place=0)
    for index, name in enumerate(process_names(result)):
        lines += metadata(process_of(index), name, thread_names(result, index), place=1 + index)
    for place, (process, name, _) in enumerate(turn_names(result)):
        lines += metadata(process, name, {1: "models"}, place=1 + len(result.record.replicas) + place)
    if isinstance(result, DisaggregatedResult):
        last = 1 + len(result.record.replicas)
        lines += metadata(LINK, f"KV link ({result.deployment.kv_link().name})", {}, place=last)
    return lines


def _bar(note: str, events: Sequence[tuple[int, str]]) -> tuple[int, str]:
    """A slice as long as the trace, so that whoever opens it reads the note."""
    begin, end = (events[0][0], events[-1][0]) if events else (0, 0)
    return begin, event("X", note, begin, REQUESTS, tid=str(NOTES), cat='"note"', dur=us(end - begin))


def pools_of(result: SimulationResult) -> list[tuple[str | None, Deployment]]:
    """Pools, or several models, by name; a single one has none."""
    if isinstance(result, SeveralResult):
        return [(m.name, served) for m, served in zip(result.several.members, result.several.served, strict=True)]
    return list(result.deployment.pools) if isinstance(result, DisaggregatedResult) else [(None, result.deployment)]


def process_names(result: SimulationResult) -> list[str]:
    """Replicas by number and device, those of pools with the pool's name."""
    names = []
    for pool, deployment in pools_of(result):
        plan = deployment.plan
        each = len(result.record.replicas) // plan.dp if pool is None else 1
        device = f"{plan.devices_per_replica // each if each else 0}x {deployment.cluster.device.name}"
        names += [f"{pool + ' ' if pool else ''}replica {place} ({device})" for place in range(plan.dp * each)]
    return names


def _within(groups: Iterable[Group], begin: int, end: int) -> Iterator[Group]:
    """What overlaps a window; of a counter also its value when the window begins."""
    latest: dict[tuple[str, int], Group] = {}
    for group in groups:
        if group.counter is None:
            if group.end >= begin and group.begin <= end:
                yield group
        elif group.begin < begin:
            latest[group.counter] = group
        elif group.begin <= end:
            yield group
    for group in latest.values():
        assert group.counter is not None
        yield group.at(begin)


def _first(groups: Sequence[Group], most: int) -> tuple[int, int]:
    """(groups that fit, all their events)."""
    sizes = np.cumsum([len(group.events) for group in groups]) if groups else np.zeros(1, dtype=np.int64)
    return int(np.searchsorted(sizes, most, side="right")), int(sizes[-1])


def _note(cut: int | None, total: int, most: int, unkept: int) -> str | None:
    parts = []
    if cut is not None:
        parts.append(f"{total:,} events; those that begin after {cut / 1e9:.3f} s are left out (at most {most:,})")
    if unkept:
        parts.append(f"{unkept:,} steps beyond the limit were not kept")
    return f"incomplete: {'; '.join(parts)}; choose a window (--timeline-window)" if parts else None


def _about(result: SimulationResult, window_s: tuple[float, float] | None, note: str | None) -> dict[str, Any]:
    pools = [pool for _, pool in pools_of(result)]
    return {
        "tool": "apex-sim",
        "model": " + ".join(dict.fromkeys(pool.model.name for pool in pools)),
        "cluster": " + ".join(dict.fromkeys(pool.cluster.name for pool in pools)),
        "workload": result.trace.name,
        "seed": result.seed,
        "window_s": window_s,
        "note": note,
    }
