"""The timeline of a run as a file that Perfetto opens (ui.perfetto.dev, or chrome://tracing)."""

from __future__ import annotations

import gzip
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from apex_sim.files import prepare_file, write_atomically
from hardware_profiles.errors import UserError

if TYPE_CHECKING:
    from simulator.events.chrome import ChromeTrace
    from simulator.events.step_log import Watch
    from simulator.result import SimulationResult

Window = tuple[float, float]
"""(from, until) [s of the trace]."""


def write_timeline(result: SimulationResult, path: str | Path, *, window: Window | str | None = None) -> ChromeTrace:
    """Write what a run did, step by step, as a Chrome trace: ``.json``, or ``.json.gz`` compressed.

    The run must have been watched (``simulate(..., timeline=True)``). window: seconds of the trace, as (from, until) or
    ``"10:20"``; None: all. At most a million events; ``.note`` of what is returned says what is left out.
    """
    from simulator.events.chrome import trace_of

    target = prepare_timeline(path)
    limits = parse_window(window)
    trace = trace_of(result, limits)
    write_atomically(target, lambda temporary: _write(trace, temporary))
    return trace


def prepare_timeline(path: str | Path, flag: str = "--timeline") -> Path:
    """Make sure the file can be written and its name says its format."""
    if not str(path).endswith((".json", ".json.gz")):
        raise UserError(f"{flag} {path}: the ending says the format; use .json or .json.gz")
    return prepare_file(path, flag)


def parse_window(window: Window | str | None, flag: str = "--timeline-window") -> Window | None:
    """A window in seconds from 'START:END'; either may be missing."""
    if window is None:
        return None
    try:
        parts = window.split(":") if isinstance(window, str) else [str(limit) for limit in window]
        begin, end = (float(part) if part else default for part, default in zip(parts, (0.0, math.inf), strict=True))
    except (TypeError, ValueError):
        begin, end = math.nan, math.nan
    if not 0.0 <= begin < end:
        raise UserError(f"{flag} is {window!r}; give START:END in seconds of the trace, for example 10:20")
    return begin, min(end, 1e9)


def watch_of(timeline: bool | Window | str) -> Watch | None:
    """What a run must keep for its timeline: everything, or what overlaps a window."""
    from simulator.events.step_log import Watch

    if timeline is False or timeline is None:
        return None
    return Watch(None if timeline is True else parse_window(timeline, "timeline"))


def _write(trace: ChromeTrace, path: Path) -> None:
    """The text; without time stamps where it is compressed."""
    with path.open("wb") as raw:
        if path.suffix != ".gz":
            with io.TextIOWrapper(raw, encoding="utf-8", newline="\n") as file:
                return _lines(trace, file)
        with (
            gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) as packed,
            io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as file,
        ):
            _lines(trace, file)


def _lines(trace: ChromeTrace, file: TextIO) -> None:
    for line in trace.lines():
        file.write(line)
        file.write("\n")
