"""Settings of synthetic prompts as text, ``groups=8,tokens=uniform(100,200)``: the mapping a workload YAML has there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hardware_profiles.errors import UserError


def pairs(given: str | Mapping[str, Any], place: str) -> Mapping[str, Any]:
    """The mapping that text stands for: KEY=VALUE with commas between, or YAML in braces; a mapping itself as it is."""
    import yaml

    if isinstance(given, Mapping):
        return given
    if not isinstance(given, str) or not given.strip():
        raise UserError(f"{place} is {given!r}; write KEY=VALUE,..., such as groups=8,tokens=512")
    if given.lstrip().startswith("{"):
        return _braces(given, place)
    found: dict[str, Any] = {}
    for item in re.findall(r"(?:[^,()]|\([^()]*\))+", given):
        key, equals, value = item.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise UserError(f"{place} {given!r}: '{item}' is not KEY=VALUE, such as groups=8,tokens=512")
        if key.strip() in found:
            raise UserError(f"{place} {given!r}: {key.strip()} is given twice")
        try:
            found[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(
                f"{place} {given!r}: {key.strip()} is {value!r}; write a number, a word or a distribution"
            ) from None
    return found


def _braces(text: str, place: str) -> Mapping[str, Any]:
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    if not isinstance(value, Mapping):
        raise UserError(f"{place} is {text!r}; in braces it must be a mapping, such as {{groups: 8, tokens: 512}}")
    return value
