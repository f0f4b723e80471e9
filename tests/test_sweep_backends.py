"""Sweeps on Ray and Dask: clusters of worker processes on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from sweep_helpers import SWEEP, dying_workers

import apex_sim
from apex_sim.sweeps.backends import DaskBackend, RayBackend, open_backend


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
