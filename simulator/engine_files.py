"""Where engine profiles come from: files, what they inherit, and what changed between versions of an engine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from hardware_profiles.errors import UserError, unknown_name
from hardware_profiles.records import parse_yaml

ALIASES = {"vllm": "vllm-v1", "v1": "vllm-v1", "v0": "vllm-v0", "fastertransformer": "static"}
_NOT_INHERITED = ("base", "versions", "predecessor")
_VERSION = re.compile(r"v?(\d+(?:\.\d+)*)(?:\.?(?:rc|a|b|post|dev)\d*.*|[+-].*)?")

Version = tuple[int, ...]


def engine_names() -> list[str]:
    """Names of the built-in engine profiles."""
    folder = resources.files("simulator").joinpath("engines")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def has_versions(name: str) -> bool:
    """Whether ``name@VERSION`` exists: the profile (not one it is based on) lists its versions."""
    data, _, _ = _read(name.partition("@")[0], None)
    return "versions" in data


def profile_fields(name: str) -> tuple[dict[str, Any], str]:
    """Fields of the profile ``NAME``, ``NAME@VERSION`` or ``FILE.yaml[@VERSION]`` and the file to name in errors.

    A file may say ``base: NAME[@VERSION]`` and give only what differs (``sources`` are joined). ``versions`` lists what
    changed, oldest first: a version has every row that it is not older than, no version has them up to the file's own
    ``version``. A version older than the first row is one of the ``predecessor``'s, if the file names one.
    """
    return _resolve(name, None, ())


def _resolve(name: str, folder: Path | None, seen: tuple[str, ...]) -> tuple[dict[str, Any], str]:
    text, _, version = name.partition("@")
    data, place, here = _read(text, folder)
    if place in seen:
        raise UserError(f"{place}: base leads back to itself ({' -> '.join((*seen, place))}); remove one of them")
    if "@" in name and not version:
        raise UserError(f"engine {name!r} ends in @ without a version; write for example vllm@0.12")
    inherited: dict[str, Any] = {}
    if "base" in data:
        inherited, _ = _resolve(_text(place, "base", data["base"]), here, (*seen, place))
        inherited.pop("name", None)
    rows = _rows(data, place)
    wanted = _wanted(name, version, data, rows, place)
    if rows and version and wanted < rows[0][0]:
        older = data.get("predecessor")
        if older is None:
            raise UserError(
                f"{place}: the oldest version of {data.get('name', text)} is {rows[0][1]['since']}, not {version}"
            )
        return _resolve(f"{_text(place, 'predecessor', older)}@{version}", folder, (*seen, place))
    merged = _merge(inherited, {k: v for k, v in data.items() if k not in _NOT_INHERITED})
    for since, row in rows:
        if since <= wanted:
            merged = _merge(merged, {k: v for k, v in row.items() if k != "since"})
    return (merged | {"version": version} if version else merged), place


def _wanted(name: str, version: str, data: Mapping[str, Any], rows: list[Any], place: str) -> Version:
    """The version to resolve to, comparable; without one asked for, the file's own."""
    if not version:
        own = data.get("version", "")
        return _comparable(str(own)) or (1 << 30,)
    if not rows and "versions" not in data:
        raise UserError(f"{place}: engine {name!r}: this profile has no versions; leave out '@{version}'")
    wanted = _comparable(version)
    if wanted is None:
        raise UserError(
            f"engine {name!r}: {version!r} is not a version; write numbers and points, for example vllm@0.12.0"
        )
    return wanted


def _comparable(version: str) -> Version | None:
    """Numbers of a version; what follows them (rc1, .post2, +cu128) does not count. None when it does not begin so."""
    found = _VERSION.fullmatch(version)
    return None if found is None else tuple(int(part) for part in found[1].split("."))


def _rows(data: Mapping[str, Any], place: str) -> list[tuple[Version, Mapping[str, Any]]]:
    """Rows of ``versions`` with what they can be compared by."""
    rows = data.get("versions") or []
    if not (isinstance(rows, list) and all(isinstance(row, Mapping) for row in rows)):
        raise UserError(f"{place}: versions is {rows!r}; it must be a list of mappings with since and what changed")
    found = []
    for row in rows:
        since = _comparable(row["since"]) if isinstance(row.get("since"), str) else None
        if since is None:
            raise UserError(
                f'{place}: versions: since is {row.get("since")!r}; it must be a version in quotes, like "0.14"'
            )
        found.append((since, row))
    if [since for since, _ in found] != sorted(since for since, _ in found):
        raise UserError(f"{place}: versions must be listed oldest first")
    return found


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``; sources of both."""
    merged = {**below, **above}
    if isinstance(below.get("sources"), Mapping) and isinstance(above.get("sources"), Mapping):
        merged["sources"] = {**below["sources"], **above["sources"]}
    return merged


def _text(place: str, field: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise UserError(f"{place}: {field} is {value!r}; it must be the name of an engine profile")
    return value


def _read(name: str, folder: Path | None) -> tuple[dict[str, Any], str, Path | None]:
    """Content, place and folder (None: built in) of a profile; ``folder``: of the file that names this one."""
    key = ALIASES.get(name.lower(), name.lower().replace("_", "-"))
    if key in engine_names():
        place, here = f"{key}.yaml", None
        text = resources.files("simulator").joinpath("engines", place).read_text("utf-8")
    elif name.endswith((".yaml", ".yml")):
        place = name if folder is None else str(folder / name)
        text, here = _text_of(Path(place)), Path(place).parent
    else:
        raise unknown_name("engine", name, engine_names())
    data = parse_yaml(text, place)
    if not isinstance(data, Mapping):
        raise UserError(f"{place}: an engine profile is a mapping of fields; this is {type(data).__name__}")
    return dict(data), place, here


def _text_of(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot read the engine profile: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: cannot read the engine profile: it is not UTF-8 text") from None
