"""A benchmark's result as a value, and the measured run it stands for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hardware_profiles.errors import UserError
from simulator.validation.run import Lengths, MeasuredRun, Stage, Workload
from workloads.trace import Trace

STATISTICS = ("mean", "p50", "p90", "p95", "p99")
MOST = 10**8
LONGEST = 10**9
"""Tokens or seconds beyond which a value is no length and no time."""
SATURATED = 0.9
"""Share of the asked-for rate below which a limit of concurrency, not the rate, decided when requests were sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure of the tool."""

    name: str
    """As the tool calls it."""
    metric: str
    """The metric of simulator.validation.metrics that means the same."""
    value: float
    """In the metric's unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """One run of a benchmark tool: what was sent, and what came out."""

    tool: str
    place: str
    figures: tuple[Figure, ...]
    model: str | None = None
    engine: str | None = None
    """Engine family that the file names (vllm, sglang, trtllm), where it does."""
    num_requests: int | None = None
    requests: Trace | None = None
    """Every request, where the file has them: arrivals and lengths."""
    input_len: Lengths | None = None
    output_len: Lengths | None = None
    rate_per_s: float | None = None
    """Asked for; None: as fast as the concurrency allows."""
    reached_rate_per_s: float | None = None
    arrival: str = "poisson"
    concurrency: int | None = None
    unknown: str | None = None
    """Why the file does not say how requests were sent, where it does not; a rate or a concurrency must be stated then."""
    layout: Mapping[str, int] = field(default_factory=dict)
    """tp, pp, dp, ep, where the file says them."""
    notes: tuple[str, ...] = ()
    """What the comparison rests on beyond the file."""


def number(data: Mapping[str, Any], *names: str) -> float | None:
    """The first of these fields that is a finite number."""
    for name in names:
        value = data.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    return None


def engine_in(value: object) -> str | None:
    """The engine family in a name such as ``sglang-oai`` or ``dynamo-trt``; APIs that any server speaks name none."""
    text = str(value).lower()
    return next(
        (family for word, family in (("sglang", "sglang"), ("trt", "trtllm"), ("vllm", "vllm")) if word in text), None
    )


def whole(data: Mapping[str, Any], *names: str) -> int | None:
    """The same, as a count above zero; no benchmark sends more than MOST requests."""
    value = number(data, *names)
    return int(value) if value is not None and 1 <= value <= MOST else None


def figure(name: str, metric: str, value: float | None, scale: float = 1.0) -> tuple[Figure, ...]:
    """One figure; none where the tool wrote zero or nothing (nothing was measured)."""
    if value is None or value <= 0:
        return ()
    return (Figure(name=name, metric=metric, value=value * scale),)


def spread_of(
    mean: float | None, std: float | None, low: float | None = None, high: float | None = None
) -> Lengths | None:
    """Lengths of which mean, standard deviation and limits are known: log-normal, as lengths of real requests about are."""
    if mean is None or not 1 <= mean <= LONGEST:
        return None
    if not std or std < 0.5:
        return max(1, round(mean))
    limits = "".join(f",{name}={value:g}" for name, value in (("min", low), ("max", high)) if value)
    return f"lognormal(mean={mean:.10g},cv={std / mean:.10g}{limits})"


def workload_of(result: BenchResult) -> Workload:
    """What was sent. UserError names what the file does not say."""
    closed, rate = _loop(result), result.rate_per_s
    if result.unknown is not None:
        raise UserError(
            f"{result.place}: does not say at what rate or concurrency requests were sent ({result.unknown}); give --rate or "
            "--concurrency"
        )
    if result.requests is not None:
        return Workload(requests=result.requests, concurrency=closed)
    count = result.num_requests
    missing = [
        n for n, value in (("--input-len", result.input_len), ("--output-len", result.output_len)) if value is None
    ]
    if count is None:
        missing.append("--num-requests")
    if missing or count is None:
        raise UserError(f"{result.place}: does not say what was sent; give {', '.join(missing)}")
    lengths: dict[str, Any] = {"input_len": result.input_len, "output_len": result.output_len}
    if closed is not None:
        return Workload(**lengths, num_requests=count, concurrency=closed)
    if rate is None:
        return Workload(**lengths, num_requests=count)
    if result.arrival == "scaled-poisson":
        return Workload(**lengths, stages=(Stage(num_requests=count, duration_s=count / rate),))
    return Workload(**lengths, num_requests=count, rate_per_s=rate, arrival=result.arrival)


def _loop(result: BenchResult) -> int | None:
    """Places of a closed loop, where the limit of concurrency decided when requests were sent."""
    if result.concurrency is None or result.rate_per_s is None:
        return result.concurrency
    reached = result.reached_rate_per_s
    return result.concurrency if reached is not None and reached < SATURATED * result.rate_per_s else None


def run_of(result: BenchResult, deployment: Mapping[str, Any]) -> MeasuredRun:
    """The measured run: the file's load and figures on ``deployment`` (fields of MeasuredRun)."""
    if not result.figures:
        raise UserError(f"{result.place}: has no figure that could be compared; was every request refused?")
    return MeasuredRun(
        id=result.place,
        source=result.tool,
        workload=workload_of(result),
        measured={f.metric: f.value for f in result.figures},
        place=result.place,
        **deployment,
    )


def replaced(result: BenchResult, **given: Any) -> BenchResult:
    """With what a user states instead of the file: lengths, rate, concurrency, number of requests."""
    known = {name: value for name, value in given.items() if value is not None}
    if not known:
        return result
    if {"rate_per_s", "concurrency"} & set(known):
        known["unknown"] = None
    if "rate_per_s" in known:
        known = {"concurrency": None, **known}
    elif "concurrency" in known:
        known = {"rate_per_s": None, **known}
    if {"input_len", "output_len", "num_requests", "rate_per_s"} & set(known):
        known["requests"] = None
    return dataclasses.replace(result, **known)
