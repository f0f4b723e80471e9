"""What physics alone says about a candidate: no schedule can do better than this.

Bounds let the planner drop candidates without simulating them, so they must hold for every batching policy:

* a step of T tokens costs at least T / Tmax of the largest step, since no component gets dearer per token as T grows
  (whole waves of tiles apart, which are left out here: partly filled ones only add to a step);
* attention costs at least its slope times the context, pairs and tokens it works on, mixed step or not;
* steps are at least as many as the batch limit, the token budget and the KV cache enforce, each with its fixed part;
* in a pipeline the slowest stage alone needs its share of all that;
* of drafted tokens those are accepted that the seed says (:mod:`planners.draft_bounds`), and the rest is verified too;
* of a shared prefix only what no other request has is sure to be computed.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from planners.demand import Demand, WorkloadStats
from planners.draft_bounds import FIXED, Freedom, alone_s, drafting_s, with_drafts
from planners.limits import Bounds, bounds_of, nothing_served
from simulator.architecture import has_encoder
from simulator.batching import RESERVING
from simulator.deployment import Deployment
from simulator.physics.efficiency import efficiency_of
from simulator.physics.encoder_model import step_model_of
from simulator.physics.explain import step_shape
from simulator.physics.shape import StepShape, window_pairs
from simulator.physics.stage import Stage
from simulator.physics.sums import in_order
from workloads.model import ModelSpec
from workloads.slo import Slo
from workloads.trace import FloatArray

GRID = 64
"""Prompt lengths at which the unloaded TTFT is computed; a request counts with the next shorter one."""
STRETCHES = (1, 4, 16, 64)
"""Equal parts of the trace, by requests, in which it is counted what can be served in time."""
ROUNDING = 1.0 - 1e-5
"""Times in the event loop are whole ticks; the least step time is rounded by less than this (simulator.clock)."""
OVERLAPPED = 1.0 / 3.0
"""Of the time in sequence that nano-batches take at least: arithmetic, memory and links at once."""


def least_share(deployment: Deployment) -> float:
    """What bounds built from components in sequence are multiplied with."""
    return ROUNDING * (OVERLAPPED if deployment.engine.nano_batch_tokens else 1.0)


def bound(deployment: Deployment, stats: WorkloadStats, slo: Slo | None, freedom: Freedom = FIXED) -> Bounds:
    """Bounds of a deployment on a workload; with ``freedom`` of all that differ from it in what that leaves open."""
    window = deployment.step_model.window
    caching = deployment.engine.prefix_caching or freedom.prefixes
    demand = stats.demand(deployment.effective_max_model_len, window, caching)
    if not len(demand.inputs):
        return nothing_served()
    demand = with_drafts(in_decoder(demand, deployment.model), deployment, stats, freedom)
    replicas = deployment.plan.dp
    work_s = _work_s(deployment, demand)
    return bounds_of(
        demand,
        stats,
        slo,
        ttft_s(deployment, demand),
        decode_s(deployment, demand),
        capacity_per_s=replicas * len(demand.inputs) / work_s,
        load=work_s / (replicas * stats.duration_s) if stats.duration_s > 0 else 0.0,
        loaded_attainment=1.0 if slo is None else _loaded_attainment(deployment, stats, demand, slo),
        busy_s=work_s / replicas,
    )


# -- throughput --------------------------------------------------------------------------------------------------------


def in_decoder(demand: Demand, model: ModelSpec) -> Demand:
    """What a decoder behind an encoder has to compute: the start token of each request in place of its input."""
    if model.encoder is None:
        return demand
    none = np.zeros_like(demand.pairs)
    return replace(demand, computed=np.ones_like(demand.computed), pairs=none, window_pairs=none)


def largest_step(deployment: Deployment, demand: Demand) -> int:
    """Tokens that one step can have at most."""
    engine = deployment.engine
    if engine.batching == "chunked":
        return engine.max_num_batched_tokens
    longest = int((demand.inputs + demand.outputs).max())
    if engine.batching in RESERVING:
        return max(engine.max_num_batched_tokens, engine.max_num_seqs * longest)
    return max(engine.max_num_batched_tokens, longest, int(engine.max_num_seqs * demand.queries))


def smooth_stages(deployment: Deployment) -> tuple[Stage, ...]:
    """The stages as they were if GEMMs came in fractions of a wave: no step costs less."""
    known: tuple[Stage, ...] | None = deployment._cache.get("smooth_stages")
    if known is None:
        node = deployment.cluster.node
        efficiency = efficiency_of(node.device)
        gemm = {key: replace(fit, wave=0.0) for key, fit in efficiency.gemm.items()}
        device = replace(node.device, efficiency=replace(efficiency, gemm=gemm))
        known = deployment.step_model.stages
        if gemm != dict(efficiency.gemm):
            cluster = replace(deployment.cluster, node=replace(node, device=device))
            known = step_model_of(
                deployment.model,
                cluster,
                deployment.plan,
                deployment.engine,
                moe_skew=deployment.moe_skew,
                expert_routing=deployment.expert_routing,
            ).stages
        deployment._cache["smooth_stages"] = known
    return known


def _work_s(deployment: Deployment, demand: Demand) -> float:
    """Seconds that one replica needs for everything, its slowest stage [s]."""
    engine = deployment.engine
    steps = max(
        demand.decode_tokens.sum() / engine.max_num_seqs,
        demand.computed.sum() / largest_step(deployment, demand),
    )
    if not demand.shares_prefixes:
        steps = max(steps, demand.decode_context.sum() / max(1, deployment.memory.kv_tokens))
    longest = 0.0
    for index, stage in enumerate(smooth_stages(deployment)):
        linear = _linear_s(deployment, stage, demand)
        fixed = stage.tokens(1).seconds + stage.rows(1).seconds + (engine.step_fixed_s if index == 0 else 0.0)
        attention = _attention_s(stage, demand, prefill_only=False).sum()
        longest = max(longest, float(attention + max(linear.sum(), steps * fixed)))
    return (longest + drafting_s(deployment, demand)) * least_share(deployment)


def _linear_s(deployment: Deployment, stage: Stage, demand: Demand, prefill_only: bool = False) -> FloatArray:
    """float64[served]: seconds per request for what depends on the number of tokens and rows in a step."""
    engine = deployment.engine
    most = largest_step(deployment, demand)
    rows = min(int(engine.max_num_seqs * demand.queries), most)
    token_s, row_s = stage.tokens(most).seconds / most, stage.rows(rows).seconds / rows
    if stage.layout.is_first:
        token_s += engine.step_fixed_s / most + engine.step_token_s
        row_s += engine.step_seq_s
    tokens = demand.computed if prefill_only else demand.computed + demand.decode_tokens * demand.queries
    outputs = 1.0 if prefill_only else demand.decode_tokens * demand.queries + 1.0
    host_s = engine.step_seq_s if stage.layout.is_first and demand.queries > 1 else 0.0
    return tokens * token_s + outputs * row_s - host_s * (demand.queries - 1.0) * demand.decode_tokens


def _attention_s(stage: Stage, demand: Demand, prefill_only: bool) -> FloatArray:
    """float64[served]: seconds per request for attention in a stage, without what a step costs anyway."""
    seconds = np.zeros(len(demand.inputs))
    for c in stage.attention:
        pairs = demand.pairs if c.window is None else demand.window_pairs
        token_s = 0.0 if c.prefill_cached_s else c.prefill_token_s + c.prefill_kv_s  # small chunks stay in the cache
        seconds += c.prefill_pair_s * pairs + token_s * demand.computed + c.prefill_seq_s
        if not prefill_only and not stage.attends_elsewhere:
            context = demand.decode_context if c.window is None else demand.window_context
            seconds += min(c.decode_context_s, c.mixed_context_s) * context + c.decode_seq_s * demand.decode_tokens
    return seconds


def _loaded_attainment(deployment: Deployment, stats: WorkloadStats, demand: Demand, slo: Slo) -> float:
    """Share of the requests that fits into the time: those of a stretch that meet the SLO are done soon after its end.

    The cheapest requests of a stretch count first, so no choice of which requests to serve in time does better.
    """
    if stats.duration_s <= 0:
        return 1.0
    ends = slo.e2e_s is not None or (slo.ttft_s is not None and slo.tpot_s is not None)
    most = len(demand.inputs)
    if slo.ttft_s is not None:
        work_s = _request_s(deployment, demand, prefill_only=True)
        most = in_time(work_s, demand.arrival_s, demand.arrival_s + slo.ttft_s)
    if ends:
        by_pace = (slo.ttft_s or math.inf) + (slo.tpot_s or math.inf) * np.maximum(demand.outputs - 1, 1)
        due_s = demand.arrival_s + np.minimum(slo.e2e_s or math.inf, by_pace)
        most = min(most, in_time(_request_s(deployment, demand), demand.arrival_s, due_s))
        if not demand.shares_prefixes:
            most = min(most, in_time(_memory_s(deployment, demand), demand.arrival_s, due_s))
    return most / stats.requests


def _request_s(deployment: Deployment, demand: Demand, prefill_only: bool = False) -> FloatArray:
    """float64[served]: share of each request in the work of the slowest stage, over all replicas [s]."""
    works = [
        _linear_s(deployment, stage, demand, prefill_only) + _attention_s(stage, demand, prefill_only)
        for stage in smooth_stages(deployment)
    ]
    work_s: FloatArray = max(works, key=lambda work: float(work.sum())) * (least_share(deployment) / deployment.plan.dp)
    return work_s


def prefill_only_s(deployment: Deployment, demand: Demand) -> FloatArray:
    """float64[served]: share of each request's prompt in the work of the slowest stage, over all replicas [s]."""
    return _request_s(deployment, demand, prefill_only=True)


