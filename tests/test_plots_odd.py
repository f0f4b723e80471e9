"""Figures of odd results: one point, nothing, limits far away, long names; no warning, and no label on another."""

from __future__ import annotations

import warnings
from itertools import combinations

import numpy as np
import pytest

import apex_sim as apex
from apex_sim import plots
from apex_sim.plots.roofline import _elsewhere
from simulator.figures import _held
from workloads import figure_labels
from workloads import figure_style as style


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def texts(axis):
    return [text.get_text() for text in axis.texts]


@pytest.mark.parametrize(
    ("rates", "settings"),
    [
        ([3], {}),
        ([0.01], {"slo": "ttft=1ms,tpot=1ms"}),
        ([50, 1000], {"slo": "ttft=0.01ms"}),
        ([1, 2], {"slo": "ttft=1s,tpot=50ms", "input_len": 100, "output_len": 1}),
    ],
)
def test_load_figures_of_odd_curves(rates, settings):
    curve = apex.load_curve("llama-3.1-8b", "l40s:1", rates, num_requests=20, **settings)
    for figure in (plots.load_figure(curve), plots.compare_load_figure({"a": curve, "b": curve})):
        style.settle(figure)
        for axis in figure.axes:
            low, high = axis.get_ylim()
            assert np.isfinite([low, high]).all() and low < high


def test_a_limit_a_little_below_what_was_seen_is_on_the_axis():
    curve = apex.load_curve("llama-3.1-8b", "l40s:1", [0.1, 0.2], num_requests=10, slo="tpot=5ms")
    axis = plots.load_figure(curve).axes[1]
    assert axis.get_ylim()[0] < 5 and "SLO 5 ms" in texts(axis)


def test_mean_requests_in_flight_are_those_of_littles_law():
    curve = apex.load_curve("llama-3.1-8b", "l40s:1", [0.3], num_requests=60)
    result = curve.results[0.3]
    arrival = result.trace.arrival_s
    ends = np.minimum(arrival + result.requests["e2e_s"].to_numpy(), arrival[-1])
    in_flight = curve.table["running"].iloc[0] + curve.table["waiting"].iloc[0]
    assert in_flight == pytest.approx((ends - arrival).sum() / arrival[-1], rel=0.05)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.compare_load_figure({}), "curves is empty"),
        (lambda: plots.step_figure({}), "steps is empty"),
        (lambda: plots.fit_figure([]), "points is empty"),
        (lambda: plots.expert_load_figure(None, {}), "placements is empty"),
        (lambda: plots.accuracy_figure([]), "residuals is empty"),
    ],
)
def test_nothing_to_draw_is_said_in_one_line(call, message):
    with pytest.raises(apex.UserError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_free_plans_have_an_axis():
    found = apex.plan("llama-3.1-8b", "l40s:1", num_requests=20, slo="ttft=1s,tpot=60ms", usd_per_gpu_hour=0)
    assert [axis.get_ylim() for axis in plots.pareto_figure(found).axes] == [(0.0, 1.0)] * 2


def test_timeline_of_one_request_steps_down_at_its_end():
    result = apex.simulate("llama-3.1-8b", "l40s:1", num_requests=1)
    line = plots.timeline_figure(result).axes[0].get_lines()[0]
    assert line.get_drawstyle() == "steps-post" and line.get_ydata()[-1] == 0


def test_held_values_are_step_curves():
    grid, time, value = np.array([0.0, 1.0, 1.5, 2.0, 3.0]), np.array([1.0, 2.0]), np.array([5.0, 7.0])
    assert _held(grid, time, value, 9.0, "post").tolist() == [0, 5, 5, 7, 9]
    assert _held(grid, time, value, 9.0, "pre").tolist() == [5, 5, 7, 7, 9]


def test_label_of_a_level_line_avoids_the_curves():
    _, axes = style.new_figure()
    axis = axes[0, 0]
    axis.plot([0, 1, 2, 10], [5, 5.2, 9, 9.5])
    axis.set(xlim=(0, 10), ylim=(0, 10))
    assert figure_labels.free_start(axis, 5.0, "SLO 50 ms") > 0.15
    assert figure_labels.free_start(axis, 1.0, "SLO 50 ms") == 0


@pytest.mark.parametrize(
    "plan", [("deepseek-v3", "h100-sxm:8x2", {"dp": 16, "ep": 16}), ("mixtral-8x7b", "h100-sxm:4", {"tp": 4})]
)
def test_names_of_kernels_do_not_cover_each_other(plan):
    deployment = apex.build_deployment(plan[0], plan[1], **plan[2])
    figure = plots.gantt_figure(deployment, decode_seqs=64, context_tokens=2000, prefill_tokens=512)
    style.settle(figure)
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.axes[1].texts]
    for a, b in combinations(boxes, 2):
        wide = min(a.x1, b.x1) - max(a.x0, b.x0)
        high = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert wide < 2 or high < 2


def test_roofline_says_what_it_leaves_out():
    deployment = apex.build_deployment("mixtral-8x7b", "h100-sxm:4", tp=4)
    frame = apex.explain_step(deployment, decode_seqs=8, context_tokens=100)
    shown = frame[frame["flop"] > 0]
    said = _elsewhere(frame, shown)
    assert f"{100 * (1 - shown['share'].sum()):.0f} %" in said and "communication" in said
    assert _elsewhere(frame, frame) == ""


@pytest.mark.parametrize(("hours", "step"), [(2, 0.25), (22.4, 3), (24, 3), (48, 6), (168, 24), (1000, 168)])
def test_ticks_of_hours_are_parts_of_days(hours, step):
    _, axes = style.new_figure()
    style.hours_axis(axes[0, 0].xaxis, 0.0, hours)
    axes[0, 0].set_xlim(0, hours)
    ticks = axes[0, 0].get_xticks()
    assert np.allclose(np.diff(ticks), step) and len([t for t in ticks if t <= hours]) <= 10


def test_command_writes_a_step_as_figures(tmp_path, capsys):
    from apex_sim.cli import main

    step = ["explain", "step", "--model", "llama-3.1-8b", "--cluster", "l40s:1", "--decode", "8", "--context", "100"]
    files = [tmp_path / "gantt.svg", tmp_path / "roofline.png"]
    assert main([*step, "--gantt", str(files[0]), "--roofline", str(files[1])]) == 0
    assert "host" in files[0].read_text() and files[1].read_bytes().startswith(b"\x89PNG")
    for bad, words in ((["--gantt", "a.txt"], "ending"), (["--gantt", "a.png", "--roofline", "./a.png"], "one file")):
        assert main([*step, *bad]) == 2
        assert words in capsys.readouterr().err


def test_a_fleet_that_never_changes_is_not_said_to_follow_the_load():
    from apex_sim.plots.fleet_day import _words

    same = [{"counts": {"l4": 1}}, {"counts": {"l4": 1}}]
    data = {"usd": 200.0, "static": {"usd": 200.0}, "hours": 24.0, "windows": same}
    assert _words(data) == ("One fleet for all windows: $200 for 24 h", "")
    data["windows"] = [same[0], {"counts": {"l4": 2}}]
    assert "follows" in _words({**data, "static": {"usd": 400.0}})[0]
    assert "saves 50 %" in _words({**data, "static": {"usd": 400.0}})[1]
