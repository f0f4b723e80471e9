"""Shared prefixes, repeated prompts and sessions of synthetic workloads on the command line and in calls."""

from __future__ import annotations

import json
import math

import pytest

import apex_sim as apex
from apex_sim.cli import main
from apex_sim.workload import make_trace
from workloads.pairs import pairs
from workloads.readers import read_trace

LENGTHS = ["--rate", "5", "--input-len", "200", "--output-len", "20", "--num-requests", "40"]
KEYWORDS = {"rate": 5.0, "input_len": "200", "output_len": "20", "num_requests": 40}
WHERE = ["--model", "llama-3.1-8b", "--cluster", "h100-sxm:1"]
COMMON = [
    {"prefix": "groups=3,tokens=160"},
    {"prompts": "distinct=5,order=uniform"},
    {"sessions": "turns='geometric(mean=3)',think_s=2", "prefix": "tokens=64"},
]


def flags(common):
    return [word for name, text in common.items() for word in (f"--{name}", text)]


@pytest.mark.parametrize("common", COMMON)
def test_simulate_plays_what_traces_generate_writes(common, tmp_path, capsys):
    file, out = tmp_path / "t.jsonl", tmp_path / "s.json"
    assert main(["traces", "generate", "--out", str(file), *LENGTHS, *flags(common)]) == 0
    assert main(["simulate", *WHERE, *LENGTHS, *flags(common), "--json", str(out)]) == 0
    capsys.readouterr()
    played, summary = read_trace(file), json.loads(out.read_text())
    again = apex.simulate("llama-3.1-8b", "h100-sxm:1", trace=played).summary
    assert summary["prefix_hit_rate"] == again["prefix_hit_rate"] > 0.1
    assert summary["mean_ttft_ms"] == again["mean_ttft_ms"] and summary["duration"] == again["duration"]


def test_text_and_mapping_mean_the_same(tmp_path):
    one = make_trace(prefix="groups=3,tokens='uniform(10,200)'", **KEYWORDS)
    two = make_trace(prefix={"groups": 3, "tokens": "uniform(10,200)"}, **KEYWORDS)
    assert one.prefix_ids.tolist() == two.prefix_ids.tolist() and one.input_tokens.tolist() == two.input_tokens.tolist()
    assert pairs('{"groups": 3, "tokens": 5}', "x") == pairs("groups=3,tokens=5", "x")


def test_the_configuration_of_a_run_repeats_its_prefixes(tmp_path, capsys):
    run = ["simulate", *WHERE, *LENGTHS, "--prefix", "groups=3,tokens=160"]
    assert main([*run, "--out", str(tmp_path / "a")]) == 0
    assert main(["simulate", "--config", str(tmp_path / "a/config.yaml"), "--out", str(tmp_path / "b")]) == 0
    assert (tmp_path / "a/summary.json").read_bytes() == (tmp_path / "b/summary.json").read_bytes()
    capsys.readouterr()
    file = tmp_path / "mine.yaml"
    file.write_text("prefix: {groups: 3, tokens: 160}\n")
    assert main(["simulate", *WHERE, *LENGTHS, "--config", str(file), "--out", str(tmp_path / "c")]) == 0
    assert (tmp_path / "a/summary.json").read_bytes() == (tmp_path / "c/summary.json").read_bytes()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([*LENGTHS, "--prefix", "groups"], ("--prefix 'groups'", "KEY=VALUE")),
        ([*LENGTHS, "--prefix", "groups=2"], ("prefix.tokens is missing",)),
        ([*LENGTHS, "--prefix", "groups=2,tokens=9,groups=3"], ("groups is given twice",)),
        ([*LENGTHS, "--prefix", "{groups: 2"], ("--prefix", "in braces")),
        ([*LENGTHS, "--prompts", "distint=2"], ("prompts.distint", "prompts.distinct")),
        (["--prefix", "groups=2,tokens=9"], ("--prefix describes a synthetic workload", "--input-len")),
        (["--trace", "chat_small", "--sessions", "turns=2"], ("--sessions describes a synthetic workload",)),
    ],
)
def test_mistakes_are_one_line(argv, words, capsys):
    assert main(["simulate", *WHERE, *argv]) == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1 and all(word in shown.err for word in words), shown.err


def test_an_infinite_rate_of_a_workload_file_or_a_trace_is_all_at_once(tmp_path, capsys):
    file, out = tmp_path / "w.yaml", tmp_path / "s.json"
    file.write_text(
        "num_requests: 30\nrate_per_s: 4\ninput_len: 100\noutput_len: 20\nprefix: {groups: 2, tokens: 64}\n"
    )
    assert main(["simulate", *WHERE, "--trace", str(file), "--rate", "inf", "--json", str(out)]) == 0
    summary, trace = json.loads(out.read_text()), make_trace(trace=file, rate=math.inf)
    assert trace.arrival_s.tolist() == [0.0] * 30 and trace.prefix_ids is not None
    assert summary["duration"] == apex.simulate("llama-3.1-8b", "h100-sxm:1", trace=trace).summary["duration"]
    assert make_trace(trace=make_trace(trace=file), rate=math.inf).arrival_s.tolist() == [0.0] * 30
    file.write_text("num_requests: 30\narrival: closed(concurrency=4)\ninput_len: 100\noutput_len: 20\n")
    capsys.readouterr()
    assert main(["simulate", *WHERE, "--trace", str(file), "--rate", "inf"]) == 2
    assert "closed loop of 4" in capsys.readouterr().err
