"""Reports say what the JSON of the same run says, number by number, and what was warned of."""

from __future__ import annotations

import json
import shlex
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import yaml
from report_tables import Tables, misprints, strangers

from apex_sim.cli import build_parser, main
from apex_sim.config_file import with_config
from apex_sim.files import write_atomically
from apex_sim.html import parts
from apex_sim.html.provenance import confidence
from apex_sim.repeat import OUTPUTS, command_of, options_of, positionals_of
from apex_sim.text import milliseconds

WORK = ["--rate", "10", "--input-len", "200", "--output-len", "40", "--num-requests", "40"]
MODEL = ["--model", "llama-3.1-8b"]
MEASURED = """
runs:
  - id: one
    model: llama-3.1-8b
    cluster: h100-sxm:1
    engine: vllm-v1
    workload: {input_len: 100, output_len: 100, rate_per_s: 2, num_requests: 40}
    measured: {ttft_mean_ms: 30, tpot_mean_ms: 7, e2e_mean_ms: 723}
"""
FROM_PROFILES = ("fits of kernels", "uncertainty")
DERIVED = {"GPU types": ("$/h",), "every figure": (), "replicas": ("busy", "KV peak"), "policies": ("holds",)}
"""Columns that no key of the JSON holds: products and yes or no."""
COMMANDS = {
    "simulate": ["simulate", *MODEL, "--cluster", "h100-sxm:2", "--dp", "2", *WORK, "--slo", "ttft=1s,tpot=50ms"],
    "pools": ["simulate", *MODEL, "--cluster", "h100-sxm:2", "--disaggregate", "prefill=tp1", "decode=tp1", *WORK],
    "plan": ["plan", *MODEL, "--cluster", "h100-sxm:2", "--slo", "ttft=1s,tpot=50ms", "--top", "2", *WORK],
    "gpus": ["gpus", *MODEL, "--gpus", "h100-sxm,l4", "--slo", "ttft=1s,tpot=80ms", "--no-cache", *WORK],
    "day": ["gpus", *MODEL, "--gpus", "a100-sxm-80gb,l4", "--slo", "ttft=2s,tpot=120ms", "--no-cache", "--autoscale", "5m",
            "--arrival", "diurnal(0.5,3,1200)", "--input-len", "200", "--output-len", "40", "--num-requests", "600"],
    "experts": ["experts", "--model", "phi-mini-moe", "--cluster", "h100-sxm:2", "--tokens", "128", *WORK],
    "power": ["power", "--days", "0.05", "--servers", "10"],
    "validate": ["validate", "measured.yaml", "--jobs", "1"],
}  # fmt: skip
TABLES = {
    "simulate": {"latencies", "replicas", "slowest requests", "every figure"},
    "pools": {"latencies", "replicas", "every figure"},
    "plan": {"simulated plans", "all candidates"},
    "gpus": {"GPU types", "request sizes"},
    "day": {"windows of the day"},
    "experts": {"placements", "simulated placements"},
    "power": {"policies", "services", "energy by the day"},
    "validate": {"errors", "every run and metric", "coverage of intervals", "sources of the measured runs"},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Report and JSON of each command, run once."""
    folder, kept = tmp_path_factory.mktemp("reports"), {}

    def make(name: str) -> tuple[str, dict[str, Any]]:
        if name not in kept:
            (folder / "measured.yaml").write_text(MEASURED)
            page, data = folder / f"{name}.html", folder / f"{name}.json"
            argv = [str(folder / word) if word == "measured.yaml" else word for word in COMMANDS[name]]
            assert main([*argv, "--report", str(page), "--json", str(data), "--quiet"]) == 0
            kept[name] = page.read_text("utf-8"), json.loads(data.read_text("utf-8"))
        return kept[name]

    return make


@pytest.mark.parametrize("name", COMMANDS)
def test_numbers_are_those_of_the_json(name: str, made: Any) -> None:
    page, data = made(name)
    tables = Tables(page).tables
    assert TABLES[name] <= set(tables)
    for label, table in tables.items():
        assert misprints(table) == [], label
        if (
            label.split(" #")[0] in FROM_PROFILES
            or label.startswith("sources of")
            or label in ("slowest requests", "replicas")
        ):
            continue
        skip = (
            *DERIVED.get(label, ()),
            "in SLO" if label == "services" else "",
            "TTFT p95, 80 % range",
            "TPOT p95, 80 % range",
        )
        assert strangers(table, data, skip) == [], label


def test_every_figure_of_a_run_is_listed_under_its_name(made: Any) -> None:
    page, data = made("simulate")
    found = Tables(page)
    rows = {name: value for (name, _), (_, value) in found.tables["every figure"].rows}
    scalars = {k: v for k, v in data.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    assert {name: rows[name] for name in scalars} == scalars
    latencies = found.tables["latencies"]
    for row, key in zip(latencies.rows, ("ttft", "tpot", "itl", "e2el", "queue"), strict=True):
        names = [f"{statistic}_{key}_ms" for statistic in ("mean", "median", "p90", "p95", "p99")]
        assert [value for _, value in row[1:6]] == [data[name] for name in names]
    replicas = found.tables["replicas"]
    assert (
        sum(replicas.column("requests")) == data["completed"] and sum(replicas.column("steps")) == data["engine_steps"]
    )
    assert max(replicas.column("most running")) == data["peak_running"]
    assert max(replicas.column("KV peak")) == data["peak_kv_usage"]
    assert found.tiles["p95 TTFT"] == milliseconds(data["p95_ttft_ms"])


def test_columns_of_plans_fleets_rows_and_runs_are_where_they_say(made: Any) -> None:
    page, data = made("plan")
    plans, best = Tables(page).tables["simulated plans"], data["best"]
    assert [plans.column(t)[0] for t in ("GPUs", "TTFT p50", "TPOT p50", "in SLO", "$/1M out", "J/token")] == [
        best[k] for k in ("num_gpus", "median_ttft_ms", "median_tpot_ms", "slo_attainment",
                          "usd_per_million_output_tokens", "joules_per_output_token")]  # fmt: skip
    page, data = made("gpus")
    types = Tables(page).tables["GPU types"]
    assert types.column("count") == [t["count"] for t in data["types"]]
    assert sum(types.column("$/h")) == pytest.approx(data["usd_per_hour"])
    page, data = made("day")
    assert Tables(page).tables["windows of the day"].column("$") == [w["usd"] for w in data["windows"]]
    page, data = made("power")
    assert Tables(page).tables["services"].column("p99") == [c["p99_s"] for c in data["outcome"]["classes"]]
    page, data = made("validate")
    runs, metrics = Tables(page).tables["every run and metric"], data["results"][0]["metrics"]
    assert runs.column("predicted") == [m["predicted"] for m in metrics.values()]
    assert runs.column("|error|") == [m["abs_error"] for m in metrics.values()]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_file_in_a_report_repeats_the_run(name: str, made: Any, tmp_path: Path) -> None:
    page, _ = made(name)
    file = tmp_path / "c.yaml"
    file.write_text(block(page, "yaml"))
    parser, words = build_parser(), shlex.split(block(page, "command"))[1:]
    first = parser.parse_args(words)
    start = words[: 2 if name == "validate" else 1]
    second = parser.parse_args(with_config(parser, [*start, "--config", str(file)]))
    assert options_of(second) == options_of(first) == yaml.safe_load(file.read_text())
    assert "command" not in yaml.safe_load(file.read_text()) and not OUTPUTS & set(options_of(first))


def test_files_that_options_name_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("pool.yaml", "t.csv", "runs.yaml"):
        Path(name).write_text("x")
    pools = ["--disaggregate", "prefill=tp1,cluster=pool.yaml", "decode=tp1"]
    argv = ["simulate", *MODEL, "--cluster", "h100-sxm:1", "--trace", "t.csv", *pools]
    args = build_parser().parse_args(argv)
    assert options_of(args)["trace"] == str(tmp_path / "t.csv")
    assert options_of(args)["disaggregate"] == [f"prefill=tp1,cluster={tmp_path / 'pool.yaml'}", "decode=tp1"]
    assert f"cluster={tmp_path / 'pool.yaml'}" in command_of(args)
    args = build_parser().parse_args(["gpus", *MODEL, "--gpus", "l4,pool.yaml", "--slo", "ttft=1s"])
    assert options_of(args)["gpus"] == f"l4,{tmp_path / 'pool.yaml'}"
    args = build_parser().parse_args(["validate", "runs.yaml"])
    assert positionals_of(args) == [str(tmp_path / "runs.yaml")] and command_of(args).endswith(positionals_of(args)[0])


def test_a_changed_line_of_the_file_changes_the_run(made: Any, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(block(made("simulate")[0], "yaml").replace("num_requests: 40", "num_requests: 7"))
    assert main(["simulate", "--config", str(file), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["num_prompts"] == 7


def block(page: str, name: str) -> str:
    """A text to copy."""
    return unescape(page.split(f'<pre id="{name}"', 1)[1].split(">", 1)[1].split("</pre>", 1)[0])


def test_warnings_are_there_also_when_quiet_and_odd_names_are_escaped(tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "odd <i>&'\" ü"
    folder.mkdir()
    config = {"model_type": "<b>odd</b>", "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 1000, "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4096}))
    argv = ["simulate", "--model", str(folder / "config.json"), "--cluster", "h100-sxm:1", *WORK]
    pages = []
    for quiet in ([], ["--quiet"]):
        report = tmp_path / "r.html"
        assert main([*argv, "--report", str(report), *quiet]) == 0
        pages.append(report.read_text("utf-8"))
        assert ("warning" in capsys.readouterr().err) == (not quiet)
    assert pages[0] == pages[1]
    assert "is not known; reading its fields as a Llama" in pages[1].split('role="note"')[1]
    assert "<b>odd" not in pages[1] and "odd <i>" not in pages[1] and "odd &lt;i&gt;&amp;&#x27;&quot; ü" in pages[1]


def test_a_write_that_fails_keeps_the_old_report(tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    page.write_text("old")

    def stop(path: Path) -> None:
        path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(page, stop)
    assert page.read_text() == "old" and list(tmp_path.iterdir()) == [page]


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("data sheet, H100", "cited"),
        ("measured on two cards", "measured"),
        ("as later versions; not measured there", "cited"),
        ("with the others fitted on TPOT of 45 measured runs", "fitted"),
        ("as Triton compiles, not fitted", "cited"),
        ("as the L40S, which has the same memory", "taken over"),
        ("measured by others, from memory", "low: from memory"),
        ("assumed: as the H100", "low: assumed"),
    ],
)
def test_the_confidence_is_what_a_source_says(source: str, word: str) -> None:
    assert confidence(source) == word


def test_ranges_and_missing_values_sort_by_numbers() -> None:
    cells = [[parts.spread(43.7, 60.0, "43.7 ms to 60 ms")], [parts.spread(1200.0, 1.0e4, "1,200 ms to 10.0 s")],
             [parts.spread(None, None, "unknown")], [parts.amount(float("nan"))], [("?", float("nan"), "n")]]  # fmt: skip
    page = parts.table(("range",), cells)
    assert [piece.split('"')[0] for piece in page.split('data-v="')[1:]] == ["43.7", "1200.0", *["-Infinity"] * 3]
