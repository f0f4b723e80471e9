"""The report of several models on one cluster."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from apex_sim.html import parts
from apex_sim.html.cautions import refused, weak_basis
from apex_sim.html.config import Repeat, configuration
from apex_sim.html.parts import Cell, amount, text
from apex_sim.html.provenance import provenance
from apex_sim.html.simulate import everything, latencies, tiles
from apex_sim.resolved import deployment_config
from apex_sim.several import several_text
from apex_sim.text import milliseconds, number, share

if TYPE_CHECKING:
    from simulator.several.result import SeveralResult

COLUMNS = ("mean_ttft_ms", "p95_ttft_ms", "mean_tpot_ms", "p95_tpot_ms", "mean_e2el_ms", "p95_e2el_ms")
"""Of each model's row."""


def several_report(result: SeveralResult, repeat: Repeat) -> str:
    """The whole file."""
    s, several = result.summary, result.several
    title = f"{len(several.members)} models on {several.cluster.name}"
    where = f"{several.name}, on {result.num_devices} device{'' if result.num_devices == 1 else 's'}."
    alt = f"Cumulative distributions over all requests: median TTFT {milliseconds(s['median_ttft_ms'])}"
    members = zip(several.members, several.served, strict=True)
    return parts.document(
        f"{title}: simulation",
        [
            f"<h1>{escape(title)}</h1>",
            parts.note(where),
            parts.note(
                f"Workload {result.trace.name}: {s['num_prompts']:,} requests, {number(s['duration'])} s simulated."
            ),
            parts.tiles(tiles(s)),
            parts.warnings_box([*repeat.warned, *refused(s), *weak_basis(s)]),
            parts.section("Models", _models(result)),
            parts.section("Latency", latencies(result)),
            parts.section("Figures", parts.figures([parts.figure(result.plot_latency(), "latency", alt)])),
            parts.section(
                "As text",
                parts.folded("What the terminal shows", parts.copied(several_text(result), "text", "the text")),
            ),
            parts.section("All figures", parts.folded("Every figure of the summary", everything(s))),
            provenance(several.served, [result.trace]),
            configuration(repeat, {member.name: deployment_config(served) for member, served in members}),
        ],
    )


def _models(result: SeveralResult) -> str:
    rows: list[list[Cell]] = []
    for member in result.several.members:
        m = result.summary["models"][member.name]
        rows.append([
            text(member.name), text(member.deployment.model.name), text(member.group),
            amount(float(m["num_prompts"]), f"{m['num_prompts']:,}"),
            *(amount(m.get(name), milliseconds(m.get(name))) for name in COLUMNS),
            amount(m["output_throughput"]), amount(m["utilisation"], share(m["utilisation"])),
        ])  # fmt: skip
    header = ("name", "model", "group", "requests", "TTFT", "p95", "TPOT", "p95", "E2E", "p95", "output tok/s", "busy")
    return parts.table(header, rows, tall=len(rows) > 40, about="models")
