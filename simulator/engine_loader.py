"""Engine profiles from YAML, with the defaults the engine picks for a device."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from hardware_profiles.errors import UserError, unknown_name
from hardware_profiles.schema import DeviceProfile
from simulator.batching import BATCHING
from simulator.engine import EngineProfile

_ALIASES = {"vllm": "vllm-v1", "v1": "vllm-v1", "v0": "vllm-v0", "fastertransformer": "static"}
GIB = 1 << 30


def engine_names() -> list[str]:
    """Names of the built-in engine profiles."""
    folder = resources.files("simulator").joinpath("engines")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_engine(name: str, device: DeviceProfile) -> EngineProfile:
    """Engine profile by name or from a YAML file, with ``device``'s defaults filled in.

    Raises UserError for an unknown name or a file with an unknown, missing or malformed field.
    """
    import yaml

    key = _ALIASES.get(name.lower(), name.lower().replace("_", "-"))
    if key in engine_names():
        place, text = f"{key}.yaml", resources.files("simulator").joinpath("engines", f"{key}.yaml").read_text("utf-8")
    elif name.endswith((".yaml", ".yml")):
        place = name
        try:
            text = Path(name).read_text("utf-8")
        except OSError as error:
            raise UserError(f"{name}: cannot read the engine profile: {error.strerror}") from None
    else:
        raise unknown_name("engine", name, engine_names())
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{place}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, Mapping):
        raise UserError(f"{place}: an engine profile is a mapping of fields; this is {type(data).__name__}")
    return _from_mapping(dict(data), place, device)


def _from_mapping(data: dict[str, Any], place: str, device: DeviceProfile) -> EngineProfile:
    for row in data.pop("defaults", []):
        if _matches(row, device):
            for field in ("max_num_seqs", "max_num_batched_tokens"):
                data.setdefault(field, row[field])
            break
    fields = {field.name: field for field in dataclasses.fields(EngineProfile)}
    for key, value in data.items():
        if key not in fields:
            raise UserError(f"{place}: {unknown_name('field', key, fields)}")
        _check_type(place, key, value, str(fields[key].type))
    required = [n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING]
    missing = [name for name in required if name not in data]
    if missing:
        raise UserError(f"{place}: field {missing[0]} is missing")
    if data["batching"] not in BATCHING:
        raise UserError(f"{place}: {unknown_name('batching policy', str(data['batching']), BATCHING)}")
    data["version"] = str(data["version"])
    return EngineProfile(**data)


def _matches(row: Mapping[str, Any], device: DeviceProfile) -> bool:
    excluded = str(row.get("not_device", "")).lower()
    return device.memory_bytes >= float(row["min_memory_gib"]) * GIB and not (excluded and excluded in device.name)


def _check_type(place: str, key: str, value: object, annotation: str) -> None:
    """Reject strings where numbers belong, negative numbers and the like."""
    if annotation.startswith(("int", "float")):
        wanted = (int,) if annotation.startswith("int") else (int, float)
        if value is None and "None" in annotation:
            return
        if isinstance(value, bool) or not isinstance(value, wanted):
            hint = "; YAML reads 1e6 as a string, write 1.0e+6" if isinstance(value, str) else ""
            raise UserError(f"{place}: {key} is {value!r}; it must be {' or '.join(t.__name__ for t in wanted)}{hint}")
        if value < 0:
            raise UserError(f"{place}: {key} is {value!r}; it must not be negative")
    elif annotation == "bool" and not isinstance(value, bool):
        raise UserError(f"{place}: {key} is {value!r}; it must be true or false")
