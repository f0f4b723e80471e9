"""What users get wrong: one line on stderr that names the place, the value and the remedy; exit code 2; nothing written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import apex_sim as apex
from apex_sim.cli import main

ONE_GPU = ("--model", "llama-3.1-8b", "--cluster", "h100-sxm:1")
EIGHT = ("--model", "llama-3.1-8b", "--cluster", "h100-sxm:8")
MOE = ("--model", "mixtral-8x7b", "--cluster", "h100-sxm:8")
SYNTHETIC = (*ONE_GPU, "--rate", "2", "--num-requests", "5")
HEADER = "arrival_s,input_tokens,output_tokens\n"


@pytest.fixture
def error_of(capsys, tmp_path, monkeypatch):
    """Runs a command line in an empty folder; returns its one line of error."""

    def run(*argv: str) -> str:
        monkeypatch.chdir(tmp_path)
        before = sorted(tmp_path.rglob("*"))
        try:
            code = main(argv)
        except SystemExit as stop:  # argparse
            code = stop.code
        captured = capsys.readouterr()
        assert code == 2, captured
        assert captured.out == ""
        assert captured.err.startswith("apex-sim: error: ") and captured.err.count("\n") == 1, captured.err
        assert sorted(tmp_path.rglob("*")) == before, "something was left behind"
        return captured.err

    return run


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        # names
        (("--model", "llama-3.1-9b", "--cluster", "h100-sxm:1"), ("'llama-3.1-9b'", "'llama-3.1-8b'")),
        (("--model", "llama-3.1-8b", "--cluster", "h100-smx:1"), ("'h100-smx'", "'h100-sxm'")),
        ((*ONE_GPU, "--engine", "vllm-v3"), ("'vllm-v3'", "'vllm-v1'")),
        ((*ONE_GPU, "--routing", "rond-robin"), ("'rond-robin'", "'round-robin'")),
        ((*ONE_GPU, "--quantization", "fp9"), ("'fp9'", "'fp8'")),
        ((*ONE_GPU, "--kv-cache-dtype", "fp9"), ("'fp9'", "'fp8'")),
        ((*ONE_GPU, "--dtype", "bfloat61"), ("'bfloat61'", "'bfloat16'")),
        ((*ONE_GPU, "--preemption-mode", "swp"), ("--preemption-mode", "'swp'", "'swap'")),
        ((*ONE_GPU, "--trace-format", "azur", "--trace", "chat_small"), ("'azur'", "'azure'")),
        # sizes and layouts
        (("--model", "llama-3.1-8b", "--cluster", "h100-sxm:0"), ("h100-sxm:0", "above zero")),
        (("--model", "llama-3.1-8b", "--cluster", "h100-sxm:-2"), ("h100-sxm:-2", "above zero")),
        (("--model", "llama-3.1-8b", "--cluster", "h100-sxm:64"), ("at most 8", "h100-sxm:8x8")),
        (("--model", "llama-3.1-70b", "--cluster", "h100-sxm:1"), ("141.1 GB", "short by", "tp >= 2")),
        ((*EIGHT, "--tp", "3"), ("tp=3", "Valid tp: 1, 2, 4, 8")),
        ((*EIGHT, "--tp", "0"), ("--tp is 0",)),
        ((*EIGHT, "--pp", "-1"), ("--pp is -1",)),
        ((*EIGHT, "--dp", "0"), ("--dp is 0",)),
        ((*EIGHT, "--tp", "two"), ("--tp", "'two'")),
        ((*EIGHT, "--tp", "8", "--dp", "2"), ("needs 16 devices", "has 8")),
        ((*EIGHT, "--tp", "2", "--ep", "2"), ("ep=2", "dense")),
        ((*MOE, "--tp", "2", "--ep", "3"), ("ep=3", "Valid ep: 1, 2")),
        # engine settings
        ((*ONE_GPU, "--max-num-seqs", "0"), ("--max-num-seqs is 0",)),
        ((*ONE_GPU, "--max-num-batched-tokens", "0"), ("--max-num-batched-tokens is 0",)),
        ((*ONE_GPU, "--max-num-seqs", "100", "--max-num-batched-tokens", "50"), ("(50)", "(100)", "50 or less")),
        ((*ONE_GPU, "--block-size", "0"), ("--block-size is 0",)),
        ((*ONE_GPU, "--gpu-memory-utilization", "2"), ("--gpu-memory-utilization is 2", "0.9")),
        ((*ONE_GPU, "--gpu-memory-utilization", "nan"), ("--gpu-memory-utilization is nan",)),
        ((*ONE_GPU, "--gpu-memory-utilization", "0.1"), ("short by", "x 0.10")),
        ((*ONE_GPU, "--max-model-len", "0"), ("--max-model-len is 0",)),
        ((*ONE_GPU, "--max-model-len", "1000000"), ("131.1 GB", "enough for", "tp >=")),
        ((*ONE_GPU, "--num-gpu-blocks-override", "0"), ("--num-gpu-blocks-override is 0",)),
        ((*ONE_GPU, "--num-gpu-blocks-override", "3"), ("all 600 requests would be refused", "48")),
        ((*ONE_GPU, "--swap-space", "nan"), ("--swap-space is nan",)),
        ((*ONE_GPU, "--moe-skew", "-1"), ("--moe-skew is -1",)),
        # workloads
        ((*SYNTHETIC, "--input-len", "1000", "--output-len", "5", "--max-model-len", "500"), ("all 5", "1,000", "500")),
        ((*SYNTHETIC, "--input-len", "10"), ("--input-len", "--output-len")),
        ((*SYNTHETIC, "--input-len", "0", "--output-len", "5"), ("--input-len is 0",)),
        ((*SYNTHETIC, "--input-len", "-3", "--output-len", "5"), ("--input-len is -3",)),
        ((*SYNTHETIC, "--input-len", "10", "--output-len", "1e18"), ("1e+18", "max=")),
        ((*SYNTHETIC, "--input-len", "lognorm(median=5)", "--output-len", "5"), ("'lognorm'", "'lognormal'")),
        ((*SYNTHETIC, "--input-len", "5", "--output-len", "5", "--arrival", "poison"), ("'poison'", "'poisson'")),
        ((*ONE_GPU, "--num-requests", "0"), ("--num-requests is 0",)),
        ((*ONE_GPU, "--rate", "0"), ("--rate is 0",)),
        ((*ONE_GPU, "--rate", "-1"), ("--rate is -1",)),
        ((*ONE_GPU, "--rate", "nan"), ("--rate is nan",)),
        ((*ONE_GPU, "--rate", "inf", "--arrival", "poisson"), ("--rate is inf",)),
        ((*SYNTHETIC, "--rate", "1e-300", "--input-len", "5", "--output-len", "5"), ("--rate is 1e-300",)),
        ((*ONE_GPU, "--trace-scale-rate", "1e-200"), ("longest simulated time",)),
        ((*ONE_GPU, "--seed", "-1"), ("--seed is -1",)),
        ((*ONE_GPU, "--trace", "chat_small", "--input-len", "5"), ("--input-len", "cannot be combined")),
        ((*SYNTHETIC, "--input-len", "5", "--output-len", "5", "--trace-sort"), ("--trace-sort", "synthetic")),
        ((*ONE_GPU, "--trace", "missing.csv"), ("missing.csv", "No such file")),
        ((*ONE_GPU, "--trace", "."), ("folder",)),
        ((*ONE_GPU, "--trace-slice", "5:1"), ("--trace-slice", "5:1", "0:600")),
        ((*ONE_GPU, "--trace-sample", "2"), ("sample", "2")),
        ((*ONE_GPU, "--trace-column", "x"), ("--trace-column", "NAME=COLUMN")),
        # SLO
        ((*ONE_GPU, "--slo", "tttft=1s"), ("tttft=1s", "'ttft'")),
        ((*ONE_GPU, "--slo", "ttft=1"), ("--slo ttft", "'1'", "unit")),
        ((*ONE_GPU, "--slo", "ttft="), ("ttft has no value",)),
        ((*ONE_GPU, "--slo", ""), ("--slo is empty",)),
        ((*ONE_GPU, "--slo", "ttft=1e400s"), ("finite",)),
        ((*ONE_GPU, "--slo", "ttft=1s,attainment=2"), ("attainment", "'2'", "95%")),
        # outputs
        ((*ONE_GPU, "--json", "."), ("--json .", "folder")),
        ((*ONE_GPU, "--json", "nowhere/x.json"), ("--json", "nowhere")),
        # devices
        (("--model", "llama-3.1-8b", "--cluster", "nvme-pcie4:1"), ("nvme", "cannot run a model", "--kind gpu")),
        (("--model", "llama-3.1-8b", "--cluster", "alveo-v80:1"), ("fpga", "cannot run a model")),
    ],
)
def test_simulate_refuses_in_one_line(error_of, argv, words):
    line = error_of("simulate", *argv)
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((*ONE_GPU, "--max-rate"), ("--max-rate", "--slo")),
        ((*ONE_GPU, "--top", "0"), ("--top is 0",)),
        ((*ONE_GPU, "--jobs", "-1"), ("--jobs is -1",)),
        ((*ONE_GPU, "--objective", "speed"), ("--objective", "'speed'", "goodput")),
        ((*ONE_GPU, "--allow-quantization", "fp9"), ("'fp9'", "'fp8'")),
        ((*ONE_GPU, "--allow-kv-cache-dtype", "fp9"), ("'fp9'", "'fp8'")),
        ((*ONE_GPU, "--plot", "pareto.docx"), ("--plot", ".png")),
        ((*ONE_GPU, "--max-model-len", "20"), ("all 600 requests would be refused",)),
        (("--model", "llama-3.1-405b", "--cluster", "h100-sxm:1"), ("does not fit", "811.7 GB")),
        (("--model", "llama-3.1-8b", "--cluster", "nvme-pcie4:1"), ("cannot run a model",)),
        (("--model", "llama-3.1-8b", "--cluster", "epyc-9654:1"), ("no price", "objective")),
    ],
)
def test_plan_refuses_in_one_line(error_of, argv, words):
    line = error_of("plan", *argv)
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ("empty",)),
        (HEADER, ("no rows",)),
        (HEADER + "0,10,5\n1,-3,5\n", ("line 3", "input_tokens is -3")),
        (HEADER + "-1,10,5\n", ("line 2", "arrival_s is -1")),
        (HEADER + "0,10,5\n1,3,0\n", ("line 3", "output_tokens is 0")),
        (HEADER + "0,10,5\n1,,4\n", ("line 3", "input_tokens is missing")),
        (HEADER + "0,10,5\n1,4\n", ("line 3", "output_tokens is missing")),
        (HEADER + "0,10,5\n1,abc,4\n", ("line 3", "'abc'")),
        (HEADER + "0,10,5\n1,3.5,4\n", ("line 3", "3.5")),
        (HEADER + "0,10,5\ninf,5,4\n", ("line 3", "arrival_s is inf")),
        (HEADER + "5,10,5\n1,3,4\n", ("line 3", "--trace-sort")),
        ("a,b,c\n1,2,3\n", ("cannot tell the trace format", "a, b, c")),
        ("input_tokens,output_tokens\n1,2\n", ("no arrival column", "poisson")),
    ],
)
def test_traces_are_refused_with_file_and_line(error_of, tmp_path, content, words):
    (tmp_path / "bad.csv").write_text(content)
    line = error_of("simulate", *ONE_GPU, "--trace", "bad.csv")
    assert "bad.csv" in line and all(word in line for word in words), line


def test_a_rate_for_requests_that_arrive_at_one_instant_is_refused(error_of, tmp_path):
    (tmp_path / "same.csv").write_text(HEADER + "3,10,5\n3,10,5\n")
    assert "same instant" in error_of("simulate", *ONE_GPU, "--trace", "same.csv", "--rate", "9")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", ("broken JSON", "line 1")),
        ("[]", ("config.json",)),
        ('{"model_type": "llama"}', ("hidden_size", "missing")),
        ('{"model_type": "llama", "hidden_size": "big"}', ("hidden_size", "big")),
    ],
)
def test_configs_are_refused_with_file_and_field(error_of, tmp_path, content, words):
    (tmp_path / "config.json").write_text(content)
    line = error_of("simulate", "--model", "config.json", "--cluster", "h100-sxm:1")
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("w.yaml", "rate_per_s: 3\n", ("w.yaml", "input_len is missing")),
        ("w.yaml", "rate_per_s: 1e3\nnum_requests: 3\ninput_len: 5\noutput_len: 6\n", ("rate_per_s", "'1e3'")),
        ("w.yaml", "a: [\n", ("w.yaml", "YAML")),
    ],
)
def test_workload_files_are_refused_with_file_and_key(error_of, tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    line = error_of("simulate", *ONE_GPU, "--trace", name)
    assert all(word in line for word in words), line


def test_outputs_that_cannot_be_written_are_refused_before_the_run(error_of, tmp_path):
    (tmp_path / "file").write_text("kept")
    assert "is a file" in error_of("simulate", *ONE_GPU, "--out", "file")
    error_of("simulate", *ONE_GPU, "--out", "file/below")
    error_of("simulate", *ONE_GPU, "--json", "file/below.json")
    error_of("plan", *ONE_GPU, "--csv", "file/below.csv")
    error_of("traces", "describe", "chat_small", "--plot", "nowhere/x.png")
    error_of("traces", "convert", "chat_small", "nowhere/x.csv")
    error_of("traces", "convert", "chat_small", "x.docx")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_a_folder_that_cannot_be_made_is_refused(error_of):
    assert "--out /proc/nothing" in error_of("simulate", *ONE_GPU, "--out", "/proc/nothing/here")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(error_of, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    assert "Permission denied" in error_of("simulate", *ONE_GPU, "--out", "closed")


def test_no_folder_is_left_behind_by_a_run_that_is_refused(error_of, tmp_path):
    error_of("simulate", *EIGHT, "--tp", "3", "--out", "a/b/c")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("simulte",),
        ("simulate",),
        ("simulate", *ONE_GPU, "--modle", "x"),
        ("explain", "step", *ONE_GPU),
        ("explain", "step", *ONE_GPU, "--decode", "-1"),
        ("models", "show", "no-such-model"),
        ("models", "list", "no-such-model"),
        ("hardware", "show", "h100-smx"),
        ("traces", "describe", "no-such-file.csv"),
        ("traces", "generate", "--out", "x.csv"),
    ],
)
def test_every_subcommand_fails_in_one_line(error_of, argv):
    error_of(*argv)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_num_seq": 3}, "max_num_seqs"),
        ({"tp": "2"}, "tp is '2'"),
        ({"tp": True}, "tp is True"),
        ({"trace": 5}, "trace is 5"),
        ({"slo": 5}, "slo is 5"),
        ({"slo": ""}, "slo is empty"),
        ({"max_num_seqs": "3"}, "max_num_seqs is '3'"),
        ({"preemption_mode": "x"}, "recompute, swap"),
        ({"num_requests": 2.5}, "num_requests is 2.5"),
        ({"rate": "x"}, "rate is 'x'"),
        ({"rate_scale": 0}, "rate_scale is 0"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"engine": None}, "engine is None"),
        ({"quantization": 8}, "quantization is 8"),
        ({"async_scheduling": "no"}, "async_scheduling is 'no'"),
        ({"gpu_memory_utilization": "0.9"}, "gpu_memory_utilization is '0.9'"),
    ],
)
def test_the_api_refuses_values_of_the_wrong_kind(settings, words):
    with pytest.raises(apex.UserError, match=words):
        apex.simulate("llama-3.1-8b", "h100-sxm:1", **settings)


@pytest.mark.parametrize(("model", "cluster"), [(None, "h100-sxm:1"), ("llama-3.1-8b", 8), ("", "h100-sxm:1")])
def test_the_api_refuses_names_that_are_none(model, cluster):
    with pytest.raises(apex.UserError, match="give a name"):
        apex.simulate(model, cluster)


def test_none_means_the_default_in_the_api():
    names = ("max_num_seqs", "kv_cache_dtype", "dtype", "routing", "moe_skew", "swap_space", "trace", "rate")
    plain = apex.simulate("llama-3.1-8b", "h100-sxm:1", num_requests=5)
    same = apex.simulate("llama-3.1-8b", "h100-sxm:1", num_requests=5, **dict.fromkeys(names))
    assert same.summary == plain.summary


def test_a_context_beyond_the_models_positions_warns_once(capsys):
    assert main(["simulate", *ONE_GPU, "--num-requests", "3", "--max-model-len", "200000"]) == 0
    error = capsys.readouterr().err
    assert error.startswith("apex-sim: warning: --max-model-len 200000") and error.count("\n") == 1


# -- odd, but right -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", ["7,10,5\n", "7,10,1\n", "3,10,5\n3,10,5\n3,10,5\n"])
def test_one_request_and_one_instant_run_without_nan(capsys, tmp_path, rows):
    (tmp_path / "few.csv").write_text(HEADER + rows)
    assert main(["simulate", *ONE_GPU, "--trace", str(tmp_path / "few.csv"), "--json", str(tmp_path / "s.json")]) == 0
    captured = capsys.readouterr()
    assert "nan" not in captured.out and "inf " not in captured.out and captured.err == ""
    summary = json.loads((tmp_path / "s.json").read_text(), parse_constant=pytest.fail)
    assert summary["completed"] == rows.count("\n")
    assert summary["request_rate"] == "inf"


def test_a_run_that_refuses_some_requests_says_so(capsys, tmp_path):
    (tmp_path / "mixed.csv").write_text(HEADER + "0,10,5\n1,900,5\n")
    argv = ["simulate", *ONE_GPU, "--trace", str(tmp_path / "mixed.csv"), "--max-model-len", "500", "--slo", "ttft=1s"]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "1 of 2 requests: prompts of max-model-len (500) or more" in out
    assert "50.0% of requests" in out
