"""The request table of a run as arrays, and its samples over time as a frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from simulator.recorder import COMPLETED, REJECTED, ReplicaRecord, RequestTable
from workloads.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

STATUS_NAMES = {0: "unfinished", COMPLETED: "completed", REJECTED: "rejected"}


def request_columns(table: RequestTable, trace: Trace, first_s: float, last_s: float) -> dict[str, npt.NDArray[Any]]:
    """Columns in trace order; ``first_s``, ``last_s``: from the engine to the client, of first and last tokens [s]."""
    first = np.frombuffer(table.first_token_s) + first_s
    finish = np.frombuffer(table.finish_s) + last_s
    arrival = np.frombuffer(table.arrival_s)
    outputs = np.frombuffer(table.output_tokens, dtype=np.int64)
    with np.errstate(invalid="ignore", divide="ignore"):
        tpot = np.where(outputs > 1, (finish - first) / (outputs - 1), np.nan)
    return {
        "replica": np.frombuffer(table.replica, dtype=np.int32),
        "status": np.frombuffer(table.status, dtype=np.int8),
        "arrival_s": arrival,
        "scheduled_s": np.frombuffer(table.scheduled_s),
        "first_token_s": first,
        "finish_s": finish,
        "input_tokens": trace.input_tokens,
        "output_tokens": outputs,
        "cached_tokens": np.frombuffer(table.cached_tokens, dtype=np.int64),
        "num_preemptions": np.frombuffer(table.preemptions, dtype=np.int32),
        "ttft_s": first - arrival,
        "tpot_s": tpot,
        "e2e_s": finish - arrival,
    }


def request_frame(columns: dict[str, npt.NDArray[Any]]) -> pd.DataFrame:
    """One row per request, statuses by name."""
    import pandas as pd

    frame = pd.DataFrame(columns)
    frame["status"] = frame["status"].map(STATUS_NAMES)
    frame.index.name = "request"
    return frame


def timeline_frame(replicas: list[ReplicaRecord], num_blocks: int, idle_w: float) -> pd.DataFrame:
    """Samples of all replicas; ``idle_w``: power of the idle devices of one of them [W]."""
    import pandas as pd

    frames = []
    for index, replica in enumerate(replicas):
        rows = np.frombuffer(replica.timeline.rows).reshape(-1, replica.timeline.COLUMNS)
        elapsed = np.diff(rows[:, 0], prepend=0.0)
        idle_s = np.diff(np.maximum.accumulate(np.maximum(0.0, rows[:, 0] - rows[:, 5])), prepend=0.0)
        joules = np.diff(rows[:, 4], prepend=0.0) + idle_w * idle_s
        frames.append(
            pd.DataFrame(
                {
                    "replica": index,
                    "time_s": rows[:, 0],
                    "running": rows[:, 1].astype(np.int64),
                    "waiting": rows[:, 2].astype(np.int64),
                    "kv_usage": rows[:, 3] / num_blocks,
                    "power_w": np.divide(joules, elapsed, out=np.zeros(len(rows)), where=elapsed > 0),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)
