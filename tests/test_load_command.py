"""``apex-sim load``: a curve over rates on the command line, as text, JSON, CSV, figure and report."""

from __future__ import annotations

import csv
import json
import re

import pandas as pd
import pytest

import apex_sim as apex
from apex_sim import load
from apex_sim.cli import main
from apex_sim.load_limit import limit_of
from apex_sim.load_report import findings, parse_rates
from apex_sim.plots.load import load_figure
from hardware_profiles.errors import UserError
from workloads.slo import as_slo

RUN = ["load", "--model", "llama-3.1-8b", "--cluster", "l40s:1", "--num-requests", "40"]
SLO = ["--slo", "ttft=1s,tpot=60ms"]


@pytest.mark.parametrize(
    ("text", "rates"),
    [
        ("4", [4]),
        ("8,2,2,4", [2, 4, 8]),
        ("1:10", list(range(1, 11))),
        ("1:2:0.25", [1, 1.25, 1.5, 1.75, 2]),
        ("0.1:0.4:0.1", [0.1, 0.2, 0.3, 0.4]),
        ("1:4:2,9", [1, 3, 9]),
    ],
)
def test_rates_are_listed_or_ranges(text, rates):
    assert parse_rates(text) == rates


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "nan", "1:inf", "4:1", "1:1", "1:2:0", "1:2:3:4", "1:2:1e-9", "a", "1,,2"]
)
def test_other_rates_are_refused(text):
    with pytest.raises(UserError, match="--rates is"):
        parse_rates(text)


def test_everything_that_is_written_is_the_curve_of_the_api(tmp_path, capsys):
    files = {kind: str(tmp_path / f"a.{end}") for kind, end in
             (("json", "json"), ("csv", "csv"), ("plot", "svg"), ("report", "html"))}  # fmt: skip
    flags = [word for kind, path in files.items() for word in (f"--{kind}", path)]
    assert main([*RUN, *SLO, "--rates", "1,4,12", *flags]) == 0
    shown = capsys.readouterr().out
    curve = apex.load_curve("llama-3.1-8b", "l40s:1", [1, 4, 12], num_requests=40, slo=SLO[1])
    data = json.loads((tmp_path / "a.json").read_text())
    assert (data["knee_per_s"], data["slo_per_s"]) == (curve.knee_per_s, curve.slo_per_s)
    assert data["limit"] == {"resource": curve.limit.resource, "why": curve.limit.why}
    for row, (rate, result) in zip(data["rates"], curve.results.items(), strict=True):
        assert row["rate_per_s"] == rate
        assert {k: row[k] for k in ("p95_ttft_ms", "request_throughput")} == {
            k: result.summary[k] for k in ("p95_ttft_ms", "request_throughput")
        }
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert [float(row["p95_tpot_ms"]) for row in rows] == curve.table["p95_tpot_ms"].tolist()
    assert all(words in shown for _, words in findings(curve))
    page = (tmp_path / "a.html").read_text()
    assert "What the curve says" in page and page.count("<svg") == 1 and "rates: 1,4,12" in page
    assert "TTFT [ms]" in (tmp_path / "a.svg").read_text()


def test_jobs_change_nothing(capsys, monkeypatch):
    monkeypatch.setattr(load, "POOL_PAYS", 0)
    shown = []
    for jobs in ("1", "2"):
        assert main([*RUN, "--rates", "1:9:4", "--json", "-", "--jobs", jobs]) == 0
        shown.append(capsys.readouterr())
    assert shown[0] == shown[1]
    assert [row["rate_per_s"] for row in json.loads(shown[0].out)["rates"]] == [1, 5, 9]


def test_a_knee_outside_the_rates_is_said_to_be_there(capsys):
    assert main([*RUN, "--rates", "0.1,0.2"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"knee +not reached at 0.2/s", shown) and re.search(r"limit +not reached", shown)
    assert main([*RUN, "--rates", "100,200"]) == 0
    shown = capsys.readouterr().out
    assert "times their mean E2E" in shown  # 40 requests are no load


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--rate", "3"], "--rate 3 is one rate; give --rates"),
        (["--arrival", "closed(concurrency=4)", "--input-len", "9", "--output-len", "9"], "a closed loop has no rate"),
        (["--jobs", "-1"], "--jobs is -1"),
        (["--plot", "a.txt"], "use .png, .svg or .pdf"),
        (["--report", "a.txt"], "name it .html"),
        (["--tp", "3"], "tp"),
    ],
)
def test_mistakes_are_told_before_anything_runs(flags, words, capsys, monkeypatch):
    monkeypatch.setattr(load, "curve_of", lambda *_: pytest.fail("it ran"))
    assert main([*RUN, *flags]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("settings", [{"rate_scale": 2.0}, {"arrival": "closed(concurrency=4)"}, {"rate": 2}])
def test_the_api_refuses_what_would_not_vary(settings):
    with pytest.raises(UserError, match="rate"):
        apex.load_curve("llama-3.1-8b", "l40s:1", [1, 2], **settings)


def words_of(figure):
    """All text in a figure, line ends as spaces."""
    return " ".join(
        " ".join(found.get_text() for found in figure.findobj(match=lambda a: hasattr(a, "get_text"))).split()
    )


def test_a_busy_device_that_keeps_up_is_no_limit(capsys):
    """One request keeps steps in flight all the time; only requests that pile up show a limit."""
    assert main([*RUN, "--num-requests", "100", "--rates", "1,2"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"limit +not reached: at 2/s nothing runs out: steps are in flight (99|100) %", shown)
    low, curve = (apex.load_curve("llama-3.1-8b", "l40s:1", r, num_requests=100) for r in ([1, 2], [2, 12]))
    drawn = words_of(load_figure(low))
    assert "Limit not reached: at 2/s nothing runs out" in drawn and "knee beyond 2/s" in drawn
    assert "Limit: at 12/s requests come faster" in words_of(load_figure(curve))
    assert curve.limit.resource == "time" and "come faster than" in curve.limit.why
    assert not limit_of(curve.results[2]).reached


@pytest.mark.parametrize(
    ("shares", "kept"),
    [([1.0, 0.95, 0.9], 2.0), ([0.9, 1.0, 1.0], None), ([1.0, 0.9, 1.0], 1.0), ([1.0, 1.0, 1.0], 4.0)],
)
def test_the_highest_load_within_the_slo_has_all_below_it_within(shares, kept):
    table = pd.DataFrame({"slo_attainment": shares})
    assert load.highest_kept(table, [1.0, 2.0, 4.0], as_slo("ttft=1s")) == kept
    assert load.highest_kept(table, [1.0, 2.0, 4.0], None) is None
