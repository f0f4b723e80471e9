"""The summary of a run of two pools as text: as of any run, and what each pool did and what moved between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apex_sim.text import milliseconds, number, share, table
from simulator.deployment import Deployment
from simulator.disaggregated import DisaggregatedDeployment
from simulator.result_disaggregated import DisaggregatedResult


def describe_pools(deployment: DisaggregatedDeployment) -> str:
    """One line: what serves."""
    from apex_sim.report import describe_deployment

    parts = [describe_deployment(pool).removeprefix(f"{deployment.model.name} on ") for _, pool in deployment.pools]
    return f"{deployment.model.name}: prefill on {parts[0]}; decode on {parts[1]}"


def describe_any(deployment: Deployment | DisaggregatedDeployment) -> str:
    """The same of one pool or two."""
    from apex_sim.report import describe_deployment

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
    ]


def disaggregated_text(result: DisaggregatedResult) -> str:
    """The run in a screenful."""
    from apex_sim.report import METRICS, account_lines, basis, pace

    s = result.summary
    rows = [
        [label, *(milliseconds(s[f"{stat}_{key}_ms"]) for stat in ("mean", "median", "p90", "p95", "p99"))]
        for label, key in METRICS
    ]
    lines = [
        describe_pools(result.deployment),
        f"workload: {result.trace.name}, {s['num_prompts']:,} request{'' if s['num_prompts'] == 1 else 's'}{pace(result)}, "
        f"{number(s['duration'])} s simulated",
        "",
        table(["latency", "mean", "median", "p90", "p95", "p99"], rows),
        "",
        *pool_lines(s),
        "",
        f"throughput   {number(s['request_throughput'])} req/s, {number(s['output_throughput'])} output tok/s "
        f"({number(s['output_throughput_per_gpu'])} per GPU), {number(s['total_token_throughput'])} total tok/s",
    ]
    if result.slo is not None:
        lines.append(
            f"SLO          {s['slo']}: {share(s['slo_attainment'])} of requests, goodput {number(s['request_goodput'])} req/s"
        )
    lines += account_lines(s)
    longest = f"max-model-len {result.deployment.effective_max_model_len:,}"
    if s["failed"]:
        lines.append(f"refused      {s['failed']:,} of {s['num_prompts']:,} requests: prompts of {longest} or more")
    if s["truncated"]:
        lines.append(f"cut short    the outputs of {s['truncated']:,} requests at {longest}")
    lines.append(f"basis        {basis(s['provenance'], s['weaker_parts'], result.deployment.decode)}")
    return "\n".join(lines)
