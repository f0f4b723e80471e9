"""What repeats a run, to copy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apex_sim.files import to_yaml
from apex_sim.html.parts import copied, note, section


def configuration(config: Mapping[str, Any], command: str | None) -> str:
    """The command line, and everything with its defaults filled in as YAML."""
    parts = []
    if command is not None:
        parts += [note("This command repeats the run:"), copied(command, "command", "the command")]
    words = "Every setting, defaults filled in"
    if "command" in config:
        words += "; as a file, --config FILE repeats the run"
    parts += [note(f"{words}:"), copied(to_yaml(_plain(config)), "yaml", "the configuration")]
    return section("Configuration", *parts)


def _plain(value: Any) -> Any:
    """Only what YAML has."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
