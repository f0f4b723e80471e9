"""``gpus``, ``experts``, ``power`` and ``validate`` as functions: what the commands write, as frames and figures."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

import apex_sim as apex
from apex_sim.cli import main
from apex_sim.files import to_json

MIX = [
    "--model",
    "llama-3.2-3b",
    "--gpus",
    "l4,l40s",
    "--slo",
    "ttft=3s,tpot=100ms",
    "--rate",
    "1",
    "--input-len",
    "300",
]
ROW: dict[str, Any] = {"servers": 5, "days": 0.05, "model": "llama-3.1-8b", "cluster": "a100-sxm:1", "extra": 0.2}


def same(result: Any, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The result's data are the command's JSON, its text the command's, before and after pickling."""
    file = tmp_path / "command.json"
    assert main([*words, "--json", str(file)]) == 0
    assert capsys.readouterr().out.rstrip() == str(result)
    assert json.loads(to_json(result.data)) == json.loads(file.read_text("utf-8"))
    again = pickle.loads(pickle.dumps(result))
    assert again.data == result.data and repr(again) == repr(result) and str(again) == str(result)
    html = result._repr_html_()
    assert "<table" in html and all(name in html for name in result.table.columns[:2])


def reported(result: Any, path: Path, command: str) -> None:
    assert apex.write_report(result, path) == path
    text = path.read_text("utf-8")
    assert text == result.html() and f"apex-sim {command}" in text


def test_a_mix_is_that_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mix = apex.gpus("llama-3.2-3b", ["l4", "l40s"], slo="ttft=3s,tpot=100ms", rate=1, input_len=300, output_len=50,
                    num_requests=100, prices={"l4": 0.5}, limits={"l40s": 3}, cache=tmp_path / "c")  # fmt: skip
    words = ["gpus", *MIX, "--output-len", "50", "--num-requests", "100", "--cache", str(tmp_path / "c")]
    same(mix, [*words, "--price", "l4=0.5", "--limit", "l40s=3"], tmp_path, capsys)
    assert mix.counts == {"l4": 1, "l40s": 0} and mix.words == "1 x l4"
    assert mix.summary["usd_per_hour"] == 0.5 and mix.summary["num_instances"] == 1
    assert mix.table.loc["l4", "usd_per_hour_each"] == 0.5
    assert mix.sizes["l4"].sum() == len(mix.sizes)
    assert mix.figure().axes and mix.export(tmp_path / "out")
    reported(mix, tmp_path / "mix.html", "gpus --model llama-3.2-3b")


def test_a_fleet_over_the_day_has_windows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = apex.generate_trace(num_requests=100, rate_per_s=0.1, input_len=300, output_len=50, seed=1)
    path = tmp_path / "t.csv"
    trace.save(path)
    settings: dict[str, Any] = {"slo": "ttft=3s,tpot=100ms", "autoscale": "10min", "cache": tmp_path / "c"}
    day = apex.gpus("llama-3.2-3b", "l4", trace=trace, startup=60, **settings)
    assert day.table["usd"].sum() + day.data["start_usd"] == pytest.approx(day.data["usd"])
    assert day.figure().axes and "windows" in day.html()
    with pytest.raises(apex.UserError, match="table has the windows"):
        _ = day.sizes
    with pytest.raises(apex.UserError, match="does not change over the day"):
        day.export(tmp_path / "out")
    words = ["gpus", "--model", "llama-3.2-3b", "--gpus", "l4", "--slo", "ttft=3s,tpot=100ms", "--autoscale", "10min"]
    same(day, [*words, "--startup", "60s", "--cache", str(tmp_path / "c"), "--trace", str(path)], tmp_path, capsys)


def test_a_placement_is_that_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = apex.experts("mixtral-8x7b", "h100-sxm:4", tokens=128, num_requests=2, ilp_steps=0, skew=2.0)
    words = ["experts", "--model", "mixtral-8x7b", "--cluster", "h100-sxm:4", "--tokens", "128", "--num-requests", "2"]
    words += ["--ilp-steps", "0", "--skew", "2.0", "--out", str(tmp_path / "placement.json")]
    same(found, words, tmp_path, capsys)
    assert found.table.loc["tuned", "busiest_over_mean"] == found.summary["imbalance"]
    assert found.summary["decode_step_ms"] == found.table.loc["tuned", "decode_step_ms"]
    assert found.save(tmp_path / "ours.json").read_text() == (tmp_path / "placement.json").read_text()
    assert len(found.figure().axes) == 3 and len(found.figure("tuned").axes) == 2
    with pytest.raises(apex.UserError, match="unknown placement 'tund'"):
        found.figure("tund")
    reported(found, tmp_path / "experts.html", "experts --model mixtral-8x7b")


