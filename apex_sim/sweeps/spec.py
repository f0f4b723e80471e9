"""The file of a sweep: what is fixed, what varies, under which conditions, by which design."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apex_sim.sweeps.commands import ASKED, SIMULATE, defaults, known_settings
from apex_sim.sweeps.expressions import Expression, parse
from apex_sim.sweeps.settings import plain, setting_name
from hardware_profiles.errors import UserError, unknown_name
from hardware_profiles.records import read_yaml

DESIGNS = ("grid", "random", "latin-hypercube", "sobol")
TOP = ("command", "fixed", "vary", "constraints", "design")
OWN_COLUMNS = ("key", "status", "reason", "warnings")
"""Columns of every table, whatever varies."""
DIMENSION = ("values", "cases", "min", "max", "steps", "scale", "integer", "when")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """One thing that varies: a list of values, of cases, or a range."""

    name: str
    values: tuple[Any, ...] | None = None
    """Values of the setting, or names of cases; None: a range without steps."""
    cases: Mapping[str, Mapping[str, Any]] | None = None
    """Name -> settings, where one choice sets several."""
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    integer: bool = False
    when: Expression | None = None

    @property
    def sets(self) -> tuple[str, ...]:
        """Names that conditions may read once this is chosen."""
        inside = dict.fromkeys(name for case in (self.cases or {}).values() for name in case)
        return (self.name, *inside)

    def chosen(self, value: Any) -> dict[str, Any]:
        """What conditions see of a choice."""
        if value is None:
            return {}
        return {self.name: value, **(self.cases[value] if self.cases is not None else {})}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A checked sweep."""

    fixed: Mapping[str, Any]
    dimensions: tuple[Dimension, ...]
    constraints: tuple[Expression, ...]
    design: str
    points: int
    seed: int
    base: Path
    """Folder that relative paths start from."""
    source: Mapping[str, Any]
    """The file as it was read."""
    where: str
    command: str = SIMULATE
    """What is asked at every point."""

    @property
    def start(self) -> dict[str, Any]:
        """What conditions see before anything is chosen."""
        return {**defaults(self.command), **self.fixed}


def load_sweep(given: Mapping[str, Any] | str | Path) -> Sweep:
    """Read a sweep from a YAML file or a mapping of the same shape."""
    if isinstance(given, Mapping):
        return _sweep(given, Path.cwd(), "sweep")
    if not isinstance(given, str | Path):
        raise UserError(f"sweep is {given!r}; give a YAML file or a mapping with fixed and vary")
    path = Path(given)
    return _sweep(read_yaml(path), path.resolve().parent, str(path))


def _sweep(content: Mapping[str, Any], base: Path, where: str) -> Sweep:
    for name in content:
        if name not in TOP:
            raise UserError(f"{where}: {unknown_name('field', str(name), TOP)}")
    source: dict[str, Any] = plain(content, where)
    command = source.get("command", SIMULATE)
    if not isinstance(command, str) or command not in ASKED:
        raise UserError(f"{where}: {unknown_name('command', str(command), ASKED)}")
    fixed = {
        setting_name(name, f"{where}: fixed", command): value
        for name, value in _mapping(source.get("fixed"), f"{where}: fixed").items()
    }
    vary = _mapping(source.get("vary"), f"{where}: vary")
    if not vary:
        raise UserError(f"{where}: vary is missing; name the settings that vary, for example 'vary: {{tp: [1, 2, 4]}}'")
    dimensions = _dimensions(vary, fixed, f"{where}: vary", command)
    known = {*fixed, *known_settings(command), *(name for d in dimensions for name in d.sets)}
    for name in ASKED[command].needed:
        if not any(name in group for group in (fixed, *(d.sets for d in dimensions))):
            raise UserError(f"{where}: {name} is missing; set it under fixed or vary")
    constraints = source.get("constraints") or []
    if isinstance(constraints, str) or not isinstance(constraints, list):
        raise UserError(f"{where}: constraints must be a list of conditions, for example ['tp * pp * dp == 8']")
    kind, points, seed = _design(source.get("design"), f"{where}: design")
    if kind == "grid":
        for d in dimensions:
            if d.values is None:
                raise UserError(f"{where}: vary.{d.name}: a grid needs steps, or values; add 'steps: 5'")
    return Sweep(
        fixed=fixed,
        dimensions=dimensions,
        constraints=tuple(parse(c, f"{where}: constraints", _knows(known)) for c in constraints),
        design=kind,
        points=points,
        seed=seed,
        base=base,
        source=source,
        where=where,
        command=command,
    )


def _knows(known: set[str]) -> Any:
    return lambda name: name in known or name.partition(".")[0] in known


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UserError(f"{where} is {value!r}; write 'name: value' lines")
    return value


