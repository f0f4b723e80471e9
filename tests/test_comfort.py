"""What makes the command line comfortable: progress, quiet, JSON everywhere, narrow terminals, completion, --config, doctor."""

from __future__ import annotations

import io
import json
import os
import pty
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from apex_sim import progress
from apex_sim.cli import COMMANDS, build_parser, main
from apex_sim.common_options import Layout, leaves
from apex_sim.completion import SCRIPTS, Words, words_of
from apex_sim.config_file import with_config
from apex_sim.doctor import Finding, as_text, examine, healthy
from apex_sim.examples import EXAMPLES
from apex_sim.progress import ProgressBar, duration
from apex_sim.terminal import reflow

ROOT = Path(__file__).parents[1]
RUN = ["simulate", "--model", "llama-3.1-8b", "--cluster", "h100-sxm:1", "--num-requests", "20"]
TABLE = """\
name       first  second
---------  -----  ------
some row       1      22
other row      3      44
a line of words below the table"""


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


# -- progress -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """A clock to set, seen by the progress bars."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.delenv("TERM", raising=False)
    return now


def test_a_bar_comes_when_the_work_is_long_and_goes_when_it_ends(clock):
    stream = Terminal()
    with ProgressBar("planning", stream) as bar:
        bar(1, 10)
        assert stream.getvalue() == ""
        clock[0] = 4.0
        bar(4, 10)
        assert "planning [#########...............]  40%  4 s, 6 s left" in stream.getvalue()
    assert stream.getvalue().endswith(progress.ERASE)


def test_without_an_end_the_time_passed_is_shown(clock):
    stream = Terminal()
    with ProgressBar("placing experts", stream) as bar:
        clock[0] = 65.0
        bar.tick()
    assert "placing experts, 1 min 05 s" in stream.getvalue()


@pytest.mark.parametrize("why", ["no terminal", "quiet", "dumb"])
def test_no_bar_where_nobody_looks(clock, why, monkeypatch):
    stream = io.StringIO() if why == "no terminal" else Terminal()
    monkeypatch.setitem(progress._settings, "quiet", why == "quiet")
    monkeypatch.setenv("TERM", "dumb" if why == "dumb" else "xterm")
    with ProgressBar("planning", stream) as bar:
        clock[0] = 9.0
        bar(5, 10)
        bar.tick()
    assert stream.getvalue() == ""


