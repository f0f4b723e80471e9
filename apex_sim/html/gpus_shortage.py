"""The report where no fleet serves the workload."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from apex_sim.gpus_shortage import type_line
from apex_sim.html import parts
from apex_sim.html.config import Repeat, configuration
from apex_sim.html.parts import Cell, amount, text, wide
from apex_sim.html.provenance import Simulated, fleet_provenance
from apex_sim.text import number, share


def shortage_report(data: Mapping[str, Any], repeat: Repeat, simulated: Simulated | None = None) -> str:
    """The whole file."""
    title = "No GPU fleet" + (f" for {repeat.options['model']}" if repeat.options.get("model") else "")
    return parts.document(
        title,
        [
            f"<h1>{escape(title)}</h1>",
            parts.note(f"{data['why'][0].upper()}{data['why'][1:]}."),
            parts.tiles(_tiles(data)),
            parts.warnings_box(repeat.warned),
            *([parts.section("What the types lack", _lacks(data))] if data["lacks"] else []),
            parts.section(
                "What one instance serves", _sizes(data), *(parts.note(f"{type_line(t)}.") for t in data["types"])
            ),
            *([fleet_provenance(simulated)] if simulated is not None else []),
            configuration(repeat),
        ],
    )


def _tiles(data: Mapping[str, Any]) -> dict[str, str]:
    lost = sum(s["rate_per_s"] for s in data["sizes"] if not s["served"])
    return {
        "requests/s": number(data["rate_per_s"]),
        "requests that no type serves": share(lost / data["rate_per_s"]),
        "sizes that no type serves": f"{len(data['unserved'])} of {len(data['sizes'])}",
    }


def _lacks(data: Mapping[str, Any]) -> str:
    """For each size the nearest type first; milliseconds are of one request on an idle instance."""
    rows: list[list[Cell]] = []
    for lack in data["lacks"]:
        latencies = [lack[name] for name in ("ttft_s", "tpot_s", "e2e_s")]
        rows.append(
            [
                text(lack["size"]),
                text(lack["type"]),
                *(amount(None if value is None else 1e3 * value) for value in latencies),
                amount(lack["excess"]),
                wide(lack["words"]),
            ]
        )
    header = ("size (tokens)", "type", "TTFT [ms]", "TPOT [ms]", "E2E [ms]", "times its limit", "what it lacks")
    words = "TTFT, TPOT and E2E are those of one request on an idle instance."
    return parts.note(words) + parts.table(header, rows, tall=True, about="what the types lack")


def _sizes(data: Mapping[str, Any]) -> str:
    names = [t["name"] for t in data["types"]]
    rows: list[list[Cell]] = [
        [
            text(s["size"]),
            amount(s["rate_per_s"]),
            *(amount(v, None if v else "cannot") for v in s["max_tput_per_s"].values()),
        ]
        for s in data["sizes"]
    ]
    header = ("size (tokens)", "req/s", *(f"req/s of one {name}" for name in names))
    return parts.table(header, rows, tall=True, about="request sizes")
