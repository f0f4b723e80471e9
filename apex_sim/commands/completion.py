"""``apex-sim completion``: a script that completes commands, options and names in bash, zsh or fish."""

from __future__ import annotations

import argparse


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "completion",
        help="print a script that completes commands, options and names in bash, zsh or fish",
        description="Print a completion script. It holds all names, so that a press of the tab key starts no Python; print "
        "it again after an update. Where to put it: docs/cli.md.",
    )
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell it is for")


def run(args: argparse.Namespace) -> int:
    """Print the script; 0."""
    from apex_sim.cli import build_parser
    from apex_sim.completion import SCRIPTS, words_of

    print(SCRIPTS[args.shell](words_of(build_parser())), end="")
    return 0
