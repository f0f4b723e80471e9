"""Strict conversion between YAML mappings and the frozen dataclasses of the schema; every refusal is one line."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from hardware_profiles.errors import UserError

T = TypeVar("T")

POSITIVE_FIELDS = frozenset(
    {
        *("compute", "memory", "norm", "row_pad", "bandwidth1_bytes_per_s", "bandwidth2_bytes_per_s"),
        *("bandwidth3_bytes_per_s", "share4", "share8"),
        *("bandwidth_bytes_per_s", "efficiency", "dense_flop_per_s", "memory_bytes", "memory_bandwidth_bytes_per_s"),
        *(
            "write_bandwidth_bytes_per_s",
            "scaleup_domain",
            "tdp_w",
            "min_cap_w",
            "max_clock_mhz",
            "base_clock_mhz",
            "max_devices_per_node",
            "usd_per_hour",
        ),
        *("spot_usd_per_hour", "reserved_1y_usd_per_hour", "reserved_3y_usd_per_hour", "purchase_usd", "pue"),
        "lifetime_years",
        *("weight_elements_per_s", "busy_share", "bandwidth_share"),
        *("devices_per_node", "nodes"),
    }
)
"""Fields for which zero is a mistake too: time is divided by them, or nothing is left without them."""

_NUMBER_TEXT = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?")


def read_yaml(path: Path) -> Mapping[str, Any]:
    """Return the mapping at the top of a YAML file; syntax errors and other tops are user mistakes."""
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a YAML file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text; give a YAML file") from error
    except ValueError as error:  # a null character
        raise UserError(f"{str(path)!r} cannot be the name of a file; give a YAML file") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds {_shown(content)}; write 'field: value' lines")
    return content


def parse_yaml(text: str, place: str) -> Any:
    """Content of a YAML text; UserError names ``place``, the line and what is wrong, also for a field written twice."""
    import yaml

    try:
        return yaml.load(text, Loader=_strict_loader())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "unreadable"
        raise UserError(f"{place}: is not valid YAML{line}: {problem}; correct the syntax") from error


@lru_cache(maxsize=1)
def _strict_loader() -> Any:
    """Return PyYAML's safe loader (the C one where it is built) that refuses a field written twice."""
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    def construct_mapping(self: Any, node: Any, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value]
        twice = next((key for index, key in enumerate(keys) if key in keys[:index]), None)
        if twice is not None:
            problem = f"field {twice!r} is written twice"
            raise yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark)
        return base.construct_mapping(self, node, deep)

    return type("StrictLoader", (base,), {"construct_mapping": construct_mapping})


def from_mapping(cls: type[T], content: object, *, where: str, field: str = "") -> T:
    """Build the dataclass ``cls`` from a mapping, recursively. ``where`` names the file and ``field`` the way there."""
    if not isinstance(content, Mapping):
        raise UserError(f"{where}: {field or 'content'} is {_shown(content)}; write its fields as 'field: value' lines")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in content:
        if key not in fields:
            raise unknown_field(key, fields, where=where, prefix=field)
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, spec in fields.items():
        if name in content:
            values[name] = convert(hints[name], content[name], where=where, field=_join(field, name))
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            raise UserError(f"{where}: {_join(field, name)} is missing; add a line '{name}: ...'")
    return cls(**values)


def unknown_field(key: object, fields: Iterable[str], *, where: str, prefix: str = "") -> UserError:
    """Return (not raise) the error for a key the schema does not have, with the nearest name."""
    names = list(fields)
    near = difflib.get_close_matches(str(key), names, n=1, cutoff=0.5)
    remedy = f"did you mean '{near[0]}'?" if near else f"use one of {', '.join(names)}"
    return UserError(f"{where}: unknown field '{_join(prefix, str(key))}'; {remedy}")


def convert(hint: Any, value: object, *, where: str, field: str) -> Any:
    """Check ``value`` against a type hint of the schema and return it in that type (ints widen to floats)."""
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        inner = next(a for a in typing.get_args(hint) if a is not type(None))
        return None if value is None else convert(inner, value, where=where, field=field)
    if origin is Literal:
        return _choice(typing.get_args(hint), value, where=where, field=field)
    if origin is tuple:
        return _strings(value, where=where, field=field)
    if origin is not None and issubclass(origin, Mapping):
        return _table(typing.get_args(hint)[1], value, where=where, field=field)
    if dataclasses.is_dataclass(hint):
        return from_mapping(typing.cast("type[Any]", hint), value, where=where, field=field)
    if hint is bool:
        return _choice((True, False), value, where=where, field=field)
    if hint in (int, float):
        return _number(hint, value, where=where, field=field)
    return _text(value, where=where, field=field)


