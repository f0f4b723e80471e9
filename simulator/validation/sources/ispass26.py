"""Llama-3.1-70B on H100, measured and simulated by several tools (LLMServingSim's ISPASS 2026 artefact, MIT)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from simulator.validation.rows import Row
from simulator.validation.run import MeasuredRun, Workload
from simulator.validation.sources.common import cluster_of, figures
from simulator.validation.sources.sharegpt import UNRECORDED
from workloads.readers import read_trace


def read(path: Path, rows: Sequence[Row]) -> list[MeasuredRun]:
    """A run per measured row; the other frameworks' rows are predictions, listed as skipped."""
    return [_run(row, path.parent) for row in rows]


def _run(row: Row, folder: Path) -> MeasuredRun:
    layout = re.match(r"(\d+) x TP(\d+)", row.text("parallelism"))
    replicas, tp = (int(layout.group(1)), int(layout.group(2))) if layout else (1, 1)
    sent = folder / row.text("workload")
    return MeasuredRun(
        id=f"{row.text('scenario')}/{row.text('framework')}",
        source="ispass26",
        model=row.text("model").lower(),
        cluster=cluster_of(row.text("hardware")),
        engine_version=UNRECORDED,
        tp=tp,
        dp=replicas,
        settings={
            "max_num_seqs": 128,
            "max_num_batched_tokens": 2048,
            "enable_prefix_caching": False,
            "enforce_eager": True,
        },
        workload=Workload(requests=read_trace(sent) if sent.is_file() else None),
        measured=figures(
            ttft_mean_ms=row.number("mean_ttft_ms"),
            tpot_mean_ms=row.number("mean_tpot_ms"),
            output_tok_s=row.number("output_tok_s"),
        ),
        measured_by="engine",
        skip=_skip(row, sent),
        tags={"workload": sent.stem},
        place=row.place,
    )


def _skip(row: Row, sent: Path) -> str | None:
    if row.text("framework") != "vLLM":
        return "the prediction of another simulator, not a measurement"
    return None if sent.is_file() else f"{row.text('workload')} does not lie beside the table"
