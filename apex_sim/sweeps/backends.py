"""Where runs are carried out: this machine, a Ray cluster, a Dask cluster. Each takes tasks and yields batches of answers."""

from __future__ import annotations

import json
import os
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from apex_sim.sweeps.point import run_point
from apex_sim.sweeps.pool import ATTEMPTS, Answer, LocalPool, Task, crashed
from hardware_profiles.errors import UserError, unknown_name

BACKENDS = ("local", "ray", "dask")
IN_FLIGHT = 4
"""Tasks sent ahead per core of a cluster."""
RECOUNT_S = 10.0
"""Between two counts of a cluster's cores [s], which come and go where it scales itself."""
_TASK = re.compile(r"\brun_point-[0-9a-f-]+ ")
"""Dask's name of a task, which would make every reason another one."""
CONNECT_S = 20
"""To reach a cluster [s]."""


class Backend(Protocol):
    """Carries out tasks; batches come as they finish, in any order."""

    def run(self, tasks: Iterable[Task]) -> Iterator[list[Answer]]: ...


def open_backend(name: str, jobs: int | None, address: str | None = None, timeout_s: float | None = None) -> Backend:
    """The backend of that name; ``jobs``: processes (all cores), ``address``: of a cluster that runs already."""
    if name not in BACKENDS:
        raise unknown_name("backend", name, BACKENDS)
    if jobs is not None and (isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1):
        raise UserError(f"--jobs is {jobs!r}; give a whole number from 1")
    if name == "local":
        if address is not None:
            raise UserError("--address is of a cluster; add --backend ray or dask")
        return LocalPool(jobs or cores(), timeout_s)
    if timeout_s is not None:
        raise UserError(f"--timeout goes with --backend local; remove it, or --backend {name}")
    package = {"ray": "ray", "dask": "distributed"}[name]
    if find_spec(package) is None:
        raise UserError(f"--backend {name} needs {package}; install it with: pip install 'apex-sim[{name}]'")
    return RayBackend(jobs, address) if name == "ray" else DaskBackend(jobs, address)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _path() -> str:
    """PYTHONPATH with which a process of this machine finds this package."""
    root = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)


class RayBackend:
    """Tasks of a Ray cluster: the one at ``address`` (or RAY_ADDRESS), or one of its own on this machine."""

    def __init__(self, jobs: int | None, address: str | None) -> None:
        self._jobs, self._address = jobs, address

    def run(self, tasks: Iterable[Task]) -> Iterator[list[Answer]]:
        """Ray starts a task again whose worker dies, up to ``ATTEMPTS`` times in all."""
        import ray

        own = not ray.is_initialized()
        if own:
            self._start(ray)
        try:
            carry_out = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(run_point)
            width = _Width(lambda: int(ray.cluster_resources().get("CPU", 0)), "Ray", self._address)
            yield from self._collect(ray, carry_out, iter(tasks), width)
        finally:
            if own:
                ray.shutdown()

    def _start(self, ray: Any) -> None:
        address = self._address or os.environ.get("RAY_ADDRESS")
        options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
        if address is None:  # "local" never joins a cluster that somebody else runs on this machine
            options |= {"num_cpus": self._jobs or cores(), "include_dashboard": False}
            options |= {"runtime_env": {"env_vars": {"PYTHONPATH": _path()}}}
        try:
            if address is not None:
                _reach(address)
            ray.init(address=address or "local", **options)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            remedy = "start one, or leave it out; with token authentication set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
            raise UserError(f"--address {address}: no Ray cluster answers ({_first(error)}); {remedy}") from None

    def _collect(self, ray: Any, carry_out: Any, pending: Iterator[Task], width: _Width) -> Iterator[list[Answer]]:
        running: dict[Any, str] = {}
        while True:
            most = width.now()
            while len(running) < most and (task := next(pending, None)) is not None:
                running[carry_out.remote(task.text)] = task.key
            if not running:
                return
            done, _ = ray.wait(list(running), num_returns=1)
            more, _ = ray.wait(list(running), num_returns=len(running), timeout=0)
            yield [(running.pop(ref), _answer(lambda ref=ref: ray.get(ref))) for ref in dict.fromkeys([*done, *more])]


class DaskBackend:
    """Tasks of a Dask cluster: the one at ``address`` (or DASK_SCHEDULER_ADDRESS), or one of its own on this machine."""

    def __init__(self, jobs: int | None, address: str | None) -> None:
        self._jobs, self._address = jobs, address

    def run(self, tasks: Iterable[Task]) -> Iterator[list[Answer]]:
        """The scheduler sends a task again whose worker dies, up to ``ATTEMPTS`` times in all."""
        import dask
        from distributed import Client, LocalCluster

        address = self._address or os.environ.get("DASK_SCHEDULER_ADDRESS")
        settings = {
            "distributed.scheduler.allowed-failures": ATTEMPTS - 1,
            "distributed.scheduler.worker-saturation": 1.0,  # a task that waits at a worker is blamed for its death too
            "distributed.nanny.pre-spawn-environ.PYTHONPATH": _path(),
            "distributed.logging.distributed": "critical",
        }
        with dask.config.set(settings):
            cluster: Any = address
            if address is None:
                cluster = LocalCluster(
                    n_workers=self._jobs or cores(), threads_per_worker=1, dashboard_address=None, silence_logs=50
                )
            try:
                client = Client(cluster, timeout=CONNECT_S)
            except (OSError, ValueError) as error:
                raise UserError(
                    f"--address {address}: no Dask scheduler answers ({_first(error)}); start one, or leave it out"
                ) from None
            try:
                width = _Width(lambda: sum(client.nthreads().values()), "Dask", address)
                yield from self._collect(client, iter(tasks), width)
            finally:
                client.close()
                if address is None:
                    cluster.close()

    def _collect(self, client: Any, pending: Iterator[Task], width: _Width) -> Iterator[list[Answer]]:
        from distributed import as_completed

        keys: dict[Any, str] = {}

        def more() -> list[Any]:
            found, most = [], width.now()
            while len(keys) < most and (task := next(pending, None)) is not None:
                future = client.submit(run_point, task.text, pure=False)
                keys[future] = task.key
                found.append(future)
            return found

        finished = as_completed(more())
        for batch in finished.batches():
            yield [(keys.pop(future), _answer(future.result)) for future in batch]
            finished.update(more())


class _Width:
    """How many tasks a cluster is given at once, by the cores it has now."""

    def __init__(self, count: Callable[[], int], kind: str, address: str | None) -> None:
        self._count, self._most, self._next = count, IN_FLIGHT, 0.0
        self._where = kind + " cluster" + (f" at {address}" if address else "")

    def now(self) -> int:
        """Counted now and then; a cluster without workers may get some, and until then nothing happens, which is said."""
        first, now = self._next == 0.0, time.monotonic()
        if now >= self._next:
            cores_there, self._next = self._count(), now + RECOUNT_S
            self._most = IN_FLIGHT * max(1, cores_there)
            if first and not cores_there:
                text = f"the {self._where} has no workers; the sweep begins when there is one (Ctrl-C ends it)"
                warnings.warn(text, stacklevel=2)
        return self._most


def _reach(address: str) -> None:
    """OSError where nobody listens at host:port, which Ray itself would try for minutes."""
    import socket

    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()


def _answer(get: Any) -> dict[str, Any]:
    """The row of a finished task, or of one that the cluster gave up."""
    try:
        row: dict[str, Any] = json.loads(get())
    except Exception as error:
        return crashed(f"{type(error).__name__}: {_TASK.sub('', _first(error))}")
    return row


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
