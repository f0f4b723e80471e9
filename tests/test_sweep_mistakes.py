"""Sweeps in which something goes wrong: mistakes that are corrected, a full disk, a file that is gone."""

from __future__ import annotations

import errno
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sweep_helpers import SWEEP

import apex_sim
from apex_sim.cli import main
from apex_sim.sweeps import journal
from apex_sim.sweeps.design import points_of
from apex_sim.sweeps.folder import Shard
from apex_sim.sweeps.pareto import parse_goals
from apex_sim.sweeps.point import run_point
from apex_sim.sweeps.run import run_sweep
from apex_sim.sweeps.spec import load_sweep

FIXED = {"model": "llama-3.1-8b", "cluster": "h100-sxm:2"}


class Here:
    """Runs in this process."""

    ran = 0

    def run(self, tasks: Any) -> Any:
        for task in tasks:
            self.ran += 1
            yield [(task.key, json.loads(run_point(task.text)))]


def sweep_here(folder: Path, content: Any) -> Any:
    folder.mkdir(exist_ok=True)
    return run_sweep(load_sweep(content), folder, Here)


def test_every_whole_number_of_a_range_is_drawn_as_often() -> None:
    vary = {"max_num_seqs": {"min": 1, "max": 4}, "seed": {"min": 0, "max": 99_999}}
    for kind in ("random", "latin-hypercube"):
        content = {"fixed": FIXED, "vary": vary, "design": {"kind": kind, "points": 400}}
        drawn = Counter(point.chosen["max_num_seqs"] for point in points_of(load_sweep(content)))
        least, most = (100, 100) if kind == "latin-hypercube" else (75, 125)
        assert sorted(drawn) == [1, 2, 3, 4] and all(least <= count <= most for count in drawn.values())


def test_conditions_read_parts_of_a_fixed_mapping() -> None:
    content = {
        "fixed": {**FIXED, "elasticity": {"min_replicas": 2}},
        "vary": {"dp": [1, 2]},
        "constraints": ["elasticity.min_replicas <= dp", "elasticity.startup_s is None"],
    }
    assert [point.chosen["dp"] for point in points_of(load_sweep(content))] == [2]


def test_what_was_refused_does_not_bind_a_corrected_file(tmp_path: Path) -> None:
    with pytest.raises(apex_sim.UserError, match="all 2 runs failed"):
        sweep_here(tmp_path, {**SWEEP, "vary": {"tp": [3], "rate": [1, 2]}})
    right = {**SWEEP, "vary": {"tp": [2], "rate": [1, 2]}}
    outcome = sweep_here(tmp_path, right)
    assert [(row["tp"]) for row in _rows(outcome)] == [2, 2]
    with pytest.raises(apex_sim.UserError, match="no longer asks for 2 of the 4 runs"):
        sweep_here(tmp_path, {**SWEEP, "vary": {"tp": [1], "rate": [1, 2]}})


def _rows(outcome: Any) -> list[dict[str, Any]]:
    columns = outcome.columns
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def test_a_trace_that_is_gone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trace = apex_sim.generate_trace(num_requests=3, rate_per_s=1.0, input_len="50", output_len="5")
    trace.save(tmp_path / "mine.csv")
    content = {"fixed": {**FIXED, "trace": "mine.csv"}, "vary": {"max_num_seqs": [1, 2]}}
    sweep_here(tmp_path / "out", content)
    (tmp_path / "mine.csv").unlink()
    with pytest.raises(apex_sim.UserError, match=r"mine\.csv is gone"):
        sweep_here(tmp_path / "out", content)


