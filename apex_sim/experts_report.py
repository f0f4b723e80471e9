"""``apex-sim experts`` as text and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from apex_sim.text import milliseconds, share, table
from planners.experts.effect import Effect
from planners.experts.outcome import Answer
from simulator.techniques import plan_values

LATENCIES = ("median_ttft_ms", "p99_ttft_ms", "median_tpot_ms", "p99_tpot_ms")
LEGEND = """busiest/mean: tokens of the busiest GPU over those of the mean GPU, all layers together and in the worst layer;
change GPU, node: share of the steps from an expert to one of the next layer that leave the GPU, the node;
traffic: those steps, each weighted by the cost of its link"""
EXCHANGES = {
    "home": "tokens return to their rank after each layer, so that traffic above does not count",
    "onward": "tokens go on from expert to expert",
}


def experts_text(answer: Answer) -> str:
    """What the terminal shows."""
    parts = [_headline(answer), _placements(answer), _proof(answer), _effects(answer), _change(answer), *_drift(answer)]
    basis = answer.question.deployment.step_model.provenance
    return "\n\n".join(parts) + f"\nbasis: {basis} kernel efficiencies\nrouting: {answer.question.routing.name}\n"


def _headline(answer: Answer) -> str:
    question, plan = answer.question, answer.question.deployment.plan
    routing, topology = question.routing, answer.topology
    link = f"a token sent to another node costs {topology.network_weight:.3g} times one sent inside"
    nodes = f" in {topology.num_nodes} nodes\n{link}"
    return (
        f"{question.deployment.model.name} on {topology.num_ranks} of {question.deployment.cluster.name} "
        f"(tp={plan.tp} dp={plan.dp} ep={plan.ep}){nodes if topology.num_nodes > 1 else ''}\n"
        f"{routing.num_experts} experts"
        + (f" + {question.settings.redundant} copies" if question.settings.redundant else "")
        + f", top-{routing.top_k}, {routing.num_layers} layers; {routing.num_tokens:,} tokens, "
        f"{share(question.plan_share)} planned on, the others in brackets"
    )


def _placements(answer: Answer) -> str:
    least = max(1.0, answer.plan.candidates[0].figures.traffic)
    rows = []
    for candidate, judged in zip(answer.plan.candidates, answer.judged, strict=True):
        figures = candidate.figures
        rows.append(
            [
                candidate.name,
                f"{figures.imbalance:.4f} [{judged.imbalance:.3f}]",
                f"{figures.worst_imbalance:.3f}",
                f"{share(figures.cross_gpu)} [{share(judged.cross_gpu)}]",
                f"{share(figures.cross_node)} [{share(judged.cross_node)}]",
                f"{figures.traffic / least:.4f}",
            ]
        )
    header = ["placement", "busiest/mean", "worst layer", "change GPU", "change node", "traffic"]
    return table(header, rows) + f"\n{LEGEND}; {answer.plan.candidates[0].name}: 1"


def _proof(answer: Answer) -> str:
    """What no placement beats; balance and traffic apart."""
    plan = answer.plan
    first, linear = plan.candidates[0].name, max(1.0, plan.candidates[0].figures.traffic)
    lines = [
        f"balance   {plan.chosen.figures.imbalance:.4f}, no placement below {plan.balance_bound:.4f}: "
        f"gap {share(plan.balance_gap)}"
    ]
    traffic = plan.chosen.figures.traffic / linear
    if plan.traffic_proven:
        lines.append(
            f"traffic   {traffic:.4f} of {first}, the least of all placements with this balance: gap 0.0% (proven)"
        )
    else:
        lines.append(
            f"traffic   {traffic:.4f} of {first}, no placement with this balance below {plan.traffic_bound / linear:.4f}: "
            f"gap {share(plan.traffic_gap)}"
        )
    work = plan.ilp
    if work.problems:
        lines.append(
            f"ILP 2     {work.problems} layers re-placed between their neighbours, "
            + (
                f"{work.improved} improved: traffic -{100 * work.saved / max(1.0, traffic * linear + work.saved):.3g}%"
                if work.improved
                else "none improved"
            )
        )
    return "\n".join(lines)


def _drift(answer: Answer) -> list[str]:
    """Stale against planned again, on tokens of the new popularity."""
    drift = answer.drift
    if drift is None:
        return []
    rows = [
        [
            name,
            f"{figures.imbalance:.4f}",
            share(figures.cross_gpu),
            share(figures.cross_node),
            *(milliseconds(1e3 * s) for s in (effect.decode_s, effect.experts_s, effect.exchange_s)),
            *(milliseconds(effect.summary.get(latency)) for latency in LATENCIES),
        ]
        for name, figures, effect in (
            ("tuned before", drift.stale, drift.stale_effect),
            ("tuned again", drift.replanned, drift.replanned_effect),
        )
    ]
    header = ["after drift", "busiest/mean", "change GPU", "node", "decode step", "experts", "exchange"]
    text = table([*header, "TTFT p50", "p99", "TPOT p50", "p99"], rows)
    return [text + f"\n{drift.tokens:,} tokens of the new popularity; as many others were planned on"]


def _effects(answer: Answer) -> str:
    rows, slo = [], answer.question.slo is not None
    for candidate, effect in zip(answer.plan.candidates, answer.effects, strict=True):
        steps = [milliseconds(1e3 * s) for s in (effect.decode_s, effect.experts_s, effect.exchange_s)]
        rows.append([candidate.name, *steps, *(milliseconds(effect.summary.get(name)) for name in LATENCIES)])
        if slo:
            rows[-1].append(share(effect.summary["slo_attainment"]))
    question, plan = answer.question, answer.question.deployment.plan
    exchange = f"all-to-alls ({EXCHANGES[question.exchange]})" if plan.ep > plan.tp else "all-reduces"
    header = [
        "simulated",
        "decode step",
        "experts",
        "exchange",
        "TTFT p50",
        "p99",
        "TPOT p50",
        "p99",
        *(["in SLO"] if slo else []),
    ]
    what = (
        f"decode step: {question.batch} sequences per replica; experts: of that step, on the slowest GPU;\n"
        f"exchange: {exchange} of that step"
    )
    if question.trace is not None:
        what += f";\nTTFT, TPOT: workload {question.trace.name}, {len(question.trace.arrival_s):,} requests"
    return table(header, rows) + f"\n{what}"


def _change(answer: Answer) -> str:
    """The chosen placement against the first."""
    if len(answer.effects) < 2:
        return "nothing to compare with"
    first, last = answer.effects[0], answer.effects[-1]

    def change(before: float | None, after: float | None) -> str:
        return f"{round(100 * (after / before - 1), 1) + 0.0:+.1f}%" if before and after is not None else "-"

    def steps(effect: Effect) -> tuple[float, float, float]:
        return effect.decode_s, effect.experts_s, effect.exchange_s

    names = ("decode step", "slowest rank's experts", "exchange")
    parts = [f"{n} {change(b, a)}" for n, b, a in zip(names, steps(first), steps(last), strict=True)]
    labels = ("TTFT p50", "TTFT p99", "TPOT p50", "TPOT p99")
    parts += [
        f"{label} {change(first.summary.get(name), last.summary.get(name))}"
        for label, name in zip(labels, LATENCIES, strict=True)
    ]
    return f"tuned against {answer.plan.candidates[0].name}: " + ", ".join(parts[:3]) + ",\n  " + ", ".join(parts[3:])


def experts_dict(answer: Answer) -> dict[str, Any]:
    """Everything, for JSON; seconds and shares."""
    plan, question = answer.plan, answer.question
    rows = zip(plan.candidates, answer.judged, answer.effects, strict=True)
    return {
        "model": question.deployment.model.name,
        "cluster": question.deployment.cluster.name,
        "parallel": plan_values(question.deployment.plan),
        "num_nodes": answer.topology.num_nodes,
        "network_weight": answer.topology.network_weight,
        "routing": question.routing.name,
        "tokens": question.routing.num_tokens,
        "plan_share": question.plan_share,
        "redundant_experts": question.settings.redundant,
        "slack": question.settings.slack,
        "exchange": question.exchange,
        "balance": {
            "imbalance": plan.chosen.figures.imbalance,
            "lower_bound": plan.balance_bound,
            "gap": plan.balance_gap,
        },
        "traffic": {
            "traffic": plan.chosen.figures.traffic,
            "lower_bound": plan.traffic_bound,
            "gap": plan.traffic_gap,
            "proven_under_balance": plan.traffic_proven,
            "ilp": asdict(plan.ilp),
        },
        "placements": [
            {
                "name": candidate.name,
                "planned": asdict(candidate.figures),
                "unseen": asdict(judged),
                "measured_routing": asdict(effect.routing),
                "decode_step_s": effect.decode_s,
                "experts_s": effect.experts_s,
                "exchange_s": effect.exchange_s,
                "summary": effect.summary,
            }
            for candidate, judged, effect in rows
        ],
        "drift": None if answer.drift is None else asdict(answer.drift),
    }
