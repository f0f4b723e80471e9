"""How far a sweep is, on stderr: the bar of all commands with runs counted, or a line a minute where there is no terminal."""

from __future__ import annotations

import time
from typing import Self, TextIO

from apex_sim.progress import ProgressBar, _write, duration, is_quiet

EVERY_S = 60.0
"""Between two lines where there is no terminal [s]."""


class SweepProgress(ProgressBar):
    """Runs that are recorded; the time left is from those of this session alone."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        super().__init__("sweep", stream)
        self._silent = quiet or is_quiet()
        self.enabled = self.enabled and not self._silent
        self._first, self._bad = 0, 0
        self._last = self._begin

    def start(self, total: int, done: int) -> Self:
        """``done`` of ``total`` runs were there before."""
        self._total, self._done, self._first = total, done, done
        self._begin = self._last = time.monotonic()
        if done and not self._silent:
            _write(self._stream, f"apex-sim: {done:,} of {total:,} runs are there already\n")
        return self

    def __call__(self, done: int, bad: int) -> None:
        """``done`` runs are recorded, ``bad`` of this session did not succeed."""
        self._done, self._bad = done, bad
        now = time.monotonic()
        if self.enabled:
            if now - self._last >= 0.1:
                self._last = now
                self.tick()
        elif not self._silent and now - self._last >= EVERY_S:
            self._last = now
            _write(self._stream, f"apex-sim: {self.text(now - self._begin)}\n")

    def text(self, passed_s: float) -> str:
        """``sweep [####....]  40%  36 of 90, 2 failed, 1 min 05 s left``."""
        share = self._done / max(1, self._total)
        filled = int(self.WIDTH * share)
        parts = [f"{self._done:,} of {self._total:,}"]
        if self._bad:
            parts.append(f"{self._bad:,} failed")
        new = self._done - self._first
        if new and self._done < self._total:
            parts.append(f"{duration((self._total - self._done) * passed_s / new)} left")
        bar = f"sweep [{'#' * filled}{'.' * (self.WIDTH - filled)}] {int(100 * share):3d}%  "
        return (bar if self.enabled else "sweep: ") + ", ".join(parts)

    def __enter__(self) -> Self:
        super().__enter__()
        return self
