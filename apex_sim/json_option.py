"""``--json``: alone or with '-' on stdout, where nothing else is printed then; with a name in a file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from apex_sim.files import prepare_file, to_json, write_text


def add_json(parser: argparse.ArgumentParser, what: str = "the result") -> None:
    """The option of commands that are quick; others prepare the file before the work."""
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help=f"write {what} as JSON to a .json file ('-' or none: stdout)",
    )


def wants_json(args: argparse.Namespace, data: Any) -> bool:
    """Whether JSON was asked for; it is written. True when it went to stdout, so that no text goes there."""
    if args.json == "-":
        print(to_json(data), end="")
        return True
    path = check_json(args)
    if path is not None:
        write_text(path, to_json(data))
    return False


def check_json(args: argparse.Namespace) -> Path | None:
    """The file to write, if one is named; call it before long work."""
    from hardware_profiles.errors import UserError

    if args.json in (None, "-"):
        return None
    if not args.json.endswith(".json"):
        raise UserError(f"--json {args.json}: the file's name must end in .json ('-': stdout)")
    return prepare_file(args.json, "--json")
