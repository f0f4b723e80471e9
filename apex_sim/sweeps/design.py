"""The points of a sweep, in the order of the final table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from apex_sim.sweeps.expressions import Expression
from apex_sim.sweeps.sampling import drawn, unit_points
from apex_sim.sweeps.settings import key_of, nested
from apex_sim.sweeps.spec import Dimension, Sweep
from hardware_profiles.errors import UserError

MOST = 1_000_000
"""Points of a sweep, and combinations that are looked at to find them."""
TRIES = 200
"""Draws per point wanted before a design is called too small."""


@dataclass(frozen=True, slots=True)
class Point:
    """One run: its key, what the design chose (a name of every dimension; None where it does not apply), all settings."""

    key: str
    chosen: dict[str, Any]
    settings: dict[str, Any]


def points_of(sweep: Sweep) -> list[Point]:
    """All points, each once."""
    drawn = _grid(sweep) if sweep.design == "grid" else _drawn(sweep)
    found: dict[str, Point] = {}
    for tries, chosen in enumerate(drawn, 1):
        if chosen is not None:
            point = _point(sweep, chosen)
            found.setdefault(point.key, point)
        if len(found) > MOST:
            raise UserError(f"{sweep.where}: more than {MOST:,} points; vary less, or use design random")
        if sweep.design != "grid" and (len(found) == sweep.points or tries >= TRIES * sweep.points):
            break
    if not found:
        raise UserError(f"{sweep.where}: no point meets the constraints; loosen them or vary more")
    return list(found.values())


def _point(sweep: Sweep, chosen: dict[str, Any]) -> Point:
    flat = dict(sweep.fixed)
    for dimension in sweep.dimensions:
        value = chosen[dimension.name]
        if value is None:
            continue
        flat |= dimension.cases[value] if dimension.cases is not None else {dimension.name: value}
    settings = nested(flat)
    return Point(key_of(settings, sweep.command), chosen, settings)


def combinations(
    dimensions: Sequence[Dimension], constraints: Sequence[Expression], start: dict[str, Any], where: str
) -> Iterator[dict[str, Any]]:
    """All choices of dimensions with values that meet the constraints, the last one fastest.

    A dimension whose condition does not hold is None. A constraint is checked as soon as all it reads is chosen.
    """
    ready = [_ready(dimensions, i, constraints) for i in range(len(dimensions))]
    looked = 0

    def below(i: int, seen: dict[str, Any], chosen: dict[str, Any]) -> Iterator[dict[str, Any]]:
        nonlocal looked
        if i == len(dimensions):
            yield chosen
            return
        dimension = dimensions[i]
        applies = dimension.when is None or dimension.when.holds(seen)
        assert dimension.values is not None
        for value in dimension.values if applies else (None,):
            looked += 1
            if looked > 10 * MOST:
                raise UserError(f"{where}: more than {10 * MOST:,} combinations; vary less, or use design random")
            now = {**seen, **(dimension.chosen(value) if applies else {})}
            if all(constraint.holds(now) for constraint in ready[i]):
                yield from below(i + 1, now, {**chosen, dimension.name: value})

    yield from below(0, start, {})


def _ready(dimensions: Sequence[Dimension], i: int, constraints: Sequence[Expression]) -> list[Expression]:
    """Constraints whose last name is chosen by dimension ``i``; those about none of them are checked by the first."""
    last = {name: j for j, dimension in enumerate(dimensions) for name in dimension.sets}
    return [c for c in constraints if max((last.get(name, 0) for name in c.names), default=0) == i]


def _grid(sweep: Sweep) -> Iterator[dict[str, Any]]:
    return combinations(sweep.dimensions, sweep.constraints, sweep.start, sweep.where)


def _drawn(sweep: Sweep) -> Iterator[dict[str, Any] | None]:
    """Points of a random design; None for one that a constraint refuses.

    Dimensions with values that conditions tie together are drawn together, from their combinations that meet them.
    """
    groups = _groups(sweep)
    ranges = [d for d in sweep.dimensions if d.values is None]
    order = [d.name for d in sweep.dimensions]
    for row in unit_points(sweep.design, sweep.points, len(groups) + len(ranges), sweep.seed):
        chosen: dict[str, Any] = {}
        for share, group in zip(row, groups, strict=False):
            chosen |= group[int(share * len(group))]
        chosen |= {d.name: drawn(d, float(share)) for share, d in zip(row[len(groups) :], ranges, strict=True)}
        yield _allowed(sweep, {name: chosen[name] for name in order})


def _allowed(sweep: Sweep, chosen: dict[str, Any]) -> dict[str, Any] | None:
    seen = sweep.start
    for dimension in sweep.dimensions:
        if dimension.when is not None and not dimension.when.holds(seen):
            chosen[dimension.name] = None
        seen |= dimension.chosen(chosen[dimension.name])
    return chosen if all(constraint.holds(seen) for constraint in sweep.constraints) else None


def _groups(sweep: Sweep) -> list[list[dict[str, Any]]]:
    """Combinations of every group of dimensions with values."""
    listed = [d for d in sweep.dimensions if d.values is not None]
    owner = {name: d.name for d in sweep.dimensions for name in d.sets}
    discrete = {d.name for d in listed}
    label = {d.name: d.name for d in listed}
    touched_by = [(c, {owner[name] for name in c.names if name in owner}) for c in sweep.constraints]
    settled = [(c, touched) for c, touched in touched_by if touched and touched <= discrete]
    tied = [touched for _, touched in settled]
    tied += [{d.name, *(owner[n] for n in d.when.names if n in owner)} & discrete for d in listed if d.when is not None]
    for touched in tied:
        together = {label[name] for name in touched}
        label = {name: min(together) if mark in together else mark for name, mark in label.items()}
    groups = []
    for mark in dict.fromkeys(label.values()):
        members = [d for d in listed if label[d.name] == mark]
        inside = [c for c, touched in settled if {label[name] for name in touched} == {mark}]
        groups.append(list(_bare(members, inside, sweep)))
    if any(not group for group in groups):
        raise UserError(f"{sweep.where}: no point meets the constraints; loosen them or vary more")
    return groups


def _bare(members: list[Dimension], inside: list[Expression], sweep: Sweep) -> Iterator[dict[str, Any]]:
    """Conditions that read a range are left to the draw."""
    from dataclasses import replace

    ranges = {d.name for d in sweep.dimensions if d.values is None}
    kept = [replace(d, when=None) if d.when is not None and d.when.names & ranges else d for d in members]
    return combinations(kept, inside, sweep.start, sweep.where)
