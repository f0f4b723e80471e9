"""A search with worker processes ends at once when it is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


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
