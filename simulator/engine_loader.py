"""Engine profiles from YAML, with the defaults the engine picks for a device."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, get_args

from hardware_profiles.errors import UserError, unknown_name
from hardware_profiles.schema import DeviceProfile
from simulator.batching import BATCHING
from simulator.engine import CudaGraphs, EngineProfile, PreemptionMode, Sampling, UtilizationOf
from simulator.engine_files import engine_names, profile_fields

__all__ = ["GIB", "engine_names", "load_engine"]

GIB = 1 << 30
_CHOICES = {
    "batching": tuple(BATCHING),
    "preemption": get_args(PreemptionMode),
    "sampling": get_args(Sampling),
    "cuda_graphs": get_args(CudaGraphs),
    "utilization_of": get_args(UtilizationOf),
}
_SHARES = ("gpu_memory_utilization", "watermark", "output_reserve", "comm_overlap", "nano_batch_share")
_LIMITS = ("max_num_seqs", "max_num_batched_tokens")


def load_engine(name: str, device: DeviceProfile) -> EngineProfile:
    """Engine profile by name, as ``NAME@VERSION``, or from a YAML file, with ``device``'s defaults filled in.

    Raises UserError for an unknown name or version, or a file with an unknown, missing or malformed field.
    """
    data, place = profile_fields(name)
    return _from_mapping(data, place, device)


def _from_mapping(data: dict[str, Any], place: str, device: DeviceProfile) -> EngineProfile:
    data = dict(data)
    _add_defaults(data, place, device)
    if isinstance(data.get("version"), int | float):
        data["version"] = str(data["version"])
    fields = {field.name: field for field in dataclasses.fields(EngineProfile)}
    for key, value in data.items():
        if key not in fields:
            raise UserError(f"{place}: {unknown_name('field', key, fields)}")
        _check_type(place, key, value, str(fields[key].type))
    required = [n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING]
    missing = [name for name in required if name not in data]
    if missing:
        raise UserError(f"{place}: field {missing[0]} is missing")
    for name, choices in _CHOICES.items():
        if name in data and data[name] not in choices:
            raise UserError(f"{place}: {unknown_name(name, data[name], choices)}")
    for name in _SHARES:
        if data.get(name, 0) > 1:
            raise UserError(f"{place}: {name} is {data[name]!r}; it is a share, at most 1")
    return EngineProfile(**data)


def _add_defaults(data: dict[str, Any], place: str, device: DeviceProfile) -> None:
    """Batch limits of the first row of ``defaults`` that fits the device."""
    rows = data.pop("defaults", [])
    if not (isinstance(rows, list) and all(isinstance(row, Mapping) for row in rows)):
        raise UserError(f"{place}: defaults is {rows!r}; it must be a list of mappings with min_memory_gib and limits")
    for row in rows:
        for name in ("min_memory_gib", *_LIMITS):
            if name not in row:
                raise UserError(f"{place}: a row of defaults has no {name}: {dict(row)!r}")
            _check_type(place, f"defaults: {name}", row[name], "float" if name == "min_memory_gib" else "int")
    for row in rows:
        if _matches(row, device):
            for name in _LIMITS:
                data.setdefault(name, row[name])
            break


def _matches(row: Mapping[str, Any], device: DeviceProfile) -> bool:
    excluded = str(row.get("not_device", "")).lower()
    return device.memory_bytes >= float(row["min_memory_gib"]) * GIB and not (excluded and excluded in device.name)


def _check_type(place: str, key: str, value: object, annotation: str) -> None:
    """Reject strings where numbers belong and the reverse, negative and endless numbers and the like."""
    if annotation.startswith(("int", "float")):
        wanted = (int,) if annotation.startswith("int") else (int, float)
        if value is None and "None" in annotation:
            return
        if isinstance(value, bool) or not isinstance(value, wanted):
            hint = "; YAML reads 1e6 as a string, write 1.0e+6" if isinstance(value, str) else ""
            raise UserError(f"{place}: {key} is {value!r}; it must be {' or '.join(t.__name__ for t in wanted)}{hint}")
        if not (math.isfinite(value) and value >= 0):
            raise UserError(f"{place}: {key} is {value!r}; it must be finite and not negative")
    elif annotation == "bool":
        if not isinstance(value, bool):
            raise UserError(f"{place}: {key} is {value!r}; it must be true or false")
    elif annotation.startswith("dict"):
        if not isinstance(value, Mapping):
            raise UserError(f"{place}: {key} is {value!r}; it must be a mapping")
        if annotation == "dict[str, float]":
            for name, number in value.items():
                _check_type(place, f"{key}: {name}", number, "float")
                if number <= 0:
                    raise UserError(f"{place}: {key}: {name} is {number!r}; it must be above 0")
    elif not isinstance(value, str):
        raise UserError(f"{place}: {key} is {value!r}; it must be text, in quotes where YAML reads something else")
