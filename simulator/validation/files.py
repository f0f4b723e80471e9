"""Reading measured runs: our own YAML and CSV, and the published tables of ``sources`` (format: docs/validation.md)."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

from hardware_profiles.errors import UserError, unknown_name
from hardware_profiles.records import fields_of, parse_yaml
from simulator.build import EngineSettings
from simulator.validation.checks import problem_of
from simulator.validation.metrics import metric_names
from simulator.validation.rows import Row, read_rows
from simulator.validation.run import MeasuredRun, Stage, Window, Workload
from simulator.validation.sources import source_of
from simulator.validation.traffic import mean_length

SETTINGS = tuple(EngineSettings.__annotations__)
IDENTITY = ("id", "source", "split", "kind", "skip", "measured_by", "note", "citation")
DEPLOYMENT = ("model", "cluster", "engine", "engine_version", "tp", "pp", "dp", "ep")
NESTED = ("workload", "window", "measured", "tags")
WORKLOAD = tuple(f.name for f in dataclasses.fields(Workload) if f.name != "requests")
WINDOW = tuple(f.name for f in dataclasses.fields(Window))
FIELDS = (*IDENTITY, *DEPLOYMENT, *SETTINGS, *NESTED)
TEXT_COLUMNS = (*IDENTITY, *DEPLOYMENT[:4], "workload.trace", "workload.arrival")
"""Columns of a CSV whose cells are text whatever they look like: version 0.10 is not 0.1, and no id is a boolean."""
REQUIRED = ("id", "model", "cluster", "workload", "measured")
LONGEST_S = {"ttft": 600.0, "tpot": 10.0, "itl": 10.0, "e2e": 7200.0, "queue": 7200.0}
"""Latencies in seconds beyond these look like milliseconds."""


def read_runs(path: str | Path) -> list[MeasuredRun]:
    """The runs of a file: .yaml/.yml or .csv (also .csv.gz).

    Raises UserError naming file, run, field, value and remedy. Rows of published tables whose figures cannot be right are
    kept, with the reason as ``skip``.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name the files in it")
    if path.suffix.lower() in (".yaml", ".yml"):
        runs = _read_yaml(path)
    elif path.name.lower().endswith((".csv", ".csv.gz")):
        runs = _read_csv(path)
    else:
        raise UserError(f"{path}: cannot read '{path.suffix}' files; runs come as .yaml or .csv (docs/validation.md)")
    check_unique(runs)
    return runs


def cited_runs() -> list[MeasuredRun]:
    """The published figures that come with the project."""
    folder = resources.files("simulator.validation").joinpath("cited")
    runs = []
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".yaml"):
            runs += runs_from_yaml(entry.read_text("utf-8"), entry.name, None)
    check_unique(runs)
    return runs


def check_unique(runs: Iterable[MeasuredRun]) -> None:
    """UserError when two runs of one source have one id."""
    seen: dict[tuple[str, str], str] = {}
    for run in runs:
        key = (run.source, run.id)
        if key in seen:
            raise UserError(f"{run.place}: id {run.id!r} is taken by {seen[key]}; give every run an id of its own")
        seen[key] = run.place


# -- CSV --------------------------------------------------------------------------------------------------------------


def _read_csv(path: Path) -> list[MeasuredRun]:
    columns, rows = read_rows(path)
    source = source_of(columns)
    if source is not None:
        return [_checked_foreign(run) for run in source.read(path, rows)]
    if "id" not in columns or "model" not in columns:
        raise UserError(
            f"{path}: neither our own format (columns id, model, cluster, workload.*, measured.*) nor a published table "
            "that is known; docs/validation.md describes both"
        )
    return [_from_mapping(_nested(row), row.place, path) for row in rows]


def _checked_foreign(run: MeasuredRun) -> MeasuredRun:
    """Published tables are not the user's to mend: what cannot be right is listed with its reason."""
    problem = None if run.skip else problem_of(run)
    return run if problem is None else dataclasses.replace(run, skip=f"implausible: {problem}")


def _nested(row: Row) -> dict[str, Any]:
    """Cells by their dotted column names; empty ones are left out."""
    data: dict[str, Any] = {}
    for column in row.cells:
        text = row.text(column)
        if not text:
            if (row.cells[column] or "").strip().lower() == "nan":
                raise UserError(f"{row.place}: {column} is nan; leave the cell empty where nothing was measured")
            continue
        target = data
        *outer, last = column.split(".")
        for name in outer:
            target = target.setdefault(name, {})
            if not isinstance(target, dict):
                raise UserError(f"{row.place}: {name} is a column, and {column} too; keep one of them")
        target[last] = _unquoted(text) if column in TEXT_COLUMNS or outer == ["tags"] else _cell(text)
    return data


