"""The report of a row under a power budget."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from apex_sim.html import parts
from apex_sim.html.config import Repeat, configuration
from apex_sim.html.parts import Cell, amount, text, verdict
from apex_sim.html.provenance import provenance
from apex_sim.power_report import power_dict, power_text
from apex_sim.resolved import deployment_config
from apex_sim.text import dollars, number, share

if TYPE_CHECKING:
    from planners.oversubscribe.planning import StaticPlan
    from planners.oversubscribe.study import Outcome, Study


def power_report(
    study: Study,
    static: StaticPlan,
    outcomes: list[Outcome],
    searched: dict[str, list[Outcome]] | None,
    repeat: Repeat,
) -> str:
    """The whole file."""
    from apex_sim.power_figure import power_figure

    data, setting = power_dict(study, static, outcomes, searched), study.setting
    deployment = setting.deployment
    title = f"A row of {data['num_servers']} servers under {data['budget_w'] / 1e3:.1f} kW"
    peak = share(data["outcome"]["peak_share"])
    alt = f"Power of the row over time, at most {peak} of its budget, and clocks of both priorities"
    whole = power_text(study, static, outcomes, searched)
    return parts.document(
        title,
        [
            f"<h1>{escape(title)}</h1>",
            parts.note(f"{deployment.model.name} on servers of {deployment.plan.devices_per_replica} "
                       f"{deployment.cluster.device.name}, {number(setting.seconds / 86400)} days."),
            parts.tiles(_tiles(data)),
            parts.warnings_box([*repeat.warned, *_cautions(data)]),
            parts.section("Over time", parts.figures([parts.figure(power_figure(study, outcomes[0]), "power", alt)])),
            parts.section("Policies", _policies(data)),
            parts.section("Services under the policy", _classes(data)),
            parts.section("Energy, money and carbon by the day", _account(data)),
            parts.section("Search", _search(data)),
            parts.section("As text", parts.folded("What the terminal shows", parts.copied(whole, "text", "the text"))),
            provenance([deployment]),
            configuration(repeat, deployment_config(deployment)),
        ],
    )  # fmt: skip


def _tiles(data: Mapping[str, Any]) -> dict[str, str]:
    outcome, fixed = data["outcome"], data["fixed_settings"]["servers_added"]
    return {
        "servers added": f"{outcome['servers_added']:+d}",
        "brakes per day": number(outcome["brakes_per_day"]),
        "peak of the budget": share(outcome["peak_share"]),
        "peak before": share(data["base"]["peak_share"]),
        "SLOs": "met" if all(c["meets_slo"] for c in outcome["classes"]) else "missed",
        "added by fixed settings": "none" if fixed is None else f"{fixed:+d}",
    }


def _cautions(data: Mapping[str, Any]) -> list[str]:
    outcome = data["outcome"]
    lines = [f"{c['name']} misses its SLO." for c in outcome["classes"] if not c["meets_slo"]]
    if outcome["rack_over_budget_s"]:
        lines.append(
            f"A rack is above its budget for {outcome['rack_over_budget_s']:,} s; the manager watches the row alone."
        )
    if outcome["brakes"]:
        lines.append(f"The power brake engages {outcome['brakes']:,} times.")
    return lines


def _policies(data: Mapping[str, Any]) -> str:
    rows: list[list[Cell]] = [_policy(outcome) for outcome in (data["outcome"], *data["compared"])]
    header = ("policy", "thresholds", "servers", "brakes/day", "uncapped peak", "peak", "mean", "low capped", "high capped",
              "commands", "holds")  # fmt: skip
    return parts.table(header, rows, about="policies")


def _policy(outcome: Mapping[str, Any]) -> list[Cell]:
    shares = [outcome[name] for name in ("uncapped_peak_share", "peak_share", "mean_share")]
    shares += [outcome["capped_time_share"][priority] for priority in ("low", "high")]
    return [
        text(outcome["policy"]),
        text("/".join(f"{100 * t:g}" for t in outcome["thresholds"]) or "-"),
        amount(float(outcome["num_servers"]), str(outcome["num_servers"])),
        amount(outcome["brakes_per_day"]),
        *(amount(value, share(value)) for value in shares),
        amount(float(outcome["commands"]), f"{outcome['commands']:,}"),
        verdict(outcome["holds"]),
    ]


def _classes(data: Mapping[str, Any]) -> str:
    rows: list[list[Cell]] = []
    for c in data["outcome"]["classes"]:
        changes = [c[name] for name in ("p50_increase", "p99_increase", "closed_loop_throughput_loss")]
        rows.append([
            text(c["name"]), text(c["priority"]), amount(float(c["servers"]), str(c["servers"])),
            *(amount(c[name], f"{number(c[name])} s") for name in ("p50_s", "p99_s")),
            *(amount(value, f"{100 * value:+.2f}%") for value in changes), verdict(c["meets_slo"]),
        ])  # fmt: skip
    header = ("service", "priority", "servers", "p50", "p99", "p50 capped", "p99 capped", "closed-loop loss", "in SLO")
    return parts.table(header, rows, about="services")


def _account(data: Mapping[str, Any]) -> str:
    """The row as it is beside the row under the policy, at the meter."""
    site = data["site"]
    words = f"At the meter: PUE {site['pue']:g}, {site['gco2_per_kwh']:g} g CO2e/kWh, grid {site['grid']}"
    words += f", {dollars(site['usd_per_kwh'])}/kWh." if site["usd_per_kwh"] is not None else "."
    rows: list[list[Cell]] = []
    for name, day in (("as it is", data["base"]["per_day"]), (data["outcome"]["policy"], data["outcome"]["per_day"])):
        usd = day["electricity_usd"]
        rows.append([
            text(name), amount(float(day["servers"]), str(day["servers"])), amount(day["facility_kwh"]),
            amount(usd, dollars(usd)), *(amount(day[key]) for key in ("operational_kgco2e", "embodied_kgco2e", "requests",
                                                                      "output_tokens", "output_tokens_per_kwh")),
        ])  # fmt: skip
    header = ("row", "servers", "kWh", "electricity", "kg CO2e", "of manufacture", "requests", "output tokens",
              "tokens per kWh")  # fmt: skip
    return parts.note(words) + parts.table(header, rows, about="energy by the day")


def _search(data: Mapping[str, Any]) -> str:
    if "search" not in data:
        return ""
    header = ("policy", "thresholds", "servers", "brakes/day", "uncapped peak", "peak", "mean", "low capped", "high capped",
              "commands", "holds")  # fmt: skip
    return parts.table(header, [_policy(outcome) for outcome in data["search"]], tall=True, about="search")
