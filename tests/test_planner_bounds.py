"""Bounds of the planner are bounds: no simulation beats them, whatever the model, layout, policy or traffic."""

from __future__ import annotations

import numpy as np
import pytest

from planners.bounds import bound, decode_s, smooth_stages, ttft_s
from planners.demand import WorkloadStats, exclusive_tokens
from planners.draft_bounds import FIXED, Freedom, steps_of, with_drafts
from simulator.build import build_deployment
from simulator.deployment import Deployment
from simulator.physics.shape import StepShape
from simulator.simulate import simulate_deployment
from workloads.slo import Slo
from workloads.trace import Trace

NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "acceptance": 0.4}
DRAFT = {"method": "draft_model", "model": "llama-3.2-1b", "num_speculative_tokens": 4, "acceptance": 0.9}
TREE = {"method": "eagle", "num_speculative_tokens": 3, "num_candidates": 12, "acceptance": [0.9, 0.7, 0.5]}
DEPLOYMENTS: dict[str, tuple[str, str, dict[str, object]]] = {
    "dense": ("llama-3.1-8b", "h100-sxm:2", {}),
    "dense tp2": ("llama-3.1-8b", "h100-sxm:2", {"tp": 2}),
    "dense pp2": ("llama-3.1-8b", "h100-sxm:2", {"pp": 2}),
    "dense dp2": ("llama-3.1-8b", "h100-sxm:2", {"dp": 2}),
    "fp8": ("llama-3.1-8b", "h100-sxm:2", {"quantization": "fp8", "kv_cache_dtype": "fp8"}),
    "small batches": ("llama-3.1-8b", "a100-sxm-80gb:2", {"max_num_seqs": 8, "max_num_batched_tokens": 256}),
    "little memory": ("llama-3.1-8b", "h100-sxm:2", {"num_gpu_blocks_override": 700, "max_model_len": 9000}),
    "short contexts": ("llama-3.1-8b", "h100-sxm:2", {"max_model_len": 1500}),
    "moe": ("mixtral-8x7b", "h100-sxm:2", {"tp": 2}),
    "moe ep": ("mixtral-8x7b", "h100-sxm:4", {"tp": 2, "dp": 2, "ep": 4}),
    "many experts": ("qwen3-30b-a3b", "h100-sxm:2", {}),
    "many experts ep": ("qwen3-30b-a3b", "h100-sxm:2", {"dp": 2, "ep": 2}),
    "window": ("gemma-3-12b", "h100-sxm:2", {}),
    "mla": ("deepseek-v2-lite", "h100-sxm:2", {}),
    "mla pp2": ("deepseek-v2-lite", "h100-sxm:2", {"pp": 2}),
    "vllm-v0": ("llama-3.1-8b", "h100-sxm:2", {"engine": "vllm-v0"}),
    "orca": ("llama-3.1-8b", "h100-sxm:2", {"engine": "orca", "max_model_len": 9000}),
    "read from host": ("llama-3.1-8b", "h100-sxm:2", {"cpu_offload_gb": 5.0, "enable_lora": True, "num_loras": 9}),
    "copied from host": ("llama-3.1-8b", "h100-sxm:2", {"cpu_offload_gb": 5.0, "offload_backend": "prefetch"}),
    "nano-batches": ("llama-3.1-8b", "h100-sxm:2", {"tp": 2, "nano_batch_tokens": 32}),
    "nano-batches moe": ("mixtral-8x7b", "h100-sxm:4", {"tp": 4, "nano_batch_tokens": 8, "comm_overlap": 0.5}),
    "hidden": ("qwen3-30b-a3b", "h100-sxm:2", {"dp": 2, "ep": 2, "fused_moe": True, "comm_overlap": 1.0}),
    "sparse": ("llama-3.1-8b", "h100-sxm:2", {"attention_density": 0.1, "kv_compression": 0.3}),
    "top-k": ("llama-3.1-8b", "h100-sxm:2", {"attention_top_k": 500, "attention_selection": 0.1}),
    "lossless": ("llama-3.1-8b", "h100-sxm:2", {"quantization": "df11"}),
    "adaptive layers": (
        "qwen3-30b-a3b",
        "h100-sxm:2",
        {"dp": 2, "ep": 2, "moe_parallelism": "adaptive", "a2a_ffn_overlap_degree": 4, "zero_expert_num": 16},
    ),
    "slots": ("mixtral-8x7b", "h100-sxm:4", {"dp": 4, "ep": 4, "expert_capacity_factor": 1.25, "moe_kernels": 30}),
    "known routing": ("mixtral-8x7b", "h100-sxm:4", {"dp": 4, "ep": 4, "expert_routing": "generated(tokens=300)"}),
    "shared layers": ("llama-3.1-8b", "h100-sxm:2", {"recursion_depths": "0.5,0.3,0.1,0.1", "linear_rank": 0.5}),
    "n-grams": ("llama-3.1-8b", "h100-sxm:2", {"speculative_config": NGRAM}),
    "n-grams in little memory": (
        "llama-3.1-8b",
        "h100-sxm:2",
        {"speculative_config": NGRAM, "num_gpu_blocks_override": 700, "max_model_len": 9000},
    ),
    "draft model": (
        "llama-3.1-8b",
        "a100-sxm-80gb:2",
        {"speculative_config": DRAFT, "tp": 2, "max_num_seqs": 8, "max_num_batched_tokens": 256},
    ),
    "draft model sglang": (
        "llama-3.1-8b",
        "h100-sxm:2",
        {"speculative_config": DRAFT, "engine": "sglang", "max_model_len": 9000},
    ),
    "tree by place": ("gemma-3-12b", "h100-sxm:2", {"speculative_config": TREE}),
    "static": ("llama-3.1-8b", "h100-sxm:2", {"engine": "static", "max_model_len": 9000, "max_num_seqs": 8}),
}
KINDS = ("burst", "poisson", "closed", "prefixes", "short")
TOLERANCE = 1e-9
"""Floats add up in another order in the bound; ticks are in the bound already."""


