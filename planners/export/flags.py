"""Flags of engines by version: which exist, what they take, and a command read back through them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from hardware_profiles.errors import UserError
from hardware_profiles.records import read_yaml

FILE = Path(__file__).parent / "flags.yaml"
Takes = Literal["none", "int", "float", "text", "json", "list"]
_CONVERT: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "text": str, "json": json.loads}


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One flag of an engine."""

    name: str
    first: str
    """First version that has it."""
    last: str | None = None
    """Last version that has it; None: it is still there in the version the table was checked against."""
    takes: Takes
    meaning: str | None = None
    """What of a server it sets."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Values that it takes, with the first version of each; empty: any."""
    until: str | None = None
    """Last version that takes these values only; None: all do."""
    before: Literal["default", "refuse"] = "refuse"
    """An older server does the same without it (default), or cannot do it."""
    confidence: Literal["high", "medium", "low"]
    source: str = ""

    def takes_in(self, value: str, version: str) -> bool:
        """Whether a version of the engine takes a value."""
        given = version_of(version)
        if not self.values or (self.until is not None and given[:2] > version_of(self.until)[:2]):
            return True
        return value in self.values and version_of(self.values[value]) <= given

    def exists_in(self, version: str) -> bool:
        """Whether a version of the engine has the flag."""
        given = version_of(version)
        return version_of(self.first) <= given and (self.last is None or given[:2] <= version_of(self.last)[:2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What is known of a command."""

    name: str
    begin: tuple[str, ...]
    """Its first words."""
    checked: str
    """Newest version against which the table was checked."""
    source: str
    read: tuple[str, ...]
    """Versions whose source was read."""
    releases: Mapping[str, str]
    """Version of two numbers -> release that it stands for."""
    images: Mapping[str, tuple[str, str]]
    """Vendor of the device -> container image with ``{version}``, first version that has it."""
    flags: dict[str, Flag]
    harmless: Mapping[str, bool] = field(default_factory=dict)
    """Flags that a user may add without changing what was simulated -> whether values follow; versions are not checked."""


def version_of(text: str) -> tuple[int, ...]:
    """Numbers of a version, for comparison: 0.8.3 -> (0, 8, 3); suffixes such as rc1 do not count. Three at least."""
    found = re.match(r"v?(\d+(?:\.\d+)*)", text)
    if found is None:
        raise UserError(f"--engine-version is {text!r}; write numbers and points, for example 0.19.0")
    numbers = tuple(int(part) for part in found[1].split("."))
    return numbers + (0,) * (3 - len(numbers))


@lru_cache(maxsize=1)
def engines() -> dict[str, Engine]:
    """The table."""
    found = {}
    for name, data in read_yaml(FILE).items():
        flags = {
            flag: Flag(name=flag, meaning=fields.get("is"), **{k: v for k, v in fields.items() if k != "is"})
            for flag, fields in data["flags"].items()
        }
        images = data.get("images", {}).items()
        found[name] = Engine(
            name=name,
            begin=tuple(data["begin"]),
            checked=data["checked"],
            source=data["source"],
            read=tuple(str(version) for version in data["read"]),
            releases=data.get("releases", {}),
            images={vendor: (f"{image['name']}:{image['tag']}", image["first"]) for vendor, image in images},
            flags=flags,
            harmless={flag: kind == "value" for kind, names in data.get("harmless", {}).items() for flag in names},
        )
    return found


def release_of(engine: str, version: str) -> str:
    """The release that a version stands for, with three numbers at least."""
    version_of(version)  # complains
    release = engines()[engine].releases.get(version, version)
    return ".".join(str(number) for number in version_of(release))


def without_harmless(engine: str, words: Sequence[str]) -> tuple[str, ...]:
    """The command without flags that change nothing of what was simulated (keys, logs, parsers of answers)."""
    table, kept, taken = engines()[engine].harmless, [], False
    for word in words:
        name, equals, _ = word.partition("=")
        if word.startswith("-"):
            taken = table.get(name, False) and not equals  # its values follow
        if name not in table and not taken:
            kept.append(word)
    return tuple(kept)


def check_flags(engine: str, version: str, words: Sequence[str]) -> list[str]:
    """What is wrong with the flags of a command for a version of the engine, one sentence each."""
    table, wrong = engines()[engine].flags, []
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if not word.startswith("--"):
            continue
        flag = table.get(word)
        if flag is None:
            wrong.append(f"{word} is no known flag of {engine}")
        elif not flag.exists_in(version):
            span = f"{flag.first} or later" if flag.last is None else f"{flag.first} to {flag.last}"
            wrong.append(f"{word} needs {engine} {span}, the plan is for {version}")
        elif flag.takes == "int" and not following.startswith("$") and not following.lstrip("-").isdigit():
            wrong.append(f"{word} of {engine} takes a whole number, not {following}")
        elif not flag.takes_in(following, version):
            known = [value for value in flag.values if flag.takes_in(value, version)]
            wrong.append(f"{word} of {engine} {version} takes {', '.join(known)}, not {following}")
    return wrong


def without_defaults(engine: str, version: str, words: Sequence[str]) -> tuple[str, ...]:
    """The command without flags that are newer than the version and that say what an older server does anyway."""
    table = engines()[engine].flags

    def needless(word: str) -> bool:
        flag = table.get(word)
        return flag is not None and flag.before == "default" and not flag.exists_in(version)

    return tuple(word for word in words if not needless(word))


def without(words: Sequence[str], *names: str) -> tuple[str, ...]:
    """The command without some flags and their one value."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in names:
            skip = True
        else:
            kept.append(word)
    return tuple(kept)


def parse(engine: str, words: Sequence[str]) -> dict[str, Any]:
    """Fields that a command sets, and ``model`` and all its ``flags`` with their values.

    Raises ValueError for a word that the engine's parser would not take.
    """
    known = engines()[engine]
    begin = list(known.begin)
    if list(words[: len(begin)]) != begin:
        raise ValueError(f"{' '.join(words[:3])}: does not begin with {' '.join(begin)}")
    rest = list(words[len(begin) :])
    found: dict[str, Any] = {}
    if rest and not rest[0].startswith("--"):
        found["model"] = rest.pop(0)
    flags: dict[str, Any] = {}
    while rest:
        word = rest.pop(0)
        flag = known.flags.get(word)
        if flag is None:
            raise ValueError(f"{word}: no flag of {engine}")
        flags[word] = _value(flag, rest)
        if flag.meaning is not None:
            found[flag.meaning] = flags[word]
    return found | {"flags": flags}


def _value(flag: Flag, rest: list[str]) -> Any:
    """Take the value of a flag from the words that follow it."""
    if flag.takes == "none":
        return True
    if flag.takes == "list":
        end = next((i for i, word in enumerate(rest) if word.startswith("--")), len(rest))
        values, rest[:] = rest[:end], rest[end:]
        return values
    if not rest or rest[0].startswith("--"):
        raise ValueError(f"{flag.name}: has no value")
    return _CONVERT[flag.takes](rest.pop(0))
