"""Cases of a suite that ask another planner: ``gpus``, ``experts`` or ``power``, with what its function takes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apex_sim.checks.metrics import DEFAULT_METRICS
from hardware_profiles.errors import UserError, unknown_name

QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "gpus": ("usd_per_hour", "usd", "num_instances", "simulated_attainment", *DEFAULT_METRICS[-2:]),
    "experts": (
        *("imbalance", "imbalance_unseen", "cross_gpu_unseen", "decode_step_ms", "experts_ms", "exchange_ms"),
        *DEFAULT_METRICS[:5],
    ),
    "power": (
        *("num_servers", "services_missed", "brakes_per_day", "peak_share", "mean_share", "worst_p50_increase"),
        *("worst_p99_increase", "energy_kwh", "fixed_servers_added"),
    ),
}
"""Field of a case -> what is compared unless it says otherwise."""
LAYOUT = ("pp", "dp", "disaggregate", "kv_link", "kv_overlap")
SHARED = ("model", "cluster", "engine", "slo", "seed", "tp", "ep")
"""Arguments that stand beside the question, as in every case."""
UNUSED = {"gpus": ("cluster", "tp", "ep", *LAYOUT), "experts": LAYOUT}
"""Fields of a case that have no meaning beside a question."""
ROW = ("model", "cluster", "engine", "seed", "max_model_len", "grid", "pue", "usd_per_kwh", "lifetime_years")
"""Those that have one beside ``power``, whose load is that of its services."""
NEEDED = {"gpus": ("model",), "experts": ("model", "cluster"), "power": ()}
WITHOUT = ("progress", "settings", "cache")
"""Arguments of the functions that say nothing about the answer."""
FILES = ("profile", "routing_trace", "placement", "services")
"""Arguments that may be a file, relative to the suite's folder."""


def question_in(data: Mapping[str, Any], place: str) -> str | None:
    """The planner that a case asks, if any; UserError where it asks two."""
    asked = [name for name in (*QUESTIONS, "plan") if data.get(name) not in (None, False)]
    if len(asked) > 1:
        raise UserError(f"{place}: {asked[0]} beside {asked[1]}: a case asks one; make two cases of it")
    return asked[0] if asked and asked[0] != "plan" else None


def heeded(question: str, name: str) -> bool:
    """Whether a field of the case means something to the planner."""
    if question == "power":
        return name in ROW
    return name not in UNUSED[question]


def without_unheeded(question: str | None, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What the suite says for all cases, as far as this one heeds it."""
    own = ("metrics", "tolerances", "note", *QUESTIONS)
    workload = () if question == "power" else ("workload",)
    return {
        name: value
        for name, value in defaults.items()
        if question is None or name in (*own, *workload) or heeded(question, str(name).replace("-", "_"))
    }


def question_of(question: str, value: object, settings: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Arguments of the planner from the case; UserError names the key."""
    from apex_sim import questions

    if question == "gpus" and isinstance(value, str | list):
        value = {"gpus": value}
    if value is True and question != "gpus":
        value = {}
    if not isinstance(value, Mapping):
        raise UserError(
            f"{place}: {question} is {value!r}; write what it takes, for example {question}: {EXAMPLES[question]}"
        )
    for name in settings:
        if not heeded(question, name):
            raise UserError(f"{place}: {name} has no meaning beside {question}; leave it out")
    taken = inspect.signature(getattr(questions, question)).parameters
    known = [name for name in taken if name not in (*SHARED, *WITHOUT)]
    found = {}
    for key, item in value.items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise UserError(f"{place}: {question}: {unknown_name('setting', str(key), known)}")
        found[name] = item
    for needed in NEEDED[question]:
        if not settings.get(needed) and "profile" not in found:
            raise UserError(f"{place}: {needed} is missing; {question} needs it beside the workload")
    return found


def located(given: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The arguments with files relative to the suite's folder."""
    return {
        name: str(folder / item) if name in FILES and isinstance(item, str) and (folder / item).is_file() else item
        for name, item in given.items()
    }


EXAMPLES = {"gpus": "[l4, l40s]", "experts": "{redundant: 8}", "power": "{servers: 20, extra: 0.2}"}


def run_question(question: str, settings: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """(figures of the answer, what it chose in words) of a case's settings."""
    from apex_sim import questions

    found = dict(settings)
    own = found.pop(question)
    if question == "gpus":
        mix = questions.gpus(**found, **own, cache=False)
        return mix.summary, "" if "windows" in mix.data else mix.words
    if question == "experts":
        return questions.experts(**found, **own).summary, ""
    return questions.power(**found, **own).summary, ""
