"""The report of a plan."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from apex_sim.disaggregated_report import describe_any
from apex_sim.drain_text import drain_notes
from apex_sim.html import parts
from apex_sim.html.config import Repeat, configuration
from apex_sim.html.parts import Cell, amount, spread, text, wide
from apex_sim.html.provenance import provenance
from apex_sim.plan_report import WORDS, settings_text
from apex_sim.plan_techniques import technique_lines
from apex_sim.resolved import any_config
from apex_sim.text import dollars, milliseconds, number, share
from planners.figures import pareto_figure
from planners.misses import lacks

if TYPE_CHECKING:
    from planners.parallel import PlanResult

MOST_ROWS = 1500
"""Candidates that are listed; the JSON has all."""
NEARNESS = {"best": 0, "pareto": 1, "met": 2, "missed": 3, "screened": 4, "bounded": 5, "unfit": 6}


def plan_report(result: PlanResult, repeat: Repeat) -> str:
    """The whole file."""
    deployment = result.deployment()
    pools = [pool for _, pool in deployment.pools] if hasattr(deployment, "pools") else [deployment]
    title = f"{result.model.name} on {result.cluster.name}: plan"
    return parts.document(
        title,
        [
            f"<h1>{escape(title)}</h1>",
            parts.note(f"{_found(result)}: {describe_any(deployment)}"),
            parts.note(_asked(result)),
            parts.tiles(_tiles(result)),
            parts.warnings_box([*repeat.warned, *_cautions(result)]),
            _start(result),
            parts.section("Front", parts.figures([_figure(result)])),
            parts.section("Simulated plans", _simulated(result)),
            parts.section("All candidates and why they lost", _candidates(result)),
            parts.section("Searched techniques", "".join(parts.note(line) for line in technique_lines(result) if line)),
            provenance(pools, [result.trace]),
            configuration(repeat, {"best": any_config(deployment)}),
        ],
    )


def _found(result: PlanResult) -> str:
    return f"Best plan by {WORDS[result.objective]}" if result.meets_slo else "No plan meets the SLO; the nearest"


def _start(result: PlanResult) -> str:
    """How to start the best plan; of one that misses the SLO, what it lacks."""
    if not result.meets_slo:
        return parts.section(
            "What the nearest lacks", *(parts.note(f"{line[0].upper()}{line[1:]}.") for line in lacks(result))
        )
    return parts.section(
        "Start it", parts.copied(result.launch_command, "launch", "the launch command"), _notes(result)
    )


def _asked(result: PlanResult) -> str:
    slo = "" if result.slo is None else f" within {result.slo}"
    counts = ", ".join(f"{count:,} {what}" for what, count in result.counts.items())
    return f"Workload {result.trace.name}, {len(result.trace):,} requests{slo}; {counts}."


def _tiles(result: PlanResult) -> dict[str, str]:
    best = result.best
    assert best.measured is not None
    m = best.measured.metrics
    found = {
        "GPUs": str(m["num_gpus"]),
        "p95 TTFT": milliseconds(m["p95_ttft_ms"]),
        "p95 TPOT": milliseconds(m["p95_tpot_ms"]),
    }
    found["good requests/s" if result.slo is not None else "requests/s"] = number(m["request_goodput"])
    if result.slo is not None:
        found["of requests in SLO"] = share(m["slo_attainment"])
    if m["usd_per_million_output_tokens"] is not None:
        found["per 1M output tokens"] = dollars(m["usd_per_million_output_tokens"])
    if m["usd_per_hour"] is not None:
        found["per month (730 h)"] = dollars(m["usd_per_month"])
    if m["joules_per_output_token"] is not None:
        found["per output token"] = f"{number(m['joules_per_output_token'])} J"
    if best.max_rate_per_s is not None:
        found["requests/s at most"] = "any" if math.isinf(best.max_rate_per_s) else number(best.max_rate_per_s)
    return found


def _cautions(result: PlanResult) -> list[str]:
    best = result.best
    assert best.measured is not None
    lines = drain_notes(best.measured.metrics, result.trace)
    if not result.meets_slo:
        lines.append("No plan meets the SLO: the figures are those of the plan that misses it least.")
    if best.measured.metrics["provenance"] != "measured":
        lines.append(
            f"The times rest on {best.measured.metrics['provenance']} kernel efficiencies: expect larger errors."
        )
    return lines


def _notes(result: PlanResult) -> str:
    return "".join(parts.note(words) for words in result.launch_notes)


def _figure(result: PlanResult) -> str:
    marked = "the best one" if result.meets_slo else "the one nearest to the SLO"
    alt = f"Candidates by latency and throughput; {len(result.pareto)} on the Pareto front, {marked} marked"
    return parts.figure(pareto_figure(result), "pareto", alt)


def _simulated(result: PlanResult) -> str:
    rows: list[list[Cell]] = []
    for entry in sorted((e for e in result.entries if e.measured is not None), key=lambda e: NEARNESS[e.status]):
        assert entry.measured is not None
        m = entry.measured.metrics
        rows.append([
            wide(settings_text(entry)), text(entry.status), amount(float(m["num_gpus"]), str(m["num_gpus"])),
            *(_ms(m[name]) for name in ("median_ttft_ms", "p95_ttft_ms", "median_tpot_ms", "p95_tpot_ms")),
            *(_range(m, name) for name in ("ttft", "tpot")),
            amount(m["slo_attainment"], share(m["slo_attainment"])), amount(m["request_goodput"]),
            amount(m.get("output_throughput")),
            amount(m["usd_per_million_output_tokens"]), amount(m["joules_per_output_token"]),
        ])  # fmt: skip
    header = ("plan", "status", "GPUs", "TTFT p50", "p95", "TPOT p50", "p95", "TTFT p95, 80 % range", "TPOT p95, 80 % range",
              "in SLO", "good req/s", "output tok/s", "$/1M out", "J/token")  # fmt: skip
    return parts.table(header, rows, about="simulated plans")


def _ms(value: float | None) -> Cell:
    return amount(value, milliseconds(value))


def _range(m: Mapping[str, Any], name: str) -> Cell:
    """Where the 95th percentile may lie: as far off as the mean."""
    low, high, mean, p95 = (m.get(f"{which}") for which in (f"mean_{name}_ms_low", f"mean_{name}_ms_high",
                                                            f"mean_{name}_ms", f"p95_{name}_ms"))  # fmt: skip
    if low is None or high is None or not mean or p95 is None:
        return spread(None, None, "unknown")
    ends = p95 * low / mean, p95 * high / mean
    return spread(*ends, f"{milliseconds(ends[0])} to {milliseconds(ends[1])}")


def _candidates(result: PlanResult) -> str:
    entries = sorted(result.entries, key=lambda e: NEARNESS[e.status])
    rows = [[wide(settings_text(e)), text(e.status), wide(e.reason or "the best")] for e in entries[:MOST_ROWS]]
    more = len(entries) - len(rows)
    tail = parts.note(f"{more:,} more are in the JSON.") if more > 0 else ""
    return (
        parts.FILTER
        + parts.table(("candidate", "status", "why"), rows, tall=True, name="runs", about="all candidates")
        + tail
    )
