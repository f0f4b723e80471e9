"""A load curve as text, JSON and CSV."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from apex_sim.disaggregated_report import describe_any
from apex_sim.report import basis
from apex_sim.text import milliseconds, number, share, table
from hardware_profiles.errors import UserError

if TYPE_CHECKING:
    from apex_sim.concurrency import ConcurrencyCurve
    from apex_sim.load import LoadCurve
    from simulator.result import SimulationResult

SPREAD = 10
"""Rates of a range without a step."""
MOST_RATES = 1000
STEADY = 20.0
"""Requests should arrive for so many times their mean end-to-end latency; an assumption: start and end are a tenth then."""
MEANS = ("running", "waiting", "kv_usage", "max_num_seqs", "mbu")
"""Columns of the curve's table that are not in the summary."""


def parse_rates(text: str, flag: str = "--rates") -> list[float]:
    """Rates [1/s] from ``1,2,4,8``, ``1:20`` (ten, evenly spaced) or ``1:20:0.5`` (with a step), ends included."""
    found: list[float] = []
    for part in text.split(","):
        numbers = [_rate(word, text, flag) for word in part.split(":")]
        if len(numbers) == 1:
            found += numbers
            continue
        low, high = numbers[:2]
        count = SPREAD if len(numbers) == 2 else math.floor((high - low) / numbers[2] * (1 + 1e-12) + 1e-9) + 1
        if len(numbers) > 3 or high <= low or count > MOST_RATES:
            raise _wrong(text, flag)
        step = (high - low) / (SPREAD - 1) if len(numbers) == 2 else numbers[2]
        found += [float(f"{low + place * step:.{3 if len(numbers) == 2 else 12}g}") for place in range(count)]
    if len(found) > MOST_RATES:
        raise _wrong(text, flag)
    return sorted(set(found))


def _rate(word: str, text: str, flag: str) -> float:
    try:
        value = float(word)
    except ValueError:
        raise _wrong(text, flag) from None
    if not 0 < value < math.inf:
        raise _wrong(text, flag)
    return value


def _wrong(text: str, flag: str) -> UserError:
    return UserError(
        f"{flag} is {text!r}; give at most {MOST_RATES:,} requests per second above 0, as 1,2,4,8 or 1:20 or 1:20:0.5 "
        "(from, to, step)"
    )


def load_text(curve: LoadCurve) -> str:
    """The curve in a screenful: a row per rate, the knee, what keeps the SLO, what runs out."""
    first = next(iter(curve.results.values()))
    goal, priced = first.slo, bool(curve.table["usd_per_million_output_tokens"].notna().all())
    header = ["req/s", "served/s", "TTFT", "p95", "TPOT", "p95", "E2E", "out tok/s"]
    header += ["in SLO"] if goal is not None else []
    header += ["running", "waiting", "KV"] + (["$/1M out"] if priced else [])
    rows = []
    for rate, m in zip(curve.table.index, curve.table.to_dict("records"), strict=True):
        names = ("mean_ttft_ms", "p95_ttft_ms", "mean_tpot_ms", "p95_tpot_ms", "mean_e2el_ms")
        row = [f"{rate:g}", number(m["request_throughput"]), *(milliseconds(m[name]) for name in names)]
        row += [number(m["output_throughput"])] + ([share(m["slo_attainment"])] if goal is not None else [])
        row += [number(m["running"]), number(m["waiting"]), share(m["kv_usage"])]
        rows.append(row + ([number(m["usd_per_million_output_tokens"])] if priced else []))
    return page_of(first, f"at {rates_words(curve)}", table(header, rows, left=0), findings(curve))


def page_of(first: SimulationResult, load: str, rows: str, found: list[tuple[str, str]]) -> str:
    """The text of a curve, over rates or users: what runs under which load, the table, what it says, the basis."""
    s = first.summary
    lines = [
        describe_any(first.deployment),
        f"workload: {first.trace.name}, {s['num_prompts']:,} requests {load}",
        "",
        rows,
        "",
        *(f"{label:<13}{words}" for label, words in found),
        "",
        f"basis: {basis(s['provenance'], s['weaker_parts'], first.deployment)}",
    ]
    return "\n".join(lines)


def rates_words(curve: LoadCurve) -> str:
    """How many rates there are."""
    return "one rate" if len(curve.results) == 1 else f"each of {len(curve.results)} rates"


def findings(curve: LoadCurve) -> list[tuple[str, str]]:
    """What the curve says: (label, words)."""
    rates, knee = list(curve.results), curve.knee_per_s
    beyond = len(rates) > 1 and knee == rates[-1]
    words = f"{knee:g}/s: of the rates tried, throughput over mean E2E is highest there"
    if len(rates) == 1:
        words = "one rate has none; give several"
    elif beyond:
        words = f"not reached at {knee:g}/s: throughput over mean E2E still rises; try higher rates"
    elif knee == rates[0]:
        words = f"{knee:g}/s or below: throughput over mean E2E only falls; try lower rates"
    found = [("knee", words)]
    goal = next(iter(curve.results.values())).slo
    if goal is not None and curve.slo_per_s is None:
        found.append(("SLO", f"{goal}: kept at no rate tried"))
    elif goal is not None:
        more = "the highest tried" if curve.slo_per_s == rates[-1] else "of the rates tried, with all below"
        found.append(("SLO", f"{goal}: kept up to {curve.slo_per_s:g}/s, {more}"))
    return [
        *found,
        ("limit", f"{'' if curve.limit.reached else 'not reached: '}at {rates[-1]:g}/s {curve.limit.why}"),
        *_short(curve),
    ]


def _short(curve: LoadCurve) -> list[tuple[str, str]]:
    """That the workload is over before the load is steady, at the knee."""
    at_knee = curve.results[curve.knee_per_s]
    arrivals_s, e2e_s = float(at_knee.trace.arrival_s[-1]), at_knee.summary["mean_e2el_ms"] / 1e3
    if not arrivals_s < STEADY * e2e_s:
        return []
    words = f"at the knee requests arrive for {number(arrivals_s)} s, {number(arrivals_s / e2e_s)} times their mean E2E: the "
    return [("note", words + "start and the end of the runs count; more requests show the steady state")]


def about(first: SimulationResult) -> dict[str, Any]:
    """What the JSON of a curve, over rates or users, says before its figures."""
    import dataclasses

    from apex_sim import __version__

    return {
        "apex_sim_version": __version__,
        "model": first.deployment.model.name,
        "cluster": first.deployment.cluster.name,
        "workload": {"name": first.trace.name, "source": first.trace.source, "requests": len(first.trace)},
        "slo": None if first.slo is None else dataclasses.asdict(first.slo),
        "seed": first.seed,
    }


def load_dict(curve: LoadCurve) -> dict[str, Any]:
    """Everything, for machines; ``rates`` has the summary of each run and means over the time in which requests arrive."""
    import dataclasses

    return {
        **about(next(iter(curve.results.values()))),
        "knee_per_s": curve.knee_per_s,
        "slo_per_s": curve.slo_per_s,
        "limit": dataclasses.asdict(curve.limit),
        "rates": [
            {"rate_per_s": rate, **result.summary, **{name: curve.table[name].loc[rate].item() for name in MEANS}}
            for rate, result in curve.results.items()
        ],
    }


def load_csv(curve: LoadCurve | ConcurrencyCurve) -> str:
    """A row per rate or concurrency: every plain figure."""
    plain = [name for name in curve.table if not curve.table[name].map(lambda v: isinstance(v, dict | list)).any()]
    return str(curve.table[plain].to_csv())
