"""The summary of a run of two pools as text: as of any run, and what each pool did and what moved between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apex_sim.deployment_text import describe_deployment
from apex_sim.text import milliseconds, number, share, table
from simulator.deployment import Deployment
from simulator.disaggregated import DisaggregatedDeployment


def describe_pools(deployment: DisaggregatedDeployment) -> str:
    """One line: what serves."""
    parts = [describe_deployment(pool).removeprefix(f"{deployment.model.name} on ") for _, pool in deployment.pools]
    return f"{deployment.model.name}: prefill on {parts[0]}; decode on {parts[1]}"


def describe_any(deployment: Deployment | DisaggregatedDeployment) -> str:
    """The same of one pool or two."""
    return describe_deployment(deployment) if isinstance(deployment, Deployment) else describe_pools(deployment)


def pool_lines(s: Mapping[str, Any]) -> list[str]:
    """A table of both pools, and a line on the transfers."""
    rows = [
        [
            name,
            str(pool["num_gpus"]),
            str(pool["num_replicas"]),
            share(pool["utilisation"]),
            share(pool["mfu"]),
            share(pool["peak_kv_usage"]),
            f"{pool['peak_running']}/{pool['peak_waiting']}",
            f"{pool['num_preemptions']:,}",
            "-" if pool["average_power_w"] is None else f"{number(pool['average_power_w'])} W",
        ]
        for name, pool in s["pools"].items()
    ]
    header = ["pool", "GPUs", "replicas", "busy", "MFU", "KV peak", "run/wait", "preempted", "power"]
    kv = s["kv_transfer"]
    hidden = f", {number(kv['bytes_after_prompt'] / 1e9)} GB of it after the prompts" if kv["overlap"] else ""
    return [
        table(header, rows),
        "",
        f"KV transfer  {kv['requests']:,} requests, {number(kv['bytes'] / 1e9)} GB over {kv['link']}{hidden}; mean "
        f"{milliseconds(kv['mean_ms'])}, p95 {milliseconds(kv['p95_ms'])}, after {milliseconds(kv['mean_wait_ms'])} "
        f"(p95 {milliseconds(kv['p95_wait_ms'])}) until a decode replica has set blocks aside",
        f"prefix hits  {share(s['prefix_hit_rate'])} of the prompts' tokens",
        *_held_lines(s),
    ]


def _held_lines(s: Mapping[str, Any]) -> list[str]:
    """Where replicas come and go."""
    if "gpu_hours" not in s:
        return []
    parts = [
        f"{name} {number(pool['replica_hours'])} replica-hours (busy {share(pool['held_utilisation'])} of them), "
        f"{pool['replicas_started']:,} starts, {pool['replicas_stopped']:,} stops, {pool['replica_failures']:,} failures"
        for name, pool in s["pools"].items()
    ]
    total = f"{number(s['gpu_hours'])} GPU-hours"
    return [f"held         {total}; {'; '.join(parts)}; {s['requests_retried']:,} requests sent again"]
