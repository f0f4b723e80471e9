"""A fleet as text and JSON."""

from __future__ import annotations

from typing import Any

from apex_sim.gpus_account import account_lines
from apex_sim.text import monthly, number, share, table
from hardware_profiles.terms import HOURS_PER_MONTH
from planners.fleet.bounds import lp_bound, single_type
from planners.fleet.problem import Fleet, FleetProblem, size_shares, type_loads
from planners.fleet.simulated import Round
from workloads.slo import Slo

Promise = tuple[Slo, list[Round]]


def fleet_dict(
    problem: FleetProblem, fleet: Fleet, skipped: tuple[int, ...], promise: Promise | None
) -> dict[str, Any]:
    """Everything about a plan as plain values. Throughputs and loads are those measured; with headroom on a type its
    utilisation falls accordingly. Fleets of one type have the plan's headroom, hence never cost less than the plan."""
    loads = type_loads(problem, fleet.slices).tolist()
    alone = single_type(problem if promise is None else promise[1][-1].problem)
    types = [
        {
            "name": kind.name,
            "count": fleet.counts[j],
            "usd_per_hour_each": kind.usd_per_hour,
            "limit": kind.limit,
            "load": loads[j],
            "utilisation": loads[j] / fleet.counts[j] if fleet.counts[j] else None,
            "alone_count": alone[j],
            "alone_usd_per_hour": None if (count := alone[j]) is None else count * kind.usd_per_hour,
            **_simulated(promise, j),
        }
        for j, kind in enumerate(problem.types)
    ]
    sizes = [
        {
            "size": size.name,
            "rate_per_s": size.rate_per_s,
            "max_tput_per_s": dict(
                zip([t.name for t in problem.types], problem.max_tput_per_s[b].tolist(), strict=True)
            ),
            "shares": size_shares(problem, fleet, b),
        }
        for b, size in enumerate(problem.sizes)
        if size.rate_per_s > 0
    ]
    return {
        "usd_per_hour": fleet.usd_per_hour,
        "usd_per_month": HOURS_PER_MONTH * fleet.usd_per_hour,
        "bound_usd_per_hour": fleet.bound_usd_per_hour,
        "lp_bound_usd_per_hour": lp_bound(problem),
        "gap": fleet.gap,
        "optimal": fleet.optimal,
        "solver": fleet.solver,
        "slice_factor": problem.slice_factor,
        "rate_per_s": float(problem.rates_per_s.sum()),
        "types": types,
        "sizes": sizes,
        "unserved": [problem.sizes[b].name for b in skipped],
        **_promise(promise),
    }


def _simulated(promise: Promise | None, j: int) -> dict[str, Any]:
    if promise is None:
        return {}
    last = promise[1][-1]
    result = last.checked.results[j]
    found = {"headroom": float(last.headroom[j]) - 1.0, "requests": 0, "attainment": None, "p95_ttft_ms": None}
    if result is None:
        return {**found, "p95_tpot_ms": None}
    summary = result.summary
    return {
        **found,
        "requests": len(result.trace),
        "attainment": result.attainment,
        "p95_ttft_ms": summary["p95_ttft_ms"],
        "p95_tpot_ms": summary["p95_tpot_ms"],
    }


def _promise(promise: Promise | None) -> dict[str, Any]:
    if promise is None:
        return {}
    slo, rounds = promise
    last = rounds[-1]
    return {
        "slo": str(slo),
        "promised_attainment": slo.attainment,
        "simulated_attainment": last.checked.attainment,
        "redrawn_attainment": list(last.redrawn),
        "kept": min(last.checked.attainment, *last.redrawn, 1.0) >= slo.attainment,
        "idle_attainment": last.idle_attainment,
        "requests_left_out": last.checked.left_out,
        "rounds": [
            {
                "usd_per_hour": r.fleet.usd_per_hour,
                "counts": list(r.fleet.counts),
                "simulated_attainment": r.checked.attainment,
                "headroom": (r.headroom - 1.0).tolist(),
            }
            for r in rounds
        ],
    }


