"""How far a sweep is, on stderr: a bar with the time left, or a line a minute where stderr is no terminal."""

from __future__ import annotations

import os
import sys
import time
from typing import TextIO

QUIET_S = 60.0
"""Between two lines where there is no terminal [s]."""


def duration(seconds: float) -> str:
    """42 s, 3 min 05 s, 2 h 07 min."""
    whole = round(max(0.0, seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class SweepProgress:
    """``done`` of ``total`` runs are recorded; the time left is from those of this session."""

    WIDTH = 24

    def __init__(self, total: int, done: int, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._total, self._first = total, done
        self._begin = self._last = time.monotonic()
        self._quiet = quiet
        self._bar = not quiet and self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._shown = False

    def __call__(self, done: int, bad: int) -> None:
        now = time.monotonic()
        wait = 0.1 if self._bar else QUIET_S
        if self._quiet or (now - self._last < wait and (done < self._total or not self._bar)):
            return
        self._last = now
        text = self.text(done, bad, now - self._begin)
        if self._bar:
            filled = self.WIDTH * done // max(1, self._total)
            text = f"\r\033[K[{'#' * filled}{'.' * (self.WIDTH - filled)}] {text}"
        self._stream.write(text if self._bar else f"apex-sim: {text}\n")
        self._stream.flush()
        self._shown = self._bar

    def text(self, done: int, bad: int, passed_s: float) -> str:
        """The figures of the bar."""
        new = done - self._first
        parts = [f"{done:,} of {self._total:,}"]
        if bad:
            parts.append(f"{bad:,} failed")
        if new and done < self._total:
            parts.append(f"{duration((self._total - done) * passed_s / new)} left")
        return ", ".join(parts)

    def close(self) -> None:
        """Remove the bar."""
        if self._shown:
            self._stream.write("\r\033[K")
            self._stream.flush()
