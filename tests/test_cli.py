"""The command line as a user meets it: files, determinism, streams, exit codes, speed of starting."""

from __future__ import annotations

import builtins
import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import apex_sim
from apex_sim.cli import COMMANDS, build_parser, main
from hardware_profiles.errors import UserError

ROOT = Path(__file__).parents[1]
RUN = ("simulate", "--model", "llama-3.1-8b", "--cluster", "h100-sxm:1", "--num-requests", "40")
HEAVY = ("pandas", "matplotlib", "scipy", "pulp", "pyarrow", "simpy", "yaml")


def python(*code_or_args: str, **options) -> subprocess.CompletedProcess[str]:
    """Run this Python from the repository root."""
    return subprocess.run([sys.executable, *code_or_args], cwd=ROOT, text=True, capture_output=True, **options)


# -- starting -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statement", ["import apex_sim", "from apex_sim.cli import build_parser; build_parser()"])
def test_starting_imports_nothing_heavy(statement):
    code = f"import sys; {statement}; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert python("-c", code).stdout.strip() == "[]"


def test_help_takes_less_than_half_a_second_of_a_processor():
    best = min(_seconds_of("-m", "apex_sim", "--help") for _ in range(3))
    assert best < 0.5


def _seconds_of(*args: str) -> float:
    """Of processor time: what else the machine does does not count."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert python(*args).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_version_and_help_of_every_subcommand(capsys):
    for argv in (["--version"], *([name, "--help"] for name in COMMANDS), ["explain", "step", "--help"]):
        with pytest.raises(SystemExit) as stop:
            main(argv)
        assert stop.value.code == 0
    assert f"apex-sim {apex_sim.__version__}" in capsys.readouterr().out


def test_every_option_has_help():
    def parsers(parser):
        yield parser
        for action in parser._actions:
            for child in getattr(action, "choices", None) or {} if action.dest in ("command", "action", "what") else ():
                yield from parsers(action.choices[child])

    for parser in parsers(build_parser()):
        for action in parser._actions:
            if action.dest not in ("command", "action", "what"):
                assert action.help, f"{parser.prog} {action.option_strings or action.dest}"


def test_usage_is_one_line_where_there_are_many_options(capsys):
    for argv in (["simulate"], ["plan"], ["several"], ["explain", "step"]):
        with pytest.raises(SystemExit):
            main([*argv, "--help"])
        usage = capsys.readouterr().out.split("\n\n")[0]
        assert usage.startswith(f"usage: apex-sim {' '.join(argv)} ") and usage.endswith("[options]")
        assert "\n" not in usage


def test_every_option_is_in_the_documentation():
    text = (ROOT / "docs" / "cli.md").read_text()
    for name in ("simulate", "plan", "explain", "models", "hardware", "traces"):
        assert f"apex-sim {name}" in text
    subparsers = next(a for a in build_parser()._actions if a.dest == "command")
    for name in ("simulate", "plan"):
        for action in subparsers.choices[name]._actions:
            for option in action.option_strings:
                if option.startswith("--") and option != "--help":
                    assert f"`{option}" in text or f"{option} " in text or f"{option}`" in text, option


# -- files --------------------------------------------------------------------------------------------------------------


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_out_writes_all_files_and_the_same_command_the_same_bytes(tmp_path, capsys):
    pytest.importorskip("pyarrow")
    for name in ("a", "b"):
        assert main([*RUN, "--slo", "ttft=1s,tpot=20ms", "--out", str(tmp_path / name)]) == 0
    first = files_of(tmp_path / "a")
    names = {
        "requests.parquet",
        "timeline.csv",
        "power.csv",
        "summary.json",
        "config.yaml",
        "latency.png",
        "timeline.png",
    }
    assert set(first) == names
    assert first == files_of(tmp_path / "b")
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)


@pytest.mark.parametrize(
    "argv",
    [
        ("--no-enable-prefix-caching", "--no-async-scheduling", "--max-num-seqs", "8"),
        ("--enable-prefix-caching", "--trace", "trace.csv", "--trace-head", "10", "--trace-scale-rate", "2"),
        ("--trace", "trace.csv", "--trace-column", "arrival_s=arrival_s", "--trace-time-unit", "ms"),
        ("--rate", "3", "--input-len", "lognormal(median=100, sigma=1)", "--output-len", "9", "--seed", "5"),
        ("--arrival", "closed(concurrency=3)", "--input-len", "99", "--output-len", "9", "--exact-steps"),
        ("--engine", "vllm-v0", "--preemption-mode", "swap", "--num-gpu-blocks-override", "600", "--slo", "e2e=9s"),
    ],
)
def test_the_command_in_config_repeats_the_run_from_any_folder(tmp_path, monkeypatch, argv):
    import yaml

    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "trace.csv").write_text("arrival_s,input_tokens,output_tokens\n0,99,9\n1,200,5\n1.5,50,20\n")
    monkeypatch.chdir(tmp_path)
    assert main([*RUN, *argv, "--out", "first"]) == 0
    command = yaml.safe_load((tmp_path / "first" / "config.yaml").read_text())["command"]
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main([*shlex.split(command)[1:], "--out", str(tmp_path / "second")]) == 0
    assert files_of(tmp_path / "first") == files_of(tmp_path / "second")


def test_requests_are_csv_without_pyarrow(tmp_path, monkeypatch):
    import pandas as pd

    plain_import = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "pyarrow":
            raise ImportError(name)
        return plain_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main([*RUN, "--out", str(tmp_path / "out")]) == 0
    monkeypatch.undo()
    frame = pd.read_csv(tmp_path / "out" / "requests.csv")
    assert len(frame) == 40 and set(frame["status"]) == {"completed"}


def test_json_to_stdout_is_json_alone_and_equal_to_the_file(tmp_path, capsys):
    assert main([*RUN, "--json", "-"]) == 0
    printed = capsys.readouterr().out
    assert main([*RUN, "--json", str(tmp_path / "s.json")]) == 0
    assert printed == (tmp_path / "s.json").read_text()
    assert json.loads(printed)["completed"] == 40
    assert json.loads(printed)["request_goodput"] is None


def test_exact_steps_give_the_same_summary(tmp_path):
    for name, more in (("spans", ()), ("steps", ("--exact-steps",))):
        assert main([*RUN, *more, "--json", str(tmp_path / name)]) == 0
    spans, steps = (json.loads((tmp_path / name).read_text()) for name in ("spans", "steps"))
    assert spans.keys() == steps.keys()
    for name, value in spans.items():
        assert steps[name] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value), name


def test_the_api_gives_what_the_cli_writes(tmp_path):
    assert main([*RUN, "--json", str(tmp_path / "s.json")]) == 0
    result = apex_sim.simulate("llama-3.1-8b", "h100-sxm:1", num_requests=40)
    written = json.loads((tmp_path / "s.json").read_text())
    assert {k: v for k, v in result.summary.items() if v == v} == {
        k: v for k, v in written.items() if v is not None
    } | {k: None for k, v in result.summary.items() if v is None}


def test_plan_writes_its_files_twice_alike(tmp_path):
    argv = ["plan", "--model", "llama-3.1-8b", "--cluster", "h100-sxm:2", "--num-requests", "60", "--slo", "ttft=1s"]
    for name in ("a", "b"):
        assert main([*argv, "--out", str(tmp_path / name)]) == 0
    first = files_of(tmp_path / "a")
    assert {"plan.json", "candidates.csv", "pareto.png", "serve.sh"} <= set(first)
    assert first == files_of(tmp_path / "b")
    json.loads(first["plan.json"], parse_constant=pytest.fail)


def test_results_draw_themselves(tmp_path):
    from matplotlib.figure import Figure

    result = apex_sim.simulate("llama-3.1-8b", "h100-sxm:8", dp=8, num_requests=40)
    assert isinstance(result.plot_latency(), Figure) and isinstance(result.plot_timeline(), Figure)
    plan = apex_sim.plan("llama-3.1-8b", "h100-sxm:1", num_requests=20)
    assert isinstance(plan.plot_pareto(), Figure)


# -- the workload when none is given ------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [("--rate", "5"), ("--arrival", "poisson", "--rate", "5")])
def test_without_lengths_the_sample_is_played_at_the_rate_and_named(argv, capsys):
    where = ("--model", "llama-3.1-8b", "--cluster", "h100-sxm:1")
    assert main(["simulate", *where, *argv]) == 0
    plain = capsys.readouterr().out
    assert "workload: chat_small, 600 requests at" in plain
    assert main(["simulate", *where, "--trace", "chat_small", *argv]) == 0
    assert capsys.readouterr().out == plain
    settings = {name.removeprefix("--"): value for name, value in zip(argv[::2], argv[1::2], strict=True)}
    trace = apex_sim.api.make_trace(**{**settings, "rate": 5.0})
    assert trace.name == "chat_small" and trace.request_rate_per_s == pytest.approx(5.0, rel=0.2)


@pytest.mark.parametrize(("given", "lacking"), [("--input-len", "--output-len"), ("--output-len", "--input-len")])
def test_one_length_alone_is_refused(given, lacking, capsys):
    assert main(["simulate", "--model", "llama-3.1-8b", "--cluster", "h100-sxm:1", "--rate", "5", given, "9"]) == 2
    error = capsys.readouterr().err
    assert f"{given} is given without {lacking}" in error and error.count("\n") == 1


def test_more_requests_than_a_trace_has_are_a_warning(capsys):
    assert main(["simulate", "--model", "llama-3.1-8b", "--cluster", "h100-sxm:1", "--num-requests", "700"]) == 0
    assert "chat_small has 600 requests, not 700: all are sent" in capsys.readouterr().err


# -- streams and signals ------------------------------------------------------------------------------------------------


def shell(command: str) -> subprocess.CompletedProcess[str]:
    line = command.replace("apex-sim", f"{shlex.quote(sys.executable)} -m apex_sim")
    return subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], cwd=ROOT, text=True, capture_output=True)


def test_a_reader_that_stops_early_is_no_error():
    done = shell("apex-sim models list | head -1")
    assert done.stderr == "" and done.stdout.startswith("NAME")


def test_closed_stdout_is_no_traceback():
    assert shell("apex-sim models list >&-").stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_one_line():
    done = shell("apex-sim models list > /dev/full")
    assert done.returncode == 1 and done.stderr == "apex-sim: error: output: No space left on device\n"


def test_a_pipe_named_as_output_is_written_in_place(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    done = shell(
        f"timeout 60 cat {tmp_path}/pipe & apex-sim {shlex.join(RUN)} --json {tmp_path}/pipe > {tmp_path}/text; wait"
    )
    assert json.loads(done.stdout)["completed"] == 40
    assert (tmp_path / "pipe").is_fifo()


def test_a_link_named_as_output_stays_a_link(tmp_path):
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    assert main([*RUN, "--json", str(tmp_path / "link.json")]) == 0
    assert (tmp_path / "link.json").is_symlink() and json.loads((tmp_path / "real.json").read_text())


def test_ctrl_c_is_one_line_and_leaves_no_file(tmp_path):
    command = [sys.executable, "-m", "apex_sim", *RUN[:5], "--rate", "50", "--input-len", "500", "--output-len", "500"]
    command += ["--num-requests", "2000000", "--exact-steps", "--json", str(tmp_path / "s.json")]
    # shells start background jobs with SIGINT ignored, and children inherit that
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130 and out == "" and error == "apex-sim: interrupted\n"
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_modules_load_is_one_line(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("apex_sim.cli.build_parser", interrupted)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "apex-sim: interrupted\n"


def test_errors_of_the_user_are_one_line(capsys):
    assert main(["simulate", "--model", "nope", "--cluster", "h100-sxm:1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert issubclass(UserError, ValueError)


# -- engines ------------------------------------------------------------------------------------------------------------


def test_an_engine_without_host_times_says_so(capsys):
    argv = (*RUN, "--engine", "static", "--max-model-len", "9000")
    assert main(argv) == 0
    assert "engine static has no host times: steps are their kernels alone" in capsys.readouterr().out
    assert main(RUN) == 0
    assert "host times" not in capsys.readouterr().out


def test_engines_that_reserve_the_longest_request_warn_when_it_is_not_given(capsys):
    assert main([*RUN, "--engine", "orca"]) == 0
    warning = capsys.readouterr().err
    assert "orca reserves --max-model-len tokens for every request: at 131,072" in warning
    assert "3 fit at once" in warning
    assert main([*RUN, "--engine", "orca", "--max-model-len", "9000"]) == 0
    assert capsys.readouterr().err == ""


def test_the_older_vllm_is_not_faster_than_the_newer(capsys):
    tpot_ms = []
    for engine in ("vllm-v1", "vllm-v0"):
        assert main([*RUN, "--engine", engine, "--trace", "chat_small", "--rate", "1", "--json", "-"]) == 0
        tpot_ms.append(json.loads(capsys.readouterr().out)["median_tpot_ms"])
    assert tpot_ms[0] < tpot_ms[1]


def test_parquet_without_pyarrow_names_no_temporary_file(tmp_path, monkeypatch, capsys):
    import pandas as pd

    def without(*_, **__):
        raise ImportError("pyarrow")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", without)
    assert main(["traces", "convert", "chat_small", str(tmp_path / "t.parquet")]) == 2
    message = capsys.readouterr().err
    assert "pip install 'apex-sim[parquet]'" in message and str(tmp_path) not in message