def fleet_text(data: dict[str, Any]) -> str:
    """The plan for a terminal."""
    chosen = ", ".join(f"{t['count']} x {t['name']}" for t in data["types"] if t["count"]) or "nothing to rent"
    price = f"${data['usd_per_hour']:.3f}/h ({monthly(data['usd_per_hour'])})"
    lines = [f"Fleet: {chosen}: {price} for {number(data['rate_per_s'])} requests/s"]
    proof = "optimal" if data["optimal"] and not data["gap"] else f"gap {share(data['gap'])}"
    lines.append(
        f"  {proof}; no fleet below ${data['bound_usd_per_hour']:.3f}/h at slice factor {data['slice_factor']} "
        f"(LP bound ${data['lp_bound_usd_per_hour']:.3f}/h); {data['solver']}"
    )
    lines += ["", table(["type", "count", "$/h", "utilisation", "alone", "alone $/h", "saved"], _type_rows(data)), ""]
    names = [t["name"] for t in data["types"] if t["count"]]
    rows = [
        [s["size"], number(s["rate_per_s"]), *[share(s["shares"][n]) if n in s["shares"] else "" for n in names]]
        for s in data["sizes"]
    ]
    if rows:
        lines.append(table(["size (tokens)", "req/s", *names], rows))
    if data["unserved"]:
        lines += ["", "Left out, as no type serves them within the SLO: " + ", ".join(data["unserved"])]
    if data.get("requests_beyond_grid"):
        lines += ["", f"{data['requests_beyond_grid']} requests exceed the last tick and count as the last"]
    lines += _promise_lines(data) if "slo" in data else []
    return "\n".join(lines + (["", *account_lines(data["account"])] if "account" in data else []))


def _type_rows(data: dict[str, Any]) -> list[list[str]]:
    rows = []
    for t in data["types"]:
        alone = t["alone_usd_per_hour"]
        saved = share(1 - data["usd_per_hour"] / alone) if alone else "-"
        count = "cannot" if t["alone_count"] is None else str(t["alone_count"])
        dollars = "-" if alone is None else f"{alone:.3f}"
        cost = t["count"] * t["usd_per_hour_each"]
        rows.append([t["name"], str(t["count"]), f"{cost:.3f}", share(t["utilisation"]), count, dollars, saved])
    return rows


def _promise_lines(data: dict[str, Any]) -> list[str]:
    first, last = data["rounds"][0], data["rounds"][-1]
    word = "kept" if data["kept"] else "MISSED"
    lines = [
        "",
        f"SLO {data['slo']}: promised {share(data['promised_attainment'])}, "
        f"simulated {share(data['simulated_attainment'])}: {word}",
    ]
    if data["redrawn_attainment"]:
        draws = ", ".join(share(value) for value in data["redrawn_attainment"])
        lines[-1] = lines[-1].replace(f": {word}", f" (other draws of the workload: {draws}): {word}")
    if data["requests_left_out"]:
        lines[-1] += f" (without the {data['requests_left_out']} requests left out)"
    lines += [
        f"  {t['name']}: {t['requests']} requests, {share(t['attainment'])} good, p95 TTFT "
        f"{number(t['p95_ttft_ms'])} ms, p95 TPOT {number(t['p95_tpot_ms'])} ms, headroom {share(t['headroom'])}"
        for t in data["types"]
        if t["requests"]
    ]
    if len(data["rounds"]) > 1:
        lines.append(
            f"  without headroom: ${first['usd_per_hour']:.3f}/h, {share(first['simulated_attainment'])} good; "
            f"{len(data['rounds']) - 1} rounds of headroom to ${last['usd_per_hour']:.3f}/h"
        )
    if not data["kept"] and data["idle_attainment"] is not None:
        lines.append(
            f"  {share(data['idle_attainment'])} would be good with an idle instance for each: what is missing to that, more "
            "instances may mend; the rest needs a faster type or another SLO"
        )
    return lines
