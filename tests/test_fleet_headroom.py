"""The headroom loop: more of the types that missed the SLO, and of no other, until the promise holds or rounds end."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from apex_sim.cli import main
from planners.fleet import simulated
from planners.fleet.capacity import Capacity
from planners.fleet.grid import histogram, nearest
from planners.fleet.problem import FleetProblem, GpuType, Size
from workloads.slo import Slo
from workloads.trace import Trace


@pytest.fixture
def keep(monkeypatch):
    """Run the loop on two types that serve one size each; ``enough``: instances at which a type keeps its SLO."""
    types = (GpuType(name="a", usd_per_hour=1.0), GpuType(name="b", usd_per_hour=2.0))
    sizes = (Size(name="s", rate_per_s=4.0), Size(name="t", rate_per_s=4.0))
    problem = FleetProblem(types=types, sizes=sizes, max_tput_per_s=np.array([[2.0, 0.0], [0.0, 2.0]]))

    def run(enough, rounds=8, limits=(None, None), idle=1.0, redraws=()):
        def check(slices, deployments, cell, trace, slo, seed):
            needed = enough if trace is None else trace  # a fake redraw is what it takes to keep its SLO
            shares = [1.0 if n >= least else 0.5 for n, least in zip(deployments, needed, strict=True)]
            results = tuple(SimpleNamespace(attainment=share) for share in shares)
            return SimpleNamespace(attainment=min(shares), results=results)

        alone = SimpleNamespace(
            attainment=lambda checked: idle, without_hopeless=lambda problem, missed: problem.max_tput_per_s
        )
        monkeypatch.setattr(simulated, "check", check)
        monkeypatch.setattr(simulated, "nearest", lambda grid, trace: None)
        monkeypatch.setattr(simulated, "Idle", lambda *parts: alone)
        serving = SimpleNamespace(deployment=lambda candidate, count: count)
        grid, capacity = SimpleNamespace(cell=None), Capacity(slo=Slo(tpot_s=1.0))
        few = tuple(replace(kind, limit=limit) for kind, limit in zip(types, limits, strict=True))
        return simulated.keep_promise(
            replace(problem, types=few),
            serving,
            types,
            grid,
            None,
            capacity,
            gap=None,
            time_limit_s=None,
            rounds=rounds,
            redraws=redraws,
        )

    return run


def test_a_kept_promise_needs_no_headroom(keep):
    (only,) = keep([2, 2])
    assert only.fleet.counts == (2, 2) and only.headroom.tolist() == [1.0, 1.0]


def test_only_the_type_that_missed_gets_headroom_until_it_keeps_the_slo(keep):
    rounds = keep([4, 2])
    counts = [r.fleet.counts for r in rounds]
    assert counts[0] == (2, 2) and counts[-1] == (4, 2)
    assert all(b == 2 for _, b in counts) and [a for a, _ in counts] == sorted(a for a, _ in counts)
    assert rounds[-1].headroom[1] == 1.0 and rounds[-1].headroom[0] > 1.1
    assert np.allclose(rounds[-1].problem.max_tput_per_s[0, 0], 2.0 / rounds[-1].headroom[0])


def test_the_loop_ends_after_its_rounds_and_reports_a_promise_not_kept(keep):
    rounds = keep([1000, 2], rounds=3)
    assert len(rounds) == 4 and rounds[-1].checked.attainment < 0.95


def test_limits_that_leave_no_room_for_headroom_end_it_with_the_last_fleet(keep):
    rounds = keep([4, 2], limits=(3, None))
    assert rounds[-1].fleet.counts == (3, 2) and rounds[-1].checked.attainment < 0.95


def test_no_headroom_is_bought_where_idle_instances_would_miss_the_slo_too(keep):
    (only,) = keep([1000, 2], idle=0.93)
    assert only.idle_attainment == 0.93 and only.fleet.counts == (2, 2)
    assert len(keep([1000, 2], rounds=0)) == 1


def test_the_promise_holds_on_other_draws_too(keep):
    rounds = keep([2, 2], redraws=[(3, 2), (2, 4)])
    assert rounds[0].redrawn == (0.5, 0.5) and rounds[0].checked.attainment == 1.0
    assert rounds[-1].fleet.counts == (3, 4) and rounds[-1].redrawn == (1.0, 1.0)


def test_requests_of_another_draw_lie_in_the_cell_with_the_nearest_mean():
    def draw(lengths):
        return Trace(
            arrival_s=np.arange(len(lengths)) / 2,
            input_tokens=lengths,
            output_tokens=np.full(len(lengths), 9),
            name="t",
        )

    grid = histogram(draw(np.array([90, 110, 900])))
    assert [size.input_tokens for size in grid.sizes] == [90, 110, 900]
    assert nearest(grid, draw(np.array([101, 5000, 90, 300, 1]))).tolist() == [1, 2, 0, 1, 0]


def _command(tmp_path, capsys, *options):
    command = ["gpus", "--model", "llama-3.1-8b", "--output-len", "60", "--cache", str(tmp_path), "--seed", "1"]
    assert main([*command, "--rate", "3", "--num-requests", "300", *options]) == 0
    text = capsys.readouterr().out
    assert main([*command, "--rate", "3", "--num-requests", "300", *options, "--json", "-"]) == 0
    return text, json.loads(capsys.readouterr().out)


def test_a_size_whose_longer_prompts_a_type_cannot_serve_in_time_goes_to_another(tmp_path, capsys):
    options = ["--gpus", "a10g,h100-sxm", "--input-len", "uniform(low=1010,high=2000)", "--slo", "ttft=450ms"]
    options += ["--price", "h100-sxm=200"]
    text, data = _command(tmp_path, capsys, *options)
    assert data["rounds"][0]["counts"][0] > 0 and data["rounds"][-1]["counts"][0] == 0
    assert data["kept"] and "kept" in text


def test_a_promise_that_idle_instances_would_not_keep_either_says_so(tmp_path, capsys):
    options = ["--gpus", "a10g", "--input-len", "uniform(low=1010,high=2000)", "--slo", "ttft=450ms"]
    text, data = _command(tmp_path, capsys, *options)
    assert not data["kept"] and data["idle_attainment"] < 0.95 and len(data["rounds"]) == 1
    assert "would be good with an idle instance for each" in text


def test_requests_left_out_are_no_reason_for_headroom(tmp_path, capsys):
    trace = tmp_path / "trace.csv"
    rows = [f"{i / 3},{6000 if i % 10 == 0 else 200},60" for i in range(300)]
    trace.write_text("\n".join(["arrival_s,input_tokens,output_tokens", *rows]) + "\n")
    command = ["gpus", "--model", "llama-3.1-8b", "--gpus", "a10g", "--trace", str(trace), "--slo", "ttft=450ms"]
    command += ["--skip-unserved", "--cache", str(tmp_path / "cache"), "--json", "-"]
    assert main(command) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["requests_left_out"] == 30 and data["kept"] and len(data["rounds"]) == 1