def test_routing_may_be_an_object() -> None:
    first = apex.experts("mixtral-8x7b", "h100-sxm:4", tokens=128, num_requests=2, ilp_steps=0)
    again = apex.experts(apex.load_model("mixtral-8x7b"), apex.load_cluster("h100-sxm:4"), num_requests=2, ilp_steps=0,
                         routing_trace=first.answer.question.routing, trace=apex.load_trace("chat_small"))  # fmt: skip
    assert first.summary == again.summary
    assert "chat_small" in again.html() and "apex-sim experts --model" not in again.html()


def test_a_row_is_that_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = apex.power(**ROW)
    words = ["power", *[w for name, value in ROW.items() for w in ("--" + name, str(value))]]
    same(row, words, tmp_path, capsys)
    assert row.table.index[0] == row.summary["policy"] == "polca"
    assert row.summary["num_servers"] == 6
    more = row.with_extra([0.0, 0.2])
    assert list(more.index) == [5, 6]
    assert more.loc[6, "peak_share"] == row.summary["peak_share"]
    assert (row.series["power_w"] <= row.series["highest_power_w"]).all() and row.series.index[1] == 60
    assert row.services["servers"].sum() == 6
    assert row.figure().axes and row.figure(extra=0.0).axes
    with pytest.raises(apex.UserError, match="search=True"):
        _ = row.searched
    with pytest.raises(apex.UserError, match="between 0 and 1"):
        row.with_extra([2])
    reported(row, tmp_path / "row.html", "power --model llama-3.1-8b")


def test_runs_are_validated_as_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = apex.validate(match="qwen3-32b, 2 x", metrics=["tpot_mean_ms"], fast=True, seeds=1)
    same(
        found,
        ["validate", "--match", "qwen3-32b, 2 x", "--metric", "tpot_mean_ms", "--fast", "--seeds", "1"],
        tmp_path,
        capsys,
    )
    errors = found.residuals["predicted"] / found.residuals["measured"] - 1
    assert found.residuals["error"].to_numpy() == pytest.approx(errors.to_numpy())
    assert found.summary["median_abs_error"] == pytest.approx(errors.abs().median())
    assert found.figure().axes
    reported(found, tmp_path / "v.html", "validate")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: apex.gpus("llama-3.1-8b", ["l4", "l4"], slo="ttft=1s"), "name each type once"),
        (lambda: apex.gpus("llama-3.1-8b", ["l4"]), "slo is missing"),
        (lambda: apex.gpus("llama-3.1-8b", 4, slo="ttft=1s"), "gpus is 4; give a list"),
        (lambda: apex.gpus("llama-3.1-8b", "l4", slo="ttft=1s", prices=3), "prices is 3; give a mapping"),
        (lambda: apex.gpus("llama-3.1-8b", "l4", slo="ttft=1s", prices={"l40s": 3}), "unknown type 'l40s'"),
        (lambda: apex.gpus("llama-3.1-8b", "l4", slo="ttft=1s", max_num_seq=3), "max_num_seqs"),
        (
            lambda: apex.gpus("llama-3.1-8b", "l4", slo="ttft=1s", startup=60),
            "^startup has no meaning without autoscale",
        ),
        (lambda: apex.experts("llama-3.1-8b", "h100-sxm:4"), "is dense"),
        (lambda: apex.experts("mixtral-8x7b", "h100-sxm:4", plan_share=2), "^plan_share is 2"),
        (lambda: apex.experts("mixtral-8x7b", "h100-sxm:4", tp=3), "^tp is 3"),
        (lambda: apex.power(servers=0), "^servers is 0"),
        (lambda: apex.power(t1=0.9, t2=0.8), "^t1 is 0.9 and t2 is"),
        (lambda: apex.power(cluster="h100-sxn:8"), "h100-sxm"),
        (lambda: apex.power(rack_budget_kw=3), "^rack_budget_kw needs racks; give racks"),
        (lambda: apex.gpus("llama-3.1-8b", "l4", slo="ttft=1s", limits={"l4": -1}), "^limits l4=-1"),
        (lambda: apex.gpus("llama-3.1-8b", "l4", slo="ttft=1s", time_limit_s=-1), "^time_limit_s is -1"),
        (lambda: apex.simulate("llama-3.1-8b", "h100-sxm:2", kv_overlap=True), "give disaggregate$"),
        (lambda: apex.simulate("llama-3.1-8b", "h100-sxm:2", rate=-1), "^rate is -1"),
        (lambda: apex.plan("llama-3.1-8b", "h100-sxm:2", kv_link="x"), "add search pd$"),
        (lambda: apex.plan("llama-3.1-8b", "h100-sxm:2", top=0), "^top is 0"),
        (lambda: apex.plan("llama-3.1-8b", "h100-sxm:2", jobs=0), "^jobs is 0"),
        (lambda: apex.validate("nowhere.yaml"), "nowhere.yaml"),
        (lambda: apex.validate(metrics=["ttft"]), "unknown metric 'ttft'"),
        (lambda: apex.write_report(3, "x.html"), "no report of a int"),  # type: ignore[arg-type]
    ],
)
def test_mistakes_are_one_line(call: Any, message: str) -> None:
    with pytest.raises(apex.UserError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value) and "--" not in str(caught.value)
