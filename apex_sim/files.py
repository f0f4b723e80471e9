"""Results are written so that nothing is lost: a temporary file beside the target, then a rename. JSON is read in one place."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hardware_profiles.errors import UserError

OUTPUT_FILES = (
    *("json", "csv", "plot", "report", "timeline", "requests", "out", "save_routing"),
    *("junit", "gantt", "roofline", "figure"),
)
"""Options that name files to write, in any command."""
LONGEST_NAME = 120
"""Characters of a path that messages show."""


def prepare_folder(path: str | Path, flag: str = "--out") -> Path:
    """Create an output folder and make sure it can be written; call when the input is known to be good, before the long
    work. Folders created in vain are removed."""
    folder = Path(path)
    created = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        for parent in created:
            with suppress(OSError):
                parent.rmdir()
        what = "is a file, not a folder" if folder.is_file() else f"cannot write there: {error.strerror}"
        raise UserError(f"{flag} {folder}: {what}; choose another folder") from None
    return folder


def prepare_file(path: str | Path, flag: str) -> Path:
    """Make sure an output file can be written; call before the long work."""
    target = Path(path)
    try:
        is_folder = target.is_dir()
    except OSError as error:
        raise UserError(f"{flag} {_short(target)}: {error.strerror}; choose another file") from None
    if is_folder:
        raise UserError(f"{flag} {target}: is a folder; name a file in it")
    if not target.parent.is_dir():
        raise UserError(f"{flag} {target}: there is no folder {target.parent}; create it or choose another")
    if _is_special(target):
        return target
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.stem}.", suffix=target.suffix):
            pass
    except OSError as error:
        raise UserError(f"{flag} {_short(target)}: cannot write there: {error.strerror}; choose another file") from None
    return target


def _short(path: Path) -> str:
    """A name that fits on a line."""
    text = str(path)
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME // 2]}...{text[-LONGEST_NAME // 4 :]}"


def check_distinct(args: Any) -> None:
    """UserError where two options of a command name one file; call before it runs."""
    given: dict[str, str] = {}
    for name in OUTPUT_FILES:
        value = getattr(args, name, None)
        if not isinstance(value, str) or value == "-":
            continue
        place = os.path.realpath(value)
        if os.path.exists(place) and not os.path.isfile(place):  # a folder, /dev/null
            continue
        flag = f"--{name.replace('_', '-')}"
        if place in given:
            raise UserError(f"{given[place]} and {flag} are one file, {_short(Path(value))}; name two")
        given[place] = flag


def prepare_figure(path: str | Path, flag: str) -> Path:
    """The same for a figure, whose suffix says the format."""
    if Path(path).suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UserError(f"{flag} {path}: the ending says the format; use .png, .svg or .pdf")
    return prepare_file(path, flag)


def _is_special(path: Path) -> bool:
    """A pipe or a device (/dev/null, /dev/stdout): written in place, never replaced."""
    return path.exists() and not path.is_file()


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path`` (where a link leads), then rename it into place."""
    if _is_special(path):
        try:
            return write(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None
    path = path.resolve()
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
    """JSON has neither NaN, which becomes null, nor infinity, which becomes "inf" (as vllm bench serve writes it)."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def to_json(data: Any) -> str:
    """JSON text with a final newline; floats round-trip, NaN is null, infinity is "inf"."""
    return json.dumps(_plain(data), indent=2) + "\n"


def to_yaml(data: Any) -> str:
    """YAML text in the order given."""
    import yaml

    return str(yaml.safe_dump(_plain(data), sort_keys=False))


def read_json_fields(path: str | Path, place: str, wanted: str) -> Mapping[str, Any]:
    """The object in a JSON file; UserError begins with ``place`` and ends with what to give: ``wanted``."""
    try:
        data = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{place}: cannot be read ({error.strerror}); give {wanted}") from None
    except ValueError as error:
        raise UserError(f"{place}: is not JSON ({error}); give {wanted}") from None
    if not isinstance(data, Mapping):
        raise UserError(f"{place}: holds a {type(data).__name__}; give {wanted}")
    return data
