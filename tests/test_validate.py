"""apex-sim validate: reading runs and refusing bad ones, replaying what was sent, scoring, and what is written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apex_sim.cli import main
from hardware_profiles.errors import UserError
from simulator.validation.files import cited_runs, read_runs
from simulator.validation.metrics import metric_names
from simulator.validation.outcome import Outcome, to_dict
from simulator.validation.plots import tick_values
from simulator.validation.replay import Options, engine_name, predict, predict_all
from simulator.validation.run import MeasuredRun, Stage, Window, Workload
from simulator.validation.score import Aggregate, aggregate, load_goals, residuals_of
from simulator.validation.sources import SOURCES
from simulator.validation.traffic import is_random, traffic_of

RUN = """
defaults: {model: llama-3.1-8b, cluster: "h100-sxm:1", engine_version: "0.15"}
runs:
  - id: one
    workload: {input_len: 500, output_len: 100, rate_per_s: 2, num_requests: 40}
    measured: {ttft_mean_ms: 30, tpot_mean_ms: 7, e2e_mean_ms: 723}
"""


def run(**changes: Any) -> MeasuredRun:
    workload = Workload(input_len=500, output_len=100, rate_per_s=2.0, num_requests=40)
    fields: dict[str, Any] = dict(
        id="one",
        source="test",
        model="llama-3.1-8b",
        cluster="h100-sxm:1",
        workload=workload,
        measured={"ttft_mean_ms": 30.0},
    )
    return MeasuredRun(**(fields | changes))


def write(folder: Path, text: str, name: str = "runs.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refused(folder: Path, text: str, name: str = "runs.yaml") -> str:
    with pytest.raises(UserError) as error:
        read_runs(write(folder, text, name))
    message = str(error.value)
    assert "\n" not in message
    assert name in message
    return message


# -- reading ----------------------------------------------------------------------------------------------------------


def test_yaml_with_defaults(tmp_path: Path) -> None:
    (found,) = read_runs(write(tmp_path, RUN))
    assert (found.model, found.cluster, found.engine_version, found.source) == (
        "llama-3.1-8b",
        "h100-sxm:1",
        "0.15",
        "runs",
    )
    assert found.workload.rate_per_s == 2
    assert found.measured == {"ttft_mean_ms": 30, "tpot_mean_ms": 7, "e2e_mean_ms": 723}


def test_csv_says_the_same_with_dotted_columns(tmp_path: Path) -> None:
    header = "id,model,cluster,engine_version,workload.input_len,workload.output_len,workload.rate_per_s,workload.num_requests,"
    header += "measured.ttft_mean_ms,measured.tpot_mean_ms,measured.e2e_mean_ms,measured.itl_p50_ms,tags.team\n"
    table = write(tmp_path, header + "one,llama-3.1-8b,h100-sxm:1,'0.15',500,100,2,40,30,7,723,,infra\n", "runs.csv")
    (from_csv,), (from_yaml,) = read_runs(table), read_runs(write(tmp_path, RUN))
    assert replace(from_csv, place="", tags={}) == replace(from_yaml, place="")
    assert from_csv.tags == {"team": "infra"}


def test_seconds_become_milliseconds(tmp_path: Path) -> None:
    (found,) = read_runs(write(tmp_path, RUN.replace("ttft_mean_ms: 30", "ttft_mean_s: 0.03")))
    assert found.measured["ttft_mean_ms"] == pytest.approx(30)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("ttft_mean_ms: 30", "ttft_mean_s: 3000", "looks like milliseconds; write ttft_mean_ms: 3000"),
        ("ttft_mean_ms: 30", "ttft_mean_ms: 0.03", "looks like seconds; write ttft_mean_ms: 30"),
        ("ttft_mean_ms: 30", "ttft_mean_ms: 3000", "ttft_mean_ms (3000) is above e2e_mean_ms (723)"),
        ("tpot_mean_ms: 7", "tpot_mean_ms: 70", "check units and output_len"),
        ("ttft_mean_ms: 30", "ttft_p50_ms: 30, ttft_p90_ms: 20", "are they swapped?"),
        ("ttft_mean_ms: 30", "ttft_mean_ms: .nan", "it must be a finite number"),
        ("ttft_mean_ms: 30", "ttft_mean_ms: -3", "it must be above 0"),
        ("ttft_mean_ms: 30", "ttft_mean_ms: fast", "it must be a number"),
        ("ttft_mean_ms: 30", "ttft_men_ms: 30", "Did you mean 'ttft_mean_ms'"),
        ("ttft_mean_ms: 30", "ttft_mean_ms: 30, ttft_mean_s: 0.03", "given twice"),
        ("model: llama-3.1-8b, ", "", "model is missing"),
        ("input_len: 500, ", "", "input_len and output_len are needed"),
        (", num_requests: 40", "", "num_requests is missing"),
        ("output_len: 100", "output_len: normal(3)", "output_len"),
        ("rate_per_s: 2", "rate_per_sec: 2", "Did you mean 'rate_per_s'"),
        ("  - id: one", "  - id: one\n    modle: x", "Did you mean 'model'"),
        ("  - id: one", "  - id: one\n    tp: 0", "tp is 0; it must be at least 1"),
        ("  - id: one", "  - id: one\n    split: training", "unknown split 'training'"),
        ("  - id: one", "  - id: one\n    max_model_len: [1]", "max_model_len is [1]; it must be one value"),
        ("  - id: one", '  - id: "\\u0007"', "id is '\\x07'; it must be printable text"),
        ('engine_version: "0.15"', "engine_version: 0.20", "put the version in quotes"),
        ("ttft_mean_ms: 30", "ttft_mean_ms: 1" + 400 * "0", "has 401 digits"),
        ("ttft_mean_ms: 30", "output_tok_s: 1.0e+300", "no server comes to that"),
        ("ttft_mean_ms: 30", "queue_mean_ms: 0", "queue_mean_ms is 0; it must be above 0"),
        ("ttft_mean_ms: 30", "num_preemptions: 0", "num_preemptions is 0; it must be above 0"),
        ("input_len: 500", "input_len: []", "input_len is an empty list"),
        ("rate_per_s: 2", "stages: 5", "stages is 5; it must be a list"),
        ("rate_per_s: 2", "stages: [{num_requests: 2.5, duration_s: 3}]", "num_requests is 2.5; it must be a whole"),
        ("rate_per_s: 2", "stages: [{num_requests: 9, duration_s: 3, rate_per_s: 3}]", "they decide the third"),
        ("rate_per_s: 2", "rate_per_s: 2, concurrency: 4", "gives rate_per_s and concurrency"),
    ],
)
def test_bad_runs_are_refused_in_one_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in RUN
    assert said in refused(tmp_path, RUN.replace(old, new))


def test_duplicate_ids_are_refused(tmp_path: Path) -> None:
    again = RUN[RUN.index("  - id") :]
    assert "id 'one' is taken by" in refused(tmp_path, RUN + again)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("runs.yaml", "runs: []", "has no runs"),
        ("runs.yaml", "just text", "has no runs"),
        ("runs.yaml", "runs: [1]", "must be a mapping"),
        ("runs.yaml", "a: [", "is not valid YAML at line"),
        ("runs.csv", "", "is empty"),
        ("runs.csv", "a,b\n", "has a header but no rows"),
        ("runs.csv", "a,b\n1,2\n", "neither our own format"),
        ("runs.csv", "id,model,cluster,measured.ttft_mean_ms\nx,y,z,nan\n", "is nan; leave the cell empty"),
        ("runs.csv", "id;model;cluster\na;b;c\n", "not separated by commas"),
        ("runs.csv", "id,model,id\na,b,c\n", "column id occurs twice"),
        (
            "runs.csv",
            "id,model,workload,workload.input_len\na,b,1,2\n",
            "workload is a column, and workload.input_len too",
        ),
        ("runs.csv", "id,model\n" + 140_000 * "a" + ",b\n", "is no CSV"),
        ("runs.csv.gz", "id,model\n", "is not gzipped"),
        ("runs.txt", "a", "runs come as .yaml or .csv"),
    ],
)
def test_files_that_are_no_runs(tmp_path: Path, name: str, text: str, said: str) -> None:
    assert said in refused(tmp_path, text, name)


def test_a_missing_file_is_one_line_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(tmp_path / "absent.yaml")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("apex-sim: error:") and error.count("\n") == 1


def test_the_example_of_the_documentation_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parents[1] / "docs" / "validation.md"
    example = page.read_text("utf-8").split("```yaml\n")[1].split("```")[0]
    assert main(["validate", str(write(tmp_path, example)), "--jobs", "1"]) == 0
    assert "2 measured runs: 2 predicted, 0 failed, 0 skipped" in capsys.readouterr().out


# -- what is sent -----------------------------------------------------------------------------------------------------


def test_stages_keep_their_counts_and_durations() -> None:
    stages = (Stage(num_requests=100, duration_s=10.0, pause_s=5.0), Stage(num_requests=300, duration_s=10.0))
    traffic = traffic_of(Workload(input_len=64, output_len=8, stages=stages), seed=3)
    assert np.bincount(traffic.stage).tolist() == [100, 300]
    assert traffic.trace.arrival_s[99] == pytest.approx(10.0)
    assert traffic.trace.arrival_s[399] == pytest.approx(25.0)
    assert traffic.weights(Window(stage=1)).sum() == 300
    assert traffic.weights(Window(first=30)).sum() == 30
    assert traffic.weights(Window(skip_first=30)).sum() == 370


def test_shortened_stages_keep_rates_and_the_share_of_cold_prompts() -> None:
    stages = (Stage(num_requests=4000, duration_s=400.0, pause_s=5.0), Stage(num_requests=200, duration_s=10.0))
    workload = Workload(input_len=64, output_len=8, stages=stages, distinct_prompts=100)
    traffic = traffic_of(workload, fast=True)
    first = traffic.stage == 0
    assert first.sum() == 100 + 3900 // 4
    assert traffic.trace.arrival_s[first][-1] == pytest.approx(400.0 * first.sum() / 4000)
    assert (traffic.weight[:100] == 1).all()
    assert traffic.weights(Window(stage=0)).sum() == pytest.approx(4000)
    assert traffic.weights(Window()).sum() == pytest.approx(4200)
    assert traffic.weights(Window(stage=1)).sum() == 200


def test_prompts_of_a_pool_repeat_token_by_token_and_begin_alike() -> None:
    workload = Workload(
        input_len=64, output_len=8, num_requests=7, rate_per_s=1, distinct_prompts=3, shared_prefix_tokens=32
    )
    trace = traffic_of(workload).trace
    prompts = [tuple(trace.prefix_of(i)) for i in range(7)]
    assert prompts[0] == prompts[3] == prompts[6]
    assert len(set(prompts)) == 3
    assert {prompt[:2] for prompt in prompts} == {prompts[0][:2]}
    assert len({prompt[2:] for prompt in prompts}) == 3


@pytest.mark.parametrize(
    ("workload", "random"),
    [
        (Workload(input_len=9, output_len=9, concurrency=4, num_requests=9), False),
        (Workload(input_len=9, output_len=9, rate_per_s=4, num_requests=9), True),
        (Workload(input_len=9, output_len=9, rate_per_s=4, num_requests=9, arrival="constant"), False),
        (Workload(input_len="uniform(1, 9)", output_len=9, concurrency=4, num_requests=9), True),
        (Workload(input_len=9, output_len=(1, 2), num_requests=9), True),
    ],
)
def test_seeds_are_used_only_where_something_is_drawn(workload: Workload, random: bool) -> None:
    assert is_random(workload) == random
    prediction = predict(run(workload=workload), Options(seeds=2))
    assert bool(prediction.spread) == random


# -- what is predicted ------------------------------------------------------------------------------------------------


def test_every_metric_has_a_prediction() -> None:
    workload = Workload(input_len=300, output_len=50, concurrency=4, num_requests=40)
    names = [name for name in metric_names() if name != "num_preemptions"]
    prediction = predict(run(workload=workload, measured=dict.fromkeys(names, 1.0)))
    assert prediction.failure is None
    assert all(value > 0 for value in prediction.metrics.values())
    p = prediction.metrics
    assert p["e2e_mean_ms"] == pytest.approx(p["ttft_mean_ms"] + 49 * p["tpot_mean_ms"])
    assert p["output_tok_s"] == pytest.approx(p["req_s"] * 50)
    assert p["energy_per_token_j"] == pytest.approx(p["power_w"] / p["output_tok_s"])
    assert p["implied_tok_s"] == pytest.approx(p["output_tok_s"], rel=0.1)
    assert p["ttft_p50_ms"] <= p["ttft_p90_ms"] <= p["ttft_p99_ms"]


def test_energy_of_all_requests_is_that_of_the_simulation() -> None:
    from simulator.simulate import simulate_deployment
    from simulator.validation.metrics import View
    from simulator.validation.replay import deployment_of

    one = run(workload=Workload(input_len=300, output_len=50, rate_per_s=4, num_requests=40))
    traffic = traffic_of(one.workload)
    result = simulate_deployment(deployment_of(one), traffic.trace)
    view = View(run=one, result=result, weights=traffic.weights(Window()), own_kv_blocks=1)
    assert view.energy_j == pytest.approx(result.energy_j, rel=0.02)
    assert view.output_tokens == result.summary["total_output_tokens"]


def test_the_steady_window_leaves_out_filling_and_emptying() -> None:
    load = Workload(input_len=100, output_len=(100, 200, 300), num_requests=200)
    both = [
        predict(
            run(workload=load, window=Window(steady=s), settings={"max_num_seqs": 16}, measured={"output_tok_s": 1.0})
        )
        for s in (True, False)
    ]
    assert both[0].metrics["output_tok_s"] > both[1].metrics["output_tok_s"]


def test_times_measured_in_the_engine_leave_out_the_front_end() -> None:
    at_client, at_engine = (predict(run(measured_by=who)).metrics["ttft_mean_ms"] for who in ("client", "engine"))
    assert at_engine < at_client


def test_measured_kv_blocks_do_not_stand_in_for_the_prediction() -> None:
    given = run(settings={"num_gpu_blocks_override": 1000}, measured={"kv_blocks": 1000.0})
    free = run(measured={"kv_blocks": 1000.0})
    assert predict(given).metrics == predict(free).metrics


def test_versions_choose_the_engine_profile() -> None:
    assert engine_name(run(engine_version="0.12")) == "vllm-v1@0.12"
    assert engine_name(run(engine_version="0.12", engine="orca")) == "orca"
    assert engine_name(run()) == "vllm-v1"


def test_a_run_that_cannot_be_simulated_is_a_failure_by_name() -> None:
    bad = [run(id="a", model="no-such-model"), run(id="b", cluster="rtx-4090", model="llama-3.1-70b"), run(id="c")]
    outcome = Outcome(bad, predict_all(bad))
    assert [p.run.id for p in outcome.failures] == ["a", "b"]
    assert "no-such-model" in str(outcome.failures[0].failure)
    assert [r.run.id for r in outcome.residuals] == ["c"]


def test_runs_that_differ_only_in_their_window_are_one_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    import simulator.validation.replay as replay

    calls = []
    original = replay.simulate_deployment
    monkeypatch.setattr(replay, "simulate_deployment", lambda *a, **k: calls.append(1) or original(*a, **k))
    stages = (Stage(num_requests=20, duration_s=5.0), Stage(num_requests=20, duration_s=5.0))
    load = Workload(input_len=64, output_len=8, stages=stages)
    runs = [run(id=str(i), workload=load, window=Window(stage=i)) for i in range(2)]
    predictions = predict_all(runs, Options(seeds=1))
    assert len(calls) == 1
    assert [p.run.id for p in predictions] == ["0", "1"]


# -- scores -----------------------------------------------------------------------------------------------------------


def test_aggregates_worked_out_by_hand() -> None:
    group = Aggregate.of(("x",), [-0.3, 0.1, 0.2])
    assert (group.n, group.median, group.worst, group.signed) == (3, 0.2, 0.3, 0.1)
    assert group.mean == pytest.approx(0.2)
    assert group.p90 == pytest.approx(0.28)


def test_labels_are_fields_classes_and_tags() -> None:
    found = residuals_of([predict(run(tags={"team": "infra"}))])
    (group,) = aggregate(found, ("device", "model", "tp", "experts", "load", "provenance", "team", "absent"))
    assert group.key == ("h100-sxm", "llama-3.1-8b", "1", "dense", "unsaturated", "measured", "infra", "-")


def test_skipped_runs_are_listed_with_their_reason() -> None:
    runs = [run(id="a"), run(id="b", skip="no clock")]
    data = to_dict(Outcome(runs, predict_all(runs)), ("metric",))
    assert [(r["id"], r["status"]) for r in data["results"]] == [("a", "predicted"), ("b", "skipped")]
    assert data["results"][1]["reason"] == "no clock"
    assert (data["runs"], data["predicted"], data["failed"], data["skipped"]) == (2, 1, 0, 1)


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_number_of_processes_does_not_change_a_byte(tmp_path: Path) -> None:
    runs = RUN + RUN[RUN.index("  - id") :].replace("one", "two").replace("rate_per_s: 2", "rate_per_s: 3")
    file = write(tmp_path, runs)
    for jobs in ("1", "2"):
        assert main(["validate", str(file), "--jobs", jobs, "--json", str(tmp_path / f"{jobs}.json")]) == 0
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


def test_json_report_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, RUN.replace("id: one", 'id: "<b>&one"'))
    report, plot = tmp_path / "r.html", tmp_path / "p.png"
    assert (
        main(["validate", str(file), "--json", "-", "--report", str(report), "--plot", str(plot), "--jobs", "1"]) == 0
    )
    (result,) = json.loads(capsys.readouterr().out)["results"]
    figure = result["metrics"]["ttft_mean_ms"]
    assert figure["error"] == pytest.approx(figure["predicted"] / 30 - 1)
    assert set(result["class"]) == {"provenance", "experts", "load"}
    assert plot.read_bytes().startswith(b"\x89PNG")
    page = report.read_text("utf-8")
    HTMLParser().feed(page)
    assert "&lt;b&gt;&amp;one" in page and "<b>&one" not in page
    assert "80 % interval" in page


def test_check_fails_when_a_goal_is_missed(tmp_path: Path) -> None:
    text = RUN.replace("id: one", "id: one\n    source: apex-serve")
    near = text.replace("ttft_mean_ms: 30, tpot_mean_ms: 7, e2e_mean_ms: 723", "tpot_mean_ms: 7.2")
    assert main(["validate", str(write(tmp_path, near)), "--check", "--jobs", "1"]) == 0
    far = text.replace("ttft_mean_ms: 30, tpot_mean_ms: 7, e2e_mean_ms: 723", "ttft_mean_ms: 900")
    assert main(["validate", str(write(tmp_path, far)), "--check", "--jobs", "1"]) == 1
    assert main(["validate", str(write(tmp_path, far)), "--jobs", "1"]) == 0
    gone = near + near[near.index("  - id") :].replace("one", "two\n    engine: nobodys")
    assert main(["validate", str(write(tmp_path, gone)), "--check", "--jobs", "1"]) == 1


def test_every_goal_is_about_a_source_that_exists() -> None:
    known = {source.name for source in SOURCES} | {"apex-serve"}
    assert {goal.source for goal in load_goals()} <= known


def test_check_holds_runs_to_goals_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = str(write(tmp_path, RUN))
    assert main(["validate", runs, "--check"]) == 2
    assert "no goal is about these runs" in capsys.readouterr().err
    for limit, code in ((0.5, 0), (0.001, 1)):
        goals = write(tmp_path, f"- {{source: runs, metric: tpot_mean_ms, worst: {limit}}}", "goals.yaml")
        assert main(["validate", runs, "--check", "--jobs", "1", "--goals", str(goals)]) == code


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "has no goals"),
        ("- 1", "goal 1 is 1"),
        ("- {source: runs, metric: tpot}", "needs source"),
        ("- {source: runs, metric: tpot_mean_ms}", "needs median, p90 or worst"),
        ("- {source: runs, metric: tpot_mean_ms, median: 12}", "it is a share"),
        ("- {source: runs, metric: tpot_mean_ms, mean: 0.1}", "unknown field 'mean'"),
        ("- [", "is not valid YAML at line"),
    ],
)
def test_bad_goals_are_one_line(tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    goals = write(tmp_path, text, "goals.yaml")
    assert main(["validate", str(write(tmp_path, RUN)), "--goals", str(goals)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_cells_of_a_csv_are_text_where_text_is_meant(tmp_path: Path) -> None:
    lengths = "workload.input_len,workload.output_len,workload.num_requests"
    text = f"""\ufeffid, model ,cluster,engine_version,tags.on,{lengths},measured.output_tok_s
