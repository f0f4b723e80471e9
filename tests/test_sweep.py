"""Sweeps: rows, resumption, shards, failures, the command."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from sweep_helpers import SWEEP, dying_workers

import apex_sim
from apex_sim.cli import main
from apex_sim.sweeps import pool
from apex_sim.sweeps.folder import WHOLE, Shard
from apex_sim.sweeps.journal import Journal, read_journal
from apex_sim.sweeps.point import run_point
from apex_sim.sweeps.run import run_sweep
from apex_sim.sweeps.spec import load_sweep


class Here:
    """Runs in this process, in the reverse order, and stops after ``limit``."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit, self.ran = limit, 0

    def run(self, tasks: Any) -> Any:
        for task in list(tasks)[::-1]:
            if self.ran == self.limit:
                raise KeyboardInterrupt
            self.ran += 1
            yield [(task.key, json.loads(run_point(task.text)))]


def sweep_here(folder: Path, content: Any = SWEEP, limit: int | None = None, shard: Shard = WHOLE) -> int:
    """Runs carried out."""
    backend = Here(limit)
    folder.mkdir(exist_ok=True)
    try:
        run_sweep(load_sweep(content), folder, lambda: backend, shard=shard)
    except KeyboardInterrupt:
        assert limit is not None
    return backend.ran


def tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("results*")}


def test_rows_are_those_of_simulate_in_the_order_of_the_design(tmp_path: Path) -> None:
    frame = apex_sim.sweep(SWEEP, tmp_path / "out", jobs=2)
    assert frame[["tp", "rate"]].values.tolist() == [[t, r] for t in (1, 2) for r in (1, 4, 16)]
    result = apex_sim.simulate(**SWEEP["fixed"], tp=2, rate=4)
    row = frame[(frame["tp"] == 2) & (frame["rate"] == 4)].iloc[0]
    assert row["status"] == "ok"
    for name in ("p95_tpot_ms", "usd_per_million_output_tokens", "output_throughput", "num_gpus", "duration"):
        assert row[name] == result.summary[name]
    sweep_here(tmp_path / "again")
    assert tables(tmp_path / "again") == tables(tmp_path / "out") != {}


def test_a_sweep_that_was_stopped_carries_out_the_rest_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    assert sweep_here(tmp_path / "whole") == 6
    assert sweep_here(tmp_path / "part", limit=2) == 2
    assert sweep_here(tmp_path / "part", limit=1) == 1
    assert sweep_here(tmp_path / "part") == 3
    assert sweep_here(tmp_path / "part") == 0
    assert tables(tmp_path / "part") == tables(tmp_path / "whole")