def _unquoted(text: str) -> str:
    """Without the quotes that a YAML file would need."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _cell(text: str) -> Any:
    """What a cell means: a number, also 1e6 as spreadsheets write it, else a YAML value, else text."""
    import yaml

    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


# -- YAML -------------------------------------------------------------------------------------------------------------


def _read_yaml(path: Path) -> list[MeasuredRun]:
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text") from None
    return runs_from_yaml(text, str(path), path)


def runs_from_yaml(text: str, place: str, path: Path | None) -> list[MeasuredRun]:
    """Runs of a YAML text: a list of runs, or a mapping with ``runs`` and ``defaults`` for all of them."""
    data = parse_yaml(text, place)
    defaults: dict[str, Any] = {}
    if isinstance(data, Mapping):
        for key in data:
            if key not in ("defaults", "runs"):
                raise UserError(f"{place}: {unknown_name('key', str(key), ('defaults', 'runs'))}")
        defaults, data = fields_of(data.get("defaults") or {}, f"{place}: defaults"), data.get("runs")
    if not isinstance(data, list) or not data:
        raise UserError(f"{place}: has no runs; write a list of runs under 'runs:' (docs/validation.md)")
    runs = []
    for index, entry in enumerate(data):
        entry = fields_of(entry, f"{place}: run {index + 1}")
        named = f"{place}: run {entry.get('id', index + 1)}"
        runs.append(_from_mapping(_merged(defaults, entry), named, path))
    return runs


def _merged(defaults: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """``own`` over ``defaults``; nested mappings are merged field by field."""
    merged = {**defaults, **own}
    for name in NESTED:
        both = (defaults.get(name), own.get(name))
        if all(isinstance(part, Mapping) for part in both):
            merged[name] = {**both[0], **both[1]}  # type: ignore[dict-item]
    return merged


# -- one run ----------------------------------------------------------------------------------------------------------


def _from_mapping(data: Mapping[str, Any], place: str, path: Path | None) -> MeasuredRun:
    for key in data:
        if key not in FIELDS:
            raise UserError(f"{place}: {unknown_name('field', key, FIELDS)}")
    for name in REQUIRED:
        if data.get(name) in (None, "", {}):
            raise UserError(f"{place}: {name} is missing; a run needs {', '.join(REQUIRED)}")
    fields: dict[str, Any] = {name: _text(data[name], place, name) for name in _present(data, (*IDENTITY, "model"))}
    fields |= {name: _text(data[name], place, name) for name in _present(data, ("cluster", "engine", "engine_version"))}
    fields |= {name: int(_number(data[name], place, name, whole=True, smallest=1)) for name in _present(data, DEGREES)}
    fields.setdefault("source", "user" if path is None else path.name.partition(".")[0])
    try:
        run = MeasuredRun(
            **fields,
            settings={name: _setting(data[name], place, name) for name in SETTINGS if data.get(name) is not None},
            workload=_workload(fields_of(data["workload"], f"{place}: workload"), f"{place}: workload", path),
            window=_window(fields_of(data.get("window") or {}, f"{place}: window"), f"{place}: window"),
            measured=_measured(fields_of(data["measured"], f"{place}: measured"), f"{place}: measured"),
            tags={k: str(v) for k, v in fields_of(data.get("tags") or {}, f"{place}: tags").items()},
            place=place,
        )
    except UserError as error:
        raise error if str(error).startswith(place) else UserError(f"{place}: {error}") from None
    problem = problem_of(run)
    if problem is not None:
        raise UserError(f"{place}: measured: {problem}")
    return run


DEGREES = ("tp", "pp", "dp", "ep")


def _present(data: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [name for name in names if data.get(name) is not None]


def _text(value: object, place: str, name: str) -> str:
    if isinstance(value, Mapping | list | bool):
        raise UserError(f"{place}: {name} is {value!r}; it must be text")
    if name == "engine_version" and isinstance(value, float):
        raise UserError(f"{place}: {name} is {value}, and 0.20 would read as 0.2; put the version in quotes")
    text = " ".join(str(value).split())
    if not text.isprintable():
        raise UserError(f"{place}: {name} is {text!a}; it must be printable text")
    return text


def _setting(value: object, place: str, name: str) -> object:
    """As written: the engine's own checks come with the replay."""
    if isinstance(value, Mapping | list):
        raise UserError(f"{place}: {name} is {value!r}; it must be one value")
    return value