def make_deployment(name: str) -> Deployment:
    model, cluster, settings = DEPLOYMENTS[name]
    return build_deployment(model, cluster, **settings)  # type: ignore[arg-type]


def make_trace(kind: str, seed: int) -> Trace:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(20, 60))
    longest = 40 if kind == "short" else 6000
    inputs = np.clip(rng.lognormal(np.log(longest / 6), 1.0, n).astype(np.int64), 1, longest)
    outputs = np.clip(rng.lognormal(np.log(40), 1.2, n).astype(np.int64), 1, 600)
    arrivals = np.zeros(n) if kind in ("burst", "short") else np.cumsum(rng.exponential(0.05, n))
    extra: dict[str, object] = {}
    if kind == "closed":
        extra = {"concurrency": 7}
    if kind == "prefixes":
        pieces = -(-inputs // 64)
        offsets = np.concatenate(([0], np.cumsum(pieces)))
        group = rng.integers(0, 3, n)
        common = rng.integers(0, 40, n)
        ids = [
            (group[i] * 1000 if p < common[i] else 100_000 * (i + 1)) + p for i in range(n) for p in range(pieces[i])
        ]
        extra = {"prefix_ids": np.array(ids), "prefix_offsets": offsets, "prefix_block_tokens": 64}
    return Trace(arrival_s=arrivals, input_tokens=inputs, output_tokens=outputs, **extra)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_no_simulation_beats_the_bounds(name: str, kind: str) -> None:
    deployment = make_deployment(name)
    for seed in range(2):
        trace = make_trace(kind, 17 * seed + len(name))
        slo = Slo(ttft_s=0.3, tpot_s=0.02)
        result = simulate_deployment(deployment, trace, slo=slo)
        stats = WorkloadStats.of(trace)
        bounds = bound(deployment, stats, slo)
        summary = result.summary
        assert bounds.served == summary["completed"]
        assert summary["request_throughput"] <= bounds.capacity_per_s * (1 + TOLERANCE)
        assert summary["duration"] >= bounds.duration_s * (1 - TOLERANCE)
        assert summary["slo_attainment"] <= bounds.attainment
        assert summary["slo_attainment"] <= bounds.loaded_attainment
        assert summary["p95_ttft_ms"] >= 1e3 * bounds.p95_ttft_s * (1 - TOLERANCE)
        assert summary["p95_tpot_ms"] >= 1e3 * bounds.p95_tpot_s * (1 - TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_no_request_is_faster_than_alone(name: str, kind: str) -> None:
    deployment = make_deployment(name)
    trace = make_trace(kind, 5)
    result = simulate_deployment(deployment, trace)
    stats = WorkloadStats.of(trace)
    demand = stats.demand(
        deployment.effective_max_model_len, deployment.step_model.window, deployment.engine.prefix_caching
    )
    demand = with_drafts(demand, deployment, stats)
    done = result.completed
    slack = 1 + TOLERANCE
    assert (ttft_s(deployment, demand) <= result.column("ttft_s")[done] * slack).all()
    spent = result.column("e2e_s")[done] - result.column("ttft_s")[done]
    assert (decode_s(deployment, demand) <= spent * slack + 1e-12).all()


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_token_is_never_dearer_in_a_larger_step(name: str) -> None:
    """What the throughput bound rests on, and that steps grow with their tokens."""
    deployment = make_deployment(name)
    sizes = np.unique(np.geomspace(1, 20_000, 120).astype(np.int64)).tolist()
    for stage, smooth in zip(deployment.step_model.stages, smooth_stages(deployment), strict=True):
        for part, least in ((stage.tokens, smooth.tokens), (stage.rows, smooth.rows)):
            seconds = np.array([part(size).seconds for size in sizes])
            at_least = np.array([least(size).seconds for size in sizes])
            assert (np.diff(seconds) >= -1e-15).all()
            assert (at_least <= seconds).all()
            per_token = at_least / sizes
            assert (np.diff(per_token) <= 1e-12 * per_token[:-1]).all()


def test_the_bound_is_close_for_a_saturated_replica() -> None:
    """A true bound can be useless; a long burst reaches most of it."""
    deployment = build_deployment("llama-3.1-8b", "h100-sxm:1")
    rng = np.random.default_rng(1)
    trace = Trace(
        arrival_s=np.zeros(3000), input_tokens=rng.integers(200, 800, 3000), output_tokens=rng.integers(50, 150, 3000)
    )
    result = simulate_deployment(deployment, trace)
    bounds = bound(deployment, WorkloadStats.of(trace), None)
    assert 0.6 < result.summary["request_throughput"] / bounds.capacity_per_s <= 1


def test_unloaded_ttft_is_reached_by_a_lone_prompt() -> None:
    deployment = build_deployment("llama-3.1-8b", "h100-sxm:1")
    trace = Trace(arrival_s=np.zeros(1), input_tokens=np.array([1500]), output_tokens=np.array([40]))
    result = simulate_deployment(deployment, trace)
    bounds = bound(deployment, WorkloadStats.of(trace), None)
    assert bounds.median_ttft_s == pytest.approx(result.column("ttft_s")[0], rel=0.05)
    assert bounds.median_tpot_s == pytest.approx(result.column("tpot_s")[0], rel=1e-4)


def test_requests_that_are_refused_need_nothing_and_meet_nothing() -> None:
    trace = Trace(arrival_s=np.arange(4.0), input_tokens=np.array([10, 5000, 20, 30]), output_tokens=np.full(4, 5))
    deployment = build_deployment("llama-3.1-8b", "h100-sxm:1", max_model_len=1000)
    bounds = bound(deployment, WorkloadStats.of(trace), Slo(ttft_s=9.0))
    assert bounds.served == 3
    assert bounds.attainment == 0.75


def test_a_trace_that_ends_before_the_queue_grows_is_not_ruled_out() -> None:
    """Load above 1 on a short trace: everything is still served within the limit."""
    trace = Trace(
        arrival_s=np.linspace(0, 0.02, 20), input_tokens=np.full(20, 1000), output_tokens=np.ones(20, np.int64)
    )
    deployment = build_deployment("llama-3.1-8b", "h100-sxm:1")
    bounds = bound(deployment, WorkloadStats.of(trace), Slo(ttft_s=2.0))
    assert bounds.load > 1
    assert bounds.loaded_attainment == 1.0


def test_hopeless_overload_is_seen_without_simulation() -> None:
    rng = np.random.default_rng(0)
    trace = Trace(
        arrival_s=np.sort(rng.uniform(0, 60, 6000)), input_tokens=np.full(6000, 4000), output_tokens=np.full(6000, 10)
    )
    deployment = build_deployment("llama-3.1-8b", "h100-sxm:1")
    bounds = bound(deployment, WorkloadStats.of(trace), Slo(ttft_s=1.0))
    assert bounds.loaded_attainment < 0.5


def test_only_pieces_that_nobody_else_has_are_sure_to_be_computed() -> None:
    trace = Trace(
        arrival_s=np.zeros(2),
        input_tokens=np.array([40, 40]),
        output_tokens=np.array([1, 1]),
        prefix_ids=np.array([1, 2, 1, 3]),
        prefix_offsets=np.array([0, 2, 4]),
        prefix_block_tokens=16,
    )
    exclusive = exclusive_tokens(trace)
    assert exclusive is not None
    assert exclusive[0].tolist() == [24, 24]
    pairs = sum(range(17, 33)) + sum(range(33, 41))
    assert exclusive[1].tolist() == [pairs, pairs]


def test_sums_over_a_window_are_exact() -> None:
    trace = Trace(arrival_s=np.zeros(3), input_tokens=np.array([3, 9, 20]), output_tokens=np.array([20, 4, 1]))
    demand = WorkloadStats.of(trace).demand(10_000, 10, False)
    expected = [sum(min(i + 1 + k, 10) for k in range(o - 1)) for i, o in ((3, 20), (9, 4), (20, 1))]
    assert demand.window_context.tolist() == expected
    assert demand.window_pairs.tolist() == [sum(min(q, 10) for q in range(1, i + 1)) for i in (3, 9, 20)]


def test_step_shape_of_the_bound_has_no_context_for_free() -> None:
    """A mixed step of one decode row is never cheaper than what the decode bound takes."""
    for name in DEPLOYMENTS:
        model = make_deployment(name).step_model
        beside = model.step(StepShape(decode_seqs=1, prefill_tokens=1, prefill_seqs=1, logits_rows=1))[0]
        for rows, tokens in ((1, 64), (16, 8), (64, 1000)):
            shape = StepShape(decode_seqs=rows, prefill_tokens=tokens, prefill_seqs=1, logits_rows=rows)
            assert model.step(shape)[0] >= min(beside, model.decode(1).base_s)


@pytest.mark.parametrize("pp", [1, 2, 4])
def test_a_saturated_pipeline_comes_near_the_bound_of_its_slowest_stage_and_no_further(pp: int) -> None:
    """A bound that added the stages up would be beaten here; one that left a stage's work out would be far away."""
    n = 400
    trace = Trace(
        arrival_s=np.arange(n) * 1e-3, input_tokens=np.full(n, 1000), output_tokens=np.full(n, 60), name="saturating"
    )
    deployment = build_deployment("llama-3.1-8b", "h100-sxm:4", pp=pp)
    bounds = bound(deployment, WorkloadStats.of(trace), None)
    result = simulate_deployment(deployment, trace)
    assert 0.8 * bounds.capacity_per_s < result.summary["request_throughput"] < bounds.capacity_per_s
    assert 0.8 * result.duration_s < bounds.duration_s < result.duration_s


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rate", "length"), [(0.0, 3), (0.4, 1), (0.54, 5), (1.0, 2)])
def test_steps_with_drafts_are_counted_as_the_simulation_takes_them(kind: str, rate: float, length: int) -> None:
    config = {"method": "ngram", "num_speculative_tokens": length, "acceptance": rate}
    deployment = build_deployment("llama-3.1-8b", "h100-sxm:2", speculative_config=config)
    trace = make_trace(kind, 11)
    summary = simulate_deployment(deployment, trace, seed=5).summary
    stats = WorkloadStats.of(trace, seed=5)
    demand = stats.demand(deployment.effective_max_model_len, None, prefix_caching=True)
    assert deployment.speculative is not None
    assert steps_of(deployment.speculative, demand, stats).sum() == summary["spec_decode_num_drafts"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", ["dense", "dense tp2", "moe ep", "window", "many experts"])
def test_bounds_with_freedom_hold_for_all_that_it_leaves_open(base: str, kind: str) -> None:
    model, cluster, settings = DEPLOYMENTS[base]
    trace, slo = make_trace(kind, 3), Slo(ttft_s=0.3, tpot_s=0.02)
    stats = WorkloadStats.of(trace)
    open_deployment = build_deployment(model, cluster, **{**settings, "enable_prefix_caching": False})  # type: ignore[arg-type]
    free = bound(open_deployment, stats, slo, Freedom(drafts=5, prefixes=True))
    for config in (None, NGRAM, NGRAM | {"num_speculative_tokens": 5, "acceptance": 1.0}, NGRAM | {"acceptance": 0.9}):
        for caching in (False, True):
            chosen: dict[str, object] = {"speculative_config": config, "enable_prefix_caching": caching}
            own = bound(build_deployment(model, cluster, **settings, **chosen), stats, slo, FIXED)  # type: ignore[arg-type]
            slack = 1 + TOLERANCE
            assert own.capacity_per_s <= free.capacity_per_s * slack
            assert own.duration_s * slack >= free.duration_s
            assert own.p95_ttft_s * slack >= free.p95_ttft_s
            assert own.p95_tpot_s * slack >= free.p95_tpot_s
            assert own.mean_e2e_s * slack >= free.mean_e2e_s
            assert own.attainment <= free.attainment
            assert own.loaded_attainment <= free.loaded_attainment
