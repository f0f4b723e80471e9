"""Names of the settings that a sweep may vary: those of ``simulate``, with a path into the ones that are mappings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from hardware_profiles.errors import UserError, unknown_name

MAPPINGS = ("elasticity", "speculative_config", "disaggregate")
"""Settings that are mappings: ``elasticity.startup_s`` names a part."""
NOT_SWEPT = ("progress", "settings")


@lru_cache(maxsize=1)
def known_settings() -> Mapping[str, str]:
    """Name -> annotation of every setting of ``simulate``."""
    import inspect

    from apex_sim.api import AllSettings, simulate

    named = inspect.signature(simulate).parameters
    found = {name: str(p.annotation) for name, p in named.items() if name not in NOT_SWEPT}
    kinds = AllSettings.__mro__ if hasattr(AllSettings, "__mro__") else (AllSettings,)
    for kind in kinds:
        for name, hint in getattr(kind, "__annotations__", {}).items():
            found.setdefault(name, str(getattr(hint, "__forward_arg__", hint)))
    return found


@lru_cache(maxsize=1)
def defaults() -> Mapping[str, Any]:
    """What settings with a default are when nothing names them, for conditions: tp is 1."""
    import inspect

    from apex_sim.api import simulate

    named = inspect.signature(simulate).parameters.items()
    return {n: p.default for n, p in named if p.default is not p.empty and n not in NOT_SWEPT}


def setting_name(text: object, where: str) -> str:
    """The setting that ``text`` names; dashes as on the command line are read as underscores."""
    if not isinstance(text, str):
        raise UserError(f"{where}: {text!r} is no name of a setting; write text")
    name = text.strip().removeprefix("--").replace("-", "_")
    first, dot, _ = name.partition(".")
    if first not in known_settings():
        raise UserError(f"{where}: {unknown_name('setting', first, known_settings())}")
    if dot and first not in MAPPINGS:
        raise UserError(f"{where}: {name}: {first} has no parts; only {', '.join(MAPPINGS)} have")
    return name


def is_whole(name: str) -> bool:
    """Whether a setting takes whole numbers alone."""
    hint = known_settings().get(name, "")
    return "int" in hint and "float" not in hint and "str" not in hint


def plain(value: Any, where: str) -> Any:
    """The value as JSON has it; UserError for what YAML reads as something else, such as a date."""
    if value is None or isinstance(value, bool | int | float | str):
        if isinstance(value, float) and value != value:
            raise UserError(f"{where} is not a number (NaN); give a number")
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, where) for item in value]
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return plain(value.item(), where)
    raise UserError(f"{where} is {value!r}; give text, a number, a list or a mapping")


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with dotted names put into their mappings; settings that are None are left to their defaults."""
    found: dict[str, Any] = {}
    for name, value in flat.items():
        if value is None:
            continue
        *path, last = name.split(".")
        place = found
        for part in path:
            inner = place.get(part)
            place[part] = dict(inner) if isinstance(inner, Mapping) else {}
            place = place[part]
        place[last] = value
    return found


def key_of(settings: Mapping[str, Any]) -> str:
    """Name of a run: 20 hexadecimal digits that depend on its settings and nothing else."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]
