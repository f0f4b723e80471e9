"""How far a command is, on stderr: a bar with the time left, or the time passed where the end is not known.

Only a terminal sees it, and only when the work takes long. Between the reports of the work a timer of the process redraws
the line, so that it moves while a solver or a worker is busy; there is no thread.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any, TextIO

PATIENCE_S = 1.5
"""Work is silent for so long."""
REDRAW_S = 0.5
ERASE = "\r\033[K"

_settings: dict[str, bool] = {"quiet": False}
_bars: list[ProgressBar] = []
"""Those at work, the innermost last: it is the one shown."""


def set_quiet(quiet: bool) -> None:
    """``--quiet``: no progress from here on."""
    _settings["quiet"] = quiet


def is_quiet() -> bool:
    """Whether ``--quiet`` was given."""
    return _settings["quiet"]


def duration(seconds: float) -> str:
    """42 s, 3 min 05 s, 2 h 07 min."""
    whole = round(max(0.0, seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def shows_progress(stream: Any) -> bool:
    """Whether a line that is drawn again and again belongs on ``stream``."""
    return not is_quiet() and stream is not None and bool(stream.isatty()) and os.environ.get("TERM") != "dumb"


class ProgressBar:
    """One kind of work, ``with ProgressBar("planning") as progress: ... progress(done, total)``.

    Without calls it shows the time that passed. Bars may be nested.
    """

    WIDTH = 24

    def __init__(self, label: str, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._label = label
        self._done, self._total = 0, 0
        self._begin = time.monotonic()
        self._shown = False
        self.enabled = shows_progress(self._stream)

    def __call__(self, done: int, total: int) -> None:
        moved = 100 * done // max(1, total) != 100 * self._done // max(1, self._total) or not self._total
        self._done, self._total = done, total
        if self.enabled and moved and time.monotonic() - self._begin >= PATIENCE_S:
            self.draw()

    def text(self, passed_s: float) -> str:
        """The line after so many seconds."""
        if not self._total:
            return f"{self._label}, {duration(passed_s)}"
        share = min(1.0, self._done / self._total)
        filled = int(self.WIDTH * share)
        bar = "#" * filled + "." * (self.WIDTH - filled)
        left = f", {duration(passed_s * (1 - share) / share)} left" if 0 < share < 1 else ""
        return f"{self._label} [{bar}] {int(100 * share):3d}%  {duration(passed_s)}{left}"

    def draw(self) -> None:
        """Show the line in place of the last one, cut to the terminal's width."""
        columns = shutil.get_terminal_size().columns
        line = self.text(time.monotonic() - self._begin)[: max(1, columns - 1)]
        _write(self._stream, ERASE + line)
        self._shown = True

    def erase(self) -> None:
        """Leave an empty line behind."""
        if self._shown:
            _write(self._stream, ERASE)
            self._shown = False

    def tick(self) -> None:
        """Drawn again by the timer."""
        if self.enabled and time.monotonic() - self._begin >= PATIENCE_S:
            self.draw()

    def __enter__(self) -> ProgressBar:
        if self.enabled:
            if _bars:
                _bars[-1].erase()
            _bars.append(self)
            if len(_bars) == 1:
                _start_timer()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bar, however the work ended."""
        if self.enabled and self in _bars:
            _bars.remove(self)
            if not _bars:
                _stop_timer()
            self.erase()


def erase_progress() -> None:
    """Before anything else is written to the terminal."""
    for bar in _bars:
        bar.erase()


def _write(stream: TextIO, text: str) -> None:
    """Past the stream's buffer where there is a file: a signal may come while the stream is being written."""
    with suppress(OSError, ValueError):
        try:
            number = stream.fileno()
        except (OSError, AttributeError):  # a stream in memory
            stream.write(text)
            stream.flush()
            return
        os.write(number, text.encode())


_old: list[Any] = []


def _start_timer() -> None:
    """Only the main thread of a system with timers has one; elsewhere bars move when the work reports."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGALRM) not in (signal.SIG_DFL, None):
        return  # somebody else's timer
    _old.append(signal.signal(signal.SIGALRM, _on_timer))
    signal.setitimer(signal.ITIMER_REAL, PATIENCE_S, REDRAW_S)


def _stop_timer() -> None:
    if _old:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, _old.pop())


def _on_timer(_signal: int, _frame: FrameType | None) -> None:
    if _bars:
        _bars[-1].tick()
