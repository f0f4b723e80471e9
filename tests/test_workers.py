"""Pools of worker processes: interrupted, they end at once; a process that is killed is one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hardware_profiles.errors import UserError
from simulator.workers import Workers


def test_an_interrupt_ends_a_plan_and_its_workers(tmp_path: Path) -> None:
    # a shell starts background jobs with SIGINT ignored, which children inherit
    start = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    start += "from apex_sim.cli import main; raise SystemExit(main())"
    command = [sys.executable, "-c", start, "plan", "--model", "llama-3.1-8b", "--cluster", "h100-sxm:8", "--jobs", "2"]
    workload = ["--rate", "20", "--input-len", "500", "--output-len", "300", "--num-requests", "100000"]
    out = tmp_path / "out"
    process = subprocess.Popen(
        [*command, *workload, "--max-rate", "--slo", "ttft=1s,tpot=50ms", "--out", str(out)],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(5)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert not out.exists() or not list(out.iterdir())


def _work(number: int) -> int:
    if number < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def test_results_come_in_the_order_of_the_tasks() -> None:
    with Workers(2) as workers:
        assert list(workers.map(_work, range(5))) == [0, 1, 4, 9, 16]


def test_a_worker_that_is_killed_is_one_line() -> None:
    with (
        pytest.raises(UserError, match="a worker process was killed, by hand or for want of memory"),
        Workers(1) as workers,
    ):
        list(workers.map(_work, [1, -1, 2]))
    with Workers(1) as workers:
        with pytest.raises(UserError, match="killed"):
            list(workers.map(_work, [-1]))
        with pytest.raises(UserError, match="killed"):
            workers.map(_work, [1])
