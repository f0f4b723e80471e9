"""The log of a vLLM server: how long a decode step took, from the lines that it prints every few seconds.

A line says how many tokens were generated per second since the last one and how many requests run now. Where no prompt was
computed in between and as many requests ran before as after, every step gave each of them one token, so a step took
``running / generation throughput``, exact to one step of the interval. Other lines are left out: the log does not say how a
mixed interval was divided. The context is the share of the KV cache in use times its size, which the server prints when it
starts; a prefix that requests share is counted once there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from hardware_profiles.errors import UserError
from simulator.physics.sums import in_order
from simulator.validation.bench.result import BenchResult, figure

LINE = re.compile(
    r"(?:Engine (?P<engine>\d+): )?Avg prompt throughput: (?P<prompt>[\d.]+) tokens/s, "
    r"Avg generation throughput: (?P<generation>[\d.]+) tokens/s, "
    r"Running: (?P<running>\d+) reqs?, Waiting: (?P<waiting>\d+) reqs?.*?KV cache usage: (?P<usage>[\d.]+)%"
)
"""vLLM's LoggingStatLogger; later versions put more fields between those of waiting and of the cache."""
SIZE = re.compile(r"GPU KV cache size: ([\d,]+) tokens")
MODEL = re.compile(r"\bmodel='([^']+)'")
DEGREES = {name: re.compile(rf"\b{word}_parallel_size=(\d+)") for name, word in (("tp", "tensor"), ("pp", "pipeline"))}
AGGREGATED = "Engines Aggregated"
SPECULATIVE = "SpecDecoding metrics"
SLOWEST = 0.2
"""Step [s] beyond which an interval holds too few of them, at the default of ten seconds fifty: the one at its edge counts."""
SHORTEST = 32
"""Tokens that every request of the simulated batch gives at least: the median gap is a decode step then."""
BUDGET = 2048
"""Prompt tokens per step, the smallest default (docs/engines.md): steps with prompts stay a quarter of all."""
WANTED = (
    "a line counts where no prompt was computed since the last one, and as many requests ran: send a batch of long outputs at "
    "once (VLLM_LOG_STATS_INTERVAL=2 makes more lines)"
)


@dataclass(frozen=True, slots=True)
class Interval:
    """A steady stretch between two lines of one engine."""

    running: int
    step_s: float
    usage: float
    """Share of the KV cache in use, mean of both ends."""


def is_log(text: str) -> bool:
    """Whether this is a server's log."""
    return LINE.search(text) is not None


def read_vllm_log(text: str, place: str) -> list[BenchResult]:
    """One result per number of running requests: their decode step, to be compared with a batch of as many."""
    if SPECULATIVE in text:
        raise UserError(
            f"{place}: the server drafts tokens, so its log does not say how long a step took; use a benchmark"
        )
    if AGGREGATED in text:
        raise UserError(
            f"{place}: its lines add up several engines; give the log of a server that prints each (Engine 000:)"
        )
    size = SIZE.search(text)
    if size is None:
        raise UserError(
            f"{place}: has no line 'GPU KV cache size: ... tokens'; give the log from the server's start on"
        )
    capacity = int(size[1].replace(",", ""))
    steady = list(_steady(text))
    results = [
        result
        for running in sorted({i.running for i in steady})
        if (result := _result([i for i in steady if i.running == running], capacity, text, place)) is not None
    ]
    if not results:
        raise UserError(f"{place}: none of {len(LINE.findall(text))} lines tells the time of a step; {WANTED}")
    return results


def _steady(text: str) -> Iterator[Interval]:
    before: dict[str, tuple[int, float]] = {}
    for match in LINE.finditer(text):
        engine, running, usage = match["engine"] or "", int(match["running"]), float(match["usage"]) / 100.0
        generated = float(match["generation"])
        known = before.get(engine)
        before[engine] = (running, usage)
        quiet = float(match["prompt"]) == 0.0 and int(match["waiting"]) == 0
        if known is None or not quiet or known[0] != running or running == 0 or generated * SLOWEST < running:
            continue
        yield Interval(running, running / generated, (known[1] + usage) / 2)


def _result(intervals: list[Interval], capacity: int, text: str, place: str) -> BenchResult | None:
    """None where the cache is so full that a batch of the same context has no room to go on."""
    running = intervals[0].running
    step_s = in_order(i.step_s for i in intervals) / len(intervals)
    context = in_order(i.usage for i in intervals) / len(intervals) * capacity / running
    room = int(1.8 * (capacity / running - context))
    outputs = min(max(SHORTEST, 2 * math.ceil(running * context / BUDGET)), room, int(2 * context) - 2)
    if outputs < SHORTEST:
        return None
    model = MODEL.search(text)
    return BenchResult(
        tool="vllm server log",
        place=f"{place}: {running} running",
        figures=figure("running / generation throughput", "itl_p50_ms", step_s, 1e3),
        model=None if model is None else model[1],
        engine="vllm",
        num_requests=running,
        input_len=max(1, round(context - outputs / 2)),
        output_len=outputs,
        layout={name: int(found[1]) for name, pattern in DEGREES.items() if (found := pattern.search(text))},
        notes=(
            f"{len(intervals)} steady intervals; predicted for a batch of {running} at {context:,.0f} tokens of context",
        ),
    )
