"""The account of pools that serve the same requests together: their sums, on one meter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simulator.accounting.account import Usage, account
from simulator.accounting.rates import Rates
from simulator.physics.sums import in_order

RATIOS = ("pue", "gco2_per_kwh")
"""Fields that do not add up: their mean, weighted by the energy at the meter."""


def account_pools(parts: Sequence[tuple[Usage, Rates]]) -> dict[str, Any]:
    """Fields as :func:`account` has them. Every part's usage counts all requests and tokens of the run, so figures per
    request and per token add up like the rest. A figure that one part does not know is not known."""
    figures = [account(usage, rates) for usage, rates in parts]
    total = {name: _sum([one[name] for one in figures]) for name in figures[0] if name not in RATIOS}
    weights = [one["facility_kwh"] or 0.0 for one in figures]
    return {
        name: _mean([one[name] for one in figures], weights) if name in RATIOS else total[name] for name in figures[0]
    }


def sum_usage(parts: Sequence[Usage]) -> Usage:
    """Devices and joules of all parts, over the same requests and time; the share of prompts is by device-time."""
    devices = sum(part.devices for part in parts)
    first = parts[0]
    return Usage(
        devices=devices,
        duration_s=first.duration_s,
        prefill_j=in_order(part.prefill_j for part in parts),
        decode_j=in_order(part.decode_j for part in parts),
        idle_j=in_order(part.idle_j for part in parts),
        prefill_share=in_order(part.prefill_share * part.devices for part in parts) / devices,
        input_tokens=first.input_tokens,
        output_tokens=first.output_tokens,
        requests=first.requests,
    )


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return in_order(known) if len(known) == len(values) else None


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    if len(set(values)) == 1 or not sum(weights):
        return values[0]
    return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)
