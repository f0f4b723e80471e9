"""The last wave of a search: the highest rate that the best plans serve within the SLO."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from planners.demand import WorkloadStats
from planners.outcome import Entry
from planners.pools import bound_any

if TYPE_CHECKING:
    from planners.search import Search

RATE_FINALISTS = 3
"""Plans whose highest rate is searched on the whole trace."""
WAVE = 4
"""Layouts whose rates are searched on the stretch between two looks at what can still win."""


def find_max_rates(search: Search, by_rate: bool) -> None:
    """Highest rates of the best plans; when the highest rate decides, of all that may have it."""
    full = sorted((e for e in search.entries if e.measured), key=lambda e: search.key(e.measured))
    entries = full[: max(1, min(search.top, RATE_FINALISTS))]
    if by_rate:
        entries = _fastest(search)
        search.full(entries)
    for entry, rate in zip(entries, search.evaluator.max_rates("full", [e.candidate for e in entries]), strict=True):
        entry.max_rate_per_s = rate


def _fastest(search: Search) -> list[Entry]:
    """The layouts with the highest rates on the busiest stretch, in waves by falling capacity bound."""
    waiting = [e for e in search.entries if e.screen is not None and e.bounds is not None and not search.hopeless(e)]
    if not waiting:
        return [e for e in search.entries if e.measured][:1]
    waiting.sort(key=lambda e: -e.bounds.capacity_per_s if e.bounds else 0.0)
    found: list[tuple[float, int, Entry]] = []
    while waiting:
        wave, waiting = waiting[:WAVE], waiting[WAVE:]
        rates = search.evaluator.max_rates("screen", [e.candidate for e in wave])
        search.fates.stretch_rate |= {e.candidate: rate for e, rate in zip(wave, rates, strict=True)}
        found += [(-rate, len(found) + i, entry) for i, (rate, entry) in enumerate(zip(rates, wave, strict=True))]
        found.sort(key=lambda item: item[:2])
        least = -found[min(len(found), RATE_FINALISTS) - 1][0]
        waiting = [e for e in waiting if e.bounds and (len(found) < RATE_FINALISTS or _reach(search, e) > least)]
    for entry in search.entries:
        if entry.screen is not None and entry.bounds and entry.candidate not in search.fates.stretch_rate:
            entry.reason = f"its capacity, at most {entry.bounds.capacity_per_s:.3g} req/s, rules out a higher rate"
    return [entry for _, _, entry in found[:RATE_FINALISTS]]


def _reach(search: Search, entry: Entry) -> float:
    """A rate of the busiest stretch the entry will not exceed: its capacity, stretched by the time the SLO gives."""
    assert entry.bounds is not None and search.slo is not None
    stretch = bound_any(search.deployments[entry.candidate], WorkloadStats.of(search.short, search.seed), None)
    slack_s = max(search.slo.ttft_s or 0.0, search.slo.e2e_s or 0.0)
    busy_s = search.slo.attainment * len(search.short) / stretch.capacity_per_s
    return math.inf if slack_s >= busy_s else stretch.capacity_per_s / (1 - slack_s / busy_s)
