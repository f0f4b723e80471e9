"""A worker process: one task a line on stdin, one row a line on stdout; it ends when its parent does."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue


def main() -> None:
    """Serve tasks until stdin ends, which is at once when the parent is gone, in the middle of a run too."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(2, 1)
    with suppress(OSError):  # Linux: when memory is short, a worker is ended, whose run is a row, and not the sweep
        Path("/proc/self/oom_score_adj").write_text("500")
    tasks: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_read, args=(tasks,), daemon=True).start()

    import apex_sim.api  # noqa: F401  (imported before it is said to be ready)
    from apex_sim.sweeps.point import run_point

    _say(answers, "ready")
    while True:
        _say(answers, run_point(tasks.get()))


def _say(answers: object, line: str) -> None:
    try:
        print(line, file=answers, flush=True)  # type: ignore[call-overload]
    except OSError:
        os._exit(0)


def _read(tasks: SimpleQueue[str]) -> None:
    for line in sys.stdin:
        tasks.put(line)
    os._exit(0)


if __name__ == "__main__":
    main()
