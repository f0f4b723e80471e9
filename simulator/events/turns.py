"""Turns of models on the same devices: who has them, and when weights are loaded."""

from __future__ import annotations

from collections.abc import Iterator

from simulator.events.text import Group, event, ns, us
from simulator.result import SimulationResult
from simulator.several.result import SeveralResult

FIRST = 500
"""Process of the first group's first replica."""


def turn_names(result: SimulationResult) -> list[tuple[int, str, list[str]]]:
    """(process, name, models in the order of their places) of all devices that models share."""
    if not isinstance(result, SeveralResult):
        return []
    found: list[tuple[int, str, list[str]]] = []
    for group, members in result.several.groups.items():
        if len(members) < 2:
            continue
        names = [member.name for member in members]
        copies = members[0].deployment.plan.dp
        for place in range(copies):
            which = f" {place}" if copies > 1 else ""
            found.append((FIRST + len(found), f"turns on devices{which} of group {group}", names))
    return found


def turn_groups(result: SimulationResult) -> Iterator[Group]:
    """Slices named as the models, until the next one's turn begins; before them the load of weights."""
    if not isinstance(result, SeveralResult):
        return
    last = round(1e9 * result.record.end_s)
    for (process, _, names), turns in zip(turn_names(result), result.record.turns, strict=True):
        history = turns.history
        ends = [ns(begin) for begin, *_ in history[1:]] + [last]
        for (begin_tick, ready_tick, place, loads), end in zip(history, ends, strict=True):
            begin, ready = ns(begin_tick), ns(ready_tick)
            if loads:
                yield _slice(f"load {names[place]}", "load", begin, ready, process)
            if end > ready:
                yield _slice(names[place], "turn", ready, end, process)


def _slice(name: str, category: str, begin: int, end: int, process: int) -> Group:
    text = event("X", name, begin, process, tid="1", cat=f'"{category}"', dur=us(end - begin))
    return Group(begin, end, [(begin, text)])
