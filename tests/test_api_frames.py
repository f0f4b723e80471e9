"""The public names notebooks use: comparisons, breakdowns of a step, reports, and short reprs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import apex_sim as apex


@pytest.fixture(scope="module")
def results():
    trace = apex.load_trace("chat_small").head(50)
    return {
        (device, rate): apex.simulate("llama-3.1-8b", f"{device}:1", trace=trace, rate=rate)
        for device in ("l40s", "h100-sxm")
        for rate in (1, 4)
    }


@pytest.fixture(scope="module")
def plan():
    return apex.plan("llama-3.1-8b", "h100-sxm:2", num_requests=60, slo="ttft=1s,tpot=50ms")


def test_every_public_name_can_be_imported():
    assert all(getattr(apex, name) is not None for name in apex.__all__)
    assert set(apex.__all__) <= set(dir(apex))


def test_importing_the_package_imports_neither_pandas_nor_matplotlib():
    code = "import sys, apex_sim; sys.exit(any(m in sys.modules for m in ('pandas', 'matplotlib', 'simpy', 'pulp')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_compare_has_one_row_per_run_and_the_summaries_in_it(results):
    frame = apex.compare(results, names=("device", "rate"))
    assert frame.index.names == ["device", "rate"]
    for label, result in results.items():
        assert frame.loc[label, "p95_ttft_ms"] == result.summary["p95_ttft_ms"]
        assert frame.loc[label, "model_id"] == result.summary["model_id"]
    assert frame["p95_tpot_ms"].unstack("device").shape == (2, 2)


def test_compare_keeps_the_fields_asked_for_in_order(results):
    frame = apex.compare({"a": results["l40s", 1]}, ["mfu", "completed"], names="run")
    assert list(frame) == ["mfu", "completed"]
    assert frame.index.tolist() == ["a"] and frame.index.name == "run"


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ((), {}, "no results"),
        (("a",), {"fields": ["p95_ttft"]}, "Did you mean 'p95_ttft_ms'"),
        (("a", ("b", 1)), {}, "one length"),
        ((("b", 1),), {"names": "device"}, "one name per level"),
    ],
)
def test_compare_refuses_what_it_cannot_tabulate(results, labels, options, message):
    one = results["l40s", 1]
    with pytest.raises(apex.UserError, match=message):
        apex.compare({label: one for label in labels}, **options)


def test_components_of_a_step_add_up_to_the_step(results):
    deployment = results["h100-sxm", 1].deployment
    frame = apex.explain_step(deployment, decode_seqs=32, context_tokens=1000, prefill_tokens=512, cached_tokens=256)
    from simulator.physics.explain import step_shape

    shape = step_shape(decode_seqs=32, context=1000, prefill=512, cached=256)
    assert frame["seconds"].sum() == pytest.approx(deployment.step_model.step(shape)[0], rel=1e-9)
    assert frame["share"].sum() == pytest.approx(1.0, rel=1e-9)
    assert frame["flop"].sum() == pytest.approx(deployment.step_model.flop(shape), rel=1e-9)
    assert frame["seconds"].is_monotonic_decreasing
    assert frame.index.name == "component" and frame.index.is_unique


@pytest.mark.parametrize(
    "sizes", [{}, {"context_tokens": 100}, {"decode_seqs": -1}, {"decode_seqs": 1, "cached_tokens": -2}]
)
def test_a_step_without_work_is_refused(results, sizes):
    with pytest.raises(apex.UserError, match="explain_step"):
        apex.explain_step(results["l40s", 1].deployment, **sizes)


def test_describe_gives_what_the_cli_prints(results, plan, capsys):
    from apex_sim.cli import main

    assert main(["simulate", "--model", "llama-3.1-8b", "--cluster", "l40s:1", "--num-requests", "50"]) == 0
    printed = capsys.readouterr().out
    result = apex.simulate("llama-3.1-8b", "l40s:1", num_requests=50)
    assert apex.describe(result) in printed
    assert "vllm serve" in apex.describe(plan)


def test_figures_of_runs_and_plans_show_in_a_notebook(results, plan):
    from matplotlib.figure import Figure

    figures = [
        apex.latency_figure(results["l40s", 1]),
        apex.timeline_figure(results["l40s", 1]),
        apex.pareto_figure(plan),
    ]
    assert all(isinstance(figure, Figure) for figure in figures)


def test_results_introduce_themselves_in_one_line(results, plan):
    assert repr(results["l40s", 1]).startswith(
        "<SimulationResult: meta-llama/Llama-3.1-8B on 1 of l40s:1, 50 of 50 requests"
    )
    assert repr(plan).startswith("<PlanResult: meta-llama/Llama-3.1-8B on h100-sxm:2, best by cost: tp1, of ")


def test_counts_in_the_plan_table_are_whole_numbers_also_beside_layouts_that_never_ran():
    plan = apex.plan("llama-3.1-70b", "h100-sxm:8", num_requests=60)
    table = plan.table.set_index("layout")
    assert table.loc["tp1", "status"] == "unfit"
    for column in ("max_num_seqs", "max_num_batched_tokens", "completed", "num_preemptions"):
        assert str(table[column].dtype) == "Int64"
        assert table[column].isna().any() and table[column].notna().any()
    assert table["num_gpus"].notna().all()


def test_best_plan_by_goodput_is_the_one_with_the_highest_rate_when_rates_are_searched():
    plan = apex.plan(
        "llama-3.1-8b", "h100-sxm:4", num_requests=100, slo="ttft=200ms,tpot=20ms", objective="goodput", max_rate=True
    )
    rates = plan.table["max_rate_per_s"]
    assert rates.notna().sum() > 1 and rates.notna().sum() < (plan.table["simulated"] == "full").sum()
    assert plan.best.max_rate_per_s == pytest.approx(rates.max(), rel=0.01)
    assert (plan.table["status"] == "best").sum() == 1
