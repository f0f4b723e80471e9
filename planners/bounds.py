"""What physics alone says about a candidate: no schedule can be faster than this.

Bounds let the planner drop candidates without simulating them. They hold for any batching policy: a step of T tokens takes
at least the time of T tokens at the best step size, attention is linear in what it reads, a decode step reads at most the
whole KV cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.deployment import Deployment
from simulator.physics.shape import StepShape
from workloads.slo import Slo
from workloads.trace import FloatArray, Trace

SAMPLES = 64
"""Requests (evenly spaced by prompt length) whose unloaded latency is computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadStats:
    """Sums over a trace that the bounds need."""

    requests: int
    duration_s: float
    prompt_tokens: float
    """To be computed, after the prefix hits of an unbounded cache."""
    decode_tokens: float
    decode_context: float
    """Sum over decode steps of the context read, all requests [tokens]."""
    prompt_pairs: float
    sample_inputs: tuple[int, ...]
    sample_outputs: tuple[int, ...]
    has_prefixes: bool

    @classmethod
    def of(cls, trace: Trace) -> WorkloadStats:
        """Statistics of a trace."""
        inputs = trace.input_tokens.astype(np.float64)
        steps = trace.output_tokens.astype(np.float64) - 1
        order = np.argsort(trace.input_tokens, kind="stable")
        picks = order[np.linspace(0, len(order) - 1, min(SAMPLES, len(order))).round().astype(np.int64)]
        computed = 1.0
        if trace.prefix_ids is not None:
            from workloads.prefixes import prompt_blocks_hit

            hit, total = prompt_blocks_hit(trace)
            computed = 1.0 - hit / total if total else 1.0
        open_loop = trace.concurrency is None and trace.previous is None
        return cls(
            requests=len(trace),
            duration_s=trace.duration_s if open_loop else 0.0,
            prompt_tokens=float(inputs.sum()) * computed,
            decode_tokens=float(steps.sum()),
            decode_context=float((steps * (inputs + 1) + steps * (steps - 1) / 2).sum()),
            prompt_pairs=float((inputs * (inputs + 1) / 2).sum()) * computed**2,
            sample_inputs=tuple(trace.input_tokens[picks].tolist()),
            sample_outputs=tuple(trace.output_tokens[picks].tolist()),
            has_prefixes=trace.prefix_ids is not None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Limits that no schedule of the candidate can beat."""

    capacity_per_s: float
    """At most so many requests per second, all replicas."""
    load: float
    """At least this share of the replicas' time is needed; above 1 the queue grows without end (0: closed loop)."""
    attainment: float
    """At most this share of the requests can meet the SLO, even alone on the machine."""
    median_ttft_s: float
    """Unloaded TTFT of the median prompt."""
    median_tpot_s: float
    """Unloaded TPOT of the median prompt."""


def bound(deployment: Deployment, stats: WorkloadStats, slo: Slo | None) -> Bounds:
    """Bounds of a deployment on a workload."""
    work_s = _work_s(deployment, stats)
    replicas = deployment.plan.dp
    ttft, tpot = _unloaded(deployment, stats)
    if slo is None:
        attainment = 1.0
    else:
        e2e = ttft + tpot * (np.array(stats.sample_outputs) - 1)
        attainment = float(slo.good(ttft, tpot, e2e).mean())
    middle = len(ttft) // 2
    return Bounds(
        capacity_per_s=replicas * stats.requests / work_s,
        load=work_s / (replicas * stats.duration_s) if stats.duration_s > 0 else 0.0,
        attainment=attainment,
        median_ttft_s=float(ttft[middle]),
        median_tpot_s=float(tpot[middle]),
    )


def _work_s(deployment: Deployment, stats: WorkloadStats) -> float:
    """Seconds of one replica that the whole trace needs at the very least."""
    model, engine = deployment.step_model, deployment.engine
    budget = engine.max_num_batched_tokens
    sizes = sorted({max(1, budget // share) for share in (1, 2, 4)})
    token_s = min(model.step(StepShape(prefill_tokens=size, prefill_seqs=1))[0] / size for size in sizes)
    full_step_s = model.step(StepShape(prefill_tokens=budget, prefill_seqs=1))[0]
    seqs = engine.max_num_seqs
    line = model.decode(seqs)
    context_s = line.context_s + line.window_s if model.window is None else line.context_s
    pairs = budget * (budget + 1) // 2
    with_pairs_s = model.step(StepShape(prefill_tokens=budget, prefill_pairs=pairs, prefill_seqs=1))[0]
    pair_s = max(0.0, with_pairs_s - full_step_s) / pairs if model.window is None else 0.0
    kv_tokens = max(1, deployment.memory.kv_tokens)
    decode_steps = max(stats.decode_tokens / seqs, stats.decode_context / kv_tokens if model.window is None else 0.0)
    gemm_s = max((stats.prompt_tokens + stats.decode_tokens) * token_s, decode_steps * model.decode(1).base_s)
    return (gemm_s + stats.decode_context * context_s + stats.prompt_pairs * pair_s) / deployment.plan.pp


def _unloaded(deployment: Deployment, stats: WorkloadStats) -> tuple[FloatArray, FloatArray]:
    """TTFT and TPOT of the sampled requests when each has the replica to itself [s]."""
    model, engine = deployment.step_model, deployment.engine
    line = model.decode(1)
    window = model.window
    ttft, tpot = [], []
    for inputs, outputs in zip(stats.sample_inputs, stats.sample_outputs, strict=True):
        seconds = engine.request_fixed_s + engine.request_token_s * inputs + engine.response_s
        seconds += _prefill_s(deployment, 1 if stats.has_prefixes and engine.prefix_caching else inputs)
        ttft.append(seconds)
        context = inputs + outputs / 2
        near = context if window is None else min(context, window)
        tpot.append(line.base_s + line.context_s * context + line.window_s * near)
    return np.array(ttft), np.array(tpot)


def _prefill_s(deployment: Deployment, tokens: int) -> float:
    """Seconds to compute a prompt alone, in chunks of the token budget."""
    from simulator.replica import window_pairs

    model, budget = deployment.step_model, deployment.engine.max_num_batched_tokens
    seconds, done = 0.0, 0
    while done < tokens:
        new = min(budget, tokens - done)
        pairs = new * done + new * (new + 1) // 2
        near = pairs if model.window is None else window_pairs(new, done, model.window)
        last = done + new == tokens
        shape = StepShape(
            prefill_tokens=new,
            prefill_pairs=pairs,
            window_pairs=near,
            prefill_seqs=1,
            prefill_context=done,
            logits_rows=int(last),
        )
        seconds += model.step(shape)[0]
        done += new
    return seconds
