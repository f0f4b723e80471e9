"""What repeats a run, to copy."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from apex_sim.files import to_yaml
from apex_sim.html.parts import copied, folded, note, section

PROSE = ("sources", "notes")
"""What profiles say of their values; it has a section of its own."""


@dataclass(frozen=True)
class Repeat:
    """What a report says of how it came about."""

    resolved: Mapping[str, Any] = field(default_factory=dict)
    """Every value that the options came to, nested."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the command line with their defaults, as a --config file has them; none: no command line."""
    command: str | None = None
    """The command line."""
    warned: Sequence[str] = ()
    """What the command warned of."""
    words: Sequence[str] = ()
    """Command and positional arguments, which no --config file has."""


def configuration(repeat: Repeat, resolved: Mapping[str, Any] | None = None) -> str:
    """The command line, its options as a file, and all that they came to (``resolved`` where the run gives none)."""
    from apex_sim import __version__

    parts = []
    if repeat.command is not None:
        parts += [note("This command repeats the run:"), copied(repeat.command, "command", "the command")]
    if repeat.options:
        again = f"{shlex.join(repeat.words)} --config FILE"
        parts += [note("The same as a file for --config, defaults filled in; change a line to change the run:")]
        file = f"# apex-sim {__version__}: {' '.join(again.split())}\n{to_yaml(_plain(repeat.options))}"
        parts.append(copied(file, "yaml", "the configuration"))
    whole = {"apex_sim_version": __version__, **_plain({**(resolved or {}), **repeat.resolved})}
    whole.pop("command", None)
    if len(whole) > 1:
        shown = copied(to_yaml(whole), "resolved", "every value")
        title = "Every value that the options came to, the profiles' included"
        parts += [folded(title, shown)] if repeat.options else [note("Every value, the profiles' included:"), shown]
    return section("Configuration", *parts)


def _plain(value: Any) -> Any:
    """Only what YAML has."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if key not in PROSE}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
