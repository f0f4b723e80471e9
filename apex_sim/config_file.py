"""``--config FILE``: options of a command from a YAML file; those on the command line win."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from apex_sim.common_options import leaf_of, subcommands


def with_config(parser: argparse.ArgumentParser, argv: Sequence[str]) -> list[str]:
    """``argv`` with the options of a ``--config`` file before its own, so that flags win."""
    leaf, depth = leaf_of(parser, argv)
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
    if isinstance(command, str) and isinstance(values.get("options"), dict):  # what simulate --out wrote
        _of_command(file, command, path)
        values = values["options"]
    elif isinstance(command, str):  # an earlier version of it
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
