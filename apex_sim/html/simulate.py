"""The report of a simulated run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from apex_sim.disaggregated_report import describe_any
from apex_sim.html import parts
from apex_sim.html.cautions import refused, weak_basis
from apex_sim.html.config import Repeat, configuration
from apex_sim.html.parts import Cell, amount, spread, text
from apex_sim.html.provenance import provenance
from apex_sim.report import METRICS, pace, summary_text
from apex_sim.text import dollars, milliseconds, number, share
from simulator import clock
from simulator.deployment import Deployment
from simulator.result import SimulationResult
from simulator.result_disaggregated import DisaggregatedResult
from simulator.uncertainty import SHARE

STATISTICS = ("mean", "median", "p90", "p95", "p99")
LABEL = 13
"""Width of the labels of the summary's lines."""
WORST = 50
"""Requests that are listed."""
NO_RANGE = "nothing of this kind was ever measured"


def simulation_report(result: SimulationResult, repeat: Repeat) -> str:
    """The whole file."""
    s = result.summary
    title = f"{deployments(result)[0].model.name} on {result.where}"
    return parts.document(
        f"{title}: simulation",
        [
            f"<h1>{escape(title)}</h1>",
            parts.note(describe_any(result.deployment)),
            parts.note(f"Workload {result.trace.name}: {s['num_prompts']:,} requests{pace(result)}."),
            parts.tiles(tiles(s)),
            parts.warnings_box([*repeat.warned, *_cautions(result)]),
            parts.section("Latency", latencies(result), _ranges(result)),
            parts.section("Figures", parts.figures(_figures(result))),
            parts.section("Summary", parts.facts(_lines(result), "summary of the run")),
            parts.section("Replicas", _replicas(result)),
            parts.section("Slowest requests", _slowest(result)),
            parts.section("All figures", parts.folded("Every figure of the summary", everything(s))),
            provenance(deployments(result), [result.trace]),
            configuration(repeat),
        ],
    )


def deployments(result: SimulationResult) -> list[Deployment]:
    """That of the run, or of both pools."""
    if isinstance(result, DisaggregatedResult):
        return [pool for _, pool in result.deployment.pools]
    return [result.deployment]


def tiles(s: Mapping[str, Any]) -> dict[str, str]:
    """What matters of a summary."""
    found = {
        "p95 TTFT": milliseconds(s["p95_ttft_ms"]),
        "p95 TPOT": milliseconds(s["p95_tpot_ms"]),
        "output tokens/s": number(s["output_throughput"]),
        "requests/s": number(s["request_throughput"]),
    }
    if s.get("slo_attainment") is not None and s.get("slo"):
        found["of requests in SLO"] = share(s["slo_attainment"])
    if s["usd_per_million_output_tokens"] is not None:
        found["per 1M output tokens"] = dollars(s["usd_per_million_output_tokens"])
    if s["usd_per_hour"] is not None:
        found["per month (730 h)"] = dollars(s["usd_per_month"])
    if s["average_power_w"] is not None:
        found["on average"] = f"{number(s['average_power_w'])} W"
    return found


def _cautions(result: SimulationResult) -> list[str]:
    """What the run itself has to be read with."""
    s = result.summary
    lines = [words for label, words in _lines(result) if label in ("note", "warning")] + refused(s)
    if s["truncated"]:
        lines.append(f"The outputs of {s['truncated']:,} requests were cut short at the longest context.")
    lines += weak_basis(s)
    if not s.get("itl_exact", True):
        lines.append("Percentiles of ITL come from a histogram with bins of 0.05 %: the run is long.")
    if "step_mode" in s:
        lines.append(f"Step mode: {s['step_mode']}.")
    return lines


def latencies(result: SimulationResult) -> str:
    """Percentiles, and ranges of the means."""
    s = result.summary
    rows: list[list[Cell]] = []
    for label, key in METRICS:
        row = [text(label)]
        for statistic in STATISTICS:
            value = s.get(f"{statistic}_{key}_ms")
            row.append(amount(value, milliseconds(value)))
        low, high = s.get(f"mean_{key}_ms_low"), s.get(f"mean_{key}_ms_high")
        row.append(spread(low, high, "-" if low is None else f"{milliseconds(low)} to {milliseconds(high)}"))
        rows.append(row)
    return parts.table(("latency", *STATISTICS, f"mean, {100 * SHARE:.0f} % range"), rows, about="latencies")


