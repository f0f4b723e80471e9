"""Runs that are subcommands of the command line, read back from what they print as JSON."""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from typing import Any

from hardware_profiles.errors import UserError

Settings = Mapping[str, Any]
COMMANDS = ("plan", "gpus", "experts", "power")
"""Those that print one JSON document with ``--json -``."""


def command(name: str) -> Callable[[Settings], Mapping[str, Any]]:
    """A subcommand with ``--json -``: settings are its options."""

    def run(settings: Settings) -> Mapping[str, Any]:
        argv = [name, *_options(settings), "--json", "-"]
        if name == "plan" and "jobs" not in settings:
            argv += ["--jobs", "1"]
        return _run_command(argv)

    return run


def _options(settings: Settings) -> list[str]:
    words: list[str] = []
    for key, value in settings.items():
        option = "--" + key.replace("_", "-")
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, bool):
                words += [option] * item
            else:
                words.append(f"{option}={json.dumps(item) if isinstance(item, dict) else item}")
    return words


def _run_command(argv: list[str]) -> Mapping[str, Any]:
    from apex_sim.cli import build_parser

    said, complaint = io.StringIO(), io.StringIO()
    try:
        with redirect_stderr(complaint):
            args = build_parser().parse_args(argv)
    except SystemExit:
        text = complaint.getvalue().strip().splitlines()
        raise UserError((text[-1] if text else "cannot be read").removeprefix("apex-sim: error: ")) from None
    with redirect_stdout(said), redirect_stderr(complaint):
        import_module(f"apex_sim.commands.{argv[0]}").run(args)
    values: Mapping[str, Any] = json.loads(said.getvalue())
    return values


def command_names(kind: str) -> set[str]:
    """Options of a subcommand, as its parser has them."""
    subparsers = argparse.ArgumentParser().add_subparsers()
    import_module(f"apex_sim.commands.{kind}").add_parser(subparsers)
    options = subparsers.choices[kind]._actions
    named = {text.removeprefix("--").replace("-", "_") for action in options for text in action.option_strings}
    return named - {"json", "help", "out", "plot", "csv"}