def _number(value: object, place: str, name: str, *, whole: bool = False, smallest: float | None = None) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        hint = "; YAML reads 1e6 as text, write 1.0e+6" if isinstance(value, str) and _is_number(value) else ""
        raise UserError(f"{place}: {name} is {value!r}; it must be a number{hint}")
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        raise UserError(f"{place}: {name} has {len(str(abs(value)))} digits; no such number was measured")
    if not math.isfinite(value):
        raise UserError(f"{place}: {name} is {value}; it must be a finite number (leave out what was not measured)")
    if whole and value != int(value):
        raise UserError(f"{place}: {name} is {value}; it must be a whole number")
    if smallest is not None and value < smallest:
        raise UserError(f"{place}: {name} is {value}; it must be at least {smallest:g}")
    return float(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check_names(data: Mapping[str, Any], known: Sequence[str], place: str) -> None:
    for key in data:
        if key not in known:
            raise UserError(f"{place}: {unknown_name('field', key, known)}")


def _measured(data: Mapping[str, Any], place: str) -> dict[str, float]:
    """Metrics in the units of their names; latencies may also be given in seconds (``ttft_mean_s``)."""
    known = metric_names()
    measured: dict[str, float] = {}
    for name, raw in data.items():
        if raw is None:
            continue
        value, metric = _number(raw, place, name), name
        in_ms = name.removesuffix("_s") + "_ms"
        if name not in known and name.endswith("_s") and in_ms in known:
            limit = LONGEST_S.get(name.partition("_")[0], math.inf)
            if value > limit:
                raise UserError(
                    f"{place}: {name} is {value:g}, which looks like milliseconds; write {in_ms}: {value:g}"
                )
            value, metric = 1e3 * value, in_ms
        if metric not in known:
            raise UserError(f"{place}: {unknown_name('metric', name, known)} Names end with their unit")
        if metric in measured:
            raise UserError(f"{place}: {metric} is given twice, as {name} too; keep one of them")
        measured[metric] = value
    return measured


def _window(data: Mapping[str, Any], place: str) -> Window:
    _check_names(data, WINDOW, place)
    fields: dict[str, Any] = {
        name: int(_number(data[name], place, name, whole=True, smallest=0)) for name in _present(data, WINDOW[:3])
    }
    steady = data.get("steady", False)
    if not isinstance(steady, bool):
        raise UserError(f"{place}: steady is {steady!r}; it must be true or false")
    return Window(**fields, steady=steady)


def _workload(data: Mapping[str, Any], place: str, path: Path | None) -> Workload:
    _check_names(data, WORKLOAD, place)
    fields: dict[str, Any] = {}
    for name in _present(data, ("num_requests", "concurrency", "distinct_prompts", "shared_prefix_tokens")):
        fields[name] = int(_number(data[name], place, name, whole=True, smallest=0 if "shared" in name else 1))
    if data.get("rate_per_s") is not None:
        fields["rate_per_s"] = _number(data["rate_per_s"], place, "rate_per_s", smallest=1e-9)
    for name in _present(data, ("input_len", "output_len")):
        fields[name] = _lengths(data[name], place, name)
    if data.get("arrival") is not None:
        fields["arrival"] = _text(data["arrival"], place, "arrival")
    stages = data.get("stages") or []
    if not isinstance(stages, list):
        raise UserError(
            f"{place}: stages is {stages!r}; it must be a list, for example [{{num_requests: 60, duration_s: 30}}]"
        )
    fields["stages"] = tuple(_stage(item, f"{place}: stage {i}") for i, item in enumerate(stages))
    _check_one_load(fields, place)
    if data.get("trace") is not None:
        fields["trace"] = str(_beside(path, _text(data["trace"], place, "trace"), place))
    elif "input_len" not in fields or "output_len" not in fields:
        raise UserError(f"{place}: input_len and output_len are needed (or trace: a file with every request)")
    elif not fields["stages"] and "num_requests" not in fields:
        raise UserError(f"{place}: num_requests is missing; say how many requests were sent (or give stages)")
    return Workload(**fields)


def _check_one_load(fields: Mapping[str, Any], place: str) -> None:
    given = [name for name in ("stages", "rate_per_s", "concurrency") if fields.get(name)]
    if len(given) > 1:
        raise UserError(
            f"{place}: gives {' and '.join(given)}; requests came in one of these ways, leave the others out"
        )


def _beside(path: Path | None, name: str, place: str) -> Path:
    file = Path(name) if path is None else path.parent / name
    if not file.is_file():
        raise UserError(f"{place}: trace {file} does not exist; paths are relative to the file of the runs")
    return file


def _lengths(value: object, place: str, name: str) -> Any:
    if isinstance(value, list):
        if not value:
            raise UserError(f"{place}: {name} is an empty list; it needs at least one token count")
        return tuple(int(_number(item, place, name, whole=True, smallest=1)) for item in value)
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        raise UserError(
            f"{place}: {name} is {value!r}; give a number, a distribution such as 'uniform(820, 1024)', or a list"
        )
    try:
        mean_length(value)
    except UserError as error:
        raise UserError(f"{place}: {name}: {error}") from None
    return value


def _stage(value: object, place: str) -> Stage:
    """``num_requests`` and ``duration_s``, or one of them with ``rate_per_s``."""
    data = fields_of(value, place)
    _check_names(data, ("num_requests", "duration_s", "rate_per_s", "pause_s"), place)
    given = {
        name: _number(data[name], place, name, whole=name == "num_requests") for name in _present(data, tuple(data))
    }
    if {"num_requests", "duration_s", "rate_per_s"} <= given.keys():
        raise UserError(f"{place}: give two of num_requests, duration_s and rate_per_s; they decide the third")
    rate = given.get("rate_per_s")
    if rate is not None and rate > 0:
        if "duration_s" in given:
            given.setdefault("num_requests", round(rate * given["duration_s"]))
        elif "num_requests" in given:
            given["duration_s"] = given["num_requests"] / rate
    if "num_requests" not in given or "duration_s" not in given:
        raise UserError(f"{place}: give two of num_requests, duration_s and rate_per_s")
    return Stage(
        num_requests=int(given["num_requests"]), duration_s=given["duration_s"], pause_s=given.get("pause_s", 0.0)
    )
