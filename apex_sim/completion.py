"""Completion scripts from the parsers: every command, option, choice and catalog name is in the script."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from apex_sim.common_options import subcommands


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """An option: its spellings, one line of help, the words it takes (None: no value; empty: a file or free text)."""

    names: tuple[str, ...]
    help: str
    values: tuple[str, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What may follow the words ``path``."""

    path: tuple[str, ...]
    commands: dict[str, str]
    options: tuple[Option, ...]
    positional: tuple[str, ...]
    """Names that fit the first positional argument; files fit always."""


def words_of(parser: argparse.ArgumentParser) -> list[Words]:
    """The words of every command, the top level first."""
    return list(_walk(parser, (), _catalogs()))


def _catalogs() -> dict[str, tuple[str, ...]]:
    """Names by the argument that takes them."""
    from hardware_profiles.loader import device_names
    from simulator.engine_files import engine_names
    from workloads.catalog import catalog

    models, devices = tuple(catalog()), tuple(device_names())
    return {
        "model": models,
        "device": devices,
        "cluster": tuple(f"{name}:1" for name in devices),
        "gpus": devices,
        "engine": tuple(engine_names()),
        "quantization": _formats(),
    }


def _formats() -> tuple[str, ...]:
    from simulator.physics.formats import FORMATS

    return tuple(FORMATS)


def _walk(parser: argparse.ArgumentParser, path: tuple[str, ...], names: dict[str, Any]) -> Iterator[Words]:
    below = subcommands(parser)
    helps: dict[str, str] = {}
    positional: tuple[str, ...] = ()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: _line(choice.help) for choice in action._choices_actions}
        elif not action.option_strings and not positional:
            positional = _values(action, names) or ()
    options = tuple(
        Option(names=tuple(a.option_strings), help=_line(a.help), values=_values(a, names))
        for a in parser._actions
        if a.option_strings and a.help != argparse.SUPPRESS
    )
    yield Words(
        path=path, commands={name: helps.get(name, "") for name in below}, options=options, positional=positional
    )
    for name, child in below.items():
        yield from _walk(child, (*path, name), names)


def _line(text: str | None) -> str:
    """Help on one line, without what argparse fills in."""
    plain = re.sub(r" *\([^()]*%\(.*| *%\(.*", "", text or "")
    return " ".join(plain.replace("%%", "%").split())


def _values(action: argparse.Action, names: dict[str, Any]) -> tuple[str, ...] | None:
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return None
    if action.choices is not None:
        return tuple(str(choice) for choice in action.choices)
    return tuple(names.get(action.dest, ()))


def bash(words: list[Words]) -> str:
    """For bash 4 and later; files where nothing else fits."""
    cases, values = [], []
    for entry in words:
        key = " ".join(entry.path)
        shown = [*entry.commands, *entry.positional, *(name for option in entry.options for name in option.names)]
        cases.append(f'    "{key}") words="{" ".join(shown)}" ;;')
    for entry in words:
        for option in entry.options:
            if option.values is not None:
                pattern = "|".join(f'"{" ".join(entry.path)} {name}"' for name in option.names)
                values.append(f'    {pattern}) words="{" ".join(option.values)}" ;;')
    paths = " ".join(f'["{" ".join(entry.path)}"]=1' for entry in words if entry.path)
    return _BASH.format(paths=paths, cases="\n".join(cases), values="\n".join(values))


_BASH = """\
# bash completion of apex-sim; written by 'apex-sim completion bash'
_apex_sim() {{
  local -A known=({paths})
  local line=${{COMP_LINE:0:COMP_POINT}} path="" words="" i word
  local -a typed
  IFS=$' \\t' read -r -a typed <<< "$line"
  local cur=""
  [[ $line == *[$' \\t'] ]] || {{ cur=${{typed[-1]}}; unset 'typed[-1]'; }}
  for ((i = 1; i < ${{#typed[@]}}; i++)); do
    word="${{path:+$path }}${{typed[i]}}"
    [[ -n ${{known[$word]:-}} ]] && path=$word || break
  done
  local previous="" start=""
  ((${{#typed[@]}} > 1)) && previous=${{typed[-1]}}
  if [[ $cur == --*=* ]]; then previous=${{cur%%=*}}; cur=${{cur#*=}}; fi
  case "$path $previous" in
{values}
    *) case "$path" in
{cases}
    esac ;;
  esac
  # bash splits words at ':' and '='; what lies before them is not to be given again
  start=${{cur%"${{cur##*[:=]}}"}}
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  COMPREPLY=("${{COMPREPLY[@]#"$start"}}")
}}
complete -o default -F _apex_sim apex-sim
"""