def test_a_bar_is_cut_to_the_width(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    stream = Terminal()
    with ProgressBar("planning", stream) as bar:
        clock[0] = 4.0
        bar(4, 10)
    assert max(len(part) for part in stream.getvalue().split(progress.ERASE)) == 19


def test_durations():
    assert [duration(s) for s in (0.4, 59.4, 61, 3700)] == ["0 s", "59 s", "1 min 01 s", "1 h 01 min"]


def on_terminal(argv: list[str], columns: int = 80, seconds: float = 60) -> str:
    """What a terminal shows of a command (stdout and stderr)."""
    pid, screen = pty.fork()
    if pid == 0:
        os.environ.update(COLUMNS=str(columns), TERM="xterm")
        os.execv(sys.executable, [sys.executable, *argv])
    out, end = b"", time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            part = os.read(screen, 65536)
        except OSError:
            break
        if not part:
            break
        out += part
    os.waitpid(pid, 0)
    os.close(screen)
    return out.decode().replace("\r\n", "\n")


def test_the_timer_draws_while_the_work_is_silent_and_leaves_nothing():
    code = (
        "import time, apex_sim.progress as p; p.PATIENCE_S = p.REDRAW_S = 0.05\n"
        "with p.ProgressBar('solving'):\n    time.sleep(0.3)\nprint('done')"
    )
    shown = on_terminal(["-c", code])
    assert "solving, 0 s" in shown and shown.endswith(progress.ERASE + "done\n")


def test_a_narrow_terminal_gets_lines_that_fit():
    shown = on_terminal(["-m", "apex_sim", *RUN], columns=60).replace(progress.ERASE, "\n")
    assert "TTFT" in shown and max(map(len, shown.split("\n"))) <= 60


# -- widths -------------------------------------------------------------------------------------------------------------


def test_wide_tables_come_in_parts_with_the_first_column_again():
    assert reflow(TABLE, 80) == TABLE
    assert reflow(TABLE, 22).split("\n") == [
        "name       first",
        "---------  -----",
        "some row       1",
        "other row      3",
        "",
        "name       second",
        "---------  ------",
        "some row       22",
        "other row      44",
        "a line of words below",
        "  the table",
    ]


def test_long_lines_stay_under_their_text():
    line = "energy       513 W on average, 0.365 J per output token"
    assert reflow(line, 40) == "energy       513 W on average, 0.365 J\n             per output token"


@pytest.mark.parametrize("columns", [40, 80])
def test_help_fits_the_terminal(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    for path, leaf in leaves(build_parser()):
        long = [line for line in leaf.format_help().split("\n") if len(line) > columns]
        assert all(len(line.split()) <= 2 or "'" in line or "--no-" in line for line in long), (path, long)


# -- help and examples --------------------------------------------------------------------------------------------------


def test_every_command_has_examples_that_parse():
    parser = build_parser()
    for path, leaf in leaves(parser):
        words = " ".join(path)
        assert EXAMPLES.get(words), words
        for rest in EXAMPLES[words]:
            argv = shlex.split(rest.partition(" > ")[0])
            if "--config" not in argv:
                parser.parse_args([*path, *argv])
        assert leaf.description and "exit codes:" in leaf.format_help()


def test_help_shows_every_default():
    for path, leaf in leaves(build_parser()):
        text = " ".join(leaf.format_help().split())
        for action in leaf._actions:
            if isinstance(action.default, int | float) and not isinstance(action.default, bool) and action.nargs != 0:
                about = text.partition(f" {action.option_strings[0]} ")[2][:400].partition(" --")[0]
                assert "default" in about or f"({action.default})" in about, (path, action.option_strings)
    assert "(default vllm-v1)" in text_of("simulate") and "; default 1)" in text_of("simulate")


def text_of(command: str) -> str:
    """Its help on one line."""
    return " ".join(dict((path, leaf) for path, leaf in leaves(build_parser()))[command,].format_help().split())


def test_broken_examples_are_still_commands(monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    for path, leaf in leaves(build_parser()):
        text = Layout("x")._fill_text(leaf.epilog or "", 48, "").partition("exit codes:")[0]
        commands = [shlex.split(c) for c in text.replace("\\\n", " ").split("\n") if c.startswith("  apex-sim")]
        assert commands == [["apex-sim", *path, *shlex.split(rest)] for rest in EXAMPLES[" ".join(path)]]


# -- JSON and quiet -----------------------------------------------------------------------------------------------------

QUICK = (
    RUN,
    ["models", "list", "llama-3.1-8b"],
    ["models", "show", "llama-3.1-8b"],
    ["models", "formats"],
    ["hardware", "list"],
    ["hardware", "show", "l4"],
    ["hardware", "grids"],
    ["traces", "describe", "chat_small"],
    ["traces", "convert", "chat_small", "out.csv"],
    [
        "traces",
        "generate",
        "--rate",
        "1",
        "--input-len",
        "9",
        "--output-len",
        "9",
        "--num-requests",
        "3",
        "--out",
        "g.csv",
    ],
    ["explain", "step", "--model", "llama-3.1-8b", "--cluster", "h100-sxm:1", "--decode", "8"],
    ["reproduce", "list"],
    ["reproduce", "show", "orca"],
    ["doctor"],
)


@pytest.mark.parametrize("argv", QUICK, ids=lambda argv: " ".join(argv[:2]))
def test_json_alone_is_on_stdout(argv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*argv, "--json", "-"]) == 0
    json.loads(capsys.readouterr().out)
    assert main([*argv, "--json", "out.json"]) == 0
    assert capsys.readouterr().out
    json.loads((tmp_path / "out.json").read_text())


def test_every_command_has_json_and_quiet():
    for path, leaf in leaves(build_parser()):
        dests = {action.dest for action in leaf._actions}
        assert {"config", "quiet"} <= dests
        assert "json" in dests or path == ("completion",), path


def test_a_catalog_is_not_written_to_a_file_by_mistake(capsys):
    assert main(["models", "list", "--json", "llama"]) == 2
    assert "must end in .json" in capsys.readouterr().err


def test_quiet_leaves_stderr_to_errors(capsys):
    assert main([*RUN, "--quiet"]) == 0
    first = capsys.readouterr()
    assert main(RUN) == 0
    assert first.err == "" and first.out == capsys.readouterr().out


# -- --config -----------------------------------------------------------------------------------------------------------


def values(tmp_path, text: str, *flags: str):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    parser = build_parser()
    return parser.parse_args(with_config(parser, ["simulate", "--config", str(file), *flags]))


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path):
    text = "model: llama-3.1-8b\ncluster: h100-sxm:8\ntp: 4\nmax-num-seqs: 64\nasync_scheduling: false\nenforce_eager: true\n"
    args = values(tmp_path, text, "--tp", "2", "--async-scheduling", "--json", "-")
    assert (args.model, args.cluster, args.tp, args.max_num_seqs) == ("llama-3.1-8b", "h100-sxm:8", 2, 64)
    assert args.async_scheduling is True and args.enforce_eager is True and args.pp == 1


@pytest.mark.parametrize("value", [True, False])
def test_a_setting_with_a_flag_to_turn_it_off(tmp_path, value):
    args = values(
        tmp_path, f"{{model: m, cluster: c, enable_prefix_caching: {str(value).lower()}, cold_start: {value}}}"
    )
    assert args.enable_prefix_caching is value and bool(args.cold_start) is value


def test_lists_mappings_and_nothing(tmp_path):
    text = (
        "{model: m, cluster: c, dp: null, disaggregate: ['prefill=tp2', 'decode=tp4'], trace-column: [a=b, c=d], "
        "speculative_config: {method: ngram}}"
    )
    args = values(tmp_path, text, "--trace-column=x=y")
    assert args.disaggregate == ["prefill=tp2", "decode=tp4"] and args.dp == 1
    assert args.trace_column == ["x=y"] and json.loads(args.speculative_config) == {"method": "ngram"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle: x", "unknown option of apex-sim simulate 'modle'. Did you mean 'model'"),
        ("tp: true", "tp is true; it takes a value"),
        ("enforce_eager: 3", "it is on or off"),
        ("- a", "holds no options"),
        ("a: [", "is not YAML"),
        ("command: apex-sim plan --model x", "is of 'apex-sim plan'"),
    ],
)
def test_mistakes_in_the_file_are_one_line(tmp_path, capsys, text, message):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    assert main(["simulate", "--config", str(file)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and str(file) in error


def test_the_configuration_of_a_run_repeats_it(tmp_path, capsys):
    assert main([*RUN, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    again = ["simulate", "--config", str(tmp_path / "run" / "config.yaml"), "--json", "-"]
    assert main(again) == 0
    first = (tmp_path / "run" / "summary.json").read_text()
    assert capsys.readouterr().out == first
    assert main([*again, "--num-requests", "10"]) == 0
    assert json.loads(capsys.readouterr().out)["completed"] == 10


def test_flags_win_over_what_excludes_them_in_a_command(tmp_path):
    text = "command: apex-sim simulate --model m --cluster c --no-enable-prefix-caching --max-num-seqs 4 --tp 2\n"
    args = values(tmp_path, text, "--enable-prefix-caching", "--tp=4")
    assert (args.enable_prefix_caching, args.max_num_seqs, args.tp) == (True, 4, 4)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            [*RUN, "--max-num-sqes", "4"],
            "--max-num-sqes 4; did you mean --max-num-seqs? (see 'apex-sim simulate --help')",
        ),
        (["explain", "step", *RUN[1:5], "--decod=4x"], "argument --decode"),
        (["models", "list", "a", "b"], "unrecognized arguments: b (see 'apex-sim models list --help')"),
    ],
)
def test_an_unknown_option_is_told_with_the_nearest(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1


def test_every_command_is_in_the_table_of_the_page():
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8").partition("## simulate")[0]
    assert [name for name in COMMANDS if f"`apex-sim {name}" not in text and f"`{name}`" not in text] == []


def test_a_second_file_of_options_is_refused(tmp_path, capsys):
    assert main(["simulate", "--config", "a.yaml", "--config=b.yaml"]) == 2
    assert "--config is given 2 times (a.yaml, b.yaml)" in capsys.readouterr().err
    (tmp_path / "c.yaml").write_text("{model: m, cluster: c}")
    parser = build_parser()
    assert parser.parse_args(with_config(parser, ["simulate", "--conf", str(tmp_path / "c.yaml")])).model == "m"


def test_a_locale_with_few_letters_is_no_error():
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    argv = [sys.executable, "-m", "apex_sim", "hardware", "grids"]
    text = subprocess.run(argv, env=environment, capture_output=True, check=True).stdout
    assert b"Qu?bec" in text
    data = subprocess.run([*argv, "--json", "-"], env=environment, capture_output=True, check=True).stdout
    json.loads(data.decode("utf-8"))


# -- completion ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def words():
    return words_of(build_parser())


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("apex-sim pl", {"plan"}),
        ("apex-sim explain step --pref", {"--prefill"}),
        ("apex-sim plan --objective good", {"goodput"}),
        ("apex-sim simulate --model llama-2-7", {"llama-2-7b", "llama-2-7b-chat"}),
        ("apex-sim simulate --cluster h100-sxm:", {"1"}),
        ("apex-sim simulate --engine=vllm-", {"vllm-v0", "vllm-v1"}),
        ("apex-sim simulate --trace ", set()),
    ],
)
def test_bash_completes(words, line, expected, tmp_path):
    script = tmp_path / "c.bash"
    script.write_text(SCRIPTS["bash"](words))
    code = f"source {script}; COMP_LINE={shlex.quote(line)}; COMP_POINT={len(line)}; _apex_sim; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", code], text=True, capture_output=True, check=True)
    found = set(done.stdout.split())
    assert found == expected if not expected or len(expected) == 1 else found & expected
    assert done.stderr == ""


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_can_read_their_script(words, shell, tmp_path):
    text = SCRIPTS[shell](words)
    assert "explain step" in text and "llama-3.1-8b" in text
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell}")
    script = tmp_path / "script"
    script.write_text(text)
    subprocess.run([shell, "-n", str(script)], check=True)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_shows_help_as_it_is_written(words, shell):
    text = SCRIPTS[shell](words)
    assert "balanced load, little traffic" in text and "on GPUs: balanced" in text
    assert "h100-sxm:8, h100-sxm:8x4, or a YAML file" in text and "cost: $/1M output tokens (default)" in text
    assert "%(" not in text
    assert ("engine\\'s" if shell == "fish" else "engine'\\''s") in SCRIPTS[shell](
        [Words(path=(), commands={"x": "an engine's"}, options=(), positional=())]
    )


# -- doctor -------------------------------------------------------------------------------------------------------------


def test_the_doctor_finds_this_installation_healthy():
    findings = examine()
    assert healthy(findings), as_text(findings)
    assert {f.group for f in findings} == {"versions", "solvers", "gpu", "profiles", "extras", "folders"}


def test_a_failure_is_exit_code_1(monkeypatch, capsys):
    bad = [Finding(group="solvers", name="CBC", state="failed", detail="cannot solve")]
    monkeypatch.setattr("apex_sim.doctor.examine", lambda: bad)
    assert main(["doctor"]) == 1
    assert "1 checks failed" in capsys.readouterr().out