def _dimensions(vary: Mapping[str, Any], fixed: Mapping[str, Any], where: str, command: str) -> tuple[Dimension, ...]:
    found: list[Dimension] = []
    seen: set[str] = set()
    for text, content in vary.items():
        dimension = _dimension(text, content, where, {*fixed, *seen}, command)
        for name in dimension.sets:
            if name in seen or (name in fixed and dimension.cases is None):
                raise UserError(f"{where}.{text}: {name} is set twice; leave it once, under fixed or vary")
        seen.update(dimension.sets)
        found.append(dimension)
    return tuple(found)


def _dimension(text: str, content: Any, where: str, before: set[str], command: str) -> Dimension:
    place = f"{where}.{text}"
    body = content if isinstance(content, Mapping) else {"values": content}
    for part in body:
        if part not in DIMENSION:
            raise UserError(f"{place}: {unknown_name('field', part, DIMENSION)}")
    when = None
    if body.get("when") is not None:
        when = parse(body["when"], f"{place}.when", _knows(before | set(defaults(command))))
    kinds = [kind for kind in ("values", "cases", "min") if kind in body]
    if len(kinds) != 1:
        raise UserError(f"{place}: give one of values, cases, or min and max")
    if "cases" in body:
        return _cases(text, body["cases"], place, when, command)
    name = setting_name(text, where, command)
    if "values" in body:
        return Dimension(name=name, values=_values(body["values"], place), when=when)
    return _range(name, body, place, when, command)


def _values(values: Any, place: str) -> tuple[Any, ...]:
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise UserError(f"{place} is {values!r}; give a list of values, for example [1, 2, 4]")
    for i, value in enumerate(values):
        if any(value == other and type(value) is type(other) for other in values[:i]):
            raise UserError(f"{place}: {value!r} is listed twice; leave it once")
    return tuple(values)


def _cases(name: str, cases: Any, place: str, when: Expression | None, command: str) -> Dimension:
    if name in known_settings(command):
        raise UserError(f"{place}: cases have a name of their own; {name!r} is a setting")
    if name in OWN_COLUMNS:
        raise UserError(f"{place}: {name!r} is a column of every table; choose another name for these cases")
    found = {}
    for case, settings in _mapping(cases, f"{place}.cases").items():
        inside = _mapping(settings, f"{place}.cases.{case}")
        found[str(case)] = {setting_name(key, f"{place}.cases.{case}", command): value for key, value in inside.items()}
    if not found:
        raise UserError(f"{place}.cases is empty; write 'name: {{setting: value}}' lines")
    return Dimension(name=name, values=tuple(found), cases=found, when=when)


def _range(name: str, body: Mapping[str, Any], place: str, when: Expression | None, command: str) -> Dimension:
    from apex_sim.sweeps.settings import is_whole

    low, high = (_number(body.get(end), f"{place}.{end}") for end in ("min", "max"))
    scale, steps = body.get("scale", "linear"), body.get("steps")
    if scale not in ("linear", "log"):
        raise UserError(f"{place}.scale is {scale!r}; use linear or log")
    if not low < high:
        raise UserError(f"{place}: min is {low:g}, max {high:g}; max must be more")
    if scale == "log" and low <= 0:
        raise UserError(f"{place}.min is {low:g}; a log scale begins above 0")
    integer = body.get("integer", is_whole(name, command))
    if not isinstance(integer, bool):
        raise UserError(f"{place}.integer is {integer!r}; use true or false")
    for end, value in (("min", low), ("max", high)):
        if integer and value != int(value):
            raise UserError(f"{place}.{end} is {value:g}; {name} takes whole numbers, so its ends are whole")
    dimension = Dimension(name=name, low=low, high=high, log=scale == "log", integer=integer, when=when)
    if steps is None:
        return dimension
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 2:
        raise UserError(f"{place}.steps is {steps!r}; give a whole number from 2")
    from dataclasses import replace

    from apex_sim.sweeps.sampling import at

    return replace(dimension, values=tuple(dict.fromkeys(at(dimension, i / (steps - 1)) for i in range(steps))))


def _number(value: Any, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value in (float("inf"), float("-inf")):
        raise UserError(f"{place} is {value!r}; give a number")
    return float(value)


def _design(design: Any, where: str) -> tuple[str, int, int]:
    """Kind, points and seed."""
    body: Mapping[str, Any] = {"kind": design} if isinstance(design, str) else _mapping(design, where)
    for name in body:
        if name not in ("kind", "points", "seed"):
            raise UserError(f"{where}: {unknown_name('field', name, ('kind', 'points', 'seed'))}")
    kind = str(body.get("kind", "grid"))
    if kind not in DESIGNS:
        raise UserError(f"{where}.kind: {unknown_name('design', kind, DESIGNS)}")
    points: Any = body.get("points")
    seed: Any = body.get("seed", 0)
    if kind == "grid":
        if points is not None or "seed" in body:
            raise UserError(f"{where}: a grid has all its points; remove points and seed, or choose kind: random")
        return kind, 0, 0
    for name, value, least in (("points", points, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(f"{where}.{name} is {value!r}; give a whole number from {least}")
    return kind, int(points), int(seed)
