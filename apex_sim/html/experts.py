"""The report of a placement of experts."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from apex_sim.experts_report import LATENCIES, LEGEND, experts_dict, experts_text
from apex_sim.html import parts
from apex_sim.html.config import Repeat, configuration
from apex_sim.html.parts import Cell, amount, text
from apex_sim.html.provenance import provenance
from apex_sim.resolved import deployment_config
from apex_sim.text import milliseconds, share
from simulator.experts.routing import demand_of

if TYPE_CHECKING:
    from planners.experts.outcome import Answer


def experts_report(answer: Answer, repeat: Repeat) -> str:
    """The whole file."""
    data, question = experts_dict(answer), answer.question
    title = f"Experts of {data['model']} on {data['cluster']}"
    whole = experts_text(answer).rstrip()
    return parts.document(
        title,
        [
            f"<h1>{escape(title)}</h1>",
            parts.note(
                f"Routing {data['routing']}: {data['tokens']:,} tokens, {share(data['plan_share'])} planned on."
            ),
            parts.tiles(_tiles(data)),
            parts.warnings_box(repeat.warned),
            parts.section("Placements", _placements(data), parts.note(LEGEND)),
            parts.section("Load of the GPUs", parts.figures([_figure(answer)])),
            parts.section("Simulated", _effects(data, question.slo is not None)),
            parts.section("As text", parts.folded("What the terminal shows", parts.copied(whole, "text", "the text"))),
            provenance([question.deployment], [] if question.trace is None else [question.trace]),
            configuration(repeat, deployment_config(question.deployment)),
        ],
    )


def _tiles(data: Mapping[str, Any]) -> dict[str, str]:
    first, last = data["placements"][0], data["placements"][-1]
    found = {
        "busiest GPU over the mean": f"{data['balance']['imbalance']:.3f}",
        f"the same of {first['name']}": f"{first['planned']['imbalance']:.3f}",
        "gap of the balance": share(data["balance"]["gap"]),
        "gap of the traffic": share(data["traffic"]["gap"]),
    }
    if first["decode_step_s"]:
        change = round(100 * (last["decode_step_s"] / first["decode_step_s"] - 1), 1)
        found[f"decode step of {last['name']} against {first['name']}"] = f"{change:+.1f}%" if change else "as long"
    return found


def _placements(data: Mapping[str, Any]) -> str:
    rows: list[list[Cell]] = []
    for placement in data["placements"]:
        row = [text(placement["name"])]
        for figures in (placement["planned"], placement["unseen"]):
            row += [amount(figures["imbalance"], f"{figures['imbalance']:.4f}")]
            row += [amount(figures[name], share(figures[name])) for name in ("cross_gpu", "cross_node")]
        rows.append(row)
    header = ("placement", "busiest/mean", "change GPU", "change node", "busiest/mean, unseen", "change GPU, unseen",
              "change node, unseen")  # fmt: skip
    return parts.table(header, rows, about="placements")


def _effects(data: Mapping[str, Any], slo: bool) -> str:
    rows: list[list[Cell]] = []
    for placement in data["placements"]:
        steps = [1e3 * placement[name] for name in ("decode_step_s", "experts_s", "exchange_s")]
        latencies = [placement["summary"].get(name) for name in LATENCIES]
        row = [text(placement["name"]), *(amount(value, milliseconds(value)) for value in (*steps, *latencies))]
        if slo:
            met = placement["summary"].get("slo_attainment")
            row.append(amount(met, share(met)))
        rows.append(row)
    header = ["placement", "decode step", "experts", "exchange", "TTFT p50", "p99", "TPOT p50", "p99"]
    return parts.table([*header, *(["in SLO"] if slo else [])], rows, about="simulated placements")


def _figure(answer: Answer) -> str:
    from apex_sim.plots.expert_loads import expert_load_figure

    _, unseen = answer.question.routing.split(answer.question.plan_share)
    candidates = answer.plan.candidates
    shown = {candidate.name: candidate.placement for candidate in (candidates[0], candidates[-1])}
    drawn = expert_load_figure(demand_of(unseen), shown, title="Load of the GPUs by layer, on tokens not planned on")
    alt = "Heat maps of tokens per GPU and layer: " + ", then ".join(shown)
    return parts.figure(drawn, "loads", alt)
