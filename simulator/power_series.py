"""Power over time: of a replica's devices from a run's samples, and of the servers around them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from simulator.physics.server import host_power_of
from simulator.result import SimulationResult

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]

FINEST_S = 0.1
MOST_PERIODS = 10_000
"""Periods of a table at most; they are 0.1 s, 1 s, 10 s ... long."""


def replica_w(result: SimulationResult, replica: int, marks_s: Floats) -> Floats:
    """Mean power of a replica's devices between consecutive marks [W]; idle after its last step.

    The samples' means are spread evenly over the time they stand for, so energy is conserved at their times.
    """
    timeline = result.timeline
    rows = timeline[timeline["replica"] == replica]
    times = rows["time_s"].to_numpy(dtype=float)
    joules = np.cumsum(rows["power_w"].to_numpy(dtype=float) * np.diff(times, prepend=0.0))
    end = times[-1] if len(times) else 0.0
    total = np.interp(marks_s, np.concatenate(([0.0], times)), np.concatenate(([0.0], joules)))
    total += result.replica_idle_w * np.maximum(0.0, marks_s - end)
    watts: Floats = np.diff(total) / np.diff(marks_s)
    return watts


def marks_of(end_s: float) -> Floats:
    """Ends of equal periods from 0 to the end of a run [s]; the last one is cut there."""
    period_s = FINEST_S
    while end_s / period_s > MOST_PERIODS:
        period_s *= 10
    marks = np.round(period_s * np.arange(int(end_s / period_s) + 1), 6)
    return marks if end_s - marks[-1] < 1e-9 and len(marks) > 1 else np.append(marks, end_s)


def _last_token_s(result: SimulationResult) -> float:
    """When a client has the last token; engines that stream slower than they compute are idle then [s]."""
    arrival_s = result.column("arrival_s")
    return float(np.nanmin(arrival_s)) + result.duration_s if result.duration_s else 0.0


def server_table(result: SimulationResult) -> pd.DataFrame:
    """One row per period and server: time_s (its end), server, devices_w, host_w, server_w, mean powers in it.

    Replicas take the cluster's devices in order. A server counts the devices that serve, and their share of its host. Two
    pools: each with servers of its own, and a column ``pool``.
    """
    import pandas as pd

    pools = getattr(result, "pools", None)
    if pools is not None:
        return pd.concat([server_table(view).assign(pool=name) for name, view in pools.items()], ignore_index=True)
    plan, cluster = result.deployment.plan, result.deployment.cluster
    timeline = result.timeline
    last_step_s = float(timeline["time_s"].max()) if len(timeline) else 0.0
    marks = marks_of(max(last_step_s, _last_token_s(result), FINEST_S))
    size, per_node = plan.devices_per_replica, cluster.node.num_devices
    used = -(-plan.num_devices // per_node)
    devices_w, devices = np.zeros((used, len(marks) - 1)), np.zeros(used)
    for replica in range(plan.dp):
        one_w = replica_w(result, replica, marks) / size
        for node, count in zip(
            *np.unique(np.arange(replica * size, (replica + 1) * size) // per_node, return_counts=True), strict=True
        ):
            devices_w[node] += one_w * count
            devices[node] += count
    host = host_power_of(cluster)
    host_w = host.idle_w * devices[:, None] + host.slope * devices_w
    periods = len(marks) - 1
    return pd.DataFrame(
        {
            "time_s": np.tile(marks[1:], used),
            "server": np.repeat(np.arange(used), periods),
            "devices_w": devices_w.ravel(),
            "host_w": host_w.ravel(),
            "server_w": (devices_w + host_w).ravel(),
        }
    )