def zsh(words: list[Words]) -> str:
    """For zsh: with the help of each option."""
    cases = []
    for entry in words:
        lines = [f"      _values_of_command=({' '.join(_pair(name, text) for name, text in entry.commands.items())})"]
        names = [_pair(name, option.help) for option in entry.options for name in option.names]
        lines.append(f"      _options=({' '.join(names)})")
        lines.append(f"      _names=({' '.join(entry.positional)})")
        cases.append(f'    "{" ".join(entry.path)}")\n' + "\n".join(lines) + " ;;")
    values = [
        f"    {'|'.join(_quoted((*entry.path, name)) for name in option.names)}) "
        f"{'compadd -- ' + ' '.join(option.values) if option.values else '_files'}; return ;;"
        for entry in words
        for option in entry.options
        if option.values is not None
    ]
    paths = " ".join(f'"{" ".join(entry.path)}" 1' for entry in words if entry.path)
    return _ZSH.format(paths=paths, cases="\n".join(cases), values="\n".join(values))


def _quoted(words: tuple[str, ...]) -> str:
    path = " ".join(words[:-1])
    return f'"{path} {words[-1]}"'


def _pair(name: str, text: str) -> str:
    """For _describe, which splits at the first colon."""
    quoted = f"{name}:{text}".replace("'", "'\\''")
    return f"'{quoted}'"


_ZSH = """\
#compdef apex-sim
# zsh completion of apex-sim; written by 'apex-sim completion zsh'
_apex_sim() {{
  local -A known=({paths})
  local -a _values_of_command _options _names
  local here="" word i
  for ((i = 2; i < CURRENT; i++)); do
    word="${{here:+$here }}${{words[i]}}"
    [[ -n ${{known[$word]}} ]] && here=$word || break
  done
  local previous=""
  ((CURRENT > 2)) && previous=${{words[CURRENT-1]}}
  if [[ ${{words[CURRENT]}} == --*=* ]]; then previous=${{words[CURRENT]%%=*}}; compset -P '*='; fi
  case "$here $previous" in
{values}
  esac
  case "$here" in
{cases}
  esac
  if [[ ${{words[CURRENT]}} == -* ]]; then
    _describe -o option _options
  else
    (($#_values_of_command)) && {{ _describe command _values_of_command; return }}
    (($#_names)) && compadd -- $_names
    _files
  fi
}}
if [[ ${{funcstack[1]}} == _apex_sim ]]; then _apex_sim "$@"; else compdef _apex_sim apex-sim; fi
"""


def fish(words: list[Words]) -> str:
    """For fish: conditions on the commands typed so far."""
    lines = ["# fish completion of apex-sim; written by 'apex-sim completion fish'", _FISH]
    for entry in words:
        path = " ".join(entry.path)
        when = f"-n '__apex_sim_at {path}'".replace(" '", " '") if path else "-n '__apex_sim_at'"
        for name, text in entry.commands.items():
            lines.append(f"complete -c apex-sim {when} -f -a {name} -d {_in_fish(text)}")
        for option in entry.options:
            spelled = " ".join(f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in option.names)
            takes = (
                "" if option.values is None else " -r" if not option.values else f" -x -a '{' '.join(option.values)}'"
            )
            lines.append(f"complete -c apex-sim {when} {spelled}{takes} -d {_in_fish(option.help)}")
        if entry.positional:
            lines.append(f"complete -c apex-sim {when} -a '{' '.join(entry.positional)}'")
    return "\n".join(lines) + "\n"


def _in_fish(text: str) -> str:
    quoted = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{quoted}'"


_FISH = """\
function __apex_sim_at
    set -l typed (commandline -opc)
    set -e typed[1]
    set -l depth (count $argv)
    test (count $typed) -ge $depth; or return 1
    test $depth -eq 0; or test "$typed[1..$depth]" = "$argv"; or return 1
    test $depth -gt 0; or test (count $typed) -eq 0
end
"""

SCRIPTS: dict[str, Callable[[list[Words]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
"""Script by shell."""
