"""What a served run leaves behind: requests and steps as CSV, the run in validate's format, the fitted engine profile."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.engine import EngineProfile
from simulator.serve_runner.engine_fit import EngineFit
from simulator.serve_runner.loop import STEP_COLUMNS
from simulator.serve_runner.session import ServedRun
from workloads.model import ModelSpec


def _csv(frame: Any) -> str:
    buffer = io.StringIO()
    frame.to_csv(buffer, index=False, lineterminator="\n", float_format="%.9g")
    return buffer.getvalue()


def requests_csv(run: ServedRun) -> str:
    """Per request: the trace's columns (so that it can be replayed) and when things happened [s]."""
    import pandas as pd

    table = run.record.table
    columns = {
        "arrival_s": np.frombuffer(table.arrival_s),
        "input_tokens": run.trace.input_tokens,
        "output_tokens": run.trace.output_tokens,
        "scheduled_s": np.frombuffer(table.scheduled_s),
        "first_token_s": np.frombuffer(table.first_token_s),
        "finish_s": np.frombuffer(table.finish_s),
        "num_preemptions": np.frombuffer(table.preemptions, dtype=np.int32),
    }
    frame = pd.DataFrame(columns)
    if run.trace.concurrency is not None:
        frame = frame.sort_values("arrival_s", kind="stable")
    return _csv(frame)


def steps_csv(steps: npt.NDArray[np.float64]) -> str:
    """Per step: begin and end [s], and what was in it (the fields of StepShape)."""
    import pandas as pd

    frame = pd.DataFrame(steps, columns=list(STEP_COLUMNS))
    counts = frame.columns[2:]
    frame[counts] = frame[counts].astype(np.int64)
    return _csv(frame)


def engine_yaml(engine: EngineProfile, fit: EngineFit, where: str) -> str:
    """A profile that ``--engine FILE`` reads, based on the built-in one."""
    import yaml

    source = (
        f"fitted by 'apex-sim calibrate --serve' on {fit.num_steps} steps of calibration requests ({where}); the kernels "
        f"explain {fit.kernel_share:.0%} of their time; error of a step's time after the fit: median "
        f"{fit.median_error:.1%}, p90 {fit.p90_error:.1%}"
    )
    data: dict[str, Any] = {"base": "apex-serve", "name": "apex-serve", "version": engine.version}
    data |= {"cuda_graphs": engine.cuda_graphs, "max_cudagraph_capture_size": engine.max_cudagraph_capture_size}
    data |= fit.seconds
    data["sources"] = {name: source for name in fit.seconds}
    return "# Host times of the project's own serving engine on one machine.\n" + str(
        yaml.safe_dump(data, sort_keys=False, width=120)
    )


def fitted_engine(engine: EngineProfile, fit: EngineFit) -> EngineProfile:
    """The profile with its host times replaced."""
    times: Any = fit.seconds
    return dataclasses.replace(engine, sync_step_fixed_s=0.0, sync_step_seq_s=0.0, **times)


def model_json(model: ModelSpec, config: Any) -> str:
    """config.json of a shape of this project's own."""
    import json

    return json.dumps({"_name_or_path": model.name, **config}, indent=2) + "\n"


def write_all(folder: Path, files: dict[str, str]) -> None:
    """Write files by name into an existing folder."""
    for name, text in files.items():
        temporary = folder / f".{name}.part"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(folder / name)
