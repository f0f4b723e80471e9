"""A sweep that is killed at random moments, workers too, and gone on with: nothing lost, nothing twice, the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import apex_sim
from apex_sim.sweeps import run as sweep_run
from apex_sim.sweeps.journal import read_journal

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="kills processes that it finds in /proc")


def content(rates: int) -> dict[str, Any]:
    fixed = {"model": "llama-3.1-8b", "cluster": "h100-sxm:2", "input_len": 300, "output_len": 60, "num_requests": 300}
    return {"fixed": {**fixed, "exact_steps": True}, "vary": {"tp": [1, 2, 3], "rate": [1 + i for i in range(rates)]}}


def start(file: Path, out: Path, jobs: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "apex_sim", "sweep", str(file), "--out", str(out), "--jobs", str(jobs)]
    return subprocess.Popen(
        command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in task.read_text().split()]
        except OSError:
            continue
    return found


def size(out: Path) -> int:
    return sum(path.stat().st_size for path in out.glob("journal/*"))


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_for(condition: Any, process: subprocess.Popen[bytes] | None = None) -> bool:
    """Whether it came true before the process ended, within a minute."""
    for _ in range(3000):
        if condition():
            return True
        if process is not None and process.poll() is not None:
            return False
        time.sleep(0.02)
    raise AssertionError("nothing happened for a minute")


def torture(tmp_path: Path, rates: int, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    file = tmp_path / "s.yaml"
    file.write_text(json.dumps(content(rates)))
    apex_sim.sweep(content(rates), tmp_path / "whole", jobs=1)
    out = tmp_path / "out"
    out.mkdir()
    for number in range(kills):
        process = start(file, out, chance.randint(1, 2))
        before, least = size(out), chance.choice([0, 1, 3000, 9000, 20000])
        wait_for(lambda before=before, least=least: size(out) >= before + least, process)
        time.sleep(chance.random() * 0.2)
        workers = children(process.pid)
        if workers and number % 2:
            os.kill(chance.choice(workers), signal.SIGKILL)
            time.sleep(chance.random() * 0.2)
        process.send_signal(chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
        process.wait()
        wait_for(lambda workers=workers: all(gone(pid) for pid in workers))
        frame_is_whole(out)
    final = start(file, out, 1)
    assert final.wait(timeout=300) == 0
    for name in ("results.csv", "results.parquet"):
        if (tmp_path / "whole" / name).exists():
            assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    keys = [json.loads(line)["row"]["key"] for line in whole_lines(out)]
    assert max(Counter(keys).values()) == 1, "a recorded run was carried out again"
    assert len(read_journal(out)) == 3 * rates


def whole_lines(out: Path) -> list[bytes]:
    return [
        line for p in out.glob("journal/*") for line in p.read_bytes().splitlines(keepends=True) if line[-1:] == b"\n"
    ]


def frame_is_whole(out: Path) -> None:
    """A table that is there can be read, whenever its writer was killed."""
    pandas = pytest.importorskip("pandas")
    if (out / "results.csv").exists():
        pandas.read_csv(out / "results.csv")


def test_a_killed_sweep_goes_on_where_it_was(tmp_path: Path) -> None:
    torture(tmp_path, rates=12, kills=2, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_sweep_killed_twenty_times(tmp_path: Path, seed: int, request: pytest.FixtureRequest) -> None:
    if request.config.getoption("markexpr") != "slow":
        pytest.skip("minutes of killing; run it with pytest -m slow")
    torture(tmp_path, rates=120, kills=20, seed=100 + seed)


def test_an_interrupt_ends_the_workers_and_leaves_what_is_finished(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(json.dumps(content(200)))
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from apex_sim.cli import main; raise SystemExit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "sweep", str(file), "--out", str(tmp_path / "out"), "--jobs", "2"],
        cwd=ROOT,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert wait_for(lambda: size(tmp_path / "out") > 0, process)  # type: ignore[arg-type]
    workers = children(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command goes on with the rest" in error and "Traceback" not in error
    assert workers and all(gone(pid) for pid in workers)
    rows = read_journal(tmp_path / "out")
    assert 0 < len(rows) < 600
    assert len((tmp_path / "out" / "results.csv").read_text().splitlines()) == len(rows) + 1


def test_rows_on_the_disk_are_in_the_table_wherever_the_interrupt_falls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(dict[str, Any]):
        def update(self, *_: Any) -> None:  # type: ignore[override]
            raise KeyboardInterrupt  # the rows are on the disk, not yet in memory

    monkeypatch.setattr(sweep_run, "open_folder", lambda *_: Late())
    with pytest.raises(KeyboardInterrupt):
        apex_sim.sweep(content(1), tmp_path / "out", jobs=1)
    rows = read_journal(tmp_path / "out")
    assert rows and len((tmp_path / "out" / "results.csv").read_text().splitlines()) == len(rows) + 1


def test_two_sweeps_in_one_folder_are_one_too_many(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    out = tmp_path / "out"
    out.mkdir()
    with (out / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(apex_sim.UserError, match="another sweep is at work there"):
            apex_sim.sweep(content(1), out)
