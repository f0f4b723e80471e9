"""Sweeps on Ray and Dask: clusters of worker processes on this machine."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from sweep_helpers import SWEEP, dying_workers

import apex_sim
from apex_sim.sweeps.backends import IN_FLIGHT, RECOUNT_S, DaskBackend, RayBackend, _answer, _Width, open_backend


@pytest.mark.parametrize("name", ["ray", "dask"])
def test_a_cluster_writes_the_same_bytes(name: str, tmp_path: Path) -> None:
    pytest.importorskip({"ray": "ray", "dask": "distributed"}[name], reason=f"needs the extra [{name}]")
    apex_sim.sweep(SWEEP, tmp_path / "local", jobs=1)
    apex_sim.sweep(SWEEP, tmp_path / name, jobs=2, backend=name)
    tables = sorted((tmp_path / "local").glob("results.*"))
    assert tables
    for table in tables:
        assert (tmp_path / name / table.name).read_bytes() == table.read_bytes()


@pytest.mark.parametrize("name", ["ray", "dask"])
def test_a_worker_of_a_cluster_that_dies_costs_one_attempt(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip({"ray": "ray", "dask": "distributed"}[name], reason=f"needs the extra [{name}]")
    tasks = dying_workers(tmp_path, monkeypatch)
    rows = dict(row for batch in open_backend(name, 1).run(tasks) for row in batch)
    assert rows["fine"]["status"] == "ok" and rows["shaky"]["status"] == "ok"
    assert rows["poison"]["status"] == "crashed" and rows["poison"]["reason"]


def test_a_dask_cluster_that_runs_already(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="needs the extra [dask]")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        frame = apex_sim.sweep(SWEEP, backend="dask", address=cluster.scheduler_address)
    assert frame["status"].tolist() == ["ok"] * 6


def test_clusters_that_do_not_answer_are_one_line() -> None:
    pytest.importorskip("ray", reason="needs the extra [ray]")
    with pytest.raises(apex_sim.UserError, match="no Ray cluster answers"):
        list(RayBackend(None, "127.0.0.1:1").run([]))


def test_a_scheduler_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="needs the extra [dask]")
    monkeypatch.setattr("apex_sim.sweeps.backends.CONNECT_S", 1)
    with pytest.raises(apex_sim.UserError, match="no Dask scheduler answers"):
        list(DaskBackend(None, "tcp://127.0.0.1:1").run([]))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apex_sim.sweeps.backends.find_spec", lambda _: None)
    with pytest.raises(apex_sim.UserError, match=r"pip install 'apex-sim\[ray\]'"):
        open_backend("ray", None)


def test_a_cluster_is_given_more_when_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    cores, now = [0, 2, 8], [100.0]
    monkeypatch.setattr("apex_sim.sweeps.backends.time.monotonic", lambda: now[0])
    with pytest.warns(
        UserWarning, match="the Dask cluster at tcp://x:1 has no workers; the sweep begins when there is one"
    ):
        width = _Width(lambda: cores.pop(0), "Dask", "tcp://x:1")
        given = [width.now()]
    for later in (1.0, RECOUNT_S, 2 * RECOUNT_S):
        now[0] = 100.0 + later
        given.append(width.now())
    assert given == [IN_FLIGHT, IN_FLIGHT, 2 * IN_FLIGHT, 8 * IN_FLIGHT]


def test_a_dask_cluster_whose_workers_come_later() -> None:
    distributed = pytest.importorskip("distributed", reason="needs the extra [dask]")
    with distributed.LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address=None) as cluster:
        begin = threading.Timer(1.0, cluster.scale, [1])
        begin.start()
        with pytest.warns(UserWarning, match="has no workers"):
            frame = apex_sim.sweep(SWEEP, backend="dask", address=cluster.scheduler_address)
        begin.join()
    assert frame["status"].tolist() == ["ok"] * 6


def test_reasons_of_lost_tasks_are_alike() -> None:
    def lost() -> str:
        raise RuntimeError(
            "run_point-fe295034-30c9-4505-9901-b6ac4fd45272 cancelled for reason: scheduler-connection-lost."
        )

    row = _answer(lost)
    assert row["status"] == "crashed"
    assert row["reason"] == "RuntimeError: cancelled for reason: scheduler-connection-lost."
