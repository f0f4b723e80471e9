"""Counters over time: requests in the batch and in the queue, KV blocks, power."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from simulator.elastic.history import ElasticHistory, ElasticRecord
from simulator.elastic.pools import ElasticPoolsRecord
from simulator.events.slices import rows_of
from simulator.events.step_log import StepLog
from simulator.events.text import Group, event, ns, process_of
from simulator.result import SimulationResult
from simulator.result_disaggregated import DisaggregatedResult
from simulator.several.result import SeveralResult

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def counter_groups(result: SimulationResult) -> Iterator[Group]:
    """Of all replicas."""
    idle_w, capacity = idle_watts(result), kv_blocks(result)
    for index, record in enumerate(result.record.replicas):
        log, process = record.step_log, process_of(index)
        assert log is not None
        yield from _requests(log, process)
        yield from _blocks(log, process, f"used of {capacity[index]:,}")
        for at, watts in power_steps(result, index, idle_w[index]):
            yield _group("power", at, process, f'{{"W":{watts:.6g}}}')


def idle_watts(result: SimulationResult) -> list[float]:
    """Power of each replica's devices while they have nothing to do [W]; of models that share devices their steps' alone."""
    if isinstance(result, SeveralResult):
        alone = [len(result.several.groups[member.group]) == 1 for member in result.several.members]
        pairs = zip(result.models.values(), alone, strict=True)
        return [view.replica_idle_w if own else 0.0 for view, own in pairs for _ in view.record.replicas]
    if isinstance(result, DisaggregatedResult):
        return [view.replica_idle_w for view in result.pools.values() for _ in view.record.replicas]
    return [result.replica_idle_w] * len(result.record.replicas)


def kv_blocks(result: SimulationResult) -> list[int]:
    """KV blocks that each replica has."""
    views: Iterable[SimulationResult] = [result]
    if isinstance(result, DisaggregatedResult | SeveralResult):
        views = (result.pools if isinstance(result, DisaggregatedResult) else result.models).values()
    return [view.deployment.memory.num_blocks for view in views for _ in view.record.replicas]


def _group(name: str, at: int, process: int, args: str) -> Group:
    return Group(at, at, [(at, event("C", name, at, process, args=args))], (name, process))


def _requests(log: StepLog, process: int) -> Iterator[Group]:
    """From the trace's second 0 on, so that viewers, which count from the first event, show the trace's seconds."""
    samples = np.frombuffer(log.queue).reshape(-1, 3)
    for tick, running, waiting in ((0, 0, 0), *samples.tolist()):
        at = ns(tick)
        yield _group("running", at, process, f'{{"requests":{int(running)}}}')
        yield _group("waiting", at, process, f'{{"requests":{int(waiting)}}}')


def _blocks(log: StepLog, process: int, label: str) -> Iterator[Group]:
    before = -1.0
    for tick, used in ((0, 0), *np.frombuffer(log.blocks).reshape(-1, 2).tolist()):
        if used != before:
            yield _group("KV blocks", ns(tick), process, f'{{"{label}":{int(used)}}}')
        before = used


def power_steps(result: SimulationResult, index: int, idle_w: float) -> list[tuple[int, float]]:
    """(time [ns], watts from then on) of a replica: of each slice its mean, and between them what idle devices draw."""
    rows = rows_of(result, index)
    times = np.array([(ns(row.begin), ns(row.end)) for row in rows], dtype=np.int64).reshape(-1, 2)
    joules = np.array([row.joules for row in rows])
    lasts = times[:, 1] > times[:, 0]
    times, joules = times[lasts], joules[lasts]
    watts = joules / ((times[:, 1] - times[:, 0]) / 1e9)
    split = result.record.replicas[index].split is not None
    engine = np.array([split or row.thread == 0 for row in rows], dtype=np.bool_)[lasts]
    return _sum(times, watts, engine, held_ns(result, index), idle_w)


def held_ns(result: SimulationResult, index: int) -> list[tuple[int, int]]:
    """(from, until) for which the devices of a replica are held [ns]: from the first arrival to the last token, unless
    replicas come and go."""
    begin = float(np.nanmin(result.column("arrival_s")))
    end = begin + result.duration_s
    spans: list[tuple[float, float | None]] = [(begin, None)]
    for first, history in histories(result):
        if first <= index < first + len(history.held_s):
            spans = history.held_s[index - first]
    return [(round(1e9 * since), round(1e9 * (end if until is None else until))) for since, until in spans]


def histories(result: SimulationResult) -> list[tuple[int, ElasticHistory]]:
    """(first replica, lives of a pool's replicas), where they come and go."""
    record = result.record
    if isinstance(record, ElasticPoolsRecord):
        return [(0, record.histories[0]), (record.num_prefill_replicas, record.histories[1])]
    return [(0, record.history)] if isinstance(record, ElasticRecord) else []


def _sum(
    times: Ints, watts: Floats, engine: npt.NDArray[np.bool_], held: list[tuple[int, int]], idle_w: float
) -> list[tuple[int, float]]:
    """Power of slices that overlap added up, and idle power where devices are held and no slice of the engine runs."""
    spans = np.array(held, dtype=np.int64).reshape(-1, 2)
    spans = spans[spans[:, 1] > spans[:, 0]]
    moments = np.unique(np.concatenate((times.ravel(), spans.ravel())))
    level = _levels(moments, times, watts)
    busy = _levels(moments, times, engine.astype(np.float64))
    idle = (busy < 0.5) & (_levels(moments, spans, np.ones(len(spans))) > 0.5)
    total = np.where(busy + idle > 0.5, level, 0.0) + idle * idle_w
    changed = np.diff(total, prepend=-1.0) != 0.0
    return list(zip(moments[changed].tolist(), total[changed].tolist(), strict=True))


def _levels(moments: Ints, spans: Ints, weights: Floats) -> Floats:
    """Sum of the weights of all spans that contain the time after each moment."""
    steps = np.zeros(len(moments))
    np.add.at(steps, np.searchsorted(moments, spans[:, 0]), weights)
    np.add.at(steps, np.searchsorted(moments, spans[:, 1]), -weights)
    level: Floats = np.cumsum(steps)
    return level
