"""Messages about settings that are no flags where they stand: ``rate is -3`` in a file or a call, not ``--rate is -3``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection
from functools import wraps
from typing import ParamSpec, TypeVar

from hardware_profiles.errors import UserError

P = ParamSpec("P")
R = TypeVar("R")

_FLAG = re.compile(r"(?<![\w-])(write )?--([a-z][a-z0-9]*(?:-[a-z0-9]+)*)(?![\w-])( (?=[\w'\"]))?")
RENAMED = {
    **{"price": "prices", "limit": "limits", "metric": "metrics", "time_limit": "time_limit_s"},
    **{"no_cache": "cache=False", "no_headroom": "headroom=False"},
    **{"trace_spread_ties": "spread_ties", "trace_scale_rate": "rate_scale"},
}
"""Flags (with underscores) whose argument of a function has another name."""


def as_fields(text: str, also: Collection[str] = ()) -> str:
    """``text`` with settings of ``simulate``, and those in ``also``, under their names in a file; other flags stay."""
    from apex_sim.sweeps.commands import known_settings

    def field(match: re.Match[str]) -> str:
        write, flag, space = match.groups(default="")
        name = flag.replace("-", "_")
        name = RENAMED.get(name, name) if RENAMED.get(name, "").partition("=")[0] in also else name
        if name.partition("=")[0] not in known_settings() and name.partition("=")[0] not in also:
            return match[0]
        return f"{write}{name}{': ' if write and space else space}"

    return _FLAG.sub(field, text)


def names_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """The function, whose mistakes name its arguments and not the flags of the command line."""
    own = frozenset(inspect.signature(function).parameters)

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except UserError as error:
            error.args = (as_fields(str(error), own),)
            raise

    return called
