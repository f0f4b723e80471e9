"""ShareGPT replays with a record of every request beside the table (LLMServingSim's benchmark, MIT).

Times count from the engine's queue. ``per_request/`` and ``workloads/`` lie in the folder of the table.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from simulator.validation.rows import Row, read_rows
from simulator.validation.run import MeasuredRun, Workload
from simulator.validation.sources.common import cluster_of, figures, given
from workloads.readers import read_trace
from workloads.trace import Trace

UNRECORDED = "0.12"
"""The table says: version not recorded, between 0.11.1 and 0.13rc2 on the artefact's other machine."""
STATISTICS = ("mean", "p50", "p90", "p95", "p99")


def read(path: Path, rows: Sequence[Row]) -> list[MeasuredRun]:
    """One run per row."""
    return [_run(row, path.parent) for row in rows]


def _run(row: Row, folder: Path) -> MeasuredRun:
    requests, skip = _requests(row, folder)
    version = row.text("vllm_version")
    window = row.leading_number("max_model_len")
    blocks = row.leading_number("vllm_num_gpu_blocks")
    replicas = max(1, int(row.leading_number("num_gpus") or 1) // int(row.need("tp")))
    eager = "eager" in row.text("source")
    return MeasuredRun(
        id=row.text("run"),
        source="ispass26" if "ispass26" in row.text("run") else "sharegpt",
        model=row.text("model").lower() if "/" not in row.text("model") else row.text("model"),
        cluster=cluster_of(row.text("hardware")),
        engine_version=version or (UNRECORDED if eager else None),
        tp=int(row.need("tp")),
        pp=row.whole("pp") or 1,
        dp=replicas,
        settings=given(
            max_num_seqs=_whole(row.leading_number("max_num_seqs")) or (128 if eager else None),
            max_num_batched_tokens=_whole(row.leading_number("max_num_batched_tokens")) or (2048 if eager else None),
            max_model_len=_whole(window),
            gpu_memory_utilization=row.leading_number("gpu_mem_util"),
            block_size=_whole(row.leading_number("block_size")),
            num_gpu_blocks_override=_whole(blocks) or _whole(row.leading_number("lss_kv_blocks_per_instance")),
            enable_prefix_caching=_prefix_caching(row),
            enforce_eager=True if eager else None,
        ),
        workload=Workload(requests=requests),
        measured=_measured(row, blocks),
        measured_by="engine",
        skip=skip,
        tags={"workload": Path(row.text("workload_csv")).stem},
        place=row.place,
    )


def _prefix_caching(row: Row) -> bool | None:
    return False if row.text("prefix_caching").startswith("off") else None


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _measured(row: Row, blocks: float | None) -> dict[str, float]:
    found = {
        f"{latency}_{stat}_ms": row.number(f"vllm_{latency}_ms_{stat}")
        for latency in ("ttft", "tpot", "e2e")
        for stat in STATISTICS
    }
    found |= {
        "output_tok_s": row.number("vllm_out_tok_s"),
        "duration_s": row.number("vllm_makespan_s"),
        "kv_blocks": blocks,
    }
    return dict(figures(**found))


def _requests(row: Row, folder: Path) -> tuple[Trace | None, str | None]:
    """(what reached the engine's queue, else what was sent; why there is neither)."""
    record = folder / "per_request" / (re.sub(r"[/\\]", "__", row.text("run")) + ".csv")
    if record.is_file():
        return _recorded(record), None
    sent = folder / row.text("workload_csv")
    if sent.is_file():
        return read_trace(sent), None
    return None, f"neither {record.relative_to(folder)} nor {row.text('workload_csv')} lies beside the table"


def _recorded(path: Path) -> Trace:
    _, rows = read_rows(path)
    rows = sorted(rows, key=lambda row: row.need("vllm_queued_s"))
    return Trace(
        arrival_s=np.array([max(0.0, row.need("vllm_queued_s")) for row in rows]),
        input_tokens=np.array([int(row.need("input_tokens")) for row in rows]),
        output_tokens=np.array([int(row.need("output_tokens")) for row in rows]),
        name=path.stem,
    )
