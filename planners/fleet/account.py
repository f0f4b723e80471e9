"""What a simulated fleet costs, draws and emits: the sum over its types, idle instances included."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from planners.fleet.check import Checked
from planners.fleet.day import DayPlan
from planners.fleet.instance import Candidate
from planners.fleet.schedule import started
from simulator.accounting.account import Usage, account
from simulator.accounting.rates import SECONDS_PER_HOUR, Rates
from simulator.physics.power import idle_w_of
from simulator.physics.sums import in_order
from simulator.result import SimulationResult
from workloads.trace import Trace

Spent = dict[str, Any]
"""What adds up: device_s, usd, energy_j, facility_kwh, operational_gco2e, embodied_gco2e, gco2e, output_tokens, requests
(completed); None where a figure is not known."""


def fleet_span_s(checked: Checked, trace: Trace) -> float:
    """From the trace's first arrival to the last token of any type [s]: all instances are held as long."""
    results = [result for result in checked.results if result is not None]
    ends = [float(np.nanmin(result.column("arrival_s"))) + result.duration_s for result in results]
    return max([*ends, float(trace.arrival_s[-1])]) - float(trace.arrival_s[0])


def usage_over(candidate: Candidate, count: int, result: SimulationResult | None, span_s: float) -> Usage:
    """Of ``count`` instances held for ``span_s``; idle before, between and after the requests of their own."""
    devices, idle_w = count * candidate.tp, idle_w_of(candidate.cluster.device)
    if result is None:
        return Usage(
            devices=devices,
            duration_s=span_s,
            prefill_j=0.0,
            decode_j=0.0,
            idle_j=idle_w * devices * span_s,
            prefill_share=0.0,
            input_tokens=0,
            output_tokens=0,
            requests=0,
        )
    usage = result.usage
    idle_j = usage.idle_j + idle_w * devices * (span_s - usage.duration_s)
    return dataclasses.replace(usage, duration_s=span_s, idle_j=max(0.0, idle_j))


def spent_on(usage: Usage, rates: Rates) -> Spent:
    """One type's part."""
    figures = account(usage, rates)
    hourly = figures["usd_per_hour"]
    operational, embodied = figures["operational_gco2e"], figures["embodied_gco2e"]
    return {
        "device_s": usage.device_s,
        "usd": None if hourly is None else hourly * usage.duration_s / SECONDS_PER_HOUR,
        "energy_j": figures["energy_j"],
        "facility_kwh": figures["facility_kwh"],
        "operational_gco2e": operational,
        "embodied_gco2e": embodied,
        "gco2e": None if operational is None else operational + (embodied or 0.0),
        "output_tokens": usage.output_tokens,
        "requests": usage.requests,
    }


def total(parts: Sequence[Spent]) -> Spent:
    """The sum; a figure that one part does not know is not known, but nothing spent needs no figures."""
    known = [part for part in parts if part["device_s"]] or list(parts[:1])
    return {
        name: None if any(part[name] is None for part in known) else in_order(part[name] for part in known)
        for name in known[0]
    }


def unit_costs(spent: Spent) -> Spent:
    """The sums and what they come to per token and request."""

    def per(name: str, count: str, scale: float = 1.0) -> float | None:
        amount, number = spent[name], spent[count]
        return None if amount is None or not number else float(amount / number * scale)

    return {
        **spent,
        "usd_per_million_output_tokens": per("usd", "output_tokens", 1e6),
        "usd_per_request": per("usd", "requests"),
        "joules_per_output_token": per("energy_j", "output_tokens"),
        "facility_kwh_per_million_output_tokens": per("facility_kwh", "output_tokens", 1e6),
        "gco2e_per_request": per("gco2e", "requests"),
        "gco2e_per_million_output_tokens": per("gco2e", "output_tokens", 1e6),
    }


def fleet_account(
    candidates: Sequence[Candidate], counts: Sequence[int], checked: Checked | None, span_s: float
) -> list[Spent]:
    """Per type, over ``span_s``."""
    results = [None] * len(candidates) if checked is None else checked.results
    return [
        spent_on(usage_over(candidate, count, result, span_s), Rates.of(candidate.cluster))
        for candidate, count, result in zip(candidates, counts, results, strict=True)
    ]


def day_account(candidates: Sequence[Candidate], plan: DayPlan) -> list[Spent]:
    """Per type over the day: every window's instances for its length, and the start-up time of those that start."""
    assert plan.checked is not None
    windows = [
        fleet_account(candidates, counts, checked, 3600.0 * hours)
        for counts, checked, hours in zip(
            plan.schedule.counts.tolist(), plan.checked, plan.day.hours.tolist(), strict=True
        )
    ]
    starts = started(plan.schedule.counts).sum(axis=0).tolist()
    windows.append(fleet_account(candidates, starts, None, plan.day.startup_s))
    return [total([window[j] for window in windows]) for j in range(len(candidates))]
