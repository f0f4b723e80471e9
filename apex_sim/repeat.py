"""The command line that repeats a run from any folder, from the arguments it was given."""

from __future__ import annotations

import argparse
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

OUTPUTS = frozenset(
    (
        *(
            "json",
            "out",
            "csv",
            "plot",
            "report",
            "timeline",
            "timeline_window",
            "export",
            "requests",
            "save_routing",
            "out_layers",
        ),
        *("quiet", "verbose", "help", "jobs", "config"),
    )
)
"""Arguments that say where results go, not what they are."""
PATHS = frozenset(
    (
        *(
            "model",
            "cluster",
            "engine",
            "trace",
            "speculative_config",
            "interference",
            "profile",
            "services",
            "goals",
            "files",
            "models",
        ),
        *("routing_trace", "placement", "expert_routing", "init_expert_location", "expert_cache_trace"),
    )
)
"""Arguments that are a name or a path."""
LISTS = frozenset(("disaggregate", "gpus"))
"""Lists with commas whose parts, or what follows = in them, may be paths."""


def command_of(args: argparse.Namespace) -> str:
    """All that differs from the defaults, paths made absolute."""
    parts = ["apex-sim", args.command]
    for action in parser_of(args.command)._actions:
        value = getattr(args, action.dest, None)
        if action.dest in OUTPUTS or value in (None, action.default):
            continue
        parts += _flags(action, value)
    return shlex.join(parts)


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """Every option that says what is computed, defaults filled in, paths made absolute: what a --config file has."""
    found = {}
    for action in parser_of(args.command)._actions:
        value = getattr(args, action.dest, None)
        if action.option_strings and action.dest not in OUTPUTS and value is not None:
            found[action.dest] = _plain(action, value)
    return found


def positionals_of(args: argparse.Namespace) -> list[str]:
    """Arguments without a flag, which no file has."""
    parts: list[str] = []
    for action in parser_of(args.command)._actions:
        if not action.option_strings and getattr(args, action.dest, None):
            parts += _flags(action, getattr(args, action.dest))
    return parts


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of a command, with its options and their defaults."""
    subparsers = argparse.ArgumentParser().add_subparsers()
    import_module(f"apex_sim.commands.{command}").add_parser(subparsers)
    parser: argparse.ArgumentParser = subparsers.choices[command]
    return parser


def _plain(action: argparse.Action, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(action, item) for item in value]
    return _absolute(action, value) if isinstance(value, str) else value


def _absolute(action: argparse.Action, value: Any) -> str:
    if action.dest in LISTS:
        parts = (part.rpartition("=") for part in str(value).split(","))
        return ",".join(f"{name}{sign}{Path(item).resolve() if _is_file(item) else item}" for name, sign, item in parts)
    return str(Path(value).resolve()) if action.dest in PATHS and _is_path(str(value)) else str(value)


def _is_file(text: str) -> bool:
    return bool(text.strip()) and Path(text).is_file()


def _is_path(text: str) -> bool:
    return not text.lstrip().startswith("{") and Path(text).exists()


def _flags(action: argparse.Action, value: Any) -> list[str]:
    """How one argument is written."""
    if not action.option_strings:
        return [_absolute(action, item) for item in (value if isinstance(value, list) else [value])]
    name = action.option_strings[0]
    if isinstance(action, argparse.BooleanOptionalAction):
        return [action.option_strings[0 if value else 1]]
    if action.nargs == 0:
        return [name] if value == action.const else []
    if action.nargs == 2:
        return [name, *(_absolute(action, item) for item in value)]
    parts: list[str] = []
    for item in value if isinstance(value, list) else [value]:
        text = _absolute(action, item)
        parts += [f"{name}={text}"] if text.startswith("-") else [name, text]
    return parts
