"""Carry out a sweep: what is missing, recorded as it finishes, then the table."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apex_sim import __version__
from apex_sim.sweeps.backends import Backend
from apex_sim.sweeps.commands import SIMULATE
from apex_sim.sweeps.design import Point, points_of
from apex_sim.sweeps.folder import WHOLE, Shard, is_final, locked, open_folder, refuse_foreign, rows_of_others
from apex_sim.sweeps.journal import Journal, read_journal, shared
from apex_sim.sweeps.point import FAILED
from apex_sim.sweeps.pool import Task
from apex_sim.sweeps.spec import Sweep
from apex_sim.sweeps.table import columns_of, write_tables
from hardware_profiles.errors import UserError

SNAPSHOT_S = 10.0
"""Between two tables of what is finished so far [s], at least; and ``SNAPSHOT_SHARE`` of the time goes into them at most."""
SNAPSHOT_SHARE = 0.02
RESULTS = "results"

Report = Callable[[int, int], None]
"""Called with the number of runs of this part that are recorded, and how many of them did not succeed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What there is when a sweep ends."""

    points: list[Point]
    rows: Mapping[str, Mapping[str, Any]]
    paths: list[Path]

    @property
    def columns(self) -> dict[str, list[Any]]:
        """The table."""
        return columns_of(self.points, self.rows)

    def count(self, status: str) -> int:
        """Runs with that status."""
        return sum(row["status"] == status for row in self.rows.values())


class Recorder:
    """Rows of this session: into the journal at once, into a table now and then."""

    def __init__(self, folder: Path, shard: Shard, points: list[Point], rows: dict[str, dict[str, Any]]) -> None:
        self._folder, self._shard, self._points = folder, shard, points
        self.rows = rows
        self._journal = Journal(folder, shard.label)
        self._next = time.monotonic() + SNAPSHOT_S
        self._recording = False

    def add(self, batch: list[tuple[str, dict[str, Any]]]) -> None:
        """Record finished runs."""
        self._recording = True
        self._journal.append(batch)
        self.rows.update((key, shared(row)) for key, row in batch)
        self._recording = False
        if time.monotonic() >= self._next:
            self.snapshot()

    def snapshot(self) -> list[Path]:
        """The table of what is there."""
        begin = time.monotonic()
        paths = write_tables(self._folder, RESULTS + self._shard.label, columns_of(self._points, self.rows))
        end = time.monotonic()
        self._next = end + max(SNAPSHOT_S, (end - begin) / SNAPSHOT_SHARE)
        return paths

    def finish(self, part: list[Point]) -> list[Path]:
        """The last table: of all points when every shard is done, of this shard's until then."""
        self._journal.close()
        if self._recording:  # interrupted between the disk and the table
            self.rows = {**read_journal(self._folder), **self.rows}
        if self._shard.count == 1:
            return self.snapshot() if self.rows else []
        self.rows = {**read_journal(self._folder), **self.rows}
        if all(point.key in self.rows and is_final(self.rows[point.key]) for point in self._points):
            paths = write_tables(self._folder, RESULTS, columns_of(self._points, self.rows))
            for path in self._folder.glob(f"{RESULTS}-*of*.*"):
                path.unlink(missing_ok=True)
            return paths
        mine = {point.key: self.rows[point.key] for point in part if point.key in self.rows}
        return write_tables(self._folder, RESULTS + self._shard.label, columns_of(part, mine)) if mine else []


def run_sweep(
    sweep: Sweep,
    folder: Path,
    backend: Callable[[], Backend],
    *,
    shard: Shard = WHOLE,
    retry_failed: bool = False,
    merge: Sequence[str | Path] = (),
    report: Callable[[int, int], Report] | None = None,
) -> Outcome:
    """Carry out what is missing of a sweep in ``folder``; stopped at any moment, the next call goes on from there.

    merge: folders of the same sweep whose finished runs are taken over.
    report: called with the number of runs of this part and of those that are there already,
    gives the :data:`Report`.
    """
    points = points_of(sweep)
    part = shard.part(points)
    refuse_foreign(folder)
    with locked(folder, shard):
        rows = open_folder(folder, sweep, points)
        others = rows_of_others(merge, sweep, points)
        recorder = Recorder(folder, shard, points, rows)
        taken = [(key, row) for key, row in others.items() if key not in rows or not is_final(rows[key])]
        if taken:
            recorder.add(taken)
        missing = [p for p in part if p.key not in rows or not _keep(rows[p.key], retry_failed)]
        try:
            if missing:
                tell = report(len(part), len(part) - len(missing)) if report is not None else None
                _carry_out(missing, sweep, backend(), recorder, len(part), tell)
        except BaseException:
            with suppress(OSError, UserError):  # the first error is the one to tell
                recorder.finish(part)
            raise
        paths = recorder.finish(part)
    if shard.count == 1:
        _check(points, recorder.rows)
    return Outcome(points, recorder.rows, paths)


def _keep(row: Mapping[str, Any], retry_failed: bool) -> bool:
    return is_final(row) and not (retry_failed and row["status"] != "ok")


def _carry_out(
    missing: list[Point], sweep: Sweep, backend: Backend, recorder: Recorder, total: int, tell: Report | None
) -> None:
    done, bad = total - len(missing), 0
    batches: Any = backend.run(_tasks(missing, sweep))
    with closing(batches):
        for batch in batches:
            recorder.add(batch)
            done += len(batch)
            bad += sum(row["status"] != "ok" for _, row in batch)
            if tell is not None:
                tell(done, bad)


def _tasks(points: list[Point], sweep: Sweep) -> Iterator[Task]:
    base = str(sweep.base)
    shared = {"base": base, "version": __version__}
    if sweep.command != SIMULATE:
        shared["command"] = sweep.command
    for point in points:
        yield Task(point.key, json.dumps({"settings": point.settings, **shared}))


def _check(points: list[Point], rows: Mapping[str, Mapping[str, Any]]) -> None:
    """UserError when nothing could be simulated at all: it is the file that is wrong."""
    if all(rows[point.key]["status"] == FAILED for point in points):
        raise UserError(f"all {len(points):,} runs failed; the first: {rows[points[0].key]['reason']}")
