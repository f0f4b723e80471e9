"""A suite: a YAML file of cases, each a deployment, a workload, what to compare and how closely."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apex_sim.checks.metrics import DEFAULT_METRICS, Tolerances, family_of, parse_tolerances
from apex_sim.checks.plan_case import PLAN_METRICS, plan_of
from apex_sim.checks.question_case import FILES, QUESTIONS, located, question_in, question_of, without_unheeded
from apex_sim.named_files import digests_of
from apex_sim.setting_words import as_fields
from hardware_profiles.errors import UserError, unknown_name
from hardware_profiles.records import fields_of, read_yaml

TOP = ("baseline", "defaults", "metrics", "tolerances", "cases")
OWN = ("name", "workload", "metrics", "tolerances", "note", "plan", *QUESTIONS)
"""Fields of a case that are no setting of the simulation."""
NAMED = ("model", "cluster", "engine", "slo", "seed", "tp", "pp", "dp", "ep", "disaggregate", "kv_link", "kv_overlap")
"""Named arguments of ``apex_sim.simulate`` that a case may give."""
PATHS = ("model", "cluster", "engine", "trace", "speculative_config", "interference", "expert_cache_trace")
"""Settings that may be a file; relative to the suite's folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One prediction to compare."""

    name: str
    settings: Mapping[str, Any]
    """Keywords of ``apex_sim.simulate``, the workload's among them; with a question its arguments under its name."""
    question: str | None = None
    """Planner that is asked instead: gpus, experts or power."""
    metrics: tuple[str, ...] = DEFAULT_METRICS
    named: bool = False
    """Whether the suite names the metrics: then a run that has not all of them is a mistake."""
    tolerances: Tolerances
    attainment: float | None = None
    """Share of the requests that the case's SLO asks for."""
    line: int = 1
    """Of the case in the suite's file."""
    digest: str = ""
    """Of the settings as the file has them: a baseline of other settings says nothing about this case."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Files that the settings name, and those that these name -> eight digits of their contents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Cases and where their baseline lies."""

    path: Path
    baseline: Path
    cases: tuple[Case, ...]


def read_suite(path: str | Path, *, baseline: str | Path | None = None) -> Suite:
    """Read a suite; UserError names file, case and field. ``baseline`` replaces the one the suite names."""
    path = Path(path)
    data = read_yaml(path)
    for key in data:
        if key not in TOP:
            raise UserError(f"{path}: {unknown_name('field', str(key), TOP)}")
    entries = data.get("cases")
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: has no cases; write a list under 'cases:' (docs/checks.md)")
    defaults = fields_of(data.get("defaults") or {}, f"{path}: defaults")
    lines = _lines(path)
    cases = []
    for index, entry in enumerate(entries):
        case = fields_of(entry, f"{path}: case {index + 1}")
        shared = without_unheeded(question_in({**defaults, **case}, f"{path}: case {index + 1}"), defaults)
        cases.append(_case(_merged(shared, case), data, path, index, lines[index] if index < len(lines) else 1))
    _check_names(cases, path)
    return Suite(path=path, baseline=_baseline(path, data, baseline), cases=tuple(cases))


def _baseline(path: Path, data: Mapping[str, Any], given: str | Path | None) -> Path:
    """Beside the suite, named after it, unless someone says otherwise."""
    if given is not None:
        return Path(given)
    named = data.get("baseline", f"{path.stem}.baseline.yaml")
    if not isinstance(named, str) or not named:
        raise UserError(f"{path}: baseline is {named!r}; name a YAML file, relative to the suite")
    return path.parent / named


def _case(data: Mapping[str, Any], top: Mapping[str, Any], path: Path, index: int, line: int) -> Case:
    name = data.get("name")
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"{path}: case {index + 1} has no name; give every case a name of its own")
    place = f"{path}: case {name!r}"
    question = question_in(data, place)
    settings = {**_settings(data, place), **_workload_of(data, question, place)}
    if data.get("plan") not in (None, False):
        settings["plan"] = plan_of(data["plan"], settings, place)
    if question is not None:
        settings[question] = question_of(question, data[question], settings, place)
    for needed in ("model", "cluster"):
        if question is None and not settings.get(needed):
            raise UserError(f"{place}: {needed} is missing; a case needs model, cluster and workload")
    metrics = data.get("metrics", top.get("metrics"))
    tolerances = {
        **parse_tolerances(fields_of(top.get("tolerances") or {}, f"{path}: tolerances"), f"{path}: tolerances"),
        **parse_tolerances(fields_of(data.get("tolerances") or {}, f"{place}: tolerances"), f"{place}: tolerances"),
    }
    return Case(
        name=name,
        settings={key: _located(key, value, path.parent) for key, value in settings.items()},
        question=question,
        metrics=_default_metrics(question, settings) if metrics is None else _metrics(metrics, place),
        named=metrics is not None,
        tolerances=tolerances,
        attainment=_attainment(settings.get("slo"), place),
        line=line,
        digest=digest(settings),
        files=_files(settings, settings.get(question or "", {}), path.parent),
    )


