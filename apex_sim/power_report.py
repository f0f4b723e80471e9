"""What ``apex-sim power`` prints, writes and draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apex_sim.text import number, share, table
from planners.oversubscribe.planning import StaticPlan
from planners.oversubscribe.row import readings
from planners.oversubscribe.services import PRIORITIES
from planners.oversubscribe.study import Outcome, Study, most_servers
from simulator.physics.server import host_power_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HOUR_S = 3600.0
MINUTE_S = 60


def power_text(
    study: Study, static: StaticPlan, outcomes: list[Outcome], searched: dict[str, list[Outcome]] | None
) -> str:
    """The whole report; the first outcome is the one asked for, the others are compared with it."""
    parts = [_row_text(study), _static_text(study, static), _impact_text(outcomes[0]), _policies_text(outcomes)]
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


def _impact_text(outcome: Outcome) -> str:
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
    return head + "\n" + table(header, rows)


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
        **_energy(study, outcome),
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


def _energy(study: Study, outcome: Outcome) -> dict[str, float]:
    """Of the row: hosts and devices are its two parts, each linear in the other's sum."""
    plan, cluster = study.setting.deployment.plan, study.setting.deployment.cluster
    total_j, seconds = float(outcome.run.power_w.sum()), outcome.row.seconds
    host = host_power_of(cluster)
    fixed_j = host.idle_w * plan.devices_per_replica * outcome.num_servers * seconds
    devices_j = (total_j - fixed_j) / (1 + host.slope)
    parts = {"energy": total_j, "devices_energy": devices_j, "host_energy": fixed_j + host.slope * devices_j}
    return {f"{name}_kwh": joules / HOUR_S / 1e3 for name, joules in parts.items()}


def series_dict(study: Study, outcome: Outcome) -> dict[str, Any]:
    """The row over time, minute by minute: mean and highest power, clocks, and its racks."""
    run, uncapped = outcome.run, outcome.row.uncapped_w(study.library.max_mhz)
    data: dict[str, Any] = {
        "period_s": MINUTE_S,
        "power_w": _rounded(readings(run.power_w, MINUTE_S)),
        "highest_power_w": _rounded(_minutes(run.power_w).max(axis=-1)),
        "uncapped_power_w": _rounded(readings(uncapped, MINUTE_S)),
        "braked_s": _minutes(run.braked).sum(axis=-1).tolist(),
        "clock_mhz": {p: _rounded(readings(run.clock_mhz[p], MINUTE_S)) for p in PRIORITIES},
    }
    if outcome.rack_w is not None:
        data["rack_power_w"] = [_rounded(rack) for rack in readings(outcome.rack_w, MINUTE_S)]
    return data


def _minutes(values: Any) -> Any:
    whole = len(values) // MINUTE_S * MINUTE_S
    return values[:whole].reshape(-1, MINUTE_S)


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 1) for value in values]


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
        },
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


def power_figure(study: Study, outcome: Outcome) -> Figure:
    """Power of the row with and without control against the budget, and the clocks, minute by minute."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    uncapped = outcome.row.uncapped_w(study.library.max_mhz)
    for label, power, colour in (("uncapped", uncapped, "0.7"), ("controlled", outcome.run.power_w, "tab:blue")):
        minutes = _minutes(power) / study.budget_w
        hours = _hours(minutes.shape[0])
        top.fill_between(hours, minutes.min(axis=1), minutes.max(axis=1), color=colour, alpha=0.3, linewidth=0)
        top.plot(hours, minutes.mean(axis=1), color=colour, label=label, linewidth=1)
    if outcome.rack_w is not None and study.rack_budget_w is not None:
        racks = _minutes(outcome.rack_w.T.reshape(-1, outcome.rack_w.shape[0]).max(axis=1)) / study.rack_budget_w
        top.plot(
            _hours(len(racks)), racks.max(axis=1), color="tab:olive", linewidth=0.8, label="fullest rack / its budget"
        )
    top.axhline(1.0, color="tab:red", linewidth=1, label="budget")
    for threshold in sorted({rule.threshold for rule in outcome.policy.rules}):
        top.axhline(threshold, color="tab:orange", linewidth=0.8, linestyle="--")
    top.set_ylabel("row power / budget (minute: mean, range)")
    top.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False)
    for priority, colour in zip(PRIORITIES, ("tab:green", "tab:purple"), strict=True):
        clocks = outcome.run.clock_mhz[priority][::MINUTE_S]
        bottom.step(
            _hours(len(clocks)), clocks, where="post", color=colour, label=f"{priority} priority", linewidth=0.8
        )
    bottom.set_ylabel("clock [MHz]")
    bottom.set_xlabel("time [h]")
    bottom.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    return figure


def _hours(minutes: int) -> Any:
    import numpy as np

    return np.arange(minutes) * MINUTE_S / HOUR_S
