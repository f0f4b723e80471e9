"""A plan as text, JSON, CSV, figure and shell script."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from apex_sim.disaggregated_report import describe_any
from apex_sim.drain_text import drain_notes
from apex_sim.exporting import export_values
from apex_sim.files import to_json, write_atomically, write_text
from apex_sim.plan_techniques import technique_lines, technique_settings
from apex_sim.report import basis
from apex_sim.text import dollars, hourly, milliseconds, number, share, table
from planners.figures import pareto_figure
from planners.launch import script_of
from planners.misses import lacks
from planners.parallel import Entry, PlanResult
from planners.pools import first_of
from planners.reasons import figure, tied_ahead
from workloads.figure_style import save
from workloads.trace import Trace

SHOWN_LIMITS = 3
"""Losing batch limits listed with their reasons when there are fewer losing layouts than this."""
NOTHING = "no plan meets the SLO, so there is nothing to start; loosen the SLO, lower the rate, or add devices"
LOSERS = 12
"""Losing layouts listed with their reasons; the JSON and CSV have all."""


WORDS = {
    "cost": "$/1M output tokens",
    "goodput": "good requests/s",
    "ttft": "p95 TTFT",
    "tpot": "p95 TPOT",
    "energy": "J/output token",
    "request-cost": "$/request",
    "kwh": "kWh/1M output tokens",
    "carbon": "gCO2e/1M output tokens",
}
"""Objective -> what the winner is best by."""


def settings_text(entry: Entry) -> str:
    """Layout, formats, techniques and batch limits of a candidate."""
    candidate, known = entry.candidate, entry.best_known
    parts = [candidate.layout]
    if candidate.quantization:
        parts.append(candidate.quantization)
    if candidate.kv_cache_dtype != "auto":
        parts.append(f"kv-{candidate.kv_cache_dtype}")
    parts += technique_settings(candidate)
    if known is not None:
        parts.append(f"seqs={known.max_num_seqs} tokens={known.max_num_batched_tokens}")
    return " ".join(parts)


LAST_COLUMNS = {
    "request-cost": ("$/request", "usd_per_request"),
    "kwh": ("kWh/1M out", "facility_kwh_per_million_output_tokens"),
    "carbon": ("gCO2e/1M out", "gco2e_per_million_output_tokens"),
}
"""Objective -> column that stands in the place of J/token."""


def _metrics_row(entry: Entry, has_slo: bool, has_rate: bool, column: tuple[str, str]) -> list[str]:
    assert entry.measured is not None
    m = entry.measured.metrics
    row = [settings_text(entry), str(m["num_gpus"])]
    row += [milliseconds(m[name]) for name in ("median_ttft_ms", "p95_ttft_ms", "median_tpot_ms", "p95_tpot_ms")]
    row += [share(m["slo_attainment"])] if has_slo else []
    row += [
        number(m["request_goodput"]),
        number(m["usd_per_million_output_tokens"]),
        figure(m[column[1]]),
    ]
    row += [_rate(entry.max_rate_per_s)] if has_rate else []
    return [*row, entry.status]


def _rate(rate: float | None) -> str:
    return "any" if rate == float("inf") else number(rate)


def _pace(trace: Trace) -> str:
    """At what rate requests come."""
    if trace.concurrency is not None:
        return f", closed loop of {trace.concurrency}"
    return f" at {number(trace.request_rate_per_s)} req/s" if trace.duration_s > 0 else " at once"


def _account(best: Entry, embodied: bool) -> list[str]:
    """Money and emissions of the winner; ``embodied``: those of manufacture are known."""
    assert best.measured is not None
    m = best.measured.metrics
    parts = []
    if m["usd_per_hour"] is not None:
        even = [dollars(m[f"break_even_usd_per_million_{kind}_tokens"]) for kind in ("input", "output")]
        parts.append(
            f"{hourly(m['usd_per_hour'])}, {dollars(m['usd_per_request'])} per request, break-even {even[0]} per 1M input "
            f"and {even[1]} per 1M output tokens"
        )
    if m["joules_per_output_token"] is None:
        return [f"best plan: {'; '.join([*parts, 'energy unknown'])}"]
    parts.append(
        f"{number(m['facility_kwh_per_million_output_tokens'])} kWh at the meter and "
        f"{number(m['gco2e_per_million_output_tokens'])} gCO2e per 1M output tokens"
    )
    return [f"best plan: {'; '.join(parts)}{'' if embodied else ' (embodied unknown)'}"]


def plan_text(result: PlanResult, top: int) -> str:
    """The plan in a screenful: the winner, its command, the front, the losers with reasons."""
    has_slo = result.slo is not None
    has_rate = any(entry.max_rate_per_s is not None for entry in result.entries)
    column = LAST_COLUMNS.get(result.objective, ("J/token", "joules_per_output_token"))
    header = ["plan", "GPUs", "TTFT p50", "p95", "TPOT p50", "p95"]
    header += ["in SLO"] if has_slo else []
    header += (
        ["goodput/s" if has_slo else "req/s", "$/1M out", column[0]] + (["max req/s"] if has_rate else []) + ["status"]
    )
    best = result.best
    full = [e for e in result.entries if e.measured is not None and e is not best]
    front = [e for e in full if e in result.pareto]
    others = [e for e in full if e not in result.pareto]
    shown = [best, *front, *others[: max(0, top - 1 - len(front))]]
    assert best.measured is not None
    deployment = result.deployment()
    what = "highest rate" if result.by_rate else WORDS[result.objective]
    found = f"best plan by {what}" + (f" within {result.slo}" if has_slo else "")
    lines = [
        f"{found if result.meets_slo else f'no plan meets {result.slo}; the nearest'}: {describe_any(deployment)}",
        f"workload: {result.trace.name}, {len(result.trace):,} requests{_pace(result.trace)}; "
        + ", ".join(f"{count} {what}" for what, count in result.counts.items()),
        "",
        table(header, [_metrics_row(entry, has_slo, has_rate, column) for entry in shown]),
        *_ties(result, shown),
        *(_ranges(best) if result.meets_slo else ()),
        *(_account(best, result.cluster.device.embodied_kgco2e is not None) if result.meets_slo else ()),
        *(f"note: {words}" for words in drain_notes(best.measured.metrics, result.trace)),
        "",
        *(
            _start(result)
            if result.meets_slo
            else ("what the nearest lacks:", *(f"  {line}" for line in lacks(result)))
        ),
    ]
    losers = [e for e in result.entries if e not in shown]
    if losers:
        lines += ["", "why the others lost:"]
        layouts = [e for e in losers if not e.candidate.has_own_limits]
        lines += [f"  {settings_text(entry)}: {entry.reason}" for entry in _by_reason(layouts)[:LOSERS]]
        if len(layouts) > LOSERS:
            lines.append(f"  ... and {len(layouts) - LOSERS} more layouts (--json or --csv lists all)")
        limits = _by_reason([e for e in losers if e.candidate.has_own_limits])
        shown_limits = limits[: max(0, SHOWN_LIMITS - len(layouts))]
        lines += [f"  {settings_text(entry)}: {entry.reason}" for entry in shown_limits]
        if len(limits) > len(shown_limits):
            rest = len(limits) - len(shown_limits)
            lines.append(f"  {rest} other batch limits of the best layouts: no gain (--json or --csv lists them)")
    lines += technique_lines(result)
    m = best.measured.metrics
    lines += ["", f"basis: {basis(m['provenance'], m['weaker_parts'], first_of(deployment))}"]
    return "\n".join(lines)


def _ties(result: PlanResult, shown: list[Entry]) -> list[str]:
    """Why a row of the table with a better figure is not the best plan."""
    best = result.best
    assert best.measured is not None
    return [
        f"{settings_text(entry)}: {entry.reason}; of equals fewer GPUs win, then the lower mean E2E"
        for entry in shown
        if entry.measured is not None
        and entry.status in ("pareto", "met")
        and not result.by_rate
        and tied_ahead(entry.measured, best.measured, result.objective)
    ]


def _start(result: PlanResult) -> list[str]:
    commands = [f"  {command}" for command in result.launch_command.splitlines()]
    return ["start it with:", *commands, *(f"  # {note}" for note in result.launch_notes)]


def _ranges(best: Entry) -> list[str]:
    """Where median and p95 of the best plan may lie: what 8 of 10 measured runs of its kind were off, the same factors on
    each. So the p95 of a plan that is as slow as its range allows goes with such a median."""
    assert best.measured is not None
    m, parts = best.measured.metrics, []
    for label, name in (("TTFT", "ttft"), ("TPOT", "tpot")):
        low, high, mean = (m[f"mean_{name}_ms{end}"] for end in ("_low", "_high", ""))
        if low is None or not mean > 0.0:
            continue
        ranges = [
            f"{words} {milliseconds(value * low / mean)} to {milliseconds(value * high / mean)}"
            for words, value in (("median", m[f"median_{name}_ms"]), ("p95", m[f"p95_{name}_ms"]))
        ]
        parts.append(f"{label} {', '.join(ranges)}")
    return [f"80 % range of the best plan: {'; '.join(parts)}"] if parts else []


def _by_reason(entries: list[Entry]) -> list[Entry]:
    """Nearest losers first: fully simulated, screened, ruled out by physics, too large."""
    order = {"met": 0, "pareto": 0, "missed": 1, "screened": 2, "bounded": 3, "unfit": 4, "best": 5}
    return sorted(entries, key=lambda entry: order[entry.status])


def plan_dict(result: PlanResult) -> dict[str, Any]:
    """Everything, for machines. No wall clock: equal inputs give equal bytes."""
    import dataclasses

    from apex_sim import __version__

    deployment = result.deployment()
    rows = [row | {"max_rate_per_s": _json_rate(row["max_rate_per_s"])} for row in result.rows()]
    return {
        "apex_sim_version": __version__,
        "model": result.model.name,
        "cluster": result.cluster.name,
        "terms": dataclasses.asdict(result.cluster.terms),
        "site": dataclasses.asdict(result.cluster.site),
        "workload": {"name": result.trace.name, "source": result.trace.source, "requests": len(result.trace)},
        "slo": None if result.slo is None else dataclasses.asdict(result.slo),
        "objective": result.objective,
        "by_max_rate": result.by_rate,
        "seed": result.seed,
        "counts": result.counts,
        "notes": drain_notes(result.best.measured.metrics, result.trace) if result.best.measured else [],
        "best": rows[result.entries.index(result.best)],
        "max_rate_per_s": _json_rate(result.best.max_rate_per_s),
        "launch_command": result.launch_command,
        "launch_notes": result.launch_notes,
        **_searched(result),
        "engine": dataclasses.asdict(first_of(deployment).engine),
        "max_model_len": deployment.effective_max_model_len,
        "num_gpu_blocks": first_of(deployment).memory.num_blocks,
        "pareto": [row for row in rows if row["pareto"]],
        "candidates": rows,
        **({} if result.meets_slo else {"meets_slo": False, "lacks": lacks(result)}),
        "export": export_values(result) if result.meets_slo else {"refused": NOTHING},
    }


def _searched(result: PlanResult) -> dict[str, Any]:
    """What techniques were searched, and what that rests on; nothing without them."""
    space = result.space
    if not space.assumptions:
        return {}
    return {"searched": list(space.searched), "assumptions": list(space.assumptions)}


def _json_rate(rate: float | None) -> float | str | None:
    """JSON has no infinity: a plan that meets the SLO with all requests at once says so."""
    return "any" if rate == float("inf") else rate


def _drop_script(path: Path) -> None:
    """Do away with what an earlier plan starts: it would stand beside the figures of one that has nothing to start."""
    try:
        path.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        warnings.warn(f"{path} is of an earlier plan and cannot be removed ({error.strerror})", stacklevel=3)
        return
    warnings.warn(
        f"removed {path} of an earlier plan: this one misses its SLO, so there is nothing to start", stacklevel=3
    )


def write_plan(result: PlanResult, files: dict[str, Path], folder: Path | None) -> None:
    """Write what was asked for; ``files`` has any of json, csv, plot."""
    targets = dict(files)
    extra: dict[str, Path] = {}
    if folder is not None:
        extra = {"json": folder / "plan.json", "csv": folder / "candidates.csv", "plot": folder / "pareto.png"}
        if result.meets_slo:
            write_text(folder / "serve.sh", script_of(result.deployment()))
        else:
            _drop_script(folder / "serve.sh")
    for kind, path in [*targets.items(), *extra.items()]:
        if kind == "json":
            write_text(path, to_json(plan_dict(result)))
        elif kind == "csv":
            write_atomically(path, lambda temporary: result.table.to_csv(temporary, index=False))
        else:
            write_atomically(path, lambda temporary: save(pareto_figure(result), temporary))
