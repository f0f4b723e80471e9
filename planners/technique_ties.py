"""Candidates that can only tie with the best plan: those that may be faster are simulated, a few at least."""

from __future__ import annotations

from planners.outcome import TIE, Entry, ties_with
from planners.pool import Measured
from planners.technique_families import Family, is_open
from planners.technique_search import WAVE, TechniqueSearch

MOST_TIES = 4
"""Of those that can only tie with the best plan, on as many devices: so many are simulated for their latency."""


def polish(techniques: TechniqueSearch) -> None:
    """Of what ties with the best plan at most, on as many devices: what may be faster is run, a few at least."""
    search, left = techniques.search, list(techniques.ties)
    bounding, runs = techniques.bounding, 0
    while left:
        best = search.leader()
        left, out = _split(techniques, left, best)
        for item in out:
            bounding.leave(item, search.hopes.no_better(techniques.stand_in(item), best) if best is not None else "")
        if best is None or not left:
            break
        left.sort(key=lambda item: (_latency(item), techniques.number(item)))
        if runs >= MOST_TIES:
            for item in left:
                bounding.leave(
                    item, f"ties at best on as many GPUs; not simulated: {MOST_TIES} that may be faster were"
                )
            break
        wave: list[Entry] = []
        while left and len(wave) < WAVE:
            item = left.pop(0)
            if isinstance(item, Entry):
                wave.append(item)
            elif not item.is_bounded:
                left += [item] if bounding.family(item) else []
            else:
                left += [entry for entry in item.members if is_open(entry) and bounding.entry(entry)]
            left.sort(key=lambda item: (_latency(item), techniques.number(item)))
        runs += len(wave)
        techniques.run(wave)


def _latency(item: Entry | Family) -> float:
    assert item.bounds is not None
    return item.bounds.mean_e2e_s


def _split(
    techniques: TechniqueSearch, items: list[Entry | Family], best: Measured | None
) -> tuple[list[Entry | Family], list[Entry | Family]]:
    """(those that may tie with the best plan and be faster, the others)."""
    if best is None:
        return items, []
    hopes, metrics = techniques.search.hopes, best.metrics
    may: list[Entry | Family] = []
    out: list[Entry | Family] = []
    for item in items:
        entry = techniques.stand_in(item)
        ties = ties_with(hopes.at_best(entry), metrics[hopes.field]) or hopes.can_beat(entry, best)
        faster = _latency(item) * 1e3 < (1 - TIE) * metrics["mean_e2el_ms"]
        devices = entry.candidate.num_devices == metrics["num_gpus"]
        (may if ties and faster and devices else out).append(item)
    return may, out