def decode_only_s(deployment: Deployment, demand: Demand) -> FloatArray:
    """float64[served]: the same for the tokens after the first on replicas that compute no prompts, attention left out."""
    alone = replace(demand, computed=np.zeros_like(demand.computed))
    tokens = demand.decode_tokens
    works = [_linear_s(deployment, stage, alone) for stage in smooth_stages(deployment)]
    work_s: FloatArray = max(works, key=lambda work: float(work.sum())) * (
        tokens / (tokens + 1.0)
    )  # first is sampled apart
    return work_s * (least_share(deployment) / deployment.plan.dp)


def _memory_s(deployment: Deployment, demand: Demand) -> FloatArray:
    """float64[served]: share of each request in the decode steps that the KV cache enforces, at a step's least time [s]."""
    kv_tokens = max(1, deployment.memory.kv_tokens)
    steps = demand.decode_context / kv_tokens
    stage = smooth_stages(deployment)[0]
    fixed = stage.tokens(1).seconds + stage.rows(1).seconds + deployment.engine.step_fixed_s
    work = steps * fixed + _attention_s(stage, demand, prefill_only=False)
    return work * (least_share(deployment) / deployment.plan.dp)


def in_time(work_s: FloatArray, arrival_s: FloatArray, due_s: FloatArray) -> int:
    """Requests that can be done when due, at most: stretch by stretch, work starting with its first arrival."""
    least = len(work_s)
    for stretches in STRETCHES:
        done = 0
        for rows in np.array_split(np.arange(len(work_s)), stretches):
            if len(rows):
                time_s = float(due_s[rows].max() - arrival_s[rows[0]])
                done += int(np.searchsorted(np.cumsum(np.sort(work_s[rows])), time_s, side="right"))
        least = min(least, done)
    return least


