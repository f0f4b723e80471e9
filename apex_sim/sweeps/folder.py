"""The folder of a sweep: what was asked for, whether a new file goes with it, and who works in it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apex_sim.files import to_json, write_text
from apex_sim.named_files import digests_of
from apex_sim.sweeps.design import Point, points_of
from apex_sim.sweeps.journal import read_journal
from apex_sim.sweeps.point import CRASHED
from apex_sim.sweeps.spec import Sweep, _sweep
from hardware_profiles.errors import UserError

MANIFEST = "sweep.json"
STALE_S = 3600.0
"""Age of a temporary file that nobody writes any more [s]."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Part ``number`` (from 1) of ``count`` of the points."""

    number: int
    count: int

    @property
    def label(self) -> str:
        """What its files bear."""
        return f"-{self.number}of{self.count}" if self.count > 1 else ""

    def part(self, points: list[Point]) -> list[Point]:
        """Every ``count``-th point, so that parts take about as long as each other."""
        return points[self.number - 1 :: self.count]


WHOLE = Shard(1, 1)


def parse_shard(text: str | None) -> Shard:
    """``2/8`` is the second of eight parts."""
    if text is None:
        return WHOLE
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UserError(f"--shard is {text!r}; write i/n with i from 1 to n, for example 2/8")
    return Shard(int(number), int(count))


def files_of(sweep: Sweep) -> dict[str, str]:
    """Files that the sweep names, and those that they name -> digest of their contents."""
    return digests_of([sweep.source.get("fixed"), sweep.source.get("vary")], sweep.base)


def open_folder(folder: Path, sweep: Sweep, points: list[Point]) -> dict[str, dict[str, Any]]:
    """Rows that are there already; UserError where they are not of this sweep. The folder then says what is asked for."""
    manifest = _manifest(sweep)
    known = read_manifest(folder)
    rows = read_journal(folder)
    _sweep_up(folder)
    if known is not None:
        _check(folder, known, manifest, points, rows, sweep.where)
    if known != manifest:
        write_text(folder / MANIFEST, to_json(manifest))
    return rows


def _manifest(sweep: Sweep) -> dict[str, Any]:
    from apex_sim import __version__

    return {
        "apex_sim_version": __version__,
        "base": str(sweep.base),
        "files": files_of(sweep),
        "sweep": sweep.source,
    }


def rows_of_others(folders: Sequence[str | Path], sweep: Sweep, points: list[Point]) -> dict[str, dict[str, Any]]:
    """Finished runs of this sweep that other folders hold, shards of other machines for example; of two the first holds.

    UserError for a folder of another sweep, of another version, or of other files.
    """
    found: dict[str, dict[str, Any]] = {}
    if not folders:  # the files that the sweep names are not read for nothing
        return found
    manifest, asked = _manifest(sweep), {point.key for point in points}
    for folder in map(Path, folders):
        known = read_manifest(folder)
        if known is None:
            raise UserError(f"--merge {folder}: is not the folder of a sweep; name one that --out made")
        rows = read_journal(folder)
        _check(folder, known, manifest, points, rows, sweep.where)
        for key, row in rows.items():
            if key in asked and is_final(row):
                found.setdefault(key, row)
    return found


def refuse_foreign(folder: Path) -> None:
    """UserError for a folder with files that are not of a sweep."""
    if read_manifest(folder) is None and any(path.name[0] != "." for path in folder.iterdir()):
        raise UserError(f"--out {folder}: is not empty and not the folder of a sweep; choose another")


def _sweep_up(folder: Path) -> None:
    """Temporary files of sessions that were killed while they wrote a table; those of an hour, no other shard's."""
    for path in folder.glob(".*.*"):
        stem = path.name[1:].partition(".")[0]
        if (stem == "sweep" or stem.startswith("results")) and time.time() - path.stat().st_mtime > STALE_S:
            path.unlink(missing_ok=True)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What the folder says of itself; None for one without a sweep."""
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict) or not {"apex_sim_version", "base", "files", "sweep"} <= set(content):
        raise UserError(f"{path}: cannot be read as the record of a sweep; choose another --out")
    return content


def _check(
    folder: Path,
    known: Mapping[str, Any],
    manifest: Mapping[str, Any],
    points: list[Point],
    rows: Mapping[str, Mapping[str, Any]],
    where: str,
) -> None:
    """Rows of another version, of other files, or of points that are no longer asked for must not be mixed.

    Runs that did not succeed bind nobody: a mistake in the file is corrected, and what it refused is left out of the table.
    """
    if not rows:
        return
    if known["apex_sim_version"] != manifest["apex_sim_version"]:
        raise UserError(
            f"{folder}: holds runs of apex-sim {known['apex_sim_version']}, this is {manifest['apex_sim_version']}; "
            "choose another --out"
        )
    for name in known["files"]:
        if name not in manifest["files"] and json.dumps(name) in json.dumps(manifest["sweep"]):
            raise UserError(f"{folder}: {name} is gone since its runs were made; choose another --out or restore it")
    for name, digest in manifest["files"].items():
        if known["files"].get(name, digest) != digest:
            raise UserError(
                f"{folder}: {name} has changed since its runs were made; choose another --out or restore it"
            )
    asked = {point.key for point in points}
    gone = [key for key, row in rows.items() if key not in asked and row["status"] == "ok"]
    if gone:
        before = {point.key: point for point in points_of(sweep_of(known))}
        shown = next((_words(before[key]) for key in gone if key in before), gone[0])
        raise UserError(
            f"{folder}: {where} no longer asks for {len(gone)} of the {len(rows)} runs it holds ({shown}); choose another "
            "--out or put them back"
        )


def _words(point: Point) -> str:
    return ", ".join(f"{name}={value}" for name, value in point.chosen.items() if value is not None)


def sweep_of(manifest: Mapping[str, Any]) -> Sweep:
    """The sweep that a folder was made for."""
    return _sweep(manifest["sweep"], Path(manifest["base"]), MANIFEST)


def is_final(row: Mapping[str, Any]) -> bool:
    """Whether the same run would end the same way."""
    return row.get("status") != CRASHED


@contextmanager
def locked(folder: Path, shard: Shard) -> Iterator[None]:
    """Nobody else carries out the same points: the whole excludes everyone, a shard the whole and itself."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handles = []
    wanted = [(".lock", fcntl.LOCK_EX if shard.count == 1 else fcntl.LOCK_SH)]
    if shard.count > 1:
        wanted.append((f".lock{shard.label}", fcntl.LOCK_EX))
    try:
        for name, kind in wanted:
            handles.append(os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o644))
            try:
                fcntl.flock(handles[-1], kind | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"--out {folder}: another sweep is at work there; wait for it, or stop it") from None
            except OSError:  # a file system without locks
                pass
        yield
    finally:
        for handle in handles:
            os.close(handle)
