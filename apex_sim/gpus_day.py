"""A fleet over the day as text, JSON and a figure."""

from __future__ import annotations

from typing import Any

import numpy as np

from apex_sim.gpus_account import account_lines
from apex_sim.text import number, share, table
from planners.fleet.day import DayPlan
from planners.fleet.schedule import started, stopped
from workloads.slo import Slo


def day_dict(plan: DayPlan, slo: Slo | None) -> dict[str, Any]:
    """Everything about a day as plain values."""
    day, schedule = plan.day, plan.schedule
    alone = np.array([fleet.counts for fleet in plan.alone], dtype=np.int64)
    names = [kind.name for kind in day.windows[0].types]
    prices = day.windows[0].usd_per_hour
    starts, stops = started(schedule.counts), stopped(schedule.counts)
    windows = []
    for w, problem in enumerate(day.windows):
        checked = None if plan.checked is None else plan.checked[w]
        windows.append(
            {
                "start_s": float(day.starts_s[w]),
                "hours": float(day.hours[w]),
                "rate_per_s": float(problem.rates_per_s.sum()),
                "counts": dict(zip(names, schedule.counts[w].tolist(), strict=True)),
                "started": int(starts[w].sum()),
                "stopped": int(stops[w].sum()),
                "usd": float(day.hours[w] * (prices @ schedule.counts[w])),
                "alone_counts": dict(zip(names, alone[w].tolist(), strict=True)),
                "headroom": (plan.headroom[w] - 1.0).tolist(),
                "simulated_attainment": None if checked is None else checked.attainment,
            }
        )
    data: dict[str, Any] = {
        "usd": schedule.usd,
        "bound_usd": schedule.bound_usd,
        "gap": schedule.gap,
        "hours": float(day.hours.sum()),
        "startup_s": day.startup_s,
        "starts": int(starts.sum()),
        "stops": int(stops.sum()),
        "start_usd": float(day.startup_hours * (starts.sum(axis=0) @ prices)),
        "static": {
            "usd": plan.static.usd,
            "bound_usd": plan.static.bound_usd,
            "gap": plan.static.gap,
            "counts": dict(zip(names, plan.static.counts[0].tolist(), strict=True)),
        },
        "resolved": {
            "usd_without_starts": float(day.hours @ (alone @ prices)),
            "usd": day.usd(alone),
            "starts": int(started(alone).sum()),
        },
        "types": [
            {"name": k.name, "usd_per_hour_each": k.usd_per_hour, "limit": k.limit} for k in day.windows[0].types
        ],
        "windows": windows,
    }
    if slo is None or plan.checked is None:
        return data
    found = [w["simulated_attainment"] for w in windows if w["simulated_attainment"] is not None]
    kept = all(value >= slo.attainment for value in found)
    return data | {"slo": str(slo), "promised_attainment": slo.attainment, "kept": kept}


def day_text(data: dict[str, Any]) -> str:
    """The day for a terminal."""
    static, resolved = data["static"], data["resolved"]
    saved = share(1 - data["usd"] / static["usd"]) if static["usd"] else "-"
    proof = "optimal" if not data["gap"] else f"gap {share(data['gap'])}"
    fixed = ", ".join(f"{n} x {name}" for name, n in static["counts"].items() if n) or "nothing"
    names = [t["name"] for t in data["types"] if any(w["counts"][t["name"]] for w in data["windows"])]
    lines = [
        f"Schedule: ${data['usd']:.2f} for {number(data['hours'])} h in {len(data['windows'])} windows "
        f"({proof}; none below ${data['bound_usd']:.2f})",
        f"  {data['starts']} starts (${data['start_usd']:.2f} at {data['startup_s']:g} s each), {data['stops']} stops",
        f"  best static fleet, {fixed}: ${static['usd']:.2f} (none below ${static['bound_usd']:.2f}); saved {saved}",
        f"  each window by itself: ${resolved['usd_without_starts']:.2f} and {resolved['starts']} starts: "
        f"${resolved['usd']:.2f}",
        "",
    ]
    simulated = "slo" in data
    header = ["from (h)", "req/s", *names, "started", "stopped", "$", *(["good"] if simulated else [])]
    rows = [
        [
            f"{w['start_s'] / 3600:.2f}",
            number(w["rate_per_s"]),
            *[str(w["counts"][name]) for name in names],
            str(w["started"] or ""),
            str(w["stopped"] or ""),
            f"{w['usd']:.2f}",
            *([share(w["simulated_attainment"])] if simulated else []),
        ]
        for w in data["windows"]
    ]
    lines.append(table(header, rows, left=0))
    if data.get("unserved"):
        lines += ["", "Left out, as no type serves them within the SLO: " + ", ".join(data["unserved"])]
    if data.get("requests_beyond_grid"):
        lines += ["", f"{data['requests_beyond_grid']} requests exceed the last tick and count as the last"]
    if simulated:
        word = "kept in every window" if data["kept"] else "MISSED in some windows"
        lines += ["", f"SLO {data['slo']}: promised {share(data['promised_attainment'])}: {word}"]
        if any(any(w["headroom"]) for w in data["windows"]):
            most = max(max(w["headroom"]) for w in data["windows"])
            lines.append(f"  with headroom of up to {share(most)} on types that missed it; both costs above include it")
    if "account" in data:
        lines += ["", *account_lines(data["account"])]
    return "\n".join(lines)
