"""The command line: parses, runs a subcommand, turns users' mistakes into one line and exit code 2."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

COMMANDS = (
    "simulate",
    "several",
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
)
"""One module of apex_sim.commands each."""


MANY_OPTIONS = 12
"""Commands with more do not list them in the usage line."""


class _Parser(argparse.ArgumentParser):
    """Errors of the arguments look like all others."""

    def format_help(self) -> str:
        """Help whose usage line has the required arguments alone, where a list of all would fill the screen."""
        if self.usage is None and len(self._actions) > MANY_OPTIONS:
            required = [a for a in self._actions if a.required]
            self.usage = " ".join(["%(prog)s", *map(_in_usage, required), "[options]"])
        return super().format_help()

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"apex-sim: error: {message} (see '{self.prog} --help')\n")


def _in_usage(action: argparse.Action) -> str:
    if action.option_strings:
        return f"{action.option_strings[0]} {action.metavar}"
    return f"[{action.metavar} ...]" if action.nargs == argparse.ZERO_OR_MORE else str(action.metavar)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    from apex_sim import __version__

    parser = _Parser(
        prog="apex-sim",
        description="Predict and plan the serving of large language models, without a GPU.",
        epilog="Start with: apex-sim plan --model llama-3.1-8b --cluster h100-sxm:1 --slo ttft=1s,tpot=50ms",
    )
    parser.add_argument("--version", action="version", version=f"apex-sim {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        import_module(f"apex_sim.commands.{name}").add_parser(subparsers)
    return parser


def _show_warning(message: Warning | str, *_: object) -> None:
    print(f"apex-sim: warning: {message}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns the exit code: 0 success, 2 a user's mistake, 1 output cannot be written or a check failed, 130 interrupted.
    """
    from hardware_profiles.errors import UserError

    args = build_parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        try:
            code: int = import_module(f"apex_sim.commands.{args.command}").run(args)
            if sys.stdout is not None:  # it is None when the caller closed it
                sys.stdout.flush()
        except UserError as error:
            print(f"apex-sim: error: {' '.join(str(error).splitlines())}", file=sys.stderr)
            return 2
        except BrokenPipeError:
            _discard_output()
            return 0
        except OSError as error:
            print(f"apex-sim: error: {error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
            _discard_output()
            return 1
        except KeyboardInterrupt:
            print("apex-sim: interrupted", file=sys.stderr)
            return 130
    return code


def _discard_output() -> None:
    """Nobody reads stdout any more: let the interpreter's own flush at exit succeed quietly."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