def test_a_torn_or_damaged_line_is_left_out_and_its_run_repeated(tmp_path: Path) -> None:
    sweep_here(tmp_path / "a")
    whole = tables(tmp_path / "a")
    (path,) = (tmp_path / "a" / "journal").iterdir()
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = (
        lines[1].replace(b'"rate"', b'"rote"', 1) if b'"rate"' in lines[1] else lines[1][:50] + b"x" + lines[1][51:]
    )
    path.write_bytes(b"".join([lines[0], damaged, *lines[2:5], lines[5][: len(lines[5]) // 2]]))
    assert len(read_journal(tmp_path / "a")) == 4
    assert sweep_here(tmp_path / "a") == 2
    assert tables(tmp_path / "a") == whole


@pytest.mark.parametrize("cut", [1, 9, 12, 30, -2, -1])
def test_no_beginning_of_a_line_is_read(tmp_path: Path, cut: int) -> None:
    journal = Journal(tmp_path)
    journal.append([("k", {"status": "ok", "summary": {"a": 1.5}})])
    journal.close()
    (path,) = (tmp_path / "journal").iterdir()
    path.write_bytes(path.read_bytes()[:cut])
    assert read_journal(tmp_path) == {}


def test_shards_make_together_what_one_makes(tmp_path: Path) -> None:
    sweep_here(tmp_path / "whole")
    assert sweep_here(tmp_path / "parts", shard=Shard(2, 2)) == 3
    assert "results-2of2.csv" in tables(tmp_path / "parts")
    assert sweep_here(tmp_path / "parts", shard=Shard(1, 2)) == 3
    assert tables(tmp_path / "parts") == tables(tmp_path / "whole")


def test_refused_settings_are_rows_with_the_reason(tmp_path: Path) -> None:
    content = {**SWEEP, "vary": {"tp": [1, 3], "rate": [1, -1]}}
    frame = apex_sim.sweep(content, jobs=1)
    assert frame["status"].tolist() == ["ok", "failed", "failed", "failed"]
    assert "rate" in frame["reason"][1] and frame["reason"][0] is None
    assert frame["p95_tpot_ms"].isna().tolist() == [False, True, True, True]


def test_more_points_keep_what_is_there_and_other_points_are_refused(tmp_path: Path) -> None:
    sweep_here(tmp_path / "a", {**SWEEP, "vary": {"tp": [1, 2], "rate": [4]}})
    assert sweep_here(tmp_path / "a") == 4
    sweep_here(tmp_path / "b")
    assert tables(tmp_path / "a") == tables(tmp_path / "b")
    with pytest.raises(apex_sim.UserError, match=r"no longer asks for 3 of the 6 runs it holds \(tp=1, rate="):
        sweep_here(tmp_path / "a", {**SWEEP, "vary": {"tp": [2], "rate": [1, 4, 16]}})


def test_a_trace_that_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trace = apex_sim.generate_trace(num_requests=5, rate_per_s=1.0, input_len="50", output_len="5")
    trace.save(tmp_path / "mine.csv")
    fixed = {"model": "llama-3.1-8b", "cluster": "h100-sxm:1", "trace": "mine.csv"}
    content = {"fixed": fixed, "vary": {"max_num_seqs": [1, 2]}}
    sweep_here(tmp_path / "out", content)
    trace.head(3).save(tmp_path / "mine.csv")
    with pytest.raises(apex_sim.UserError, match=r"mine\.csv has changed"):
        sweep_here(tmp_path / "out", content)


def test_a_worker_that_dies_costs_one_attempt_and_a_poisoned_run_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = dying_workers(tmp_path, monkeypatch)
    rows = dict(row for batch in pool.LocalPool(1).run(tasks) for row in batch)
    assert {name: row["status"] for name, row in rows.items()} == {"fine": "ok", "shaky": "ok", "poison": "crashed"}
    assert "signal 9" in rows["poison"]["reason"]


def test_a_run_that_takes_too_long_is_given_up_and_tried_again_later(tmp_path: Path) -> None:
    long = {**SWEEP, "fixed": {**SWEEP["fixed"], "num_requests": 400_000, "exact_steps": True}, "vary": {"rate": [4]}}
    frame = apex_sim.sweep(long, tmp_path / "out", jobs=1, timeout_s=0.3)
    assert frame["status"].tolist() == ["crashed"] and frame["reason"][0] == "took more than 0.3 s"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(json.dumps(SWEEP))
    assert main(["sweep", str(file), "--list"]) == 0
    assert "6 points" in capsys.readouterr().out
    out = str(tmp_path / "out")
    goals = "usd_per_million_output_tokens,p95_tpot_ms"
    figure = tmp_path / "f.png"
    command = ["sweep", str(file), "--out", out, "--jobs", "1", "--pareto", goals, "--figure", str(figure)]
    assert main(command) == 0
    said = capsys.readouterr()
    assert "6 of 6 runs: 6 ok" in said.out and "beaten by none" in said.out and figure.stat().st_size > 5000
    assert main(["sweep", out, "--json", "-", "--pareto", goals, "--where", "tp == 2"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["ok"] == 6 and all(row["tp"] == 2 for row in content["pareto"])


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--backend", "slurm"], "unknown backend 'slurm'"),
        (["--jobs", "0"], "--jobs is 0"),
        (["--shard", "3/2"], "--shard is '3/2'"),
        (["--address", "x:1"], "--address is of a cluster"),
        (["--timeout", "-1"], "--timeout is -1"),
        (["--where", "tp == 1"], "--where goes with --pareto"),
        (["--out", "FULL"], "is not empty and not the folder of a sweep"),
    ],
)
def test_mistakes_on_the_command_line(
    more: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(json.dumps(SWEEP))
    folder = tmp_path if "FULL" in more else tmp_path / "out"
    command = ["sweep", str(file), *more[:-1], str(folder)] if "FULL" in more else ["sweep", str(file), *more]
    assert main(command if "--out" in command else [*command, "--out", str(folder)]) == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["s.yaml"]


def test_the_front_is_what_none_beats_and_figures_are_the_same_bytes(tmp_path: Path) -> None:
    import pandas as pd

    from workloads.figure_style import png_bytes

    values = [(1.0, 5.0), (2.0, 6.0), (2.0, 3.0), (4.0, 3.0), (5.0, 9.0), (None, 9.0), (2.0, 3.0)]
    frame = pd.DataFrame(
        {"tp": range(7), "key": "k", "status": "ok", "usd": [a for a, _ in values], "goodput": [b for _, b in values]}
    )
    assert apex_sim.sweep_front(frame, "usd,goodput")["tp"].tolist() == [0, 1, 4]
    assert apex_sim.sweep_front(frame, "usd,min:goodput")["tp"].tolist() == [0, 2, 6]
    assert apex_sim.sweep_front(frame, "goodput,usd", "usd < 5")["tp"].tolist() == [1, 0]
    assert apex_sim.sweep_front(frame, "usd,goodput", "usd > 2")["tp"].tolist() == [3, 4]
    assert png_bytes(apex_sim.sweep_figure(frame, "usd,goodput")) == png_bytes(
        apex_sim.sweep_figure(frame, "usd,goodput")
    )
    (line,) = apex_sim.sweep_lines(frame, "usd,goodput").axes[0].lines
    assert line.get_ydata().tolist() == [5.0, 6.0, 3.0, 9.0]  # type: ignore[union-attr]
    mistakes = {"usd": "two columns", "usd,tq": "unknown column", "usd,up:tp": "use min: or max:", "usd,key": "is text"}
    for pareto, text in mistakes.items():
        with pytest.raises(apex_sim.UserError, match=text):
            apex_sim.sweep_front(frame, pareto)


def test_progress_counts_this_session_for_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from apex_sim.sweeps.progress import SweepProgress

    stream = io.StringIO()
    with SweepProgress(stream) as bar:
        tell = bar.start(100, 50)
        tell(60, 1)
        assert tell.text(20.0) == "sweep: 60 of 100, 1 failed, 1 min 20 s left"
        monkeypatch.setattr("apex_sim.sweeps.progress.EVERY_S", 0.0)
        tell(100, 1)
    assert stream.getvalue() == "apex-sim: 50 of 100 runs are there already\napex-sim: sweep: 100 of 100, 1 failed\n"


def test_the_code_of_the_page_runs() -> None:
    import re

    page = (Path(__file__).parent.parent / "docs" / "sweeps.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.M | re.S)
    exec(compile(block, "docs/sweeps.md", "exec"), {})
    specs = re.findall(r"^```yaml\n(.*?)^```", page, flags=re.M | re.S)
    import yaml

    from apex_sim.sweeps.design import points_of

    assert [len(points_of(load_sweep(yaml.safe_load(spec)))) for spec in specs] == [90, 10]


def test_warnings_of_a_trace_belong_to_every_run_that_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apex_sim.generate_trace(num_requests=3, rate_per_s=1.0, input_len="50", output_len="5").save(tmp_path / "t.csv")
    read = apex_sim.load_trace

    def load_trace(path: str, **options: Any) -> apex_sim.Trace:
        warnings.warn("lengths are estimated", stacklevel=2)
        return read(path, **options)

    monkeypatch.setattr("apex_sim.api.load_trace", load_trace)
    fixed = {"model": "llama-3.1-8b", "cluster": "h100-sxm:1", "trace": "t.csv"}
    tasks = [json.dumps({"settings": {**fixed, "max_num_seqs": n}, "base": str(tmp_path)}) for n in (1, 2, 3)]
    rows = [json.loads(run_point(task)) for task in tasks]
    assert [(row["status"], row["warnings"]) for row in rows] == [("ok", "lengths are estimated")] * 3


def test_a_sweep_of_nothing_but_refused_settings_is_a_mistake_and_keeps_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(apex_sim.UserError, match="all 2 runs failed; the first: plan:"):
        sweep_here(tmp_path / "out", {**SWEEP, "vary": {"tp": [3], "rate": [1, 2]}})
    assert "results.csv" in tables(tmp_path / "out")
