"""A step model that is a line, and small random simulations, for tests of the event loop."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from simulator.adapters.pool import AdapterSetup
from simulator.batching import BATCHING, RESERVING, BatchingPolicy
from simulator.core import CoreLimits
from simulator.kv_setup import KvTiers
from simulator.physics.shape import DecodeLine, StepShape
from simulator.routing import ROUTING, RoutingPolicy
from simulator.run import ReplicaSetup, RunRecord, run
from workloads.trace import Trace


class LineModel:
    """Seconds = base + per sequence + per KV token + per prompt token; numbers of the order of an 8B model on one GPU."""

    def __init__(self, window: int | None = None, stages: int = 1, base_s: float = 6e-3) -> None:
        self.window = window
        self.stages = stages
        self.base_s = base_s

    def decode(self, num_seqs: int) -> DecodeLine:
        window_s = 2e-6 if self.window else 0.0
        return DecodeLine(self.base_s + 3e-5 * num_seqs, 4.5e-6, window_s, 2.0 + 0.1 * num_seqs, 1e-4, 1e-5)

    def step(self, shape: StepShape) -> tuple[float, float]:
        line = self.decode(shape.decode_seqs)
        seconds = line.base_s + line.context_s * shape.context_tokens + line.window_s * shape.window_tokens
        seconds += 4e-5 * shape.prefill_tokens + 1e-8 * shape.prefill_pairs + 1e-9 * shape.window_pairs
        return seconds, 3.0 + 0.01 * shape.prefill_tokens

    def stage_s(self, shape: StepShape) -> tuple[float, ...]:
        return (self.step(shape)[0] / self.stages,) * self.stages


def make_trace(arrivals: list[float], inputs: list[int], outputs: list[int], **more: object) -> Trace:
    """A trace from lists."""
    return Trace(
        arrival_s=np.array(arrivals, dtype=np.float64),
        input_tokens=np.array(inputs, dtype=np.int64),
        output_tokens=np.array(outputs, dtype=np.int64),
        **more,  # type: ignore[arg-type]
    )


def random_trace(seed: int, num_requests: int, rate_per_s: float, **more: object) -> Trace:
    """Poisson arrivals with geometric-like lengths."""
    rng = np.random.default_rng(seed)
    return Trace(
        arrival_s=np.cumsum(rng.exponential(1 / rate_per_s, num_requests)),
        input_tokens=np.minimum(1 + rng.geometric(1 / 200, num_requests), 900),
        output_tokens=np.minimum(rng.geometric(1 / 40, num_requests), 120),
        **more,  # type: ignore[arg-type]
    )


def random_prefixes(seed: int, trace: Trace, block_tokens: int, groups: int = 4, shared_blocks: int = 8) -> Trace:
    """Give every request the shared prefix of its group, then identities of its own."""
    rng = np.random.default_rng(seed)
    ids: list[int] = []
    offsets = [0]
    fresh = groups * shared_blocks
    for tokens in (trace.input_tokens + trace.output_tokens - 1).tolist():
        group = int(rng.integers(groups))
        blocks = -(-tokens // block_tokens)
        own = max(0, blocks - shared_blocks)
        ids += [group * shared_blocks + i for i in range(min(blocks, shared_blocks))]
        ids += list(range(fresh, fresh + own))
        fresh += own
        offsets.append(len(ids))
    import dataclasses

    return dataclasses.replace(
        trace,
        prefix_ids=np.array(ids, dtype=np.int64),
        prefix_offsets=np.array(offsets, dtype=np.int64),
        prefix_block_tokens=block_tokens,
    )


def simulate_small(
    trace: Trace,
    *,
    batching: str = "chunked",
    num_replicas: int = 1,
    routing: str = "round-robin",
    num_blocks: int = 400,
    block_size: int = 16,
    max_num_seqs: int = 16,
    max_num_batched_tokens: int = 512,
    max_model_len: int = 1100,
    swap: bool = False,
    host_blocks: int = 10_000,
    stages: int = 1,
    window: int | None = None,
    async_scheduling: bool = False,
    reserve_full_prompt: bool = True,
    prefix_caching: bool = False,
    watermark_blocks: int = 0,
    output_reserve: float = 0.0,
    max_prefill_tokens: int | None = None,
    request_fixed_s: float = 0.0,
    stream_token_s: float = 0.0,
    tiers: KvTiers | None = None,
    adapters: AdapterSetup | None = None,
    exact_steps: bool = False,
    model: object = None,
    policy: Callable[[], BatchingPolicy] | None = None,
    router: RoutingPolicy | None = None,
) -> RunRecord:
    """Run a small engine. ``policy`` and ``router`` replace the named ones (memory is reserved as ``batching`` says)."""
    limits = CoreLimits(
        num_blocks=num_blocks,
        block_size=block_size,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_model_len=max_model_len,
        reserve_full_prompt=reserve_full_prompt,
        swap=swap,
        host_blocks=host_blocks,
        watermark_blocks=watermark_blocks,
        fixed_reservation=max_model_len if batching in RESERVING else None,
        hold_finished=batching == "static",
        output_reserve=output_reserve,
        max_prefill_tokens=max_prefill_tokens,
    )
    setup = ReplicaSetup(
        limits=limits,
        step_model=model or LineModel(window, stages),  # type: ignore[arg-type]
        batching=policy or BATCHING[batching],
        stages=stages,
        async_scheduling=async_scheduling,
        prefix_caching=prefix_caching,
        request_fixed_s=request_fixed_s,
        stream_token_s=stream_token_s,
        swap_token_s=1e-6,
        tiers=tiers,
        adapters=adapters,
    )
    return run(trace, setup, num_replicas, router or ROUTING[routing](0), exact_steps=exact_steps)
