"""Figures: every one has units on its axes, text in the style's colours, and files that repeat byte by byte."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

import apex_sim as apex
from apex_sim import plots, studies
from apex_sim.plots.expert_loads import rank_loads
from apex_sim.plots.step import KINDS, kind_of
from workloads import figure_labels
from workloads import figure_style as style


@pytest.fixture(scope="module")
def curve():
    return apex.load_curve("llama-3.1-8b", "l40s:1", [1, 4, 12], num_requests=60, slo="ttft=1s,tpot=60ms")


@pytest.fixture(scope="module")
def deployment():
    return apex.build_deployment("llama-3.1-70b", "h100-sxm:8", tp=2, pp=4)


BATCH = {"decode_seqs": 32, "context_tokens": 1000, "prefill_tokens": 512}


@pytest.fixture(scope="module")
def figures(curve, deployment):
    step = apex.explain_step(deployment, **BATCH)
    last = curve.results[12.0]
    return {
        "load": plots.load_figure(curve),
        "compare": plots.compare_load_figure({"one": curve, "two": curve}),
        "latency": plots.latency_figure(last),
        "timeline": plots.timeline_figure(last),
        "step": plots.step_figure({"a step": step}),
        "roofline": plots.roofline_figure(deployment, **BATCH),
        "gantt": plots.gantt_figure(deployment, **BATCH),
        "experts": plots.expert_load_figure(*moe()),
        "fit": plots.fit_figure([points()]),
        "fleet": plots.fleet_day_figure(day()),
    }


def moe():
    from simulator.experts.generate import generate_routing
    from simulator.experts.placement import from_ranks, linear_ranks
    from simulator.experts.routing import demand_of

    routing = generate_routing(num_experts=8, num_layers=4, top_k=2, tokens=64, skew=2.0, affinity=1.0, seed=1)
    return demand_of(routing), {"linear": from_ranks(linear_ranks(4, 8, 4), 4)}


def points():
    from simulator.calibration.points import Points
    from simulator.calibration.tables import Table

    measured = np.array([1e-5, 1e-4, 1e-3])
    return Points("gemm", "made up", "bfloat16", Table("none", {}), measured, 1.1 * measured, ())


def day():
    windows = [
        {
            "start_s": 3600.0 * i,
            "hours": 1.0,
            "rate_per_s": 2.0 + i,
            "counts": {"l4": i, "h100": 1},
            "simulated_attainment": 0.99,
        }
        for i in range(4)
    ]
    types = [{"name": "l4", "usd_per_hour_each": 0.7}, {"name": "h100", "usd_per_hour_each": 3.0}]
    static = {"usd": 20.0, "counts": {"l4": 3, "h100": 1}}
    return {"windows": windows, "types": types, "static": static, "usd": 16.2, "hours": 4.0, "slo": "tpot=50ms",
            "promised_attainment": 0.95}  # fmt: skip


NAMES = ["load", "compare", "latency", "timeline", "step", "roofline", "gantt", "experts", "fit", "fleet"]


@pytest.mark.parametrize("name", NAMES)
def test_every_axis_says_what_it_shows(figures, name):
    shown = [axis for axis in figures[name].axes if axis.get_visible()]
    assert any(axis.get_xlabel() for axis in shown)
    text = " ".join(axis.get_xlabel() + axis.get_ylabel() for axis in shown)
    assert re.search(r"\[.+\]|/s|\$|layer|byte", text), text


@pytest.mark.parametrize("name", NAMES)
def test_text_is_wide_enough_to_read_at_8_cm(figures, name):
    figure = figures[name]
    scale = (8 / 2.54) / figure.get_size_inches()[0]
    sizes = [t.get_fontsize() for t in figure.findobj(lambda artist: hasattr(artist, "get_fontsize")) if t.get_text()]
    assert min(sizes) * scale > 4.5


@pytest.mark.parametrize("name", ["load", "step", "experts"])
def test_svg_is_one_element_that_follows_the_colour_scheme(figures, name):
    text = plots.svg_text(figures[name])
    assert text == plots.svg_text(figures[name])
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg") and root.get("class") == "apex" and root.get("viewBox")
    assert "prefers-color-scheme:dark" in text and "var(--apex-ink" in text
    assert not re.search("#1c2733", text.split("</style>", 1)[1], re.IGNORECASE)
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"|<metadata>.*?</metadata>', "", text, flags=re.DOTALL)


@pytest.mark.parametrize("name", ["roofline", "timeline"])
def test_png_repeats_byte_by_byte_and_shows_itself_in_a_notebook(figures, name):
    assert figures[name]._repr_png_() == plots.png_bytes(figures[name])
    assert len(plots.png_bytes(figures[name])) < 120_000


def test_saved_files_repeat(figures, tmp_path):
    for suffix in ("svg", "pdf"):
        files = [tmp_path / f"{i}.{suffix}" for i in range(2)]
        for file in files:
            plots.save(figures["step"], file)
        assert files[0].read_bytes() == files[1].read_bytes()


def test_knee_has_the_highest_power_and_the_slo_ends_before_the_first_miss(curve):
    power = curve.table["request_throughput"] / curve.table["mean_e2el_ms"]
    assert power.loc[curve.knee_per_s] == power.max()
    met = curve.table["slo_attainment"] >= 0.95
    assert curve.slo_per_s is None or met.loc[: curve.slo_per_s].all()
    assert str(curve.limit.why) in repr(curve)


def test_rates_are_chosen_around_what_is_served_at_most():
    found = apex.load_curve("llama-3.1-8b", "l40s:1", num_requests=40)
    assert found.table["request_throughput"].iloc[0] < 0.3 * found.table["request_throughput"].max()


@pytest.mark.parametrize(
    ("settings", "resource"),
    [
        ({"max_num_seqs": 4}, "seats"),
        ({"num_gpu_blocks_override": 400, "max_model_len": 6000}, "memory"),
        ({}, "time"),
    ],
)
def test_limit_names_what_runs_out(settings, resource):
    found = apex.load_curve("llama-3.1-8b", "l40s:1", [30], num_requests=80, **settings)
    assert found.limit.resource == resource


def test_no_limit_where_there_is_hardly_any_load():
    assert apex.load_curve("llama-3.1-8b", "h100-sxm:1", [0.2], num_requests=20).limit.resource == "none"


@pytest.mark.parametrize(
    ("rates", "settings", "message"),
    [
        ([], {}, "rates"),
        ([0.0, 1.0], {}, "above 0"),
        ([1.0], {"rate": 2.0}, "rate is what it varies"),
        ([1.0], {"disaggregate": ("prefill=tp1,dp1", "decode=tp1,dp1")}, "two pools"),
    ],
)
def test_load_curve_refuses_rates_that_mean_nothing(rates, settings, message):
    with pytest.raises(apex.UserError, match=message):
        apex.load_curve("llama-3.1-8b", "l40s:1", rates, **settings)


def test_every_component_of_ordinary_steps_has_a_kind(deployment):
    for model, cluster, plan in (
        ("mixtral-8x7b", "h100-sxm:4", {"dp": 4, "ep": 4}),
        ("llama-3.1-8b", "l40s:2", {"tp": 2}),
    ):
        frame = apex.explain_step(apex.build_deployment(model, cluster, **plan), **BATCH)
        assert "other" not in {kind_of(name) for name in frame.index}
    assert all(kind_of(name) in KINDS for name in apex.explain_step(deployment, **BATCH).index)


def test_loads_of_ranks_have_mean_one_in_every_layer():
    demand, placements = moe()
    loads = rank_loads(demand, placements["linear"])
    assert loads.shape == (4, 4)
    assert loads.mean(axis=0) == pytest.approx(1.0)


@pytest.mark.parametrize("at", [[5, 5, 5], [0, 100, 1], [98, 99, 100], [10, 50, 90]])
def test_labels_are_moved_apart_in_order_and_stay_inside(at):
    placed = figure_labels.spread(at, 12.0, 100.0)
    order = np.argsort(at, kind="stable")
    assert (np.diff(np.array(placed)[order]) >= 12 - 1e-9).all()
    assert min(placed) >= 0 and max(placed) <= 100 + 1e-9
    if at == [10, 50, 90]:
        assert placed == at


@pytest.mark.parametrize(("low", "high"), [(1, 2), (30, 400), (0.01, 1e4), (3, 3e9)])
def test_round_values_are_few_and_inside(low, high):
    ticks = style.round_values(low, high, 6)
    assert 2 <= len(ticks) <= 6 and low <= min(ticks) and max(ticks) <= high * 1.0001


def test_importing_the_plots_imports_no_matplotlib():
    import subprocess
    import sys

    code = "import sys, apex_sim.plots, apex_sim.load, workloads.figure_style; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_kernels_that_are_not_there_are_one_line():
    with pytest.raises(apex.UserError, match=r"nowhere\.csv") as caught:
        studies.read_kernels("nowhere.csv")
    assert "\n" not in str(caught.value)


def test_example_kernels_are_fitted_on_shapes_not_seen():
    pytest.importorskip("scipy")
    file = studies.read_kernels(Path(__file__).parent.parent / "notebooks" / "data" / "kernels_example.csv")
    found = studies.fit_kernels(file, base="l40s")
    assert set(found.table.index) == {(p.family.replace(" ", "_"), p.key) for p in found.points}
    assert (found.table["median_error"] < 0.1).all()  # noise of 6 %: 4 % in the median
    for p in found.points:
        ratio = np.abs(p.predicted_s / p.measured_s - 1)
        assert float(np.median(ratio)) == pytest.approx(
            found.table.loc[(p.family.replace(" ", "_"), p.key), "median_error"], abs=2e-3
        )


def test_names_of_points_do_not_cover_each_other():
    _, axes = style.new_figure()
    axes[0, 0].set(xlim=(0, 10), ylim=(0, 10))
    at = [(5.0, 5.0), (5.2, 5.1), (4.9, 5.2)]
    figure_labels.place_labels(axes[0, 0], [(x, y, "a plan") for x, y in at], at)
    offsets = [text.xyann for text in axes[0, 0].texts]
    assert len(set(offsets)) == 3
