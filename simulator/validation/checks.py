"""Measured figures that cannot be right: wrong units, impossible orders, latencies that do not add up."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping

from simulator.validation.metrics import LATENCIES, STATISTICS
from simulator.validation.run import MeasuredRun
from simulator.validation.traffic import mean_length

PLAUSIBLE_MS: Mapping[str, tuple[float, float]] = {
    "ttft": (0.5, 1.8e6),
    "tpot": (0.2, 3e4),
    "itl": (0.2, 3e4),
    "e2e": (2.0, 7.2e6),
    "queue": (0.0, 7.2e6),
    "prompt_time": (0.5, 1.8e6),
    "token_time": (0.2, 3e4),
}
"""Latencies outside are taken for another unit: no engine answers in less, no benchmark waits for more."""
SMALLEST, LARGEST = 1e-9, 1e15
"""No metric, in the unit of its name, lies outside."""
E2E_FACTOR = 2.0
"""TTFT + TPOT x (output tokens - 1) is E2E; means over requests differ by less than this."""
STATED = ("mean", "p50", "p90", "p95", "p99")


def problem_of(run: MeasuredRun) -> str | None:
    """What is wrong with a run's figures, as 'field is value; remedy'; None when nothing is."""
    return next(_problems(run), None)


def _problems(run: MeasuredRun) -> Iterator[str]:
    yield from _values(run.measured)
    yield from _units(run.measured)
    yield from _order(run.measured)
    yield from _sums(run)


def _values(measured: Mapping[str, float]) -> Iterator[str]:
    if not measured:
        yield "measured is empty; give at least one metric, for example ttft_mean_ms: 41.5"
    for name, value in measured.items():
        if not math.isfinite(value):
            yield f"{name} is {value}; it must be a finite number (leave out what was not measured)"
        if value <= 0:
            yield f"{name} is {value:g}; it must be above 0 for a relative error (leave it out)"
        if value > 0 and not SMALLEST <= value <= LARGEST:
            yield f"{name} is {value:g}; no server comes to that"


def _latency_of(name: str) -> str:
    return next((latency for latency in PLAUSIBLE_MS if name.startswith(latency)), "")


def _units(measured: Mapping[str, float]) -> Iterator[str]:
    for name, value in measured.items():
        latency = _latency_of(name)
        if not latency or not name.endswith("_ms"):
            continue
        low, high = PLAUSIBLE_MS[latency]
        if value < low:
            yield f"{name} is {value:g}, which looks like seconds; write {name}: {1e3 * value:g}"
        if value > high:
            yield f"{name} is {value:g} ({value / 1e3:,.0f} s), which looks like microseconds; write {name}: {value / 1e3:g}"


def _order(measured: Mapping[str, float]) -> Iterator[str]:
    for latency in LATENCIES:
        names = [f"{latency}_{stat}_ms" for stat in STATISTICS if stat != "mean"]
        known = [name for name in names if name in measured]
        for lower, upper in itertools.pairwise(known):
            if measured[lower] > measured[upper]:
                yield f"{lower} ({measured[lower]:g}) is above {upper} ({measured[upper]:g}); are they swapped?"
    for stat in STATED:
        ttft, e2e = measured.get(f"ttft_{stat}_ms"), measured.get(f"e2e_{stat}_ms")
        if ttft is not None and e2e is not None and ttft > e2e:
            yield f"ttft_{stat}_ms ({ttft:g}) is above e2e_{stat}_ms ({e2e:g}); check the units of both"


def _sums(run: MeasuredRun) -> Iterator[str]:
    measured = run.measured
    ttft, tpot, e2e = (measured.get(f"{latency}_mean_ms") for latency in ("ttft", "tpot", "e2e"))
    output = mean_length(run.workload.output_len)
    if run.workload.requests is not None:
        output = float(run.workload.requests.output_tokens.mean())
    if ttft is None or tpot is None or e2e is None or output is None:
        return
    total = ttft + tpot * (output - 1)
    if not 1 / E2E_FACTOR <= total / e2e <= E2E_FACTOR:
        yield (
            f"e2e_mean_ms is {e2e:g}, but ttft_mean_ms + tpot_mean_ms x {output - 1:.0f} tokens is {total:.4g}; "
            "check units and output_len"
        )
