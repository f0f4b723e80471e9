"""Worker processes of this machine: a worker that is killed costs one attempt of one run, never the pool."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from apex_sim.sweeps.point import CRASHED
from hardware_profiles.errors import UserError

ATTEMPTS = 3
"""Of a run whose worker ends before it answers."""


@dataclass(frozen=True, slots=True)
class Task:
    """A run to carry out: the key of its point and what :func:`apex_sim.sweeps.point.run_point` takes."""

    key: str
    text: str


Answer = tuple[str, dict[str, Any]]
"""Key and row."""


def crashed(reason: str) -> dict[str, Any]:
    """Row of a run that gave no answer."""
    return {"status": CRASHED, "reason": reason, "summary": {}, "warnings": None}


class LocalPool:
    """``jobs`` processes; ``timeout_s`` is the most a run may take."""

    def __init__(self, jobs: int, timeout_s: float | None = None) -> None:
        self._jobs, self._timeout_s = jobs, timeout_s
        self._answers: SimpleQueue[Answer | Exception | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._stopped = False
        self._workers: set[_Worker] = set()

    def run(self, tasks: Iterable[Task]) -> Iterator[list[Answer]]:
        """Answers as they come, several at once where several are there."""
        pending = iter(tasks)
        threads = [threading.Thread(target=self._serve, args=(pending,), daemon=True) for _ in range(self._jobs)]
        for thread in threads:
            thread.start()
        try:
            yield from self._collect(len(threads))
        finally:
            self._stopped = True
            for worker in list(self._workers):
                worker.stop()
            for thread in threads:
                thread.join(timeout=5)

    def _collect(self, running: int) -> Iterator[list[Answer]]:
        while running:
            batch: list[Answer] = []
            for item in self._waiting():
                if item is None:
                    running -= 1
                elif isinstance(item, Exception):
                    raise item
                else:
                    batch.append(item)
            if batch:
                yield batch

    def _waiting(self) -> list[Answer | Exception | None]:
        """All that is there, at least one unless nothing comes for a moment (so that Ctrl-C is heard everywhere)."""
        try:
            found = [self._answers.get(timeout=0.5)]
            while True:
                found.append(self._answers.get_nowait())
        except Empty:
            return found if "found" in locals() else []

    def _serve(self, pending: Iterator[Task]) -> None:
        worker: _Worker | None = None
        try:
            while not self._stopped:
                with self._lock:
                    task = next(pending, None)
                if task is None:
                    break
                worker = self._attempts(task, worker)
        except Exception as error:
            self._answers.put(error)
        finally:
            if worker is not None:
                self._drop(worker)
            self._answers.put(None)

    def _attempts(self, task: Task, worker: _Worker | None) -> _Worker | None:
        """Carry out a task; returns the worker that lives on."""
        reason = ""
        for _ in range(ATTEMPTS):
            worker = worker or self._start()
            answer = worker.ask(task.text, self._timeout_s)
            if answer is not None:
                self._answers.put((task.key, json.loads(answer)))
                return worker
            reason = worker.reason()
            late = worker.late
            self._drop(worker)
            worker = None
            if self._stopped:
                return None
            if late:
                break
        self._answers.put((task.key, crashed(reason)))
        return None

    def _start(self) -> _Worker:
        for _ in range(ATTEMPTS):
            worker = _Worker()
            self._workers.add(worker)
            if worker.ready() or self._stopped:
                return worker
            reason = worker.reason()
            self._drop(worker)
        raise UserError(f"a worker process cannot start ({reason}); try --jobs 1, or free some memory")

    def _drop(self, worker: _Worker) -> None:
        worker.stop()
        self._workers.discard(worker)


class _Worker:
    """A process and the pipes to it."""

    def __init__(self) -> None:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
        threads = {f"{kind}_NUM_THREADS": "1" for kind in ("OMP", "OPENBLAS", "MKL")}
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the worker)
        self.late = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "apex_sim.sweeps.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**threads, **os.environ, "PYTHONPATH": path},
            start_new_session=True,
            text=True,
            encoding="utf-8",
        )

    def ready(self) -> bool:
        """Wait until it has imported what it needs."""
        return self._line() == "ready\n"

    def ask(self, text: str, timeout_s: float | None) -> str | None:
        """The answer to a task; None when the process ended instead."""
        timer = threading.Timer(timeout_s, self._expire, [timeout_s]) if timeout_s is not None else None
        try:
            if timer is not None:
                timer.start()
            assert self._process.stdin is not None
            self._process.stdin.write(text + "\n")
            self._process.stdin.flush()
            return self._line()
        except (OSError, ValueError):
            return None
        finally:
            if timer is not None:
                timer.cancel()

    def _line(self) -> str | None:
        assert self._process.stdout is not None
        try:
            line = self._process.stdout.readline()
        except (OSError, ValueError):
            return None
        return line if line.endswith("\n") else None

    def _expire(self, timeout_s: float) -> None:
        self.late = True
        self._late_s = timeout_s
        self._process.kill()

    def reason(self) -> str:
        """How it ended, in words."""
        if self.late:
            return f"took more than {self._late_s:g} s"
        code = self._process.wait()
        if code == -9:
            return "its process was killed (signal 9), by hand or for want of memory"
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", "replace").strip().splitlines()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"its process ended with {how}" + (f": {lines[-1]}" if lines else "")

    def stop(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._said):
            if stream is not None:
                with suppress(OSError, ValueError, RuntimeError):
                    stream.close()
