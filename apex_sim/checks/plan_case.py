"""Cases of a suite that let the planner choose: ``plan: true``, or what it may choose from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from apex_sim.checks.metrics import DEFAULT_METRICS
from hardware_profiles.errors import UserError, unknown_name

if TYPE_CHECKING:
    from planners.outcome import PlanResult

KEYS = ("objective", "max_rate", "search", "quantizations", "kv_cache_dtypes", "draft_acceptance")
"""Arguments of ``apex_sim.plan`` that a case may give under ``plan``."""
CHOSEN = ("tp", "pp", "dp", "ep", "disaggregate")
"""What the planner chooses, so that a case cannot state it."""
PLAN_METRICS = (*DEFAULT_METRICS, "num_gpus")
"""Compared unless the case says otherwise."""


def plan_of(value: object, settings: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Arguments of ``apex_sim.plan`` from a case's ``plan``; UserError names the key."""
    if value is True:
        value = {}
    if not isinstance(value, Mapping):
        raise UserError(
            f"{place}: plan is {value!r}; write plan: true, or what may be chosen: plan: {{objective: tpot}}"
        )
    for name in CHOSEN:
        if name in settings:
            raise UserError(f"{place}: {name} beside plan: the planner chooses it; leave one of them out")
    for key in value:
        if str(key).replace("-", "_") not in KEYS:
            raise UserError(f"{place}: plan: {unknown_name('setting', str(key), KEYS)}")
    return {str(key).replace("-", "_"): tuple(v) if isinstance(v, list) else v for key, v in value.items()}


def run_plan(settings: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """(figures of the best plan, the plan in words) of a case's settings."""
    from apex_sim.api import plan

    found = dict(settings)
    chosen = found.pop("plan")
    result = plan(**found, **chosen)
    return dict(figures_of_best(result)), in_words(result)


def figures_of_best(result: PlanResult) -> Mapping[str, Any]:
    """Of the best plan's run; UserError where none was simulated in full."""
    measured = result.best.measured
    if measured is None:
        raise UserError("the planner found no plan that could be simulated in full; give more devices, or a looser SLO")
    return measured.metrics


def in_words(result: PlanResult) -> str:
    """Layout and settings that were chosen: ``tp2 dp2, fp8, max-num-seqs 256``."""
    best = result.best.candidate
    words = [best.layout, best.quantization, "" if best.kv_cache_dtype == "auto" else f"kv {best.kv_cache_dtype}"]
    for name in ("max_num_seqs", "max_num_batched_tokens"):
        value = getattr(best, name)
        words.append("" if value is None else f"{name.replace('_', '-')} {value}")
    return ", ".join(word for word in [*words, best.draft, best.cache] if word)
