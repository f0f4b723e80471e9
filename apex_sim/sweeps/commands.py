"""What a sweep may ask at each of its points: ``command: simulate``, ``plan``, ``gpus`` or ``power``; figures of a row."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

SIMULATE = "simulate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A function of the package that is called with a point's settings."""

    module: str
    needed: tuple[str, ...]
    """Settings without which nothing is asked."""
    mappings: tuple[str, ...] = ()
    """Settings that are mappings: ``prices.l4`` names a part."""
    lists: tuple[str, ...] = ()
    """Settings that the function takes as a tuple, where a file has a list."""
    unused: tuple[str, ...] = ("progress", "settings")
    """Arguments that say nothing about the answer."""
    workload: bool = True
    """Whether it takes a trace."""


ASKED: Mapping[str, Asked] = {
    SIMULATE: Asked(
        module="apex_sim.api",
        needed=("model", "cluster"),
        mappings=("elasticity", "speculative_config", "disaggregate"),
        lists=("disaggregate",),
    ),
    "plan": Asked(
        module="apex_sim.api",
        needed=("model", "cluster"),
        mappings=("speculative_config", "draft_acceptance"),
        lists=("search", "quantizations", "kv_cache_dtypes"),
        unused=("progress", "settings", "jobs"),
    ),
    "gpus": Asked(
        module="apex_sim.questions", needed=("model", "gpus"), mappings=("prices", "limits", "speculative_config")
    ),
    "power": Asked(module="apex_sim.questions", needed=(), workload=False),
}
"""Value of ``command`` in a sweep's file -> what it calls."""
_WORD = re.compile(r"\W")
"""What conditions cannot read in a column's name: of ``h100-sxm:2`` it is ``num_h100_sxm_2``."""
NAMED_BY_TYPE = ("prices", "limits")
"""Mappings whose parts are types of GPUs, which have dashes."""


def function_of(command: str) -> Callable[..., Any]:
    """The function that a sweep of that command calls at each point."""
    found: Callable[..., Any] = getattr(import_module(ASKED[command].module), command)
    return found


@cache
def known_settings(command: str = SIMULATE) -> Mapping[str, str]:
    """Name -> annotation of every setting that a sweep of that command may name."""
    import inspect

    from apex_sim.api import AllSettings

    asked = ASKED[command]
    named = inspect.signature(function_of(command)).parameters
    found = {name: str(p.annotation) for name, p in named.items() if name not in asked.unused}
    if not asked.workload:
        return found
    kinds = AllSettings.__mro__ if hasattr(AllSettings, "__mro__") else (AllSettings,)
    for kind in kinds:
        for name, hint in getattr(kind, "__annotations__", {}).items():
            found.setdefault(name, str(getattr(hint, "__forward_arg__", hint)))
    return found


@cache
def defaults(command: str = SIMULATE) -> Mapping[str, Any]:
    """What settings with a default are when nothing names them, for conditions: tp is 1."""
    import inspect

    named = inspect.signature(function_of(command)).parameters.items()
    return {n: p.default for n, p in named if p.default is not p.empty and n not in ASKED[command].unused}


def figures_of(command: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The figures of an answer, the same for the same settings. Settings as the function takes them."""
    answer = function_of(command)(**settings)
    if command == "plan":
        return _of_plan(answer)
    if command == "gpus":
        mix = {} if "windows" in answer.data else {"mix": answer.words}
        counts = {f"num_{_WORD.sub('_', name)}": count for name, count in answer.counts.items()}
        return {**mix, **counts, **answer.summary}
    found: Mapping[str, Any] = answer.summary
    return found


def _of_plan(answer: Any) -> dict[str, Any]:
    """The best plan in words and in degrees, how many were looked at, and the figures of its run."""
    from apex_sim.checks.plan_case import figures_of_best, in_words

    best, figures = answer.best, figures_of_best(answer)
    chosen = {"plan": in_words(answer), **{name: getattr(best.candidate, name) for name in ("tp", "pp", "dp", "ep")}}
    rate = {"max_rate_per_s": best.max_rate_per_s} if answer.by_rate else {}
    return {**chosen, "candidates": len(answer.entries), **rate, **figures}
