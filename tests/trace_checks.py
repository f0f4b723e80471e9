"""The rules of the Chrome trace format, and of a run's trace beside its result, checked strictly."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from typing import Any

import numpy as np

from simulator import clock
from simulator.events.chrome import ChromeTrace
from simulator.events.text import process_of
from simulator.result import SimulationResult
from simulator.result_disaggregated import DisaggregatedResult

Event = dict[str, Any]
METADATA = {"process_name", "process_sort_index", "thread_name", "thread_sort_index"}
REAL = ("joules", "W")
"""Arguments that are sums of floats."""


def parsed(trace: ChromeTrace) -> list[Event]:
    """Its events, if the file keeps the format."""
    data = json.loads("\n".join(trace.lines()))
    assert set(data) == {"displayTimeUnit", "otherData", "traceEvents"}
    check_format(data["traceEvents"])
    return list(data["traceEvents"])


def ns(event: Event, field: str = "ts") -> int:
    whole = round(1000 * event[field])
    assert math.isclose(whole, 1000 * event[field], abs_tol=1e-3), "whole nanoseconds"
    return whole


def check_format(events: list[Event]) -> None:
    named: dict[str, set[Any]] = {"process_name": set(), "thread_name": set()}
    last = 0
    open_: dict[Any, list[str]] = defaultdict(list)
    slices: dict[Any, list[Event]] = defaultdict(list)
    for event in events:
        assert isinstance(event["name"], str) and event["name"]
        assert isinstance(event["pid"], int) and event["pid"] > 0
        if event["ph"] == "M":
            assert event["name"] in METADATA and len(event["args"]) == 1
            if event["name"] in named:
                where = (event["pid"], event["tid"]) if event["name"] == "thread_name" else event["pid"]
                assert where not in named[event["name"]], "named twice"
                named[event["name"]].add(where)
            continue
        assert ns(event) >= last, "times in order"
        last = ns(event)
        assert event["pid"] in named["process_name"]
        if event["ph"] == "X":
            assert event["dur"] >= 0 and (event["pid"], event["tid"]) in named["thread_name"]
            slices[event["pid"], event["tid"]].append(event)
        elif event["ph"] in "bne":
            stack = open_[event["pid"], event["cat"], event["id2"]["local"]]
            if event["ph"] == "b":
                stack.append(event["name"])
            elif event["ph"] == "e":
                assert stack.pop() == event["name"], "ends of what began last"
            else:
                assert stack, "a moment of nothing"
        elif event["ph"] == "C":
            assert event["args"] and all(isinstance(v, int | float) and v >= 0 for v in event["args"].values())
        else:
            raise AssertionError(event["ph"])
    assert not any(open_.values()), "what began has ended"
    for those in slices.values():
        check_nesting(those)


def check_nesting(slices: list[Event]) -> None:
    """Slices of a thread lie inside each other or apart; steps are never inside anything."""
    stack: list[tuple[int, int]] = []
    for event in slices:
        begin, end = ns(event), ns(event) + ns(event, "dur")
        while stack and stack[-1][1] <= begin and (stack[-1][1] < end or stack[-1][0] < begin):
            stack.pop()
        assert not stack or end <= stack[-1][1], "overlap"
        assert (event["cat"] in {"step", "note"}) == (not stack), "steps outside, their parts inside"
        stack.append((begin, end))


def check_result(events: list[Event], result: SimulationResult) -> None:
    """What a trace adds up to is what the result says."""
    records = result.record.replicas
    for index, record in enumerate(records):
        mine = [event for event in events if event["pid"] == process_of(index)]
        steps = [e for e in mine if e["ph"] == "X" and e["cat"] == "step"]
        split = record.split is not None
        first = [e for e in steps if split or e["tid"] == 1]
        counters = record.counters
        assert sum(e["args"]["steps"] for e in first) == counters.steps
        lost = sum(e["args"]["prompt_tokens"] for e in first if e["name"] == "lost step")
        made = sum(e["args"]["prompt_tokens"] for e in first)
        assert made == counters.prefill_tokens or lost
        emitted = record.speculative.emitted_tokens if record.speculative else counters.decode_tokens
        assert sum(e["args"]["output_tokens"] for e in first) == emitted
        joules = sum(e["args"]["joules"] for e in steps)
        assert math.isclose(joules, counters.joules, rel_tol=1e-4, abs_tol=1e-6)
        if not split:
            busy = sum(ns(e, "dur") for e in first)
            assert math.isclose(busy, counters.busy_ticks * 1e9 / clock.TICKS_PER_S, abs_tol=2 * len(first) + 2)
        check_counters(mine, record, counters)
    check_energy(events, result)
    check_clients(events, result)


def check_counters(mine: list[Event], record: Any, counters: Any) -> None:
    most: dict[str, float] = defaultdict(float)
    for event in mine:
        if event["ph"] == "C":
            most[event["name"]] = max(most[event["name"]], *event["args"].values())
    if counters.peak_blocks:  # of a pair's second instance it is kept with the first
        assert most["KV blocks"] == counters.peak_blocks
    blocks = [event["args"] for event in mine if event["name"] == "KV blocks"]
    assert not any(blocks[-1].values()), "nobody holds KV in the end"
    assert most["running"] >= counters.peak_running
    assert most["waiting"] >= counters.peak_waiting


def check_energy(events: list[Event], result: SimulationResult) -> None:
    begin = float(np.nanmin(result.column("arrival_s")))
    end = round(1e9 * (begin + result.duration_s))
    total = 0.0
    for index in range(len(result.record.replicas)):
        power = [e for e in events if e["ph"] == "C" and e["name"] == "power" and e["pid"] == process_of(index)]
        times = [ns(e) for e in power] + [max(end, *(ns(e) for e in power))] if power else []
        total += sum(e["args"]["W"] * (b - a) / 1e9 for e, a, b in zip(power, times, times[1:], strict=False))
    assert math.isclose(total, result.energy_j, rel_tol=1e-3, abs_tol=1e-3), (total, result.energy_j)


def check_clients(events: list[Event], result: SimulationResult) -> None:
    spans = {}
    for event in events:
        if event.get("cat") == "request" and event["name"] == "request":
            spans.setdefault(event["id2"]["local"], []).append(ns(event))
    done = np.flatnonzero(result.completed)
    assert sorted(int(row) for row in spans) == done.tolist()
    e2e = result.column("e2e_s")
    for row in done.tolist():
        assert math.isclose(spans[str(row)][1] - spans[str(row)][0], 1e9 * e2e[row], abs_tol=1.01)
    if isinstance(result, DisaggregatedResult):
        moved = [e for e in events if e.get("cat") == "transfer" and e["ph"] == "b"]
        assert len(moved) == int((~np.isnan(np.array(result.record.transfers.end_s))).sum())


def check_same(spans: list[Event], steps: list[Event], drafts: bool) -> None:
    """Both modes give the same events, but for sums of floats; blocks in the middle of a span of drafts are not sampled."""
    left_out = {"power"} | ({"KV blocks"} if drafts else set())

    def plain(event: Event) -> str:
        args = {k: v for k, v in event.get("args", {}).items() if k not in REAL}
        return json.dumps(event | {"args": args}, sort_keys=True)

    mine, theirs = ([plain(e) for e in events if e["name"] not in left_out] for events in (spans, steps))
    assert mine == theirs, next(pair for pair in zip(mine, theirs, strict=False) if pair[0] != pair[1])
