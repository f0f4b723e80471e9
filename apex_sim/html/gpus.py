"""The report of a fleet, of one hour or over a day."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from apex_sim.gpus_account import account_lines
from apex_sim.html import parts
from apex_sim.html.config import Repeat, configuration
from apex_sim.html.parts import Cell, amount, text
from apex_sim.html.provenance import Simulated, fleet_provenance
from apex_sim.text import dollars, number, share


def fleet_report(
    data: Mapping[str, Any],
    repeat: Repeat,
    simulated: Simulated | None = None,
) -> str:
    """The whole file. ``data``: as the JSON; ``simulated``: what the throughputs rest on, None for a table's."""
    day = "windows" in data
    title = f"GPU fleet over {number(data['hours'])} h" if day else "GPU fleet"
    if repeat.options.get("model"):
        title += f" for {repeat.options['model']}"
    return parts.document(
        title,
        [
            f"<h1>{escape(title)}</h1>",
            parts.tiles(_day_tiles(data) if day else _tiles(data)),
            parts.warnings_box([*repeat.warned, *_cautions(data)]),
            *(_day(data) if day else _fleet(data)),
            parts.section("Cost, energy and carbon", _account(data)),
            fleet_provenance(simulated) if simulated is not None else parts.section(
                "Where the figures come from", parts.note("Throughputs are those of the table that was given.")),
            configuration(repeat),
        ],
    )  # fmt: skip


def _tiles(data: Mapping[str, Any]) -> dict[str, str]:
    found = {
        "per hour": dollars(data["usd_per_hour"]),
        "per month (730 h)": dollars(data["usd_per_month"]),
        "instances": str(sum(t["count"] for t in data["types"])),
        "requests/s": number(data["rate_per_s"]),
        "gap to the best possible": share(data["gap"]),
    }
    alone = [t["alone_usd_per_hour"] for t in data["types"] if t["alone_usd_per_hour"] is not None]
    if alone and min(alone):
        found["saved against the cheapest single type"] = share(1 - data["usd_per_hour"] / min(alone))
    if "slo" in data:
        found["simulated in SLO"] = share(data["simulated_attainment"])
    return found


def _day_tiles(data: Mapping[str, Any]) -> dict[str, str]:
    static = data["static"]["usd"]
    found = {
        "for the day" if round(data["hours"]) == 24 else "for the time": dollars(data["usd"]),
        "best static fleet": dollars(static),
        "saved": share(1 - data["usd"] / static) if static else "-",
        "starts": f"{data['starts']:,}",
    }
    return found | ({"SLO": "kept" if data["kept"] else "missed"} if "slo" in data else {})


def _cautions(data: Mapping[str, Any]) -> list[str]:
    lines = []
    if data.get("unserved"):
        lines.append(f"Left out, as no type serves them within the SLO: {', '.join(data['unserved'])}.")
    if data.get("requests_beyond_grid"):
        lines.append(f"{data['requests_beyond_grid']:,} requests are longer than the last size and count as that.")
    if "slo" in data and not data["kept"]:
        lines.append(f"The simulation misses the SLO {data['slo']}.")
    return lines


def _fleet(data: Mapping[str, Any]) -> list[str]:
    slo = "" if "slo" not in data else parts.note(
        f"SLO {data['slo']}: promised {share(data['promised_attainment'])}, simulated "
        f"{share(data['simulated_attainment'])}; {len(data['rounds'])} round{'' if len(data['rounds']) == 1 else 's'}."
    )  # fmt: skip
    proof = "optimal" if data["optimal"] and not data["gap"] else f"gap {share(data['gap'])}"
    words = f"{proof}; no fleet below {dollars(data['bound_usd_per_hour'])}/h; {data['solver']}."
    return [
        parts.section("Types", parts.note(words), slo, _types(data), parts.figures([_bars(data)])),
        parts.section("Request sizes", _sizes(data)),
    ]


