"""The report of a curve over users."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apex_sim.concurrency_report import findings, users_words
from apex_sim.html import parts
from apex_sim.html.cautions import refused, weak_basis
from apex_sim.html.config import Repeat
from apex_sim.html.load import LATENCIES, LATENCY_HEADER, document_of
from apex_sim.html.parts import Cell, amount
from apex_sim.text import milliseconds, number, share

if TYPE_CHECKING:
    from apex_sim.concurrency import ConcurrencyCurve


def concurrency_report(curve: ConcurrencyCurve, repeat: Repeat) -> str:
    """The whole file."""
    from apex_sim.plots.tradeoff import tradeoff_figure

    first = next(iter(curve.results.values()))
    drawn = parts.figure(
        tradeoff_figure(curve), "tradeoff", "Output tokens per second and GPU against those a user sees"
    )
    sections = [
        parts.section("What the curve says", parts.facts(findings(curve), "findings")),
        parts.section("A GPU's throughput against a user's", parts.figures([drawn])),
        parts.section("Users", _rows(curve)),
    ]
    load = f"in closed loops of {users_words(curve)}"
    return document_of(first, load, _tiles(curve), _cautions(curve), sections, repeat)


def _tiles(curve: ConcurrencyCurve) -> dict[str, str]:
    m = curve.table.loc[curve.knee]
    found = {"users at the knee": f"{curve.knee:,}"}
    if next(iter(curve.results.values())).slo is not None:
        found["users within the SLO"] = "none" if curve.slo_concurrency is None else f"{curve.slo_concurrency:,}"
    return found | {
        "output tokens/s per GPU at most": number(float(curve.table["output_throughput_per_gpu"].max())),
        "per GPU at the knee": number(m["output_throughput_per_gpu"]),
        "per user at the knee": number(m["output_throughput_per_user"]),
        "p95 TTFT at the knee": milliseconds(m["p95_ttft_ms"]),
    }


def _cautions(curve: ConcurrencyCurve) -> list[str]:
    users, s = list(curve.results), next(iter(curve.results.values())).summary
    lines = []
    if len(users) > 1 and curve.knee == users[-1]:
        lines.append(f"The knee is not among the users tried, {users[0]:,} to {users[-1]:,}.")
    return [*lines, *refused(s), *weak_basis(s)]


def _rows(curve: ConcurrencyCurve) -> str:
    rows: list[list[Cell]] = []
    slo = next(iter(curve.results.values())).slo is not None
    for users, m in zip(curve.table.index, curve.table.to_dict("records"), strict=True):
        rows.append([
            amount(float(users), f"{users:,}"), amount(m["request_throughput"]),
            *(amount(m[name], milliseconds(m[name])) for name in LATENCIES),
            *(amount(m[f"output_throughput{of}"]) for of in ("", "_per_gpu", "_per_user")),
            *([amount(m["slo_attainment"], share(m["slo_attainment"]))] if slo else []),
            *(amount(m[name]) for name in ("running", "waiting")),
            *(amount(m[name], share(m[name])) for name in ("kv_usage", "mfu")),
            amount(m["usd_per_million_output_tokens"]), amount(m["joules_per_output_token"]),
        ])  # fmt: skip
    header = ("users", "served/s", *LATENCY_HEADER, "output tok/s", "per GPU", "per user", *(("in SLO",) if slo else ()),
              "running", "waiting", "KV in use", "compute", "$/1M out", "J/token")  # fmt: skip
    return parts.table(header, rows, about="users") + parts.note(
        "Per user: 1 / median TPOT. Running, waiting and KV in use are means until the last request is sent, and over "
        "replicas."
    )
