"""Energy, money, emissions and work of a row by the day, as ``apex-sim power`` prints and writes them."""

from __future__ import annotations

from typing import Any

from apex_sim.text import dollars, number, table
from hardware_profiles.schema import Site
from planners.oversubscribe.account import Day


def account_text(site: Site, before: Day, after: Day, label: str) -> str:
    """Two days beside each other, and the change from one to the other."""
    header = ["", "kWh", "electricity", "kg CO2e", "of manufacture", "requests", "output tokens", "tokens per kWh"]
    rows = [_cells(f"as it is, {before.servers} servers", before), _cells(label, after), _changes(before, after)]
    price = f"${site.usd_per_kwh:.3g}/kWh"
    head = f"by the day, at the meter (PUE {site.pue:g}, {site.gco2_per_kwh:g} g CO2e/kWh, grid {site.grid}, {price})"
    return head + "\n" + table(header, rows)


def _cells(name: str, day: Day) -> list[str]:
    made = "unknown" if day.embodied_kgco2e is None else number(day.embodied_kgco2e, 4)
    return [
        name,
        number(day.facility_kwh, 4),
        dollars(day.electricity_usd),
        number(day.operational_kgco2e, 4),
        made,
        number(day.requests, 4),
        number(day.output_tokens, 4),
        number(day.tokens_per_kwh, 4),
    ]


def _changes(before: Day, after: Day) -> list[str]:
    pairs = [
        (before.facility_kwh, after.facility_kwh),
        (before.electricity_usd, after.electricity_usd),
        (before.operational_kgco2e, after.operational_kgco2e),
        (before.embodied_kgco2e, after.embodied_kgco2e),
        (before.requests, after.requests),
        (before.output_tokens, after.output_tokens),
        (before.tokens_per_kwh, after.tokens_per_kwh),
    ]
    return ["change", *[f"{100 * (new / old - 1):+.1f}%" if old and new is not None else "-" for old, new in pairs]]


def account_dict(day: Day) -> dict[str, Any]:
    """Per day; null: not known."""
    return {
        "servers": day.servers,
        "energy_kwh": day.server_kwh,
        "devices_energy_kwh": day.devices_kwh,
        "host_energy_kwh": day.host_kwh,
        "facility_kwh": day.facility_kwh,
        "electricity_usd": day.electricity_usd,
        "operational_kgco2e": day.operational_kgco2e,
        "embodied_kgco2e": day.embodied_kgco2e,
        "requests": day.requests,
        "output_tokens": day.output_tokens,
        "output_tokens_per_kwh": day.tokens_per_kwh,
    }
