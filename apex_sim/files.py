"""Writing results so that nothing is lost or half-written: a temporary file beside the target, then a rename."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hardware_profiles.errors import UserError


def prepare_folder(path: str | Path) -> Path:
    """Create an output folder and make sure it can be written; call before the long work."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{folder}: cannot write there: {error.strerror}. Choose another --out folder") from None
    return folder


def prepare_file(path: str | Path) -> Path:
    """Make sure an output file can be written; call before the long work."""
    target = Path(path)
    if target.is_dir():
        raise UserError(f"{target}: is a folder; name a file in it")
    if not target.parent.exists():
        raise UserError(f"{target}: the folder {target.parent} does not exist")
    prepare_folder(target.parent)
    return target


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it into place."""
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomically(path, lambda temporary: _fill(temporary, text))


def _fill(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _plain(value: Any) -> Any:
    """JSON has no NaN: they become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def to_json(data: Any) -> str:
    """JSON text with a final newline; floats round-trip, NaN is null."""
    return json.dumps(_plain(data), indent=2) + "\n"


def to_yaml(data: Any) -> str:
    """YAML text in the order given."""
    import yaml

    return str(yaml.safe_dump(_plain(data), sort_keys=False))