def _ranges(result: SimulationResult) -> str:
    """How far off predictions of this kind were."""
    if isinstance(result, DisaggregatedResult):
        return parts.note("No measured runs of two pools are known: no range is given.")
    if not result.intervals:
        return parts.note(f"Range unknown: {NO_RANGE}.")
    rows = [
        [text(family), amount(i.low, f"x {i.low:.3f}"), amount(i.high, f"x {i.high:.3f}"), amount(float(i.runs), f"{i.runs:,}"),
         text(i.kind_text)]
        for family, i in result.intervals.items()
    ]  # fmt: skip
    words = f"{100 * SHARE:.0f} % of measured runs of this kind lay between these factors on the prediction."
    return parts.folded("Uncertainty by metric", parts.note(words) + parts.table(
        ("metric", "low", "high", "measured figures", "of this kind"), rows, about="uncertainty"))  # fmt: skip


def _lines(result: SimulationResult) -> list[tuple[str, str]]:
    """The labelled lines of what the terminal shows."""
    rows = []
    for line in summary_text(result).splitlines():
        label, words = line[:LABEL], line[LABEL:]
        if (
            label.endswith(" ")
            and label.strip()
            and words[:1].strip()
            and not label.startswith(" ")
            and "  " not in words
        ):
            rows.append((label.strip(), words))
    return rows


def _figures(result: SimulationResult) -> list[str]:
    s = result.summary
    alt = f"Cumulative distributions: median TTFT {milliseconds(s['median_ttft_ms'])}, p95 {milliseconds(s['p95_ttft_ms'])}; "
    alt += f"median TPOT {milliseconds(s['median_tpot_ms'])}, p95 {milliseconds(s['p95_tpot_ms'])}"
    over = "Running and waiting requests, KV blocks in use and power over the run"
    return [
        parts.figure(result.plot_latency(), "latency", alt),
        parts.figure(result.plot_timeline(), "over-time", over, "Samples at step boundaries."),
    ]


def _replicas(result: SimulationResult) -> str:
    views = result.pools.items() if isinstance(result, DisaggregatedResult) else [("", result)]
    rows: list[list[Cell]] = []
    served = np.bincount(result.column("replica")[result.completed], minlength=len(result.record.replicas))
    for pool, view in views:
        blocks = view.deployment.memory.num_blocks
        for replica, held_s in zip(view.record.replicas, view.held_s, strict=True):
            counters, index = replica.counters, len(rows)
            busy_s = counters.busy_ticks / clock.TICKS_PER_S
            rows.append([
                text(f"{pool} {index}".strip()), amount(float(served[index]), f"{served[index]:,}"),
                amount(float(counters.steps), f"{counters.steps:,}"),
                amount(busy_s / held_s if held_s else None, share(busy_s / held_s) if held_s else "-"),
                amount(float(counters.peak_running), f"{counters.peak_running:,}"),
                amount(float(counters.peak_waiting), f"{counters.peak_waiting:,}"),
                amount(counters.peak_blocks / blocks, share(counters.peak_blocks / blocks)),
                amount(float(counters.preemptions), f"{counters.preemptions:,}"),
            ])  # fmt: skip
    header = ("replica", "requests", "steps", "busy", "most running", "most waiting", "KV peak", "preemptions")
    return parts.table(header, rows, tall=len(rows) > 40, about="replicas")


def _slowest(result: SimulationResult) -> str:
    e2e = np.where(result.completed, result.column("e2e_s"), -math.inf)
    order = np.lexsort((np.arange(len(e2e)), -e2e))[: min(WORST, int(result.completed.sum()))]
    names = ("input_tokens", "output_tokens", "cached_tokens", "num_preemptions", "replica")
    rows = []
    for row in order.tolist():
        times = [1e3 * float(result.column(name)[row]) for name in ("ttft_s", "tpot_s", "e2e_s")]
        counts = [int(result.column(name)[row]) for name in names]
        arrival = float(result.column("arrival_s")[row])
        rows.append([
            amount(float(row), str(row)), amount(arrival, f"{arrival:,.3f} s"),
            *(amount(value, milliseconds(value)) for value in times), *(amount(float(c), f"{c:,}") for c in counts),
        ])  # fmt: skip
    header = ("request", "arrival", "TTFT", "TPOT", "E2E", "input", "output", "cached", "preempted", "replica")
    words = f"The {len(rows)} requests with the longest end-to-end times."
    return parts.note(words) + parts.table(header, rows, tall=True, about="slowest requests") if rows else ""


def everything(s: Mapping[str, Any]) -> str:
    """Every plain figure of a summary."""
    rows = [[text(name), amount(v) if _is_number(v) else parts.wide(v)] for name, v in parts.scalars(s)]
    for row in rows:  # one kind of column
        row[1] = (row[1][0], row[1][1], "wide")
    return parts.FILTER + parts.table(("figure", "value"), rows, tall=True, name="runs", about="every figure")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
