"""The report of a load curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from apex_sim.disaggregated_report import describe_any
from apex_sim.html import parts
from apex_sim.html.cautions import refused, weak_basis
from apex_sim.html.config import Repeat, configuration
from apex_sim.html.parts import Cell, amount
from apex_sim.html.provenance import provenance
from apex_sim.load_report import findings, rates_words
from apex_sim.resolved import any_config
from apex_sim.text import dollars, milliseconds, number, share

if TYPE_CHECKING:
    from apex_sim.load import LoadCurve
    from simulator.result import SimulationResult

LATENCIES = tuple(f"{which}_{name}_ms" for name in ("ttft", "tpot", "e2el") for which in ("median", "p95", "p99"))
LATENCY_HEADER = tuple(f"{name} {which}" for name in ("TTFT", "TPOT", "E2E") for which in ("p50", "p95", "p99"))
"""Columns of a curve's table, and what stands above them."""


def load_report(curve: LoadCurve, repeat: Repeat) -> str:
    """The whole file."""
    first = next(iter(curve.results.values()))
    sections = [
        parts.section("What the curve says", parts.facts(findings(curve), "findings")),
        parts.section("Latency against load", parts.figures([_figure(curve)])),
        parts.section("Rates", _rates(curve)),
    ]
    return document_of(first, f"at {rates_words(curve)}", _tiles(curve), _cautions(curve), sections, repeat)


def document_of(
    first: SimulationResult,
    load: str,
    tiles: Mapping[str, str],
    cautions: Sequence[str],
    sections: Sequence[str],
    repeat: Repeat,
) -> str:
    """The report of a curve, over rates or users: head, ``sections``, sources and configuration."""
    title = f"{first.deployment.model.name} on {first.where}: load"
    return parts.document(
        title,
        [
            f"<h1>{escape(title)}</h1>",
            parts.note(describe_any(first.deployment)),
            parts.note(f"Workload {first.trace.name}: {len(first.trace):,} requests {load}."),
            parts.tiles(tiles),
            parts.warnings_box([*repeat.warned, *cautions]),
            *sections,
            provenance([first.deployment], [first.trace]),
            configuration(repeat, any_config(first.deployment)),
        ],
    )


def _tiles(curve: LoadCurve) -> dict[str, str]:
    m = curve.table.loc[curve.knee_per_s]
    found = {"requests/s at the knee": f"{curve.knee_per_s:g}"}
    if next(iter(curve.results.values())).slo is not None:
        found["requests/s within the SLO"] = "none" if curve.slo_per_s is None else f"{curve.slo_per_s:g}"
    found |= {
        "p95 TTFT at the knee": milliseconds(m["p95_ttft_ms"]),
        "p95 TPOT at the knee": milliseconds(m["p95_tpot_ms"]),
    }
    found["output tokens/s at most"] = number(float(curve.table["output_throughput"].max()))
    if curve.table["usd_per_million_output_tokens"].notna().all():
        found["per 1M output tokens at the knee"] = dollars(m["usd_per_million_output_tokens"])
    return found


def _cautions(curve: LoadCurve) -> list[str]:
    rates, s = list(curve.results), next(iter(curve.results.values())).summary
    lines = []
    if len(rates) > 1 and curve.knee_per_s in (rates[0], rates[-1]):
        lines.append(f"The knee is not inside the rates tried, {rates[0]:g} to {rates[-1]:g}/s.")
    return [*lines, *refused(s), *weak_basis(s)]


def _figure(curve: LoadCurve) -> str:
    from apex_sim.plots.load import load_figure

    alt = f"TTFT, TPOT and what is in use against the request rate; the knee is at {curve.knee_per_s:g} per second"
    return parts.figure(load_figure(curve), "load", alt)


def _rates(curve: LoadCurve) -> str:
    rows: list[list[Cell]] = []
    slo = next(iter(curve.results.values())).slo is not None
    for rate, m in zip(curve.table.index, curve.table.to_dict("records"), strict=True):
        rows.append([
            amount(float(rate), f"{rate:g}"), amount(m["request_throughput"]),
            *(amount(m[name], milliseconds(m[name])) for name in LATENCIES), amount(m["output_throughput"]),
            *([amount(m["slo_attainment"], share(m["slo_attainment"]))] if slo else []),
            *(amount(m[name]) for name in ("running", "waiting")),
            *(amount(m[name], share(m[name])) for name in ("kv_usage", "mfu", "mbu")),
            amount(m["usd_per_million_output_tokens"]), amount(m["joules_per_output_token"]),
        ])  # fmt: skip
    header = ("req/s", "served/s", *LATENCY_HEADER, "output tok/s", *(("in SLO",) if slo else ()), "running", "waiting",
              "KV in use", "compute", "bandwidth", "$/1M out", "J/token")  # fmt: skip
    return parts.table(header, rows, about="rates") + parts.note(
        "Running, waiting and KV in use are means over the time in which requests arrive, and over replicas."
    )
