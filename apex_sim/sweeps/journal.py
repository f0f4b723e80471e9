"""Finished runs on disk: one line each, written once, on the disk before it is counted, never read half-written.

Every session of a sweep writes a file of its own, so that a torn last line stays the last line of its file. A line carries a
checksum of its row; one that does not match is left out, and its run is carried out again.
"""

from __future__ import annotations

import json
import os
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FOLDER = "journal"
_HEAD, _MIDDLE = '{"crc":"', '","row":'


def _line(key: str, row: dict[str, Any]) -> bytes:
    body = json.dumps({"key": key, **row}, separators=(",", ":"))
    return f"{_HEAD}{zlib.crc32(body.encode()):08x}{_MIDDLE}{body}}}\n".encode()


def _parse(line: bytes) -> dict[str, Any] | None:
    start, body = len(_HEAD) + 8 + len(_MIDDLE), line[len(_HEAD) + 8 + len(_MIDDLE) : -2]
    head = f"{_HEAD}{zlib.crc32(body):08x}{_MIDDLE}".encode()
    if line[:start] != head or line[-2:] != b"}\n":
        return None
    row: dict[str, Any] = json.loads(body)
    return row


def read_journal(folder: Path) -> dict[str, dict[str, Any]]:
    """Key -> row of all that is recorded; of two rows of one run the later holds."""
    rows: dict[str, dict[str, Any]] = {}
    for path in sorted((folder / FOLDER).glob("*.jsonl")):
        with path.open("rb") as lines:
            for line in lines:
                row = _parse(line)
                if row is not None:
                    rows[row.pop("key")] = shared(row)
    return rows


def shared(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the names of its fields shared among all rows, which halves the memory of many."""
    summary = {sys.intern(name): value for name, value in row.get("summary", {}).items()}
    return {sys.intern(name): value for name, value in row.items()} | {"summary": summary}


class Journal:
    """The file of this session; made when the first row comes."""

    def __init__(self, folder: Path, label: str = "") -> None:
        self._folder, self._label = folder / FOLDER, label
        self._handle: int | None = None

    def append(self, rows: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Record rows; when this returns they are on the disk."""
        data = b"".join(_line(key, row) for key, row in rows)
        try:
            if self._handle is None:
                self._handle = self._create()
            while data:
                data = data[os.write(self._handle, data) :]
            os.fsync(self._handle)
        except OSError as error:
            what = f"{error.strerror or error}; finished runs are kept, the same command goes on with the rest"
            raise OSError(error.errno, what, str(self._folder)) from None

    def close(self) -> None:
        """Nothing further comes."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _create(self) -> int:
        self._folder.mkdir(exist_ok=True)
        taken = [int(p.name[:6]) for p in self._folder.glob("[0-9]*.jsonl") if p.name[:6].isdigit()]
        number = max(taken, default=0)
        while True:
            number += 1
            path = self._folder / f"{number:06d}{self._label}.jsonl"
            try:
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
            except FileExistsError:
                continue
            _sync_folder(self._folder)
            _sync_folder(self._folder.parent)
            return handle


def _sync_folder(folder: Path) -> None:
    """The file's name on the disk as well; not every system lets a folder be opened."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
