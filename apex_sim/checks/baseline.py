"""Stored values of a suite: a YAML file that reads well in a diff."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apex_sim.checks.metrics import family_of
from hardware_profiles.errors import UserError
from hardware_profiles.records import read_yaml

HEADER = "# Written by apex-sim check --update (or pytest --apex-update); change it that way, so that changes have reasons.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What a case gave when the baseline was written."""

    digest: str
    """Of the settings it was written for."""
    reason: str
    """Why these values are right."""
    values: Mapping[str, float]
    plan: str = ""
    """What the planner chose, where the case lets it."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Files that the case's settings name -> eight digits of their contents, when the values were stored."""


Baseline = Mapping[str, Stored]
"""By the name of the case."""


def read_baseline(path: Path) -> dict[str, Stored]:
    """The baseline; empty when there is none yet. UserError names file and field."""
    if not path.exists():
        return {}
    data = read_yaml(path)
    return {str(name): _stored(entry, f"{path}: {name}") for name, entry in data.items()}


def _stored(entry: object, place: str) -> Stored:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("values"), Mapping):
        raise UserError(f"{place} has no values; restore the file, or write it again with apex-sim check --update")
    values = {}
    for metric, value in entry["values"].items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{place}: {metric} is {value!r}; it must be a finite number; write it again with --update")
        try:
            family_of(str(metric))
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
        values[str(metric)] = float(value)
    texts = {
        name: str(entry.get(key, "")) for name, key in (("digest", "settings"), ("reason", "reason"), ("plan", "plan"))
    }
    files = entry.get("files") or {}
    if not isinstance(files, Mapping):
        raise UserError(f"{place}: files is {files!r}; restore the file, or write it again with --update")
    return Stored(values=values, files={str(name): str(digest) for name, digest in files.items()}, **texts)


def baseline_text(baseline: Baseline) -> str:
    """The file's text: cases by name, values in the order of the metrics."""
    import yaml

    from apex_sim.checks.metrics import stored

    parts = []
    for name in sorted(baseline):
        entry = baseline[name]
        content: dict[str, Any] = {
            **({"settings": entry.digest} if entry.digest else {}),
            **({"files": dict(sorted(entry.files.items()))} if entry.files else {}),
            "reason": entry.reason,
            **({"plan": entry.plan} if entry.plan else {}),
            "values": {metric: stored(value) for metric, value in entry.values.items()},
        }
        parts.append(yaml.safe_dump({name: content}, sort_keys=False, allow_unicode=True, width=1000))
    return HEADER + "".join(parts)
