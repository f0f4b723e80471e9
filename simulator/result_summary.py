"""The scalars of a run, in vLLM's own field names where it has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.accounting.account import account
from simulator.accounting.rates import Rates
from simulator.adapters.figures import adapter_summary
from simulator.expert_hits import expert_summary
from simulator.physics.sums import in_order
from simulator.sharing.summary import pair_summary, split_summary
from simulator.speculative.summary import speculative_summary
from simulator.spread import Spread

if TYPE_CHECKING:
    from simulator.result import SimulationResult


def volume(result: SimulationResult) -> dict[str, Any]:
    """Requests, tokens and how fast they went."""
    done, duration, trace = result.completed, result.duration_s, result.trace
    inputs = int(result.column("input_tokens")[done].sum())
    outputs = int(result.column("output_tokens").sum())
    count = int(done.sum())

    def rate(amount: float) -> float:
        return amount / duration if duration else 0.0

    return {
        "backend": "apex-sim",
        "model_id": result.deployment.model.name,
        "num_prompts": len(trace),
        "request_rate": rate(count) if trace.concurrency else trace.request_rate_per_s,
        "max_concurrency": trace.concurrency,
        "duration": duration,
        "drain_s": _drain_s(result),
        "completed": count,
        "failed": len(trace) - count,
        "truncated": int((result.column("output_tokens") < trace.output_tokens)[done].sum()),
        "total_input_tokens": inputs,
        "total_output_tokens": outputs,
        "request_throughput": rate(count),
        "request_goodput": None if result.slo is None else rate(int(result.good.sum())),
        "output_throughput": rate(outputs),
        "total_token_throughput": rate(inputs + outputs),
        "output_throughput_per_gpu": rate(outputs) / result.num_devices,
        "max_concurrent_requests": result.max_concurrent_requests,
        "slo": None if result.slo is None else str(result.slo),
        "slo_attainment": result.attainment if result.slo is not None else None,
    }


def _drain_s(result: SimulationResult) -> float:
    """From the last arrival to the last token [s]: the part of ``duration`` in which no more requests come."""
    arrival_s = result.column("arrival_s")
    return (
        max(0.0, result.duration_s - float(np.nanmax(arrival_s) - np.nanmin(arrival_s))) if result.duration_s else 0.0
    )


def latencies(result: SimulationResult) -> dict[str, float]:
    """TTFT, TPOT, ITL, E2E and time in the queue [ms]."""
    done = result.completed
    tpot = result.column("tpot_s")[done]
    parts = [replica.gaps.weighted() for replica in result.record.replicas]
    gaps = Spread.of_weighted(np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]))
    return {
        **Spread.of(result.column("ttft_s")[done]).to_ms("ttft"),
        **Spread.of(tpot[~np.isnan(tpot)]).to_ms("tpot"),
        **gaps.to_ms("itl"),
        **Spread.of(result.column("e2e_s")[done]).to_ms("e2el"),
        **Spread.of((result.column("scheduled_s") - result.column("arrival_s"))[done]).to_ms("queue"),
    }


def engine_state(result: SimulationResult) -> dict[str, Any]:
    """Blocks, queues, prefix hits and steps of the replicas."""
    replicas = result.record.replicas
    counters = [replica.counters for replica in replicas]
    blocks = result.deployment.memory.num_blocks
    done = result.completed
    inputs = int(result.column("input_tokens")[done].sum())
    return {
        "num_gpu_blocks": blocks,
        "peak_kv_usage": max(c.peak_blocks for c in counters) / blocks,
        "peak_running": max(c.peak_running for c in counters),
        "peak_waiting": max(c.peak_waiting for c in counters),
        "num_preemptions": sum(c.preemptions for c in counters),
        "prefix_hit_rate": float(result.column("cached_tokens")[done].sum()) / inputs if inputs else 0.0,
        "replica_prefix_hit_rates": result.replica_prefix_hit_rates,
        "kv_tiers": result.kv_tiers,
        "engine_steps": sum(c.steps for c in counters),
        "utilisation": result.utilisation,
        "mfu": result.mfu,
        "itl_exact": all(replica.gaps.is_exact for replica in replicas),
        **expert_summary(result),
        **pair_summary(result.deployment.pair_instances),
        **split_summary(replica.split for replica in replicas),
        **speculative_summary(result.deployment.speculative, [replica.speculative for replica in replicas]),
        **adapter_summary(replicas),
    }


def kv_tiers(result: SimulationResult) -> list[dict[str, Any]]:
    """Memories below the devices' for cached prefixes, nearest first: hits, bytes moved, time of their links."""
    offload, inputs = result.deployment.kv_offload, int(result.column("input_tokens")[result.completed].sum())
    memory, devices = result.deployment.memory, result.deployment.plan.devices_per_replica
    block_bytes = memory.kv_bytes_per_token * memory.block_size * devices
    names = [("host", offload.host_bytes), (offload.disk_device, offload.disk_bytes)]
    rows = zip(*(replica.tiers for replica in result.record.replicas), strict=True)
    return [
        {
            "tier": name,
            "hit_rate": sum(c.hit_tokens for c in counts) / inputs if inputs else 0.0,
            "stored_bytes": sum(c.stored for c in counts) * block_bytes,
            "loaded_bytes": sum(c.loaded for c in counts) * block_bytes,
            "dropped_bytes": sum(c.dropped for c in counts) * block_bytes,
            "load_s": in_order(c.load_s for c in counts),
        }
        for (name, _), counts in zip([n for n in names if n[1]], rows, strict=False)
    ]


def hit_rates(result: SimulationResult, replica_column: str) -> list[float]:
    """Cached prompt tokens over prompt tokens of the replicas that a column of the table of requests names."""
    replicas, done = len(result.record.replicas), result.completed
    where = result.column(replica_column)[done]
    cached = np.bincount(where, weights=result.column("cached_tokens")[done], minlength=replicas)
    inputs = np.bincount(where, weights=result.column("input_tokens")[done], minlength=replicas)
    return [float(c / i) if i else 0.0 for c, i in zip(cached, inputs, strict=True)]


def economics(result: SimulationResult) -> dict[str, Any]:
    """Cost, energy and emissions, and what the step model rests on."""
    deployment = result.deployment
    return {
        "num_gpus": deployment.plan.num_devices,
        "pricing": deployment.cluster.terms.pricing,
        **account(result.usage, Rates.of(deployment.cluster)),
        "provenance": deployment.step_model.provenance,
        "weaker_parts": list(deployment.step_model.weaker_parts),
    }
