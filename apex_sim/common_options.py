"""What every subcommand has: --config, --quiet, examples below its help, how a help page is laid out, and errors."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

MANY_OPTIONS = 12
"""Commands with more do not list them in the usage line."""
EXITS = "exit codes: 0 done, 1 a check failed or output could not be written, 2 a mistake in what was given, 130 interrupted"


class Layout(argparse.HelpFormatter):
    """Examples keep their lines, broken before options where the terminal is narrow."""

    def start_section(self, heading: str | None) -> None:
        """Headings are broken like all else."""
        super().start_section(None if heading is None else "\n".join(textwrap.wrap(heading, self._width - 2)))

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """The value once, after all spellings; broken where it is too long."""
        if not action.option_strings or action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        text, room = f"{', '.join(action.option_strings)} {value}", self._width - self._current_indent
        further = " " * (self._current_indent + 2)
        lines = textwrap.wrap(text, room, subsequent_indent=further, break_long_words=False, break_on_hyphens=False)
        return "\n".join(lines)

    def _get_help_string(self, action: argparse.Action) -> str:
        """Defaults are shown where the text does not name them."""
        text, default = action.help or "", action.default
        shows = (
            isinstance(default, int | float | str) and not isinstance(default, bool) and default != argparse.SUPPRESS
        )
        if not shows or action.nargs == 0 or "default" in text:
            return text
        shown = f"{default:g}" if isinstance(default, float) else str(default).replace("%", "%%")
        if text.endswith(f"({shown})"):
            return text
        return f"{text[:-1]}; default {shown})" if text.endswith(")") else f"{text} (default {shown})"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts = []
        for part in text.split("\n"):
            if part.startswith("  apex-sim "):
                parts.append(_broken(part.strip(), width))
            else:
                parts.append(super()._fill_text(part, width, indent) if part else "")
        return "\n".join(parts)


def _broken(command: str, width: int) -> str:
    """A command indented, with a backslash where it goes on in the next line."""
    lines, line = [], " "
    for piece in re.findall(r"(?:--?[a-z][-a-z0-9]*(?:[ =](?:'[^']*'|[^-\s]\S*))*|'[^']*'|\S+)", command):
        if len(line) + len(piece) + 3 > width and line.strip():
            lines.append(line + " \\")
            line = "   "
        line += " " + piece
    return "\n".join([*lines, line])


class Parser(argparse.ArgumentParser):
    """Errors of the arguments look like all others."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", Layout)
        super().__init__(*args, **kwargs)

    def format_help(self) -> str:
        """Help whose usage line has the required arguments alone, where a list of all would fill the screen."""
        if self.usage is None and len(self._actions) > MANY_OPTIONS:
            required = [a for a in self._actions if a.required]
            words = [self.prog, *map(_in_usage, required), "[options]"]
            width = shutil.get_terminal_size().columns - len("usage:  ")
            self.usage = "\n".join(textwrap.wrap(" ".join(words).replace("%", "%%"), width, subsequent_indent="  "))
        return super().format_help()

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """An option that is none is told with the nearest of the command, and the command's help."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            from difflib import get_close_matches

            leaf = leaf_of(self, args or sys.argv[1:])[0]
            first = str(unknown[0]).partition("=")[0]
            near = get_close_matches(first, leaf._option_string_actions, 1) if first.startswith("--") else []
            leaf.error(f"unrecognized arguments: {' '.join(unknown)}{f'; did you mean {near[0]}?' if near else ''}")
        return found

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"apex-sim: error: {message} (see '{self.prog} --help')\n")


def _in_usage(action: argparse.Action) -> str:
    if action.option_strings:
        return f"{action.option_strings[0]} {action.metavar}"
    return f"[{action.metavar} ...]" if action.nargs == argparse.ZERO_OR_MORE else str(action.metavar)


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers one level below, by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def leaf_of(parser: argparse.ArgumentParser, argv: Sequence[str]) -> tuple[argparse.ArgumentParser, int]:
    """The parser of the command that ``argv`` begins with, and the number of the command's words."""
    depth = 0
    while depth < len(argv) and (child := subcommands(parser).get(argv[depth])) is not None:
        parser, depth = child, depth + 1
    return parser, depth


def leaves(
    parser: argparse.ArgumentParser, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Every command that does something, such as ("explain", "step"), with its parser."""
    below = subcommands(parser)
    if not below:
        yield path, parser
    for name, child in below.items():
        yield from leaves(child, (*path, name))


def add_common(parser: argparse.ArgumentParser) -> None:
    """Give every command the options and examples that all have."""
    from apex_sim.examples import EXAMPLES, PAGES

    for path, leaf in leaves(parser):
        group = leaf.add_argument_group("common")
        group.add_argument("--config", metavar="FILE", help="YAML file of options; flags win over it (docs/cli.md)")
        group.add_argument("-q", "--quiet", action="store_true", help="no progress, notes or warnings on stderr")
        words = " ".join(path)
        shown = [f"  apex-sim {words} {rest}".rstrip() for rest in EXAMPLES.get(words, ())]
        page = PAGES.get(words) or PAGES.get(path[0], "docs/cli.md")
        leaf.epilog = "\n".join([*(["examples:", *shown, ""] if shown else ()), EXITS, f"more: {page}"])
        if leaf.description is None:
            leaf.description = _described(parser, path)


def _described(parser: argparse.ArgumentParser, path: Sequence[str]) -> str | None:
    """What the list of commands says of one, as a sentence."""
    for name in path[:-1]:
        parser = subcommands(parser)[name]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                if choice.dest == path[-1] and choice.help:
                    return choice.help[0].upper() + choice.help[1:] + "."
    return None