def _types(data: Mapping[str, Any]) -> str:
    simulated = "slo" in data
    rows: list[list[Cell]] = []
    for t in data["types"]:
        cost, alone = t["count"] * t["usd_per_hour_each"], t["alone_usd_per_hour"]
        row = [text(t["name"]), amount(float(t["count"]), str(t["count"])), amount(cost, dollars(cost)),
               amount(t["utilisation"], share(t["utilisation"])),
               amount(t["alone_count"], "cannot" if t["alone_count"] is None else str(t["alone_count"])),
               amount(alone, dollars(alone))]  # fmt: skip
        if simulated:
            row += [amount(float(t["requests"]), f"{t['requests']:,}"), amount(t["attainment"], share(t["attainment"])),
                    amount(t["p95_ttft_ms"]), amount(t["p95_tpot_ms"])]  # fmt: skip
        rows.append(row)
    header = ["type", "count", "$/h", "utilisation", "alone", "alone $/h"]
    header += ["requests", "in SLO", "p95 TTFT [ms]", "p95 TPOT [ms]"] if simulated else []
    return parts.table(header, rows, about="GPU types")


def _sizes(data: Mapping[str, Any]) -> str:
    names = [t["name"] for t in data["types"]]
    rows = []
    for size in data["sizes"]:
        shares = [size["shares"].get(name) for name in names]
        rows.append([
            text(size["size"]), amount(size["rate_per_s"]),
            *(amount(value, "" if value is None else share(value)) for value in shares),
            *(amount(size["max_tput_per_s"][name]) for name in names),
        ])  # fmt: skip
    header = ("size (tokens)", "req/s", *(f"share {n}" for n in names), *(f"req/s of one {n}" for n in names))
    return parts.table(header, rows, tall=True, about="request sizes") if rows else ""


def _bars(data: Mapping[str, Any]) -> str:
    """The plan beside fleets of one type."""
    from workloads.figure_labels import note
    from workloads.figure_style import BLUE, MUTED, headline, new_figure

    bars = [("the plan", data["usd_per_hour"])]
    bars += [
        (f"{t['name']} alone", t["alone_usd_per_hour"]) for t in data["types"] if t["alone_usd_per_hour"] is not None
    ]
    drawn, axes = new_figure(1, 1, height=0.9 + 0.34 * len(bars))
    axis = axes[0, 0]
    axis.barh(range(len(bars)), [usd for _, usd in bars], color=[BLUE] + [MUTED] * (len(bars) - 1), height=0.62)
    for place, (_, usd) in enumerate(bars):
        note(axis, usd, place, dollars(usd), xytext=(4, 0), va="center")
    axis.set_yticks(range(len(bars)), [name for name, _ in bars])
    axis.invert_yaxis()
    axis.grid(False, axis="y")
    axis.set_xlim(0, 1.18 * max(usd for _, usd in bars) or 1.0)
    axis.set_xlabel("$/h")
    headline(drawn, "The plan, and fleets of one type that serve the same")
    return parts.figure(drawn, "cost", "; ".join(f"{name}: {dollars(usd)} per hour" for name, usd in bars))


def _day(data: Mapping[str, Any]) -> list[str]:
    from apex_sim.plots.fleet_day import fleet_day_figure

    names = [t["name"] for t in data["types"]]
    rows: list[list[Cell]] = []
    for w in data["windows"]:
        row = [amount(w["start_s"], f"{w['start_s'] / 3600:.2f}"), amount(w["rate_per_s"]),
               *(amount(float(w["counts"][name]), str(w["counts"][name])) for name in names),
               amount(float(w["started"]), str(w["started"])), amount(float(w["stopped"]), str(w["stopped"])),
               amount(w["usd"], dollars(w["usd"]))]  # fmt: skip
        if "slo" in data:
            found = w["simulated_attainment"]
            good = found is not None and found >= data["promised_attainment"]
            row.append(amount(None) if found is None else (share(found), found, "n good" if good else "n bad"))
        rows.append(row)
    header = ["from (h)", "req/s", *names, "started", "stopped", "$", *(["in SLO"] if "slo" in data else [])]
    alt = f"Instances by type, dollars and requests over {number(data['hours'])} hours"
    return [
        parts.section("The day", parts.figures([parts.figure(fleet_day_figure(dict(data)), "day", alt)])),
        parts.section("Windows", parts.table(header, rows, tall=True, about="windows of the day")),
    ]


def _account(data: Mapping[str, Any]) -> str:
    return "".join(parts.note(line) for line in account_lines(data["account"])) if "account" in data else ""
