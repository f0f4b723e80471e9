"""``apex-sim load --concurrencies``: closed loops of more and more users."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

import apex_sim as apex
from apex_sim import concurrency, load
from apex_sim.cli import main
from apex_sim.concurrency_report import findings, parse_concurrencies
from apex_sim.plots import tradeoff_figure
from hardware_profiles.errors import UserError

RUN = ["load", "--model", "llama-3.1-8b", "--cluster", "l40s:1", "--num-requests", "40"]


@pytest.mark.parametrize(
    ("text", "users"),
    [
        ("4", [4]),
        ("8,2,2", [2, 8]),
        ("1:64", [1, 2, 4, 8, 16, 32, 64]),
        ("1:64:x4", [1, 4, 16, 64]),
        ("3:20:x2", [3, 6, 12]),
        ("8:24:8,1", [1, 8, 16, 24]),
    ],
)
def test_users_are_listed_or_ranges(text, users):
    assert parse_concurrencies(text) == users


@pytest.mark.parametrize(
    "text",
    ["", "0", "-1", "1.5", "nan", "4:1", "1:1", "1:8:x1", "1:8:x0", "1:8:0", "1:8:x", "1:2:3:4", "1:9999", "1,,2", "²"],
)
def test_other_users_are_refused(text):
    if text == "1:9999":
        text = "1:9999:1"
    with pytest.raises(UserError, match="--concurrencies is"):
        parse_concurrencies(text)


def test_everything_that_is_written_is_the_curve_of_the_api(tmp_path, capsys):
    files = {kind: str(tmp_path / f"a.{end}") for kind, end in
             (("json", "json"), ("csv", "csv"), ("plot", "svg"), ("report", "html"))}  # fmt: skip
    flags = [word for kind, path in files.items() for word in (f"--{kind}", path)]
    slo = "ttft=1s,tpot=35ms"
    assert main([*RUN, "--slo", slo, "--concurrencies", "1,4,16", *flags]) == 0
    shown = capsys.readouterr().out
    curve = apex.load_curve("llama-3.1-8b", "l40s:1", concurrencies=[16, 1, 4], num_requests=40, slo=slo)
    data = json.loads((tmp_path / "a.json").read_text())
    assert (data["knee_concurrency"], data["slo_concurrency"]) == (curve.knee, curve.slo_concurrency)
    assert [row["concurrency"] for row in data["concurrencies"]] == [1, 4, 16]
    for row in data["concurrencies"]:
        summary = curve.results[row["concurrency"]].summary
        assert all(row[k] == summary[k] for k in ("p95_ttft_ms", "request_throughput", "energy_j"))
        assert row["output_throughput_per_user"] == 1e3 / summary["median_tpot_ms"]
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert [float(row["p95_tpot_ms"]) for row in rows] == curve.table["p95_tpot_ms"].tolist()
    assert all(words in shown for _, words in findings(curve))
    page = (tmp_path / "a.html").read_text()
    assert "What the curve says" in page and page.count("<svg") == 1 and "concurrencies: 1,4,16" in page
    assert "output tokens/s per GPU" in (tmp_path / "a.svg").read_text()


def test_each_point_is_the_closed_loop_of_simulate():
    load_of = {"num_requests": 30, "input_len": "lognormal(median=300,sigma=0.5)", "output_len": 40, "seed": 3}
    curve = apex.load_curve("llama-3.1-8b", "l40s:1", concurrencies=[2, 8], **load_of)
    for users, result in curve.results.items():
        alone = apex.simulate("llama-3.1-8b", "l40s:1", arrival=f"closed(concurrency={users})", **load_of)
        assert result.summary == alone.summary
        assert result.max_concurrent_requests <= users
        held = curve.table.loc[users]
        assert users * 0.8 < held["running"] + held["waiting"] <= users
    trace = apex.generate_trace(
        **{k: v for k, v in load_of.items() if k != "seed"}, seed=3, arrival="closed(concurrency=1)"
    )
    again = apex.load_curve("llama-3.1-8b", "l40s:1", concurrencies=[2, 8], trace=trace, seed=3)
    np.testing.assert_array_equal(again.table["mean_e2el_ms"], curve.table["mean_e2el_ms"])


def test_seats_run_out_where_there_are_fewer_than_users(capsys):
    assert main([*RUN, "--concurrencies", "2,16", "--max-num-seqs", "4"]) == 0
    assert "limit        with 16 users all 4 places of max_num_seqs are taken" in capsys.readouterr().out


def test_places_that_are_refilled_over_some_steps_are_taken():
    """Equal requests end together, and their places fill over a few steps."""
    load_of = {"num_requests": 200, "input_len": 500, "output_len": 60}
    curve = apex.load_curve("llama-3.1-8b", "l40s:1", concurrencies=[64], max_num_seqs=32, **load_of)
    assert curve.limit.resource == "seats"


def test_answers_of_one_token_have_no_rate_of_a_user(capsys):
    flags = ["--input-len", "100", "--output-len", "1", "--concurrencies", "1,2"]
    assert main([*RUN, *flags, "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)["concurrencies"]
    assert [row["output_throughput_per_user"] for row in rows] == [None, None]
    curve = apex.load_curve("llama-3.1-8b", "l40s:1", concurrencies=[1], num_requests=5, input_len=100, output_len=1)
    assert tradeoff_figure(curve).axes[0].texts[0].get_text() == "no answer has a second token"


def test_jobs_change_nothing(capsys, monkeypatch):
    monkeypatch.setattr(load, "POOL_PAYS", 0)
    shown = []
    for jobs in ("1", "2"):
        assert main([*RUN, "--concurrencies", "1:4", "--json", "-", "--jobs", jobs]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--concurrencies", "1,2", "--rates", "1,2"], "--rates says when requests come"),
        (["--concurrencies", "1,2", "--rate", "2"], "--rate says when requests come"),
        (["--concurrencies", "1,2", "--arrival", "poisson"], "--arrival says when requests come"),
        (["--concurrencies", "1,64"], "--concurrencies has 64 users for 40 requests"),
        (
            [*["--input-len", "50", "--output-len", "5", "--concurrencies", "1,2", "--sessions"], "turns=3,think_s=1"],
            "--sessions says when requests come",
        ),
        (["--concurrencies", "many"], "--concurrencies is 'many'"),
    ],
)
def test_mistakes_are_told_before_anything_runs(flags, words, capsys, monkeypatch):
    monkeypatch.setattr(concurrency, "concurrency_curve", lambda *_: pytest.fail("it ran"))
    assert main([*RUN, *flags]) == 2
    shown = capsys.readouterr().err
    assert words in shown and shown.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"concurrencies": []}, "^concurrencies is"),
        ({"concurrencies": [0]}, "^concurrencies is"),
        ({"concurrencies": [1.5]}, "^concurrencies is"),
        ({"concurrencies": [99], "num_requests": 20}, "^concurrencies has 99 users .* num_requests 990"),
        ({"concurrencies": [1], "rates": [1]}, "two ways"),
        ({"concurrencies": [1], "rate": 2}, "rate is what it varies"),
        ({"concurrencies": [1], "arrival": "poisson"}, "arrival says when"),
        ({"concurrencies": [1], "disaggregate": ("prefill=tp1,dp1", "decode=tp1,dp1")}, "two pools"),
    ],
)
def test_the_api_refuses_what_means_nothing(settings, words):
    with pytest.raises(UserError, match=words):
        apex.load_curve("llama-3.1-8b", "l40s:1", **settings)


def test_a_described_workload_keeps_its_requests(tmp_path, capsys):
    described = tmp_path / "chat.yaml"
    described.write_text("num_requests: 40\nrate_per_s: 3\ninput_len: 200\noutput_len: 20\n")
    command = ["load", "--model", "llama-3.1-8b", "--cluster", "l40s:1", "--concurrencies", "1,4", "--json", "-"]
    assert main([*command, "--trace", str(described)]) == 0
    rows = json.loads(capsys.readouterr().out)["concurrencies"]
    curve = apex.load_curve("llama-3.1-8b", "l40s:1", concurrencies=[1, 4], trace=str(described))
    plain = apex.load_curve(
        "llama-3.1-8b", "l40s:1", concurrencies=[1, 4], num_requests=40, input_len=200, output_len=20
    )
    served = [summary["request_throughput"] for summary in (r.summary for r in curve.results.values())]
    assert served == [r.summary["request_throughput"] for r in plain.results.values()]
    assert len(rows) == len(served) == 2
