"""What is said of the end of a run, and of a month's money."""

from __future__ import annotations

import json
import re

import pytest

import apex_sim as apex
from apex_sim.cli import main
from apex_sim.drain_text import drain_notes
from apex_sim.text import hourly

RUN = [
    "--model",
    "llama-3.1-8b",
    "--cluster",
    "h100-sxm:1",
    "--rate",
    "10",
    "--input-len",
    "500",
    "--output-len",
    "300",
]


def simulated(count, **settings):
    lengths = {"input_len": 500, "output_len": 300}
    return apex.simulate("llama-3.1-8b", "h100-sxm:1", **{"rate": 10, **lengths, "num_requests": count, **settings})


def test_the_tail_is_the_time_after_the_last_arrival():
    result = simulated(60)
    end_s = float(result.requests["finish_s"].max())
    assert result.summary["drain_s"] == pytest.approx(end_s - float(result.trace.arrival_s[-1]))
    assert result.summary["duration"] - result.summary["drain_s"] == pytest.approx(result.trace.duration_s)


def test_a_short_run_has_one_note_with_a_count_that_mends_it(capsys, tmp_path):
    assert main(["simulate", *RUN, "--num-requests", "200", "--report", str(tmp_path / "r.html")]) == 0
    (line,) = [row for row in capsys.readouterr().out.splitlines() if row.startswith("note  ")]
    share, count = (
        re.search(r"([\d.]+)% of the run", line),
        re.search(r"about ([\d,]+) requests \(--num-requests\)", line),
    )
    assert share and float(share[1]) > 5 and count
    assert line[13:60] in (tmp_path / "r.html").read_text()
    longer = simulated(int(count[1].replace(",", "")))
    assert longer.summary["drain_s"] / longer.summary["duration"] == pytest.approx(0.05, rel=0.2)
    assert drain_notes({**longer.summary, "drain_s": 0.049 * longer.summary["duration"]}, longer.trace) == []


def test_requests_all_at_once_have_no_steady_state_and_no_note():
    result = simulated(60, rate=float("inf"))
    assert drain_notes(result.summary, result.trace) == []


def test_a_queue_that_built_up_is_called_so():
    result = simulated(400, rate=200, max_num_seqs=8)
    (note,) = drain_notes(result.summary, result.trace)
    assert "a queue has built up" in note and "--num-requests" not in note


def test_a_plan_says_it_in_text_and_json(capsys, tmp_path):
    out = tmp_path / "plan.json"
    assert main(["plan", *RUN, "--num-requests", "60", "--jobs", "1", "--json", str(out)]) == 0
    text, data = capsys.readouterr().out, json.loads(out.read_text())
    (note,) = data["notes"]
    assert f"note: {note}" in text and "after the last request came" in note
    assert data["best"]["usd_per_month"] == pytest.approx(730 * data["best"]["usd_per_hour"])
    assert "/h ($5,022 a month of 730 h)" in text


def test_dollars_of_a_month():
    assert hourly(6.88) == "$6.88/h ($5,022 a month of 730 h)" and hourly(0.1) == "$0.100/h ($73.00 a month of 730 h)"


def test_the_range_of_a_plan_is_that_of_its_median_and_of_its_p95(capsys, tmp_path):
    out = tmp_path / "plan.json"
    assert main(["plan", *RUN, "--num-requests", "60", "--jobs", "1", "--json", str(out)]) == 0
    (line,) = [row for row in capsys.readouterr().out.splitlines() if row.startswith("80 % range")]
    best = json.loads(out.read_text())["best"]
    factor = best["mean_ttft_ms_low"] / best["mean_ttft_ms"]
    found = re.search(r"TTFT median ([\d.]+) ms to [\d.]+ ms, p95 ([\d.]+) ms", line)
    assert found and float(found[1]) == pytest.approx(best["median_ttft_ms"] * factor, rel=0.01)
    assert float(found[2]) == pytest.approx(best["p95_ttft_ms"] * factor, rel=0.01)