def _default_metrics(question: str | None, settings: Mapping[str, Any]) -> tuple[str, ...]:
    if question is not None:
        return QUESTIONS[question]
    return PLAN_METRICS if "plan" in settings else DEFAULT_METRICS


def _workload_of(data: Mapping[str, Any], question: str | None, place: str) -> dict[str, Any]:
    """The workload's keywords; planners have one of their own where the case has none, a row has its services'."""
    workload = data.get("workload")
    if question == "power" and workload is not None:
        raise UserError(
            f"{place}: workload has no meaning beside power, whose load is that of its services; leave it out"
        )
    return {} if question is not None and workload is None else _workload(workload, place)


def _attainment(slo: Any, place: str) -> float | None:
    from workloads.slo import as_slo

    try:
        parsed = as_slo(slo)
    except UserError as error:
        raise UserError(f"{place}: {as_fields(str(error))}") from None
    return None if parsed is None else parsed.attainment


def _files(settings: Mapping[str, Any], asked: Mapping[str, Any], folder: Path) -> dict[str, str]:
    named = [settings.get(key) for key in (*PATHS, "disaggregate")] + [asked.get(key) for key in FILES]
    return {name: digest[:8] for name, digest in digests_of(named, folder).items()}


def digest(settings: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits of the settings, however they are ordered."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _settings(data: Mapping[str, Any], place: str) -> dict[str, Any]:
    """What the case says about the deployment, under the names of ``apex_sim.simulate``."""
    from apex_sim.api import TermSettings
    from simulator.build import EngineSettings

    known = (*NAMED, *TermSettings.__annotations__, *EngineSettings.__annotations__)
    found = {}
    for key, value in data.items():
        name = str(key).replace("-", "_")
        if name in OWN:
            continue
        if name not in known:
            raise UserError(f"{place}: {unknown_name('setting', str(key), (*known, *OWN))}")
        found[name] = value
    return {name: value for name, value in found.items() if value is not None}


def _workload(data: object, place: str) -> dict[str, Any]:
    """The workload's keywords; a file or a bundled sample may stand alone."""
    from apex_sim.api import WorkloadSettings

    if data is None:
        raise UserError(
            f"{place}: workload is missing; write for example workload: {{rate: 4, input_len: 500, output_len: 200}}"
        )
    if isinstance(data, str):
        return {"trace": data}
    known = tuple(WorkloadSettings.__annotations__)
    found = {}
    for key, value in fields_of(data, f"{place}: workload").items():
        name = key.replace("-", "_")
        if name not in known:
            raise UserError(f"{place}: workload: {unknown_name('setting', key, known)}")
        found[name] = value
    return found


def _located(key: str, value: Any, folder: Path) -> Any:
    """A path relative to the suite's folder where such a file exists; names of built-in things stay names."""
    if key in QUESTIONS:
        return located(value, folder)
    if key in PATHS and isinstance(value, str) and (folder / value).is_file():
        return str(folder / value)
    return value


def _metrics(value: object, place: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise UserError(
            f"{place}: metrics is {value!r}; write a list of fields such as [p95_ttft_ms, output_throughput]"
        )
    for name in value:
        try:
            family_of(name)
        except UserError as error:
            raise UserError(f"{place}: metrics: {error}") from None
    return tuple(dict.fromkeys(value))


def _merged(defaults: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """``own`` over ``defaults``; tolerances are merged, and a workload where both are mappings."""
    merged = {**defaults, **own}
    for name in ("workload", "tolerances"):
        first, second = defaults.get(name), own.get(name)
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            merged[name] = {**first, **second}
    return merged


def _check_names(cases: list[Case], path: Path) -> None:
    seen: dict[str, int] = {}
    for case in cases:
        if case.name in seen:
            raise UserError(
                f"{path}: two cases are called {case.name!r} (lines {seen[case.name]} and {case.line}); rename one"
            )
        seen[case.name] = case.line


def _lines(path: Path) -> list[int]:
    """Line of every case, from 1."""
    import yaml

    root = yaml.compose(path.read_text("utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    for key, value in root.value if root is not None else ():
        if key.value == "cases":
            return [item.start_mark.line + 1 for item in value.value]
    return []