def test_a_full_disk_is_told_as_such_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "_create", full)
        patch.setattr("apex_sim.sweeps.run.write_tables", lambda *_: pytest.fail("nothing is recorded"))
        with pytest.raises(OSError, match="No space left on device; finished runs are kept, the same command") as error:
            sweep_here(tmp_path / "out", SWEEP)
    assert error.value.filename == str(tmp_path / "out" / "journal")
    assert sweep_here(tmp_path / "out", SWEEP).count("ok") == 6


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--pareto", "p95_tpot_ms"], "name two columns or more"),
        (["--pareto", "p95_tpot_ms,p95_tpot_ms"], "is named twice"),
        (["--pareto", "up:p95_tpot_ms,tp"], "use min: or max:"),
        (["--pareto", "p95_tpot_ms,tp", "--where", "tp ="], "is no condition"),
        (["--lines", "rate", "--figure", "f.png"], "name x, y"),
    ],
)
def test_what_is_to_be_shown_is_checked_before_anything_runs(
    more: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(json.dumps(SWEEP))
    assert main(["sweep", "s.yaml", *more]) == 2
    said = capsys.readouterr()
    assert text in said.err and said.err.count("\n") == 1 and not said.out
    assert [path.name for path in tmp_path.iterdir()] == ["s.yaml"]


def test_a_column_that_is_not_there_keeps_the_account_of_the_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep_here(tmp_path / "out", SWEEP)
    assert main(["sweep", str(tmp_path / "out"), "--pareto", "p95_tpot_mss,tp"]) == 2
    said = capsys.readouterr()
    assert "6 of 6 runs: 6 ok" in said.out and "Did you mean 'p95_tpot_ms'" in said.err
    for flags in (["--jobs", "2"], ["--out", "x"], ["--retry-failed"], ["--shard", "1/2"], ["--list"]):
        assert main(["sweep", str(tmp_path / "out"), *flags]) == 2
        assert f"a folder is only looked at; {flags[0]} goes with the YAML file" in capsys.readouterr().err


def test_an_exception_of_the_simulator_is_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stops(**_: Any) -> None:
        raise ZeroDivisionError("here")

    with monkeypatch.context() as patch:
        patch.setattr("apex_sim.api.simulate", stops)
        sweep_here(tmp_path / "out", SWEEP)
    assert main(["sweep", str(tmp_path / "out")]) == 1
    assert "6 x ZeroDivisionError: here" in capsys.readouterr().out


def test_cases_are_not_named_like_a_column_of_every_table_and_ends_of_whole_numbers_are_whole() -> None:
    for vary, text in (
        ({"status": {"cases": {"a": {"tp": 1}}}}, "'status' is a column of every table"),
        ({"tp": {"min": 0.5, "max": 4, "steps": 3}}, r"tp\.min is 0\.5; tp takes whole numbers"),
    ):
        with pytest.raises(apex_sim.UserError, match=text):
            load_sweep({"fixed": FIXED, "vary": vary})


def test_directions_of_columns_are_those_of_their_meaning() -> None:
    names = ["mean_ttft_ms", "output_throughput_per_gpu", "spec_decode_mean_acceptance_length", "usd_per_hour"]
    assert [goal.more for goal in parse_goals(names, names)] == [False, True, True, False]


def test_shards_of_several_folders_are_merged_into_the_bytes_of_one(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(json.dumps(SWEEP))
    sweep_here(tmp_path / "whole", str(file))
    for number in (1, 2):
        (tmp_path / f"part{number}").mkdir()
        run_sweep(load_sweep(file), tmp_path / f"part{number}", Here, shard=Shard(number, 3))
    (tmp_path / "out").mkdir()
    both = [tmp_path / "part1", tmp_path / "part2"]
    ran = Here()
    run_sweep(load_sweep(file), tmp_path / "out", lambda: ran, merge=both)
    assert ran.ran == 2, "only the third shard was missing"
    for name in ("results.csv", "results.parquet"):
        if (tmp_path / "whole" / name).exists():
            assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    other = {**SWEEP, "vary": {"tp": [2], "rate": [1, 5]}}
    with pytest.raises(apex_sim.UserError, match="no longer asks for"):
        run_sweep(load_sweep(other), tmp_path / "out", Here, merge=both)
    (tmp_path / "new").mkdir()
    with pytest.raises(apex_sim.UserError, match=r"part1: sweep no longer asks for 1 of the 2 runs"):
        run_sweep(load_sweep(other), tmp_path / "new", Here, merge=both)
    with pytest.raises(apex_sim.UserError, match="nowhere: is not the folder of a sweep"):
        run_sweep(load_sweep(file), tmp_path / "out", Here, merge=[tmp_path / "nowhere"])


def test_a_worker_of_another_version_gives_no_figures() -> None:
    task = {"settings": {**SWEEP["fixed"], "rate": 1}, "base": ".", "version": "0.0.0"}
    row = json.loads(run_point(json.dumps(task)))
    assert row["status"] == "crashed" and "the sweep 0.0.0; install the same on both" in row["reason"]