def fields_of(value: object, place: str) -> dict[str, Any]:
    """A mapping with text keys, of a part of a file; UserError names ``place`` where it is something else."""
    if not isinstance(value, Mapping):
        raise UserError(f"{place} is {value!r}; it must be a mapping of fields")
    return {str(key): item for key, item in value.items()}


def to_mapping(value: Any) -> dict[str, Any]:
    """Return the plain mapping of a dataclass, recursively; fields that equal their default are left out."""
    result: dict[str, Any] = {}
    for spec in dataclasses.fields(value):
        item = getattr(value, spec.name)
        default = spec.default_factory() if spec.default_factory is not dataclasses.MISSING else spec.default
        if default is dataclasses.MISSING or item != default:
            result[spec.name] = _plain(item)
    return result


def to_yaml(mapping: Mapping[str, Any]) -> str:
    """Return YAML text in the given order, in which every number reads back as the number it was."""
    import yaml

    return str(yaml.safe_dump(dict(mapping), sort_keys=False, allow_unicode=True, width=118))


def _plain(item: Any) -> Any:
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return to_mapping(item)
    if isinstance(item, Mapping):
        return {str(k): _plain(v) for k, v in item.items()}
    if isinstance(item, tuple | list):
        return [_plain(v) for v in item]
    if hasattr(item, "item"):  # numpy scalars, which YAML cannot write
        return item.item()
    return item


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _number(hint: type, value: object, *, where: str, field: str) -> int | float:
    kind = "a whole number" if hint is int else "a number"
    if isinstance(value, str) and _NUMBER_TEXT.fullmatch(value.strip()):
        raise UserError(f"{where}: {field} is the string {value!r}; write {_as_yaml_number(value)}, {kind} to YAML")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{where}: {field} is {_shown(value)}; write {kind}, such as 3.35e+12 or 80_000_000_000")
    if not math.isfinite(value):
        raise UserError(f"{where}: {field} is {value}; write a finite number")
    if hint is int and value != int(value):
        raise UserError(f"{where}: {field} is {value}; write a whole number")
    names = field.split(".")
    must_be_positive = names[-1] in POSITIVE_FIELDS or "dense_flop_per_s" in names
    if value < 0 or (value == 0 and must_be_positive):
        rule = "above zero" if must_be_positive else "zero or more"
        raise UserError(f"{where}: {field} is {value}; it must be {rule}")
    return hint(value)  # type: ignore[no-any-return]


def _as_yaml_number(text: str) -> str:
    """Spell a number that PyYAML took for a string in the way it reads as a number: unquoted, with 1.0e+12 for 1e12."""
    mantissa, _, exponent = text.strip().lower().partition("e")
    if not exponent:
        return mantissa
    sign = "" if exponent[0] in "+-" else "+"
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{sign}{exponent}"


def _choice(choices: tuple[Any, ...], value: object, *, where: str, field: str) -> Any:
    if value in choices:
        return value
    near = difflib.get_close_matches(str(value), [str(c) for c in choices], n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise UserError(f"{where}: {field} is {_shown(value)}; {hint}use one of {', '.join(map(str, choices))}")


def _strings(value: object, *, where: str, field: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise UserError(f"{where}: {field} is {_shown(value)}; write a list such as [a, b]")
    return tuple(_text(item, where=where, field=f"{field}[{index}]") for index, item in enumerate(value))


def _table(hint: Any, value: object, *, where: str, field: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: {field} is {_shown(value)}; write 'key: value' lines below it")
    return {str(k): convert(hint, v, where=where, field=_join(field, str(k))) for k, v in value.items()}


def _text(value: object, *, where: str, field: str) -> str:
    if isinstance(value, date):  # an unquoted 2026-03-01 is a date to YAML
        return value.isoformat()
    if isinstance(value, bool):
        raise UserError(
            f"{where}: {field} is {_shown(value)}; write text, in quotes: a bare no or yes is a boolean to YAML"
        )
    if not isinstance(value, str):
        raise UserError(f"{where}: {field} is {_shown(value)}; write text, in quotes if it looks like a number")
    return value


def _shown(value: object) -> str:
    """Describe a wrong value in a few words of one line."""
    if value is None:
        return "empty"
    kinds = {str: "the string", bool: "the boolean", int: "the number", float: "the number", list: "the list"}
    kind = kinds.get(type(value), f"a {type(value).__name__}")
    text = " ".join(repr(value).split())
    return f"{kind} {text if len(text) <= 60 else text[:57] + '...'}"
