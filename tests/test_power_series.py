"""Power of servers over time: parts add up, and the series integrates to the energy of the run."""

from __future__ import annotations

import numpy as np
import pytest

import apex_sim as apex
from apex_sim.cli import main
from simulator.power_series import marks_of, replica_w, server_table
from simulator.recorder import Counters, Timeline

LOAD = {"rate": 6.0, "input_len": 900, "output_len": 60, "num_requests": 60}


@pytest.mark.parametrize(
    ("cluster", "layout", "servers"),
    [
        ("a100-sxm:8", {"tp": 2, "dp": 2}, 1),
        ("a100-sxm:2x4", {"tp": 2, "dp": 3}, 3),
        ("a100-sxm:2x2", {"tp": 2, "pp": 2}, 2),
        ("a100-sxm:8", {"tp": 2, "pp": 2, "dp": 2}, 1),
        ("a100-sxm:4", {"tp": 2, "dp": 2, "engine": "sglang"}, 1),
    ],
)
def test_device_and_host_make_a_server_and_the_series_the_energy(cluster, layout, servers):
    result = apex.simulate("llama-3.1-8b", cluster, **LOAD, **layout)
    table = server_table(result)
    assert sorted(table["server"].unique()) == list(range(servers))
    np.testing.assert_allclose(table["devices_w"] + table["host_w"], table["server_w"], rtol=1e-12)
    periods = np.diff(table[table["server"] == 0]["time_s"], prepend=0.0)
    joules = (table["devices_w"].to_numpy().reshape(servers, -1) @ periods).sum()
    arrival_s = float(result.requests["arrival_s"].min())
    before_j = result.replica_idle_w * result.deployment.plan.dp * arrival_s
    assert joules == pytest.approx(result.energy_j + before_j, rel=1e-9)
    seconds = result.deployment.plan.num_devices * periods.sum()
    host_j = (table["host_w"].to_numpy().reshape(servers, -1) @ periods).sum()
    assert host_j == pytest.approx(125.0 * seconds + 0.09 * joules, rel=1e-9)


def test_thinning_keeps_the_last_sample():
    timeline, counters = Timeline(), Counters()
    for tick in range(1, Timeline.LIMIT + 1):
        counters.joules = float(tick)
        timeline.add(tick, 0, 0, 0, counters)
    rows = np.frombuffer(timeline.rows).reshape(-1, Timeline.COLUMNS)
    assert len(rows) == Timeline.LIMIT // 2 and rows[-1, 4] == Timeline.LIMIT


def test_a_replica_that_is_done_is_idle():
    result = apex.simulate("llama-3.1-8b", "a100-sxm:1", **LOAD)
    end = float(result.timeline["time_s"].max())
    assert replica_w(result, 0, np.array([end, end + 10.0]))[0] == pytest.approx(result.replica_idle_w)


def test_periods_are_tenths_of_a_second_or_longer_and_end_with_the_run():
    assert marks_of(0.25).tolist() == [0.0, 0.1, 0.2, 0.25]
    long = marks_of(12_345.6)
    assert long[1] == 10.0 and long[-1] == 12_345.6 and len(long) < 10_002


def test_simulate_writes_the_table(tmp_path):
    run = ["--model", "llama-3.1-8b", "--cluster", "a100-sxm:1", "--num-requests", "5", "--out", str(tmp_path / "run")]
    assert main(["simulate", *run]) == 0
    head, *rows = (tmp_path / "run" / "power.csv").read_text().splitlines()
    assert head == "time_s,server,devices_w,host_w,server_w" and rows
