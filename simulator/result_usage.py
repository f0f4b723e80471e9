"""What the devices of a run did: time held and busy, joules by phase, floating-point operations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from simulator import clock
from simulator.accounting.account import Usage
from simulator.elastic.figures import held_seconds
from simulator.elastic.history import ElasticRecord
from simulator.physics.shape import StepShape
from simulator.physics.sums import in_order

if TYPE_CHECKING:
    from simulator.result import SimulationResult


def usage_of(result: SimulationResult) -> Usage:
    """Devices, time, joules by phase and tokens, as accounting takes them."""
    record, plan = result.record, result.deployment.plan
    counters = [replica.counters for replica in record.replicas]
    busy = sum(c.busy_ticks for c in counters)
    held_s = result.held_s
    idle_s = in_order(max(0.0, held - _busy_s(c.busy_ticks)) for held, c in zip(held_s, counters, strict=True))
    prompts = [replica.prompts.totals() for replica in record.replicas]
    prefill_j = in_order(joules for _, joules in prompts)
    return Usage(
        devices=plan.num_devices,
        duration_s=result.duration_s,
        prefill_j=prefill_j,
        decode_j=in_order(c.joules for c in counters) - prefill_j,
        idle_j=result.replica_idle_w * idle_s,
        prefill_share=in_order(ticks for ticks, _ in prompts) / busy if busy else 0.0,
        input_tokens=int(result.column("input_tokens")[result.completed].sum()),
        output_tokens=int(result.column("output_tokens").sum()),
        requests=int(result.completed.sum()),
        held_device_s=in_order(held_s) * plan.devices_per_replica if isinstance(record, ElasticRecord) else None,
    )


def held_s_of(result: SimulationResult) -> list[float]:
    """Time for which the devices of each replica are held [s]: all of it, unless replicas come and go."""
    record, duration_s = result.record, result.duration_s
    if not isinstance(record, ElasticRecord) or not duration_s:
        return [duration_s] * len(record.replicas)
    begin = float(np.nanmin(result.column("arrival_s")))
    return held_seconds(record.history, begin, begin + duration_s)


def utilisation_of(result: SimulationResult) -> float:
    """Share of the time in which a replica has a step in flight, mean over replicas."""
    if not result.duration_s:
        return 0.0
    busy = [_busy_s(replica.counters.busy_ticks) for replica in result.record.replicas]
    return float(np.mean(busy)) / result.duration_s


def flop_of(result: SimulationResult, prompts_sampled: int) -> float:
    """FLOP executed; the LM head counts once per output token, of ``prompts_sampled`` prompts the first one included."""
    totals = [replica.counters for replica in result.record.replicas]
    model = result.deployment.step_model
    windowed = model.window is not None
    shape = StepShape(
        decode_seqs=sum(c.decode_tokens for c in totals),
        context_tokens=sum(c.decode_context for c in totals),
        window_tokens=sum(c.decode_window if windowed else c.decode_context for c in totals),
        prefill_tokens=sum(c.prefill_tokens for c in totals),
        prefill_pairs=sum(c.prefill_pairs for c in totals),
        window_pairs=sum(c.window_pairs for c in totals),
        prefill_context=sum(c.prefill_context for c in totals),
        logits_rows=sum(c.decode_tokens for c in totals) + prompts_sampled,
    )
    return model.flop(shape)


def _busy_s(ticks: int) -> float:
    return ticks / clock.TICKS_PER_S
