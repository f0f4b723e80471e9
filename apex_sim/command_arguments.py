"""Keywords of the API as the arguments of the command of the same name, so that one code path answers both."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from hardware_profiles.errors import UserError, unknown_name

Progress = Callable[[int, int], None]
Bar = Callable[[str], AbstractContextManager[Progress]]
"""Progress of a piece of work, by its name."""
READING = {"spread_ties": "trace_spread_ties", "rate_scale": "trace_scale_rate"}
"""Keywords of a workload that the command line calls otherwise."""
ELSEWHERE = ("json", "report", "plot", "out", "export", "save_routing", "out_layers", "config", "help", "jobs")
"""Arguments that say where results go: a result's methods do that."""


def arguments(command: str, given: Mapping[str, Any]) -> argparse.Namespace:
    """The command's arguments: its defaults, and what is ``given`` (None: not given). UserError for an unknown name."""
    from apex_sim.repeat import parser_of
    from workloads.slo import Slo

    parser = parser_of(command)
    values: dict[str, Any] = {action.dest: action.default for action in parser._actions} | parser._defaults
    known = [name for name in values if name not in ELSEWHERE]
    for name, value in _workload(given).items():
        if value is None:
            continue
        if name not in known:
            raise unknown_name("setting", name, known)
        values[name] = _text(value) if isinstance(value, Slo | Path) else value
    if isinstance(values.get("slo"), str) and not values["slo"].strip():
        raise UserError("slo is empty; for example slo='ttft=1s,tpot=50ms'")
    return argparse.Namespace(**(values | {"command": command}))


def _workload(given: Mapping[str, Any]) -> dict[str, Any]:
    """A Trace takes the changes that are asked for, as no file can be read again; all else stays as on the command line."""
    from apex_sim.workload import WorkloadSettings, make_trace
    from workloads.trace import Trace

    if not isinstance(given.get("trace"), Trace):
        return {READING.get(name, name): value for name, value in given.items()}
    workload: Any = {name: given[name] for name in WorkloadSettings.__annotations__ if given.get(name) is not None}
    trace = make_trace(**workload, seed=given.get("seed") or 0)
    return {name: value for name, value in given.items() if name not in workload} | {"trace": trace}


def _text(value: object) -> str:
    return str(value)


def named_numbers(what: str, numbers: Mapping[str, float] | None) -> list[str]:
    """``{"l4": 0.5}`` as the command line writes it."""
    if numbers is None:
        return []
    if not isinstance(numbers, Mapping):
        raise UserError(f"{what} is {numbers!r}; give a mapping such as {{'l4': 1}}")
    return [f"{name}={number!r}" for name, number in numbers.items()]


def comma_list(what: str, values: Sequence[Any] | str | None) -> str | None:
    """A list as the command line writes it."""
    if values is None or isinstance(values, str):
        return values
    if not isinstance(values, Sequence):
        raise UserError(f"{what} is {values!r}; give a list")
    return ",".join(str(value) for value in values)


def time_text(value: float | str | None) -> str | None:
    """Seconds, or a text such as ``1h``."""
    return value if value is None or isinstance(value, str) else f"{value!r}s"


def bar_of(progress: Progress | None) -> Bar:
    """The caller's function in place of the terminal's bars."""
    return lambda label: nullcontext(progress or (lambda done, total: None))


def repeat_of(args: argparse.Namespace) -> Any:
    """What a report says of how it came about: the command line, where names alone say it all."""
    from apex_sim.html.config import Repeat
    from apex_sim.repeat import command_of, options_of, positionals_of

    plain = (str, int, float, bool, list, tuple, type(None))
    if all(isinstance(value, plain) for value in vars(args).values()):
        words = ("apex-sim", args.command, *positionals_of(args))
        return Repeat({}, options_of(args), command_of(args), (), words)
    return Repeat({name: _named(value) for name, value in sorted(vars(args).items()) if value is not None})


def _named(value: object) -> Any:
    """Objects by their names."""
    return value if isinstance(value, str | int | float | bool | list | tuple) else getattr(value, "name", str(value))
