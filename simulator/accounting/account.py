"""The account of one run: what the cluster's terms and site make of its time and energy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hardware_profiles.terms import HOURS_PER_MONTH
from simulator.accounting.rates import Rates


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a run used, and what it made of it."""

    devices: int
    duration_s: float
    prefill_j: float
    """Devices, steps of prompts and what prompts add to the steps of others."""
    decode_j: float
    idle_j: float
    """Devices with no step in flight."""
    prefill_share: float
    """Share of the busy time that prompts caused, 0 to 1."""
    input_tokens: int
    output_tokens: int
    requests: int
    """Completed."""
    held_device_s: float | None = None
    """Where replicas come and go: time for which devices are held, added up [s]; None: all of them, all the time."""

    @property
    def device_s(self) -> float:
        """Time for which the devices are held [s]."""
        return self.devices * self.duration_s if self.held_device_s is None else self.held_device_s

    @property
    def device_j(self) -> float:
        """Energy of the devices [J]."""
        return self.prefill_j + self.decode_j + self.idle_j


def account(usage: Usage, rates: Rates) -> dict[str, Any]:
    """Fields of the summary: energy by part, dollars, emissions; None where a figure is not known or nothing was done."""
    energy, carbon = _energy(usage, rates), _carbon(usage, rates)
    if not rates.power_known:
        energy = {name: value if name == "pue" else None for name, value in energy.items()}
        carbon = {name: value if name in ("gco2_per_kwh", "embodied_gco2e") else None for name, value in carbon.items()}
    return {**energy, **_money(usage, rates), **carbon}


def _energy(usage: Usage, rates: Rates) -> dict[str, Any]:
    joules = usage.device_j
    kwh = rates.facility_kwh(usage.device_s, joules)
    return {
        "energy_j": joules,
        "prefill_energy_j": usage.prefill_j,
        "decode_energy_j": usage.decode_j,
        "idle_energy_j": usage.idle_j,
        "joules_per_output_token": _per(joules, usage.output_tokens),
        "joules_per_request": _per(joules, usage.requests),
        "prefill_joules_per_input_token": _per(usage.prefill_j, usage.input_tokens),
        "decode_joules_per_output_token": _per(usage.decode_j, usage.output_tokens),
        "average_power_w": joules / usage.duration_s if usage.duration_s else 0.0,
        "host_energy_j": rates.host_j(usage.device_s, joules),
        "pue": rates.pue,
        "facility_kwh": kwh,
        "facility_kwh_per_million_output_tokens": _per(kwh, usage.output_tokens, 1e6),
    }


def _money(usage: Usage, rates: Rates) -> dict[str, Any]:
    usd = rates.usd(usage.device_s, usage.device_j)
    hours = usage.duration_s / 3600
    hourly = None if usd is None else usd / hours if hours else _rent(usage, rates)
    tokens = usage.input_tokens + usage.output_tokens
    prompts = None if usd is None else usd * usage.prefill_share
    outputs = None if usd is None or prompts is None else usd - prompts
    return {
        "usd_per_hour": hourly,
        "usd_per_month": None if hourly is None else HOURS_PER_MONTH * hourly,
        "usd_per_request": _per(usd, usage.requests),
        "usd_per_million_output_tokens": _per(usd, usage.output_tokens, 1e6),
        "usd_per_million_tokens": _per(usd, tokens, 1e6),
        "break_even_usd_per_million_input_tokens": _per(prompts, usage.input_tokens, 1e6),
        "break_even_usd_per_million_output_tokens": _per(outputs, usage.output_tokens, 1e6),
    }


def _rent(usage: Usage, rates: Rates) -> float | None:
    return None if rates.usd_per_device_hour is None else rates.usd_per_device_hour * usage.devices


def _carbon(usage: Usage, rates: Rates) -> dict[str, Any]:
    total = rates.gco2e(usage.device_s, usage.device_j)
    return {
        "gco2_per_kwh": rates.gco2_per_kwh,
        "operational_gco2e": rates.operational_g(usage.device_s, usage.device_j),
        "embodied_gco2e": rates.embodied_g(usage.device_s),
        "gco2e_per_request": _per(total, usage.requests),
        "gco2e_per_million_output_tokens": _per(total, usage.output_tokens, 1e6),
    }


def _per(amount: float | None, count: int, scale: float = 1.0) -> float | None:
    return None if amount is None or not count else amount / count * scale
