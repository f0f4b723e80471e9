"""Names of the settings that a sweep may vary: those of what it asks, with a path into the ones that are mappings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from apex_sim.sweeps.commands import ASKED, NAMED_BY_TYPE, SIMULATE, known_settings
from hardware_profiles.errors import UserError, unknown_name


def setting_name(text: object, where: str, command: str = SIMULATE) -> str:
    """The setting that ``text`` names; dashes as on the command line are read as underscores."""
    if not isinstance(text, str):
        raise UserError(f"{where}: {text!r} is no name of a setting; write text")
    first, dot, rest = text.strip().removeprefix("--").partition(".")
    first = first.replace("-", "_")
    known, mappings = known_settings(command), ASKED[command].mappings
    if first not in known:
        raise UserError(f"{where}: {unknown_name('setting', first, known)}")
    name = first + dot + (rest if first in NAMED_BY_TYPE else rest.replace("-", "_"))
    if dot and first not in mappings:
        have = f"only {', '.join(mappings)} have" if mappings else "none has"
        raise UserError(f"{where}: {name}: {first} has no parts; {have}")
    return name


def is_whole(name: str, command: str = SIMULATE) -> bool:
    """Whether a setting takes whole numbers alone."""
    hint = known_settings(command).get(name, "")
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


def key_of(settings: Mapping[str, Any], command: str = SIMULATE) -> str:
    """Name of a run: 20 hexadecimal digits that depend on its settings and what is asked, and nothing else."""
    asked = settings if command == SIMULATE else {"command": command, "settings": settings}
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]
