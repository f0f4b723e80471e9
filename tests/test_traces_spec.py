"""Workload YAML, the bundled sample and the ``traces`` subcommand."""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from apex_sim.cli import build_parser
from apex_sim.commands import traces
from apex_sim.options import workload_of
from apex_sim.workload import make_trace
from hardware_profiles.errors import UserError
from workloads.describe import describe
from workloads.options import ALIASES, OTHER_COLUMNS
from workloads.readers import READERS, read_trace
from workloads.spec import (
    OPTION_KEYS,
    PREFIX_KEYS,
    PROMPT_KEYS,
    SESSION_KEYS,
    SYNTHETIC_KEYS,
    TRACE_KEYS,
    load_workload,
    open_workload,
    sample_path,
    workload_from_dict,
)

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "workloads" / "samples" / "chat_small.yaml"
BASE = {"num_requests": 20, "rate_per_s": 2, "input_len": 100, "output_len": 10}


def cli(*words: str) -> int:
    parser = argparse.ArgumentParser()
    traces.add_parser(parser.add_subparsers())
    return traces.run(parser.parse_args(["traces", *words]))


def test_regenerating_the_sample_gives_the_same_bytes(tmp_path: Path) -> None:
    load_workload(SAMPLE).save(tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == SAMPLE.with_suffix(".csv").read_bytes()


def test_sample_is_near_the_azure_conversations_it_is_modelled_on() -> None:
    facts = describe(open_workload("chat_small"))
    assert facts["requests"] == 600
    assert facts["request_rate_per_s"] == pytest.approx(5.53, rel=0.1)
    assert facts["interarrival_cv"] == pytest.approx(1.09, rel=0.1)
    assert facts["input_tokens"]["mean"] == pytest.approx(1155, rel=0.1)
    assert facts["output_tokens"]["mean"] == pytest.approx(211, rel=0.1)
    assert sample_path("chat_small") is not None and sample_path("nosuch") is None


def test_all_synthetic_keys_at_once(tmp_path: Path) -> None:
    file = tmp_path / "work.yaml"
    file.write_text(
        """
name: chat
seed: 3
duration_s: 200
rate_per_s: 4
arrival: {gamma: {cv: 2}}
input_len: uniform(50, 100)
output_len: lognormal(median=80, sigma=0.5, max=400)
prefix: {groups: 4, tokens: 64, popularity: zipf(1), share: 0.5}
sessions: {turns: geometric(mean=3), think_s: exponential(mean=10), max_context_tokens: 2000}
block_tokens: 32
"""
    )
    trace = load_workload(file)
    assert trace.name == "chat" and trace.prefix_block_tokens == 32 and trace.previous is not None
    assert (trace.input_tokens + trace.output_tokens).max() <= 2000


def test_trace_keys_cut_in_their_documented_order(tmp_path: Path) -> None:
    open_workload("chat_small").save(tmp_path / "t.csv")
    (tmp_path / "w.yaml").write_text(
        "trace: t.csv\nformat: csv\noptions: {sort: true}\n"
        "slice_s: [10, 60]\nsample: 0.5\nhead: 50\nscale_rate: 2\nseed: 1\n"
    )
    expected = read_trace(tmp_path / "t.csv").slice_time(10, 60).sample(0.5, 1).head(50).scale_rate(2)
    trace = load_workload(tmp_path / "w.yaml")
    assert trace.arrival_s.tolist() == expected.arrival_s.tolist() and trace.name == "w"
    paced = workload_from_dict({"trace": "chat_small", "rate_per_s": 11})
    assert paced.request_rate_per_s == pytest.approx(11)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"num_request": 5}, "unknown workload key 'num_request'. Did you mean 'num_requests'"),
        ({"rate_per_s": "1e3"}, "rate_per_s is the string '1e3'; YAML reads 1000 or 1.0e.3 as a number"),
        ({"rate_per_s": True}, "rate_per_s is True; it must be a number"),
        ({"num_requests": float("inf")}, "num_requests is inf; it must be finite"),
        ({"input_len": "lognormal(1e8, 5)"}, "add max= to it"),
        ({"arrival": "gamma(1e-200)"}, "from 0.001 to 1000"),
        ({"num_requests": 2.5}, "num_requests is 2.5; it must be a whole number"),
        ({"prefix": {"group": 3, "tokens": 5}}, "Did you mean 'prefix.groups'"),
        ({"prefix": {"groups": 3}}, "prefix.tokens is missing"),
        ({"prefix": {"groups": 3, "tokens": 5, "popularity": "zip(1)"}}, "use uniform or zipf"),
        ({"sessions": 4}, "sessions is 4; it must be a mapping"),
        ({"sessions": {"turns": "geometric(mean=0.5)"}}, "sessions.turns 'geometric"),
        ({"prompts": {"distinct": 0}}, "distinct is 0"),
        ({"input_len": None}, "input_len is None"),
        ({"arrival": "poison"}, "Did you mean 'poisson'"),
        ({"trace": "x.csv"}, "unknown workload key 'num_requests'"),
    ],
)
def test_mistaken_key_is_one_line_that_helps(keys: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        workload_from_dict(BASE | keys, where="w.yaml")
    assert str(error.value).startswith("w.yaml: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a mapping"),
        ("- 1", "is not a mapping"),
        ("a: [", "is not YAML"),
        ("num_requests: 5\nrate_per_s: 1\ninput_len: 5", "output_len is missing"),
        ("trace: chat_small\noptions: {srot: true}", "Did you mean 'options.sort'"),
        ("trace: chat_small\noptions: {sort: yes please}", "it must be true or false"),
        ("trace: chat_small\nslice_s: 5", r"slice_s is 5; write \[start, end\]"),
        ("trace: chat_small\nscale_rate: 2\nrate_per_s: 3", "exclude each other"),
        ("trace: nosuch.csv", "cannot read"),
    ],
)
def test_mistaken_file_is_one_line_that_helps(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "w.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load_workload(file)
    assert "\n" not in str(error.value)


def test_describe_prints_text_json_and_writes_a_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("describe", "chat_small", "--out", str(tmp_path / "out")) == 0
    assert re.search(r"requests +600\n", capsys.readouterr().out)
    assert (tmp_path / "out" / "chat_small.png").stat().st_size > 20_000
    assert json.loads((tmp_path / "out" / "chat_small.json").read_text())["requests"] == 600
    assert cli("describe", "chat_small", "--json", "--head", "10", "--plot", str(tmp_path / "a.png")) == 0
    assert json.loads(capsys.readouterr().out)["requests"] == 10


def test_convert_and_generate_write_files_that_read_back(tmp_path: Path) -> None:
    out = str(tmp_path / "x.jsonl")
    assert cli("convert", "chat_small", out, "--slice", "10:20", "--scale-rate", "2") == 0
    assert read_trace(out).arrival_s.max() < 5
    words = ["--num-requests", "50", "--rate", "5", "--input-len", "uniform(10, 20)", "--output-len", "5"]
    extra = ["--prefix", "groups=2,tokens=uniform(30,40)", "--sessions", "turns=3,think_s=1"]
    assert cli("generate", "--out", out, *words, *extra) == 0
    assert read_trace(out).previous is not None
    with pytest.raises(UserError, match="exclude each other"):
        cli("generate", "--out", out, "--workload", str(SAMPLE), "--seed", "1")
    with pytest.raises(UserError, match="write START:END"):
        cli("convert", "chat_small", out, "--slice", "10")


@pytest.mark.parametrize("kind", [["--arrival", "closed(4)"], ["--arrival", "at-once"]])
def test_describe_and_plot_of_traces_without_a_rate(tmp_path: Path, kind: list[str]) -> None:
    assert cli("describe", "chat_small", "--plot", str(tmp_path / "a.png"), *kind) == 0


def test_an_infinite_rate_is_all_at_once_as_in_benchmark_tools(tmp_path: Path) -> None:
    lengths = {"input_len": 50, "output_len": 5, "num_requests": 8}
    for trace in (
        make_trace(rate=math.inf, **lengths),  # type: ignore[arg-type]
        workload_of(parse_simulate("--rate", "inf", "--input-len", "50", "--output-len", "5", "--num-requests", "8")),
        workload_of(parse_simulate("--request-rate", "inf", "--num-requests", "8")),
    ):
        assert trace.arrival_s.tolist() == [0.0] * 8
    with pytest.raises(UserError, match="--rate is inf"):
        make_trace(rate=math.inf, arrival="poisson", **lengths)  # type: ignore[arg-type]


def parse_simulate(*options: str) -> argparse.Namespace:
    return build_parser().parse_args(["simulate", "--model", "llama-3.1-8b", "--cluster", "h100-sxm:1", *options])


def test_command_module_imports_nothing_heavy() -> None:
    heavy = "{'numpy', 'pandas', 'yaml', 'matplotlib'}"
    code = f"import sys, apex_sim.commands.traces; print(sorted({heavy} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert out.strip() == "[]"


def test_every_key_column_and_format_is_documented() -> None:
    text = (ROOT / "docs" / "workloads.md").read_text(encoding="utf-8")
    keys = {*SYNTHETIC_KEYS, *TRACE_KEYS, *PREFIX_KEYS, *PROMPT_KEYS, *SESSION_KEYS, *OPTION_KEYS}
    columns = {*ALIASES, *OTHER_COLUMNS, *(alias for names in ALIASES.values() for alias in names)}
    missing = sorted(word for word in {*keys, *columns, *READERS} if f"`{word}`" not in text)
    assert not missing


def test_the_workload_in_the_documentation_is_read() -> None:
    import yaml

    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "workloads.md").read_text(), re.DOTALL)
    trace = workload_from_dict(yaml.safe_load(text) | {"num_requests": 50}, where="docs/workloads.md")
    assert trace.name == "chat" and trace.previous is not None


def test_an_unquoted_distribution_in_braces_is_explained() -> None:
    import yaml

    data = yaml.safe_load("prefix: {groups: 8, tokens: uniform(200, 800)}")
    with pytest.raises(UserError, match=r"^mine.yaml: '800\)' in prefix is the end of a value.*quote it"):
        workload_from_dict(BASE | data, where="mine.yaml")


def test_a_bundled_sample_names_itself_and_not_the_place_it_is_installed_in():
    trace = open_workload("chat_small")
    assert trace.source == "bundled sample chat_small"
    assert trace.report is not None and trace.report.emitted == len(trace)
