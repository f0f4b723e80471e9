"""``apex-sim simulate --timeline``: what to keep of a run, and where to write it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulator.events.step_log import Watch


@dataclass(frozen=True, slots=True)
class TimelineFile:
    """A timeline that was asked for."""

    path: Path
    window: tuple[float, float] | None

    @property
    def watch(self) -> Watch:
        """What the run must keep."""
        from simulator.events.step_log import Watch

        return Watch(self.window)

    def write(self, result: Any) -> str:
        """Write it; a line that says so."""
        from apex_sim.timeline import write_timeline

        trace = write_timeline(result, self.path, window=self.window)
        note = "" if trace.note is None else f"\n{trace.note}"
        return f"\nwrote {len(trace.events):,} events to {self.path}: open it at ui.perfetto.dev{note}"


def add_timeline(parser: Any) -> None:
    """--timeline and --timeline-window of a command."""
    parser.add_argument("--timeline", metavar="FILE", help="write every step for Perfetto (.json or .json.gz)")
    parser.add_argument("--timeline-window", metavar="START:END", help="what overlaps these seconds of the trace alone")


def timeline_file(args: argparse.Namespace) -> TimelineFile | None:
    """The timeline that the arguments ask for; call before the run."""
    from apex_sim.timeline import parse_window, prepare_timeline
    from hardware_profiles.errors import UserError

    if args.timeline is None:
        if args.timeline_window is not None:
            raise UserError("--timeline-window says what of a timeline is written; add --timeline FILE.json")
        return None
    return TimelineFile(prepare_timeline(args.timeline), parse_window(args.timeline_window))
