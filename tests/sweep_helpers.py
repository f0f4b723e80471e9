"""A sweep of six runs, and worker processes that die of some of their tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from apex_sim.sweeps.pool import Task

SWEEP: dict[str, Any] = {
    "fixed": {"model": "llama-3.1-8b", "cluster": "h100-sxm:2", "input_len": 100, "output_len": 8, "num_requests": 10},
    "vary": {"tp": [1, 2], "rate": [1, 4, 16]},
}
DYING = """
import os, pathlib
import apex_sim.sweeps.point as point
was = point.run_point
def run_point(task):
    once = pathlib.Path(os.environ["ONCE"])
    if "poison" in task or ("shaky" in task and not once.exists()):
        once.touch()
        os.kill(os.getpid(), 9)
    return was(task)
point.run_point = run_point
"""


def dying_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    """Tasks: one is fine, one kills its first worker, one kills every worker it is given to."""
    (tmp_path / "sitecustomize.py").write_text(DYING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("ONCE", str(tmp_path / "once"))
    settings = {**SWEEP["fixed"], "rate": 1}
    names = ("fine", "shaky", "poison")
    return [Task(name, json.dumps({"settings": settings, "base": str(tmp_path), "note": name})) for name in names]
