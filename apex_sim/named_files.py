"""Files that settings name, and those that these name in turn: a cluster its device, an engine its base."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def digests_of(values: Any, base: Path) -> dict[str, str]:
    """File as it is named -> digest of its contents, of every text in ``values`` that names one, relative to ``base``.

    Files that YAML files name are under their path from ``base``; what such a file says is otherwise not looked at.
    """
    found: dict[str, str] = {}
    _look(values, base, "", found)
    return dict(sorted(found.items()))


def _look(value: Any, base: Path, folder: str, found: dict[str, str]) -> None:
    if isinstance(value, Mapping):
        for item in value.values():
            _look(item, base, folder, found)
    elif isinstance(value, list | tuple):
        for item in value:
            _look(item, base, folder, found)
    elif isinstance(value, str) and value.strip():
        name = (Path(folder) / value).as_posix() if folder else value
        with suppress(OSError, ValueError):  # a text that cannot be a path
            if name not in found and (path := _file(base / name)) is not None:
                content = path.read_bytes()
                found[name] = hashlib.sha256(content).hexdigest()
                if path.suffix.lower() in (".yaml", ".yml"):
                    _look(_yaml(content), base, Path(name).parent.as_posix(), found)


def _file(path: Path) -> Path | None:
    """The file itself, or the configuration in a model's folder."""
    path = path / "config.json" if path.is_dir() else path
    return path if path.is_file() else None


def _yaml(content: bytes) -> Any:
    """What a YAML file holds; nothing where it is none, which its reader says."""
    import yaml

    try:
        return yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError):
        return None