007,llama-3.1-8b,h100-sxm:1,0.10,yes,5e2,100,40,1.6e3
no,llama-3.1-8b,h100-sxm:1,0.20,1.0,500,100,40,1600
"""
    first, second = read_runs(write(tmp_path, text, "runs.csv"))
    assert (first.id, first.engine_version, first.tags) == ("007", "0.10", {"on": "yes"})
    assert (second.id, second.engine_version, second.tags) == ("no", "0.20", {"on": "1.0"})
    assert first.workload.input_len == 500 and first.measured == {"output_tok_s": 1600.0}


def test_a_run_of_an_unknown_engine_fails_by_name_beside_the_others() -> None:
    good, bad = predict_all([run(), run(id="two", engine="nobodys")])
    assert good.failure is None
    assert bad.failure is not None and "unknown engine 'nobodys'" in bad.failure


@pytest.mark.parametrize(
    ("low", "high"), [(27.2, 48.0), (5.9, 11.8), (1.0, 1.6), (1216, 1940), (60, 400), (60, 100_000), (1e-3, 1e7)]
)
def test_axes_have_a_few_readable_ticks(low: float, high: float) -> None:
    found = tick_values(low, high)
    assert 3 <= len(found) <= 8
    assert all(low <= tick <= high for tick in found)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--seeds", "0"),
        ("--jobs", "-1"),
        ("--by", "colour"),
        ("--metric", "ttft"),
        ("--match", "nothing"),
        ("--plot", "x.txt"),
        ("--goals", "nowhere.yaml"),
    ],
)
def test_bad_arguments_are_one_line(
    tmp_path: Path, arguments: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", str(write(tmp_path, RUN)), *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_cited_runs_name_their_source() -> None:
    runs = cited_runs()
    assert len(runs) > 20
    assert all(r.citation and r.split == "cited" for r in runs)


def test_an_interrupt_ends_all_processes_and_writes_nothing(tmp_path: Path) -> None:
    """Ctrl-C goes to the whole group of processes; the command ends at once, all the same."""
    runs = "\n".join(RUN[RUN.index("  - id") :].replace("one", str(i)).replace("500", str(500 + i)) for i in range(200))
    file = write(tmp_path, RUN[: RUN.index("  - id")] + runs)
    out = tmp_path / "out"
    out.mkdir()
    # a shell starts background jobs with SIGINT ignored, which children inherit
    start = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    start += "from apex_sim.cli import main; raise SystemExit(main())"
    command = [sys.executable, "-c", start, "validate", str(file), "--jobs", "2", "--seeds", "500"]
    arguments = [*command, "--json", str(out / "a.json"), "--report", str(out / "a.html")]
    process = subprocess.Popen(
        arguments, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    time.sleep(3)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert not list(out.iterdir())
