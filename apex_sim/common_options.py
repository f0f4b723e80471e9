"""What every subcommand has: --config, --quiet, examples below its help, and how a help page is laid out."""

from __future__ import annotations

import argparse
import json
import re
import shutil
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


def with_config(parser: argparse.ArgumentParser, argv: Sequence[str]) -> list[str]:
    """``argv`` with the options of a ``--config`` file before its own, so that flags win."""
    leaf, depth = parser, 0
    while depth < len(argv) and (child := subcommands(leaf).get(argv[depth])) is not None:
        leaf, depth = child, depth + 1
    rest = list(argv[depth:])
    file = _config_of(rest, leaf)
    if file is None or subcommands(leaf) or "config" not in {a.dest for a in leaf._actions}:
        return list(argv)
    return [*argv[:depth], *_tokens(file, leaf, tuple(argv[:depth]), _given(leaf, rest)), *rest]


def _config_of(rest: Sequence[str], leaf: argparse.ArgumentParser) -> str | None:
    """The file after --config, or after a beginning of it that argparse understands."""
    from hardware_profiles.errors import UserError

    options = [option for option in leaf._option_string_actions if option.startswith("--")]
    files = []
    for i, token in enumerate(rest):
        name, equals, value = token.partition("=")
        if len(name) < 3 or [option for option in options if option.startswith(name)] != ["--config"]:
            continue
        if equals or i + 1 < len(rest):
            files.append(value if equals else rest[i + 1])
    if len(files) > 1:
        raise UserError(f"--config is given {len(files)} times ({', '.join(files)}); one file holds the options")
    return files[0] if files else None


def _given(leaf: argparse.ArgumentParser, rest: Sequence[str]) -> set[str]:
    """Names of the options on the command line, and of those that exclude them."""
    given = set()
    for token in rest:
        name = token.partition("=")[0]
        if name.startswith("-") and name != "-":  # which is stdout
            exact = [name] if name in leaf._option_string_actions else []
            near = exact or [option for option in leaf._option_string_actions if option.startswith(name)]
            given |= {leaf._option_string_actions[option].dest for option in near}
    for group in leaf._mutually_exclusive_groups:
        dests = {action.dest for action in group._group_actions}
        if dests & given:
            given |= dests
    return given


def _tokens(file: str, leaf: argparse.ArgumentParser, path: tuple[str, ...], given: set[str]) -> list[str]:
    """The file's options as arguments."""
    from hardware_profiles.errors import UserError, unknown_name

    values = _read(file)
    command = values.get("command")
    if isinstance(command, str):  # what simulate --out wrote
        return _without(_of_command(file, command, path), leaf, given)
    actions = {a.dest: a for a in leaf._actions if a.option_strings and a.dest not in ("help", "config")}
    tokens: list[str] = []
    for key, value in values.items():
        action = actions.get(str(key).lstrip("-").replace("-", "_"))
        if action is None:
            raise UserError(f"{file}: {unknown_name(f'option of {leaf.prog}', str(key), actions)}")
        if value is not None and action.dest not in given:
            tokens += _written(file, str(key), _switched(leaf, action, value), value)
    return tokens


def _switched(leaf: argparse.ArgumentParser, action: argparse.Action, value: Any) -> argparse.Action:
    """Of two flags that turn one setting on and off, the one that gives it this value."""
    if action.nargs != 0 or isinstance(action, argparse.BooleanOptionalAction):
        return action
    same = (other for other in leaf._actions if other.dest == action.dest and other.const is value)
    return next(same, action)


def _read(file: str) -> dict[str, Any]:
    from pathlib import Path

    import yaml

    from hardware_profiles.errors import UserError

    try:
        values = yaml.safe_load(Path(file).read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--config {file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"--config {file}: is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict) or not values:
        raise UserError(f"--config {file}: holds no options; write lines such as 'model: llama-3.1-8b'")
    return values


def _of_command(file: str, command: str, path: tuple[str, ...]) -> list[str]:
    import shlex

    from hardware_profiles.errors import UserError

    words = shlex.split(command)
    if tuple(words[1 : 1 + len(path)]) != path:
        raise UserError(f"--config {file}: is of '{' '.join(words[:2])}', not of 'apex-sim {' '.join(path)}'")
    return words[1 + len(path) :]


def _without(words: list[str], leaf: argparse.ArgumentParser, given: set[str]) -> list[str]:
    """The command's words without options that the flags replace; some of them exclude each other."""
    left, skipped = [], 0
    for word in words:
        action = leaf._option_string_actions.get(word.partition("=")[0])
        if skipped:
            skipped -= 1
        elif action is None or action.dest not in given or action.nargs not in (None, 0):
            left.append(word)
        elif action.nargs is None and "=" not in word:
            skipped = 1
    return left


def _written(file: str, key: str, action: argparse.Action, value: Any) -> list[str]:
    """One option of the file as arguments."""
    from hardware_profiles.errors import UserError

    name = next((option for option in action.option_strings if option.startswith("--")), action.option_strings[0])
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        if not isinstance(value, bool):
            raise UserError(f"{file}: {key} is {value!r}; it is on or off: write true or false")
        if isinstance(action, argparse.BooleanOptionalAction):
            return [action.option_strings[0 if value else -1]]
        return [name] if value is action.const else []
    if isinstance(value, bool):
        raise UserError(f"{file}: {key} is {str(value).lower()}; it takes a value")
    if isinstance(value, dict):
        return [f"{name}={json.dumps(value)}"]
    if isinstance(value, list):
        words = [str(item) for item in value]
        if action.nargs in (None, "?"):
            appends = isinstance(action, argparse._AppendAction)
            return [f"{name}={word}" for word in words] if appends else [f"{name}={','.join(words)}"]
        return [name, *words]
    return [f"{name}={value}"]
