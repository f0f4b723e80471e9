"""What ``apex-sim power`` prints and writes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from apex_sim.power_account import account_dict, account_text
from apex_sim.power_figure import series_dict
from apex_sim.text import number, share, table
from planners.oversubscribe.planning import StaticPlan
from planners.oversubscribe.row import DAY_S
from planners.oversubscribe.services import PRIORITIES
from planners.oversubscribe.study import Outcome, Study, most_servers


def power_text(
    study: Study, static: StaticPlan, outcomes: list[Outcome], searched: dict[str, list[Outcome]] | None
) -> str:
    """The whole report; the first outcome is the one asked for, the others are compared with it."""
    first, site = outcomes[0], study.setting.deployment.cluster.site
    parts = [_row_text(study), _static_text(study, static), _impact_text(study, first)]
    parts.append(account_text(site, study.base_day, first.day, f"{first.num_servers} under {_thresholds(first)}"))
    parts.append(_policies_text(outcomes))
    if searched is not None:
        parts.append(_search_text(study, searched))
    return "\n\n".join(parts)


def _row_text(study: Study) -> str:
    s, budget = study.setting, study.budget_w
    rack_w = study.rack_budget_w
    racks = [] if rack_w is None else [f"racks       {s.racks}, {rack_w / 1e3:.1f} kW each"]
    return "\n".join(
        (
            f"row         {s.num_servers} servers of {s.deployment.plan.devices_per_replica} "
            f"{s.deployment.cluster.device.name}, {s.deployment.model.name}, budget {budget / 1e3:.1f} kW",
            f"as it is    peak {share(study.base_peak_w / budget)} of the budget, mean {share(study.base_mean_w / budget)}, "
            f"largest rise in the time of one command {share(study.base_rise_w / budget)}",
            *racks,
        )
    )


def _static_text(study: Study, static: StaticPlan) -> str:
    plan = static.plan
    if not plan.counts:
        return f"fixed settings (ILP): no plan; {plan.reason}"
    added = plan.num_servers - study.setting.num_servers
    rows = [
        [server.name, str(sum(counts.values())), ", ".join(f"{n} x {name}" for name, n in counts.items())]
        for server, counts in zip(static.problem.classes, plan.counts, strict=True)
    ]
    gap = plan.solver.gap
    bound = "" if plan.lp_bound is None else f"; weighted throughput {plan.value:.4g}, LP bound {plan.lp_bound:.4g}"
    rack = "" if static.rack_peak is None else f", fullest rack {share(static.rack_peak)} of its own"
    head = (
        f"fixed settings (ILP, {plan.solver.solver}, {plan.solver.status}{'' if gap is None else f', gap {share(gap)}'}"
        f"{bound}):\n{added:+d} servers, promised peak {share(plan.power / study.budget_w)}, "
        f"simulated {share(static.peak)} of the budget{rack}"
    )
    return head + "\n" + table(["class", "servers", "settings"], rows)


def _impact_text(study: Study, outcome: Outcome) -> str:
    rows = [
        [
            i.service.label,
            str(count),
            f"{number(i.p50_s)} s",
            f"{number(i.p99_s)} s",
            f"{100 * i.p50_increase:+.2f}%",
            f"{100 * i.p99_increase:+.2f}%",
            f"{100 * i.throughput_loss:.2f}%",
            "yes" if i.meets_slo else "NO",
        ]
        for i, count in zip(outcome.impacts, outcome.row.counts, strict=True)
    ]
    header = ["class", "servers", "p50", "p99", "p50 capped", "p99 capped", "closed-loop loss", "SLO"]
    head = f"{outcome.num_servers} servers under {_thresholds(outcome)}: {_verdict(outcome)}"
    return "\n".join((head, *_rack_warning(study, outcome), table(header, rows)))


def _rack_warning(study: Study, outcome: Outcome) -> list[str]:
    """The manager caps the row and sees no rack: a row that fits may stand on racks that do not."""
    if not outcome.rack_over_s or outcome.rack_peak is None or study.rack_budget_w is None:
        return []
    need_kw = math.ceil(10 * outcome.rack_peak * study.rack_budget_w / 1e3) / 10
    return [
        f"warning: a rack is above its budget {share(outcome.rack_over_s / outcome.row.seconds)} of the time; the manager "
        f"watches the row alone. Racks need {need_kw:.1f} kW each (--rack-budget-kw), or fewer servers"
    ]


def _verdict(outcome: Outcome) -> str:
    missed = [i.service.label for i in outcome.impacts if not i.meets_slo]
    slo = f"SLO missed by {', '.join(missed)}" if missed else "all SLOs met"
    racks = ""
    if outcome.rack_peak is not None:
        racks = f", fullest rack {share(outcome.rack_peak)} of its budget ({outcome.rack_over_s} s above it)"
    return f"{number(outcome.brakes_per_day)} brakes per day, {slo}{racks}"


def _thresholds(outcome: Outcome) -> str:
    steps = sorted({rule.threshold for rule in outcome.policy.rules})
    return outcome.policy.name + (" " + "/".join(f"{100 * t:g}" for t in steps) if steps else "")


def _policies_text(outcomes: list[Outcome]) -> str:
    rows = [
        [
            _thresholds(o),
            number(o.brakes_per_day),
            share(o.uncapped_peak),
            share(o.peak),
            share(o.mean),
            share(o.capped_share["low"]),
            share(o.capped_share["high"]),
            str(o.run.num_commands),
            "yes" if o.holds else "NO",
        ]
        for o in outcomes
    ]
    header = ["policy", "brakes/day", "uncapped peak", "peak", "mean", "low capped", "high capped", "commands", "holds"]
    return table(header, rows)


def _search_text(study: Study, searched: dict[str, list[Outcome]]) -> str:
    rows = []
    for outcomes in searched.values():
        best = most_servers(outcomes)
        more = "-" if best is None else f"{best.num_servers - study.setting.num_servers:+d}"
        cells = [f"{number(o.brakes_per_day)}{'' if o.holds else ' !'}" for o in outcomes]
        rows.append([_thresholds(outcomes[0]), more, *cells])
    some = next(iter(searched.values()))
    header = ["thresholds", "most", *[f"{o.num_servers - study.setting.num_servers:+d}" for o in some]]
    return "brakes per day by servers added (!: a brake or an SLO missed)\n" + table(header, rows)


def outcome_dict(study: Study, outcome: Outcome) -> dict[str, Any]:
    """One policy on one row."""
    return {
        "policy": outcome.policy.name,
        "thresholds": sorted({rule.threshold for rule in outcome.policy.rules}),
        "num_servers": outcome.num_servers,
        "servers_added": outcome.num_servers - study.setting.num_servers,
        "holds": outcome.holds,
        "brakes": outcome.run.num_brakes,
        "brakes_per_day": outcome.brakes_per_day,
        "commands": outcome.run.num_commands,
        "uncapped_peak_share": outcome.uncapped_peak,
        "peak_share": outcome.peak,
        "mean_share": outcome.mean,
        "per_day": account_dict(outcome.day),
        **_energy(outcome),
        "rack_peak_share": outcome.rack_peak,
        "rack_over_budget_s": outcome.rack_over_s,
        "capped_time_share": {p: outcome.capped_share[p] for p in PRIORITIES},
        "classes": [
            {
                "name": i.service.name,
                "priority": i.service.priority,
                "servers": count,
                "p50_s": i.p50_s,
                "p99_s": i.p99_s,
                "p50_increase": i.p50_increase,
                "p99_increase": i.p99_increase,
                "closed_loop_throughput_loss": i.throughput_loss,
                "meets_slo": i.meets_slo,
            }
            for i, count in zip(outcome.impacts, outcome.row.counts, strict=True)
        ],
    }


def _energy(outcome: Outcome) -> dict[str, float]:
    """Of the row over the whole run, and its two parts."""
    day, days = outcome.day, outcome.row.seconds / DAY_S
    parts = {"energy": day.server_kwh, "devices_energy": day.devices_kwh, "host_energy": day.host_kwh}
    return {f"{name}_kwh": kwh * days for name, kwh in parts.items()}


def power_dict(
    study: Study, static: StaticPlan, outcomes: list[Outcome], searched: dict[str, list[Outcome]] | None
) -> dict[str, Any]:
    """The report as plain values; no wall clock in it."""
    plan = static.plan
    data: dict[str, Any] = {
        "budget_w": study.budget_w,
        "rack_budget_w": study.rack_budget_w,
        "racks": study.setting.racks,
        "num_servers": study.setting.num_servers,
        "seed": study.setting.seed,
        "base": {
            "peak_share": study.base_peak_w / study.budget_w,
            "mean_share": study.base_mean_w / study.budget_w,
            "largest_rise_share": study.base_rise_w / study.budget_w,
            "per_day": account_dict(study.base_day),
        },
        "site": dataclasses.asdict(study.setting.deployment.cluster.site),
        "fixed_settings": {
            "status": plan.solver.status,
            "solver": plan.solver.solver,
            "objective": plan.solver.objective,
            "bound": plan.solver.bound,
            "weighted_throughput": plan.value if plan.counts else None,
            "lp_bound": plan.lp_bound,
            "reason": plan.reason or None,
            "servers_added": plan.num_servers - study.setting.num_servers if plan.counts else None,
            "counts": {c.name: dict(counts) for c, counts in zip(static.problem.classes, plan.counts, strict=False)},
            "racks": [
                {c.name: dict(counts) for c, counts in zip(static.problem.classes, rack, strict=True)}
                for rack in plan.rack_counts
            ],
            "promised_peak_share": plan.power / study.budget_w if plan.counts else None,
            "simulated_peak_share": static.peak,
            "simulated_rack_peak_share": static.rack_peak,
        },
        "outcome": outcome_dict(study, outcomes[0]),
        "compared": [outcome_dict(study, o) for o in outcomes[1:]],
        "series": series_dict(study, outcomes[0]),
    }
    if searched is not None:
        data["search"] = [outcome_dict(study, o) for many in searched.values() for o in many]
    return data