# -- latency of a request that is alone --------------------------------------------------------------------------------


def ttft_s(deployment: Deployment, demand: Demand) -> FloatArray:
    """float64[served]: TTFT at least [s]."""
    engine = deployment.engine
    prompts = np.ones_like(demand.inputs) if demand.shares_prefixes else demand.inputs
    order = np.sort(prompts)
    grid = np.unique(order[np.linspace(0, len(order) - 1, GRID).astype(np.int64)])
    known: dict[int, float] = deployment._cache.setdefault("prefill_s", {})
    for tokens in grid.tolist():
        if tokens not in known:
            known[tokens] = _prefill_s(deployment, tokens)
    seconds = np.array([known[tokens] for tokens in grid.tolist()])
    computing = seconds[np.searchsorted(grid, prompts, side="right") - 1]
    host = engine.request_fixed_s + engine.request_token_s * demand.inputs + engine.response_s
    total: FloatArray = (host + computing) * least_share(deployment)
    return total


def _prefill_s(deployment: Deployment, tokens: int) -> float:
    """Seconds to compute a prompt at least; grows with ``tokens``.

    Beyond the token budget every token costs its share of a full step: how decode rows cut the chunks cannot make it
    less. Pairs count at full occupancy: the real slowdown of short chunks falls at every tile border.
    """
    model, engine = deployment.step_model, deployment.engine
    if has_encoder(deployment.model):  # whole, and nothing is quicker than alone
        return model.step(step_shape(prefill=tokens, window=None))[0]
    size = engine.max_num_batched_tokens if engine.batching == "chunked" else tokens
    pair_s = in_order(c.prefill_pair_s for s in model.stages for c in s.attention if c.window is None)
    near_s = in_order(c.prefill_pair_s for s in model.stages for c in s.attention if c.window is not None)
    pairs = tokens * (tokens + 1) // 2
    near = pairs if model.window is None else window_pairs(tokens, 0, model.window)
    last = StepShape(prefill_tokens=min(size, tokens), prefill_seqs=1, logits_rows=1)
    more = max(0, tokens - size) / size
    # attention hides behind them
    waiting = ("launch", "weights.prefetch", "experts.wait", "attention.elsewhere")
    launching_s = in_order(c.seconds for c in model.explain(last) if c.name in waiting)
    seconds = model.step(last)[0] + max(0.0, pair_s * pairs + near_s * near - launching_s)
    return seconds + more * model.step(StepShape(prefill_tokens=size, prefill_seqs=1))[0] if more else seconds


def decode_s(deployment: Deployment, demand: Demand) -> FloatArray:
    """float64[served]: seconds from the first token to the last, at least."""
    step_s, context_s, window_s = alone_s(deployment)
    total: FloatArray = demand.decode_tokens * step_s
    total = total + context_s * demand.decode_context + window_s * demand.window_context
    return total * least_share(deployment)
