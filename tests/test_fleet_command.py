"""``apex-sim gpus`` with a trace on a profile's grid, over a day, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest

from apex_sim.cli import main
from planners.fleet.grid import cells
from workloads.trace import Trace

TICKS = {"input_ticks": [100, 1000], "output_ticks": [50, 200]}
SIZES = ["--input-len", "uniform(low=10,high=1000)", "--output-len", "uniform(low=10,high=200)"]
DIURNAL = ["--arrival", "diurnal(1,30,7200)", "--num-requests", "100000", *SIZES]


@pytest.fixture
def profile(tmp_path):
    def write(**changes):
        data = {
            "workload_distribution": [[0.2, 0.1], [0.5, 0.2]],
            "total_request_rate": 30.0,
            "gpu_info": {
                "A10G": {"cost": 1.01, "tputs": [[4, 3], [5, 2]]},
                "A100": {"cost": 3.67, "tputs": [[20, 20], [30, 15]]},
            },
            **TICKS,
        }
        path = tmp_path / "profile.json"
        path.write_text(json.dumps({k: v for k, v in (data | changes).items() if v is not None}))
        return str(path)

    return write


def test_ticks_are_upper_ends_and_longer_requests_count_as_the_last():
    lengths = np.array([1, 100, 101, 1000, 5000])
    trace = Trace(arrival_s=np.arange(5.0), input_tokens=lengths, output_tokens=np.array([50, 51, 1, 900, 7]), name="t")
    assert cells(trace, (100, 1000), (50, 200)).tolist() == [0, 1, 2, 3, 2]


def test_a_trace_on_the_grid_of_a_profile_replaces_its_sizes_and_rate(profile, tmp_path, capsys):
    trace = tmp_path / "trace.csv"
    rows = [
        f"{i / 10},{inputs},{outputs}" for i, (inputs, outputs) in enumerate([(60, 20), (700, 30), (2000, 40)] * 20)
    ]
    trace.write_text("\n".join(["arrival_s,input_tokens,output_tokens", *rows]) + "\n")
    assert main(["gpus", "--profile", profile(), "--trace", str(trace), "--json", "-"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["rate_per_s"] == pytest.approx(10.0)
    assert [s["size"] for s in data["sizes"]] == ["100 in / 50 out", "1000 in / 50 out"]
    assert [s["rate_per_s"] for s in data["sizes"]] == pytest.approx([10 / 3, 20 / 3])
    assert data["requests_beyond_grid"] == 20


def test_a_grid_with_output_lengths_in_rows_is_seen_by_its_ticks(profile, tmp_path, capsys):
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,input_tokens,output_tokens\n0,60,150\n1,60,150\n")
    wide = {"workload_distribution": [[1, 1, 1], [1, 1, 1]], "input_ticks": [100, 500, 1000]}
    wide["gpu_info"] = {"A10G": {"cost": 1.0, "tputs": [[1, 1, 1], [9, 1, 1]]}}
    assert main(["gpus", "--profile", profile(**wide), "--trace", str(trace), "--json", "-"]) == 0
    (size,) = json.loads(capsys.readouterr().out)["sizes"]
    assert size["size"] == "100 in / 200 out" and size["max_tput_per_s"] == {"A10G": 9.0}


def test_a_day_costs_less_than_a_static_fleet_and_no_less_than_free_starts(profile, tmp_path, capsys):
    out, plot = tmp_path / "day.json", tmp_path / "day.png"
    command = ["gpus", "--profile", profile(), "--autoscale", "15min", "--startup", "2min", *DIURNAL]
    assert main([*command, "--json", str(out), "--plot", str(plot)]) == 0
    text = capsys.readouterr().out
    data = json.loads(out.read_text())
    assert "best static fleet" in text and plot.stat().st_size > 1000
    assert data["resolved"]["usd_without_starts"] <= data["usd"] + 1e-9 <= data["static"]["usd"] + 1e-6
    assert data["usd"] <= data["resolved"]["usd"] + 1e-9
    assert data["usd"] == pytest.approx(sum(w["usd"] for w in data["windows"]) + data["start_usd"])
    assert data["starts"] == sum(w["started"] for w in data["windows"]) > 0
    assert sum(w["rate_per_s"] * w["hours"] * 3600 for w in data["windows"]) == pytest.approx(100_000)
    assert main([*command, "--startup", "0", "--json", "-"]) == 0
    free = json.loads(capsys.readouterr().out)
    assert free["usd"] == pytest.approx(free["resolved"]["usd_without_starts"]) and free["start_usd"] == 0


def test_the_simulated_day_keeps_its_promise_in_every_window(tmp_path, capsys):
    command = ["gpus", "--model", "llama-3.1-8b", "--gpus", "a100-sxm-80gb,l4", "--input-len", "300", "--seed", "1"]
    command += ["--output-len", "60", "--arrival", "diurnal(0.5,12,1200)", "--num-requests", "5000", "--json", "-"]
    command += ["--slo", "tpot=80ms,ttft=1s", "--autoscale", "5min", "--startup", "60s", "--cache", str(tmp_path)]
    assert main(command) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["kept"] and all(w["simulated_attainment"] >= 0.95 for w in data["windows"])
    assert main([*command, "--no-headroom"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["usd"] <= data["usd"] + 1e-9
    assert not any(any(w["headroom"]) for w in plain["windows"])


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({"input_ticks": None, "output_ticks": None}, DIURNAL, "has no ticks"),
        ({"input_ticks": [100]}, DIURNAL, "1 input_ticks and 2 output_ticks do not fit a grid of 2 x 2"),
        ({"output_ticks": [200, 50]}, DIURNAL, "output_ticks is [200, 50]"),
        ({}, ["--autoscale", "1h"], "--autoscale needs arrivals over time"),
        ({}, [*DIURNAL, "--autoscale", "3600"], "--autoscale is '3600'"),
        ({}, [*DIURNAL, "--autoscale=-1h"], "--autoscale is '-1h'"),
        ({}, [*DIURNAL, "--autoscale", "1s", "--startup", "0"], "windows of this trace"),
        ({}, [*DIURNAL, "--autoscale", "10min", "--startup", "1h"], "longer than a window"),
        ({}, [*DIURNAL, "--autoscale", "10min", "--startup", "soon"], "--startup is 'soon'"),
        ({}, ["--max-num-seqs", "4"], "--max-num-seqs has no meaning beside --profile"),
        ({}, ["--no-headroom"], "--no-headroom has no meaning beside --profile"),
        ({}, ["--routing", "random"], "--routing has no meaning beside --profile"),
        ({}, ["--num-requests", "50"], "--num-requests has no meaning with the sizes"),
        ({}, ["--startup", "5min"], "--startup has no meaning without --autoscale"),
        ({}, ["--export", "x"], "does not say which model and limits the servers have"),
        ({}, ["--plot", "x.png"], "--plot has no meaning without --autoscale"),
        ({}, [*SIZES, "--arrival", "closed(concurrency=8)", "--autoscale", "1h"], "closed loop"),
        (
            {},
            [*DIURNAL, "--autoscale", "10min", "--limit", "A10G=0,A100=1"],
            "hour 0.50: --limit A10G=0, A100=1: the instances",
        ),
    ],
)
def test_mistakes_are_one_line(profile, capsys, changes, options, words):
    assert main(["gpus", "--profile", profile(**changes), *options]) == 2
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.count("\n") == 1 and not captured.out


def test_a_day_moves_sizes_off_types_too_slow_for_their_longer_requests(tmp_path, capsys):
    command = [
        "gpus",
        "--model",
        "llama-3.1-8b",
        "--gpus",
        "a10g,h100-sxm",
        "--input-len",
        "uniform(low=1010,high=2000)",
    ]
    command += ["--output-len", "60", "--arrival", "diurnal(0.5,3,600)", "--num-requests", "500", "--slo", "ttft=450ms"]
    command += ["--autoscale", "2min", "--startup", "30s", "--cache", str(tmp_path), "--json", "-"]
    assert main([*command, "--price", "h100-sxm=200"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["kept"] and all(w["counts"]["a10g"] == 0 < w["counts"]["h100-sxm"] for w in data["windows"])
    assert main([*command, "--limit", "h100-sxm=0"]) == 0
    slow = json.loads(capsys.readouterr().out)
    assert not slow["kept"] and not any(any(w["headroom"]) for w in slow["windows"])
