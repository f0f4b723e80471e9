"""What a simulated fleet costs, draws and emits, as text and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from apex_sim.text import dollars, number
from planners.fleet.account import Spent, total, unit_costs


def with_account(data: dict[str, Any], parts: Sequence[Spent], span_s: float) -> dict[str, Any]:
    """``data`` of a fleet or a day with ``account``: of each type, and of all."""
    types = [{**entry, "account": unit_costs(part)} for entry, part in zip(data["types"], parts, strict=True)]
    return {**data, "types": types, "account": {"duration_s": span_s, **unit_costs(total(parts))}}


def account_lines(account: dict[str, Any]) -> list[str]:
    """Two lines: dollars, then joules and grams."""
    span_s, million = account["duration_s"], account["gco2e_per_million_output_tokens"]
    time = f"{number(span_s / 3600)} h" if span_s >= 3600 else f"{number(span_s)} s"
    lines = [
        f"Over the trace ({time}): {dollars(account['usd'])}, {dollars(account['usd_per_million_output_tokens'])} per 1M "
        f"output tokens, {dollars(account['usd_per_request'])} per request",
    ]
    if account["energy_j"] is None:
        return [*lines, "  energy and carbon unknown: a device has neither power nor TDP in its profile"]
    part = "" if account["embodied_gco2e"] is not None else ", manufacture of some devices not known"
    return [
        *lines,
        f"  {number(account['joules_per_output_token'])} J per output token, {number(account['facility_kwh'])} kWh at the "
        f"meter, {number(million)} gCO2e per 1M output tokens{part}",
    ]
