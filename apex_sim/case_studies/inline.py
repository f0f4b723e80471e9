"""Files that a run needs and its case brings along: devices, clusters, tables, traces."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from hardware_profiles.errors import UserError


def check_files(files: object) -> None:
    """UserError unless ``files`` maps plain names to text, or to what becomes JSON (which YAML reads, too)."""
    if not isinstance(files, Mapping):
        raise UserError(f"files is {files!r}; write 'name: content' lines")
    for name, content in files.items():
        if not isinstance(name, str) or Path(name).name != name or not Path(name).suffix:
            raise UserError(f"files: {name!r} is no plain file name with an ending, such as device.yaml")
        if not isinstance(content, Mapping | list | str):
            raise UserError(f"files.{name} is {content!r}; write a mapping, a list or text")


@contextmanager
def written(settings: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Settings without ``files``, whose names (alone, or before a colon as in ``device.yaml:8``) have become paths."""
    files: Mapping[str, Any] = settings.get("files", {})
    if not files:
        yield settings
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_text(_text(name, content), encoding="utf-8")
        yield {key: _placed(value, files, folder) for key, value in settings.items() if key != "files"}


def _text(name: str, content: Any) -> str:
    """Content as text: YAML by the ending of its name (small numbers as YAML writes them), else JSON."""
    if isinstance(content, str):
        return content
    return yaml.safe_dump(content) if Path(name).suffix in (".yaml", ".yml") else json.dumps(content)


def _placed(value: Any, files: Mapping[str, Any], folder: str) -> Any:
    if isinstance(value, list):
        return [_placed(item, files, folder) for item in value]
    if isinstance(value, str) and value.split(":", 1)[0] in files:
        return f"{folder}/{value}"
    return value
