"""Reading case studies: strict, every mistake one line that names the file and the field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from apex_sim.case_studies.kinds import KINDS, check_settings
from apex_sim.case_studies.schema import Case, Check, Fitted, Run, SystemLine, check_consistent
from hardware_profiles.errors import UserError, unknown_name
from hardware_profiles.records import from_mapping, read_yaml

SYSTEMS = "systems.yaml"
"""The one file of the folder that is no case: all systems, with what is missing of those without a case."""


def folder() -> Path:
    """Where the cases of the package are."""
    return Path(str(resources.files("workloads"))) / "case_studies"


def case_names() -> tuple[str, ...]:
    """Names of the cases of the package, in order."""
    return tuple(sorted(path.stem for path in folder().glob("*.yaml") if path.name != SYSTEMS))


def load_cases(names: tuple[str, ...] | None = None) -> tuple[Case, ...]:
    """The cases of those names, or paths of YAML files; all of the package without names."""
    return tuple(read_case(_path(name)) for name in (case_names() if names is None else names))


def _path(name: str) -> Path:
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or "/" in name:
        return path
    bundled = folder() / f"{name}.yaml"
    if bundled.name == SYSTEMS or not bundled.exists():
        raise unknown_name("case study", name, case_names())
    return bundled


def read_systems() -> dict[str, SystemLine]:
    """All systems of the literature behind the project, by short name."""
    content = read_yaml(folder() / SYSTEMS)
    return {str(k): from_mapping(SystemLine, v, where=SYSTEMS, field=str(k)) for k, v in content.items()}


def read_case(path: Path) -> Case:
    """The case that a YAML file describes."""
    content, where = dict(read_yaml(path)), path.name
    for name in ("name", "baseline", "technique"):
        if name in content:
            raise UserError(f"{where}: unknown field '{name}'; runs belong to a check, the name is the file's")
    checks = content.pop("checks", None)
    if not isinstance(checks, Mapping) or not checks:
        raise UserError(f"{where}: checks is missing or empty; add 'checks:' and a named check below it")
    case = from_mapping(Case, content, where=where)
    for row in case.rows:
        if not re.fullmatch(r"R(0[1-9]|[12][0-9]|30)", row):
            raise UserError(f"{where}: rows has {row!r}; write rows as R01 to R30")
    return replace(case, name=path.stem, checks={str(k): _check(v, where, f"checks.{k}") for k, v in checks.items()})


def _check(content: object, where: str, field: str) -> Check:
    if not isinstance(content, Mapping):
        raise UserError(f"{where}: {field} is {content!r}; write its fields as 'field: value' lines")
    flat = {key: value for key, value in content.items() if key not in ("baseline", "technique")}
    check = from_mapping(Check, flat, where=where, field=field)
    places = {name: f"{where}: {field}.{name}" for name in ("baseline", "technique") if name in content}
    runs = {name: _run(content[name], check.fitted, place) for name, place in places.items()}
    check = replace(check, baseline=runs.get("baseline"), technique=runs.get("technique"))
    check_consistent(check, f"{where}: {field}")
    return check


def _run(content: object, fitted: Mapping[str, Fitted], place: str) -> Run:
    if not isinstance(content, Mapping):
        raise UserError(f"{place} is {content!r}; write 'kind: ...' and its settings below it")
    settings: dict[str, Any] = {str(key): value for key, value in content.items()}
    kind, metric = settings.pop("kind", None), settings.pop("metric", None)
    if kind is None:
        raise UserError(f"{place}.kind is missing; use one of {', '.join(KINDS)}")
    if kind not in KINDS:
        raise UserError(f"{place}: {unknown_name('kind of run', str(kind), KINDS)}")
    if metric is not None and not isinstance(metric, str):
        raise UserError(f"{place}.metric is {metric!r}; write a field of the result, or arithmetic over its fields")
    if isinstance(settings.get("terms"), Mapping):
        settings["terms"] = {k: _fitted(v, fitted, f"{place}.terms.{k}") for k, v in settings["terms"].items()}
    try:
        check_settings(kind, settings)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None
    return Run(kind=kind, settings=settings, metric=metric)


def _fitted(term: object, fitted: Mapping[str, Fitted], place: str) -> object:
    """A term as it stands, or the fitted parameter that it names as a value with its reason."""
    if not isinstance(term, Mapping) or set(term) != {"fitted"}:
        return term
    name = str(term["fitted"])
    if name not in fitted:
        raise UserError(f"{place}: {unknown_name('fitted parameter', name, fitted)}")
    return {"value": fitted[name].value, "source": f"fitted: {fitted[name].reason}"}
