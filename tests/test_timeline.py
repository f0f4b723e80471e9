"""The timeline of a run: the format's rules, the result's figures, both modes the same."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import composition
import pytest
from trace_checks import check_format, check_result, check_same, ns, parsed

import apex_sim
from apex_sim.cli import main
from simulator.events.chrome import trace_of
from simulator.events.text import process_of
from simulator.result import SimulationResult
from workloads.spec import workload_from_dict


def checked(seed: int) -> bool:
    settings = composition.draw(seed) | {"timeline": True}
    spans = composition.run(settings, exact_steps=False)
    if isinstance(spans, str):
        return False
    steps = composition.run(settings, exact_steps=True)
    assert not isinstance(steps, str)
    first, second = parsed(trace_of(spans)), parsed(trace_of(steps))
    check_result(first, spans)
    check_result(second, steps)
    check_same(first, second, any(record.speculative for record in spans.record.replicas))
    return True


def test_timelines_of_compositions_keep_the_format_and_add_up_to_their_results() -> None:
    assert sum(checked(seed) for seed in range(30)) >= 15


WORK: dict[str, Any] = {"rate": 20.0, "input_len": 300, "output_len": 60, "num_requests": 40, "dp": 2}


def run(**more: Any) -> SimulationResult:
    return apex_sim.simulate(cluster="h100-sxm:4", **{"model": "llama-3.1-8b", **WORK, **more})


@pytest.mark.parametrize(
    "settings, names",
    [
        ({"pp": 2}, {"prefill", "decode", "mixed"}),
        ({"sm_split": "0.5", "dp": 1}, {"prefill", "decode"}),
        ({"speculative_config": composition.DRAFT}, {"draft", "verify"}),
        ({"dp": 1, "preemption_mode": "swap", "engine": "vllm-v0", "num_gpu_blocks_override": 60, "max_model_len": 400},
         {"swap"}),
        ({"model": "mixtral-8x7b", "tp": 2, "input_len": 700, "cold_start": True}, {"compile"}),
        ({"dp": 1, "disaggregate": ("prefill=tp1", "decode=dp2"), "kv_link": "1GB/s"}, {"KV transfer"}),
        ({"elasticity": apex_sim.Elasticity(mtbf_s=1, repair_s=1, startup_s=1)}, {"lost step", "serving", "down"}),
    ],
)  # fmt: skip
def test_every_kind_of_step_and_move_is_shown(settings: dict[str, Any], names: set[str]) -> None:
    result = run(**settings, timeline=True)
    events = parsed(trace_of(result))
    check_result(events, result)
    assert names <= {event["name"] for event in events}


def test_loads_of_cached_prefixes_are_shown() -> None:
    chats = workload_from_dict(
        {"num_requests": 30, "rate_per_s": 4, "input_len": 400, "output_len": 60, "seed": 2}
        | {"sessions": {"turns": 4, "think_s": 1, "max_context_tokens": 3000}}
    )
    tiers = {"num_gpu_blocks_override": 200, "max_model_len": 3100, "kv_offloading_size": 4.0}
    result = apex_sim.simulate("llama-3.1-8b", "h100-sxm:1", trace=chats, timeline=True, **tiers)
    events = parsed(trace_of(result))
    check_result(events, result)
    loads = [event for event in events if event["name"] == "KV load" and event["ph"] == "b"]
    assert loads and all(event["args"]["tokens"] > 0 for event in loads)


def test_a_run_that_is_watched_is_the_same_run() -> None:
    plain, watched = run(), run(timeline=True)
    assert plain.summary == watched.summary and plain.requests.equals(watched.requests)
    assert plain.timeline.equals(watched.timeline)
    with pytest.raises(apex_sim.UserError, match="timeline=True"):
        trace_of(plain)


def test_a_window_has_what_overlaps_it_and_counters_from_its_start() -> None:
    whole, part = run(timeline=True), run(timeline=(0.5, 1.0))
    steps = run(timeline=(0.5, 1.0), exact_steps=True)
    kept, all_ = (sum(len(each.step_log.rows) for each in r.record.replicas) for r in (part, whole))
    assert kept < all_ / 3
    events = parsed(trace_of(part, (0.5, 1.0)))
    check_same(events, parsed(trace_of(steps, (0.5, 1.0))), drafts=False)
    assert json.dumps(events) == json.dumps(parsed(trace_of(whole, (0.5, 1.0))))
    timed = [event for event in events if event["ph"] != "M"]
    assert len(timed) < len(parsed(trace_of(whole))) / 2
    for event in timed:
        if event["ph"] == "X" and event["cat"] == "step":
            assert ns(event) <= 1e9 and ns(event) + ns(event, "dur") >= 5e8
        assert event["ph"] != "C" or 5e8 <= ns(event) <= 1e9
    assert {e["name"] for e in timed if e["ph"] == "C" and ns(e) == 5e8} == {
        "running",
        "waiting",
        "KV blocks",
        "power",
    }


def test_too_many_events_are_cut_with_a_note() -> None:
    trace = trace_of(run(timeline=True), most_events=200)
    events = parsed(trace)
    assert trace.note is not None and "left out" in trace.note and len(trace.events) <= 201
    assert [event["name"] for event in events if event.get("cat") == "note"] == [trace.note]


def test_a_window_in_which_nothing_runs_is_said_to_be_one() -> None:
    trace = trace_of(run(timeline=(900.0, 910.0)), (900.0, 910.0))
    assert trace.note is not None and "nothing runs in the window" in trace.note
    assert parsed(trace)


def test_files_are_the_same_bytes_packed_or_not(tmp_path: Path) -> None:
    result = run(timeline=True)
    apex_sim.write_timeline(result, tmp_path / "a.json")
    for name in ("b.json.gz", "c.json.gz"):
        apex_sim.write_timeline(result, tmp_path / name)
    assert (tmp_path / "b.json.gz").read_bytes() == (tmp_path / "c.json.gz").read_bytes()
    assert gzip.decompress((tmp_path / "b.json.gz").read_bytes()) == (tmp_path / "a.json").read_bytes()


def test_the_command_writes_a_timeline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "t.json"
    command = ["simulate", "--model", "llama-3.1-8b", "--cluster", "h100-sxm:1", "--num-requests", "20", "--timeline"]
    assert main([*command, str(target)]) == 0
    assert "ui.perfetto.dev" in capsys.readouterr().out
    check_format(json.loads(target.read_text())["traceEvents"])


@pytest.mark.parametrize(
    "options, words",
    [
        (["--timeline", "x.txt"], "use .json or .json.gz"),
        (["--timeline", "x.json", "--timeline-window", "5"], "START:END"),
        (["--timeline", "x.json", "--timeline-window", "5:2"], "START:END"),
        (["--timeline-window", "1:2"], "add --timeline"),
        (["--timeline", "nowhere/x.json"], "no folder"),
    ],
)
def test_mistakes_are_one_line(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--model", "llama-3.1-8b", "--cluster", "h100-sxm:1", *options]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"elasticity": apex_sim.Elasticity(mtbf_s=0.4, repair_s=0.3, startup_s=0.2), "seed": 2},
        {
            "elasticity": apex_sim.Elasticity(mtbf_s=0.4, repair_s=0.3, startup_s=0.2),
            "speculative_config": composition.DRAFT,
        },
        {"num_gpu_blocks_override": 75, "input_len": "uniform(5, 400)", "rate": 60.0, "seed": 5}
        | {"elasticity": apex_sim.Elasticity(mtbf_s=0.4, repair_s=0.3, startup_s=0.2)},
        {"disaggregate": ("prefill=tp1,dp2", "decode=dp2"), "dp": 1, "kv_link": "1GB/s"},
    ],
    ids=("failures", "failures with drafts", "preemptions", "two pools"),
)
def test_peaks_of_the_result_are_those_of_the_counters(settings: dict[str, Any]) -> None:
    spans, steps = (run(**settings, timeline=True, exact_steps=exact) for exact in (False, True))
    events = parsed(trace_of(spans))
    for index, (record, other) in enumerate(zip(spans.record.replicas, steps.record.replicas, strict=True)):
        mine = record.counters
        peaks = [mine.peak_blocks, mine.peak_running, mine.peak_waiting]
        counts = [e for e in events if e["ph"] == "C" and e["pid"] == process_of(index)]
        names = ("KV blocks", "running", "waiting")
        assert peaks == [max(max(e["args"].values()) for e in counts if e["name"] == name) for name in names]
        assert peaks == [other.counters.peak_blocks, other.counters.peak_running, other.counters.peak_waiting]
