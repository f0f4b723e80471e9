"""The command line: parses, runs a subcommand, turns users' mistakes into one line and exit code 2."""

from __future__ import annotations

import argparse
import io
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

COMMANDS = (
    "simulate",
    "several",
    "load",
    "sweep",
    "plan",
    "gpus",
    "export",
    "power",
    "experts",
    "reproduce",
    "explain",
    "validate",
    "check",
    "models",
    "hardware",
    "traces",
    "calibrate",
    "doctor",
    "completion",
)
"""One module of apex_sim.commands each."""
WORK = {"experts": "placing experts", "gpus": "planning the fleet", "power": "planning the row", "traces": "reading"}
"""What a command does, where it has no better word for the progress line."""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    from apex_sim import __version__
    from apex_sim.common_options import EXITS, Parser, add_common

    parser = Parser(
        prog="apex-sim",
        description="Predict and plan the serving of large language models, without a GPU.",
        epilog="start with:\n  apex-sim plan --model llama-3.1-8b --cluster h100-sxm:1 --slo ttft=1s,tpot=50ms\n"
        f"  apex-sim simulate --help\n\n{EXITS}\nmore: docs/tutorial.md, docs/cli.md",
    )
    parser.add_argument("--version", action="version", version=f"apex-sim {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        import_module(f"apex_sim.commands.{name}").add_parser(subparsers)
    add_common(parser)
    return parser


def _show_warning(message: Warning | str, *_: object) -> None:
    from apex_sim.progress import is_quiet
    from apex_sim.warned import tell

    tell(str(message))
    if not is_quiet():
        print(f"apex-sim: warning: {message}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns the exit code: 0 success, 2 a user's mistake, 1 output cannot be written or a check failed, 130 interrupted.
    """
    try:
        return _main(argv)
    except KeyboardInterrupt:  # at any time: while modules are loaded or the progress line is removed as well
        print("apex-sim: interrupted", file=sys.stderr)
        return 130


def _main(argv: Sequence[str] | None) -> int:
    from apex_sim.config_file import with_config
    from apex_sim.files import check_distinct
    from apex_sim.progress import ProgressBar, set_quiet
    from apex_sim.warned import forget
    from hardware_profiles.errors import UserError

    parser = build_parser()
    try:
        args = parser.parse_args(with_config(parser, sys.argv[1:] if argv is None else argv))
    except UserError as error:
        return _mistake(error)
    set_quiet(args.quiet)
    _encode(args)
    forget()
    with warnings.catch_warnings(), _terminal(args):
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        try:
            check_distinct(args)
            with ProgressBar(WORK.get(args.command, args.command)):
                code: int = import_module(f"apex_sim.commands.{args.command}").run(args)
            if sys.stdout is not None:  # it is None when the caller closed it
                sys.stdout.flush()
        except UserError as error:
            return _mistake(error)
        except BrokenPipeError:
            _discard_output()
            return 0
        except OSError as error:
            print(f"apex-sim: error: {error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
            _discard_output()
            return 1
    return code


def _encode(args: argparse.Namespace) -> None:
    """Where the locale has few letters: '?' for the others, but JSON and scripts are UTF-8 as everywhere."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower().replace("-", "") != "utf8":
            exact = stream is sys.stdout and (getattr(args, "json", None) == "-" or args.command == "completion")
            stream.reconfigure(encoding="utf-8" if exact else None, errors=None if exact else "replace")


def _mistake(error: Exception) -> int:
    print(f"apex-sim: error: {' '.join(str(error).splitlines())}", file=sys.stderr)
    return 2


@contextmanager
def _terminal(args: argparse.Namespace) -> Iterator[None]:
    """Where people look on: reports in the terminal's width, and a progress line that gives way to messages."""
    from apex_sim.terminal import Messages, Report

    out, err = sys.stdout, sys.stderr
    report = None
    if out is not None and out.isatty() and getattr(args, "json", None) != "-" and args.command != "completion":
        sys.stdout = report = Report(out)
    if err is not None and err.isatty():
        sys.stderr = Messages(err)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = out, err
        if report is not None:
            report.close_report()


def _discard_output() -> None:
    """Nobody reads stdout any more: let the interpreter's own flush at exit succeed quietly."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
