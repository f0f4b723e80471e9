"""Random compositions of techniques for tests: values of every setting of ``apex_sim.simulate``, and the laws a run obeys."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise
from typing import Any

import numpy as np

import apex_sim
from hardware_profiles.errors import UserError
from simulator.result import SimulationResult
from workloads.trace import Trace

NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "acceptance": 0.6}
DRAFT = {"method": "draft_model", "model": "llama-3.2-1b", "num_speculative_tokens": 2, "acceptance": [0.7, 0.5]}

BUNDLES: dict[str, list[dict[str, Any]]] = {
    "batch": [{"max_num_seqs": 4}, {"max_num_batched_tokens": 300, "max_num_seqs": 16}, {"max_prefill_tokens": 200}],
    "engine": [{"engine": name} for name in ("vllm-v0", "sglang", "trtllm", "orca", "static", "apex-serve")],
    "batching": [{"batching": name} for name in ("chunked", "prefill-first", "in-flight", "prefill-priority")],
    "memory": [
        {"num_gpu_blocks_override": 75},
        {"num_gpu_blocks_override": 140, "block_size": 8},
        {"gpu_memory_utilization": 0.7},
    ],
    "formats": [{"quantization": q} for q in ("fp8", "awq_marlin", "int8")]
    + [{"kv_cache_dtype": "fp8"}, {"dtype": "float16"}],
    "async": [{"async_scheduling": True}, {"async_scheduling": False}],
    "graphs": [{"enforce_eager": True}, {"max_cudagraph_capture_size": 8}, {"cold_start": True}],
    "swap": [
        {"preemption_mode": "swap"},
        {"preemption_mode": "swap", "swap_overlap": 1.0, "kv_copy_group": 1},
        {"preemption_mode": "swap", "swap_space": 0.01},
        {"preemption_mode": "recompute"},
    ],
    "prefixes": [
        {"enable_prefix_caching": True, "kv_offloading_size": 0.05},
        {"enable_prefix_caching": True, "kv_offloading_size": 0.02, "kv_offloading_disk": 1.0, "kv_copy_group": 4},
        {"enable_prefix_caching": True, "kv_eviction": "lfu", "order": "prefix-groups"},
        {"enable_prefix_caching": True, "kv_offloading_size": 0.03, "kv_offloading_disk": 0.02}
        | {"kv_eviction": "fifo", "kv_offloading_disk_device": "nvme-pcie4"},
        {"enable_prefix_caching": False},
    ],
    "routing": [
        {"routing": name}
        for name in ("random", "least-outstanding", "kv-aware", "prefix-affinity", "session-affinity", "power-of-two")
    ],
    "order": [{"order": "prefix-groups"}],
    "scheduling": [
        {"scheduling_policy": text}
        for text in (
            "sjf",
            "priority(levels=3)",
            "priority(update=0.1, preempt=1)",
            "vtc",
            "shortest-prompt",
            "sjf(error=1)",
        )
    ],
    "drafts": [{"speculative_config": NGRAM}, {"speculative_config": DRAFT}],
    "offload": [
        {"cpu_offload_gb": 0.4},
        {"cpu_offload_gb": 0.4, "offload_backend": "prefetch"},
        {"cpu_offload_gb": 0.4, "offload_backend": "prefetch", "offload_source": "nvme-pcie4"},
    ],
    "overlap": [{"comm_overlap": 0.5}, {"nano_batch_tokens": 64}],
    "attention": [
        {"attention_density": 0.3},
        {"attention_top_k": 128, "attention_selection": 0.02},
        {"attention_device": "cpu", "attention_device_gb": 8},
        {"attention_device": "cpu", "attention_device_gb": 8, "attention_device_serial": True},
    ],
    "compression": [{"kv_compression": 0.4}, {"prompt_layer_shares": "0.8,0.2"}],
    "sparsity": [
        {"activation_sparsity": 0.8, "activation_skew": 1.0},
        {"active_channels": 512},
        {"linear_rank": 0.5},
        {"skip_layers": 4},
        {"recursion_depths": "0.5,0.5", "recursion_kv": "shared"},
    ],
    "lora": [
        {"enable_lora": True, "max_loras": 4, "num_loras": 12, "lora_skew": 1.0},
        {
            "enable_lora": True,
            "max_loras": 2,
            "max_lora_rank": 32,
            "lora_ranks": "8,32",
            "num_loras": 6,
            "lora_dtype": "int4",
            "lora_target_modules": "attention",
        },
        {"enable_lora": True, "max_loras": 4, "num_loras": 8, "lora_loading": "paged"},
        {"enable_lora": True, "num_loras": 3, "enable_prefix_caching": True, "lora_shared_kv": True},
    ],
    "experts": [
        {"moe_skew": 1.0},
        {"fused_moe": True},
        {"expert_cache_gb": 8.0, "expert_prefetch": "layer", "expert_prefetch_accuracy": 0.8},
        {"expert_cache_size": 12, "expert_cache_eviction": "lfu"},
        {"expert_routing": "generated(skew=1.2,tokens=512)", "dp": 2, "ep": 2},
        {"moe_parallelism": "adaptive", "moe_all_to_all": "flat", "moe_kernels": 20, "dp": 2, "ep": 2},
        {"a2a_ffn_overlap_degree": 2, "expert_routing": "generated(tokens=512)", "expert_exchange": "onward"}
        | {"dp": 2, "ep": 2},
        {"expert_capacity_factor": 1.25, "moe_dispatch": "one-hot"},
        {"zero_expert_num": 2, "zero_expert_tau": 0.5},
        {"expert_adapters": 3, "expert_adapter_size": 2.0, "expert_adapter_share": 0.3, "expert_adapter_skew": 1.0},
    ],
    "power": [{"power_cap": 300}, {"gpu_clock": 1200}],
    "states": [{"mamba_ssm_cache_dtype": "float32", "model": "nemotron-3-nano-30b-a3b"}],
    "pairs": [{"dp": 2, "pair_instances": True}],
    "runner": [{"runner": "generate"}],
    "sharing": [
        {"interference": "compute=1.2,memory=1.5,on=1s,off=2s"},
        {"interference": "host-cpu=2"},
        {"sm_split": "0.5"},
    ],
    "replicas": [{"dp": 2}, {"tp": 2}, {"pp": 2}, {"tp": 2, "dp": 2}],
    "pools": [
        {"disaggregate": ("prefill=tp1", "decode=tp1")},
        {"disaggregate": ("prefill=dp2", "decode=tp2"), "kv_link": "1GB/s"},
        {"disaggregate": ("prefill=tp1", "decode=dp2,max-num-seqs=3"), "kv_overlap": True},
    ],
    "elastic": [
        {"elasticity": apex_sim.Elasticity(policy="outstanding(target=2)", interval_s=1, startup_s=1)},
        {"elasticity": apex_sim.Elasticity(mtbf_s=3, repair_s=1, startup_s=1, retry_s=0.2)},
    ],
    "tokens": [{"scale_output": 0.5}, {"extra_input": 40, "extra_input_share": 0.5}, {"max_output": 20}],
}
"""Techniques and the values each may have; settings that only make sense together are together."""

NEUTRAL = {
    *("expert_cache_trace", "init_expert_location", "weight_sparsity"),
    *("pricing", "usd_per_gpu_hour", "purchase_usd", "lifetime_years", "pue", "grid", "usd_per_kwh"),
    *("trace", "trace_format", "trace_sort", "spread_ties", "rate_scale", "rate", "input_len", "output_len"),
    *("num_requests", "arrival", "max_model_len", "scale_input", "thinking_share", "thinking_requests", "max_input"),
    "sampling",
}
"""Settings that change no decision of the event loop, those of the workload, those that are files, and those of CPUs."""

MODELS = {
    "llama-3.2-1b": 0.4,
    "llama-3.1-8b": 0.1,
    "phi-mini-moe": 0.15,
    "gpt-oss-20b": 0.15,
    "deepseek-v2-lite": 0.1,
    "nemotron-3-nano-30b-a3b": 0.1,
}
"""Dense, experts with and without windows, latent attention, recurrent layers; and how often."""
EXPERTS = ("phi-mini-moe", "gpt-oss-20b", "deepseek-v2-lite")


def trace_of(rng: np.random.Generator) -> Trace:
    """A short workload: lengths of some hundreds of tokens, sometimes with shared prefixes, sessions, or closed."""
    data: dict[str, Any] = {
        "num_requests": int(rng.integers(6, 16)),
        "rate_per_s": float(rng.choice([3.0, 20.0, 200.0])),
        "input_len": "lognormal(median=200, sigma=0.7, max=700)",
        "output_len": "lognormal(median=40, sigma=0.8, max=200)",
        "seed": int(rng.integers(1000)),
    }
    kind = rng.choice(["plain", "prefix", "sessions", "closed"])
    if kind == "prefix":
        data["prefix"] = {"groups": 2, "tokens": 160}
    elif kind == "sessions":
        data["sessions"] = {"turns": 3, "think_s": 0.5, "max_context_tokens": 1000}
    elif kind == "closed":
        data["arrival"] = "closed(concurrency=4)"
        del data["rate_per_s"]
    from workloads.spec import workload_from_dict

    return workload_from_dict(data)


def draw(seed: int) -> dict[str, Any]:
    """Settings of one composition: a model, a workload, and one to six techniques."""
    rng = np.random.default_rng([seed, 0x434F4D50])
    settings: dict[str, Any] = {"model": str(rng.choice(list(MODELS), p=list(MODELS.values()))), "trace": trace_of(rng)}
    names = sorted(BUNDLES)
    for index in rng.choice(len(names), size=int(rng.integers(1, 7)), replace=False):
        values = BUNDLES[names[int(index)]]
        for name, value in values[int(rng.integers(len(values)))].items():
            settings.setdefault(name, value)
            if name == "model":
                settings[name] = value
        if names[int(index)] == "experts" and settings["model"] not in EXPERTS:
            settings["model"] = str(rng.choice(EXPERTS))
    if settings.get("elasticity") is not None and "disaggregate" not in settings:
        settings.setdefault("dp", 2)
    return {"max_model_len": 1100, "seed": seed % 7, **settings}


def run(settings: dict[str, Any], *, exact_steps: bool) -> SimulationResult | str:
    """The run, or the one line that refuses it."""
    options = dict(settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return apex_sim.simulate(options.pop("model"), "h100-sxm:4", exact_steps=exact_steps, **options)
        except UserError as error:
            assert "\n" not in str(error) and str(error).strip(), f"not one line: {error}"
            return str(error)


def check(settings: dict[str, Any]) -> bool:
    """The laws of a composition; True when it ran, False when it was refused in one line."""
    spans = run(settings, exact_steps=False)
    if isinstance(spans, str):
        assert run(settings, exact_steps=True) == spans
        return False
    steps = run(settings, exact_steps=True)
    assert not isinstance(steps, str), steps
    check_equal(spans, steps)
    check_requests(spans)
    check_account(spans)
    check_links(spans)
    return True


def check_equal(one: SimulationResult, other: SimulationResult) -> None:
    """Both modes: the same table of requests, the same counts; sums of floats up to the order of additions."""
    assert one.requests.equals(other.requests), "tables of requests"
    for path, mine, theirs in both_leaves(one.summary, other.summary):
        if isinstance(mine, float) and isinstance(theirs, float):
            assert math.isclose(mine, theirs, rel_tol=1e-9, abs_tol=1e-12) or (
                math.isnan(mine) and math.isnan(theirs)
            ), path
        else:
            assert mine == theirs, path


def both_leaves(one: Any, other: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Values of two nested mappings and lists of the same shape, with their places."""
    if isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys(), path
        pairs = [(f"{path}.{key}", one[key], other[key]) for key in one]
    elif isinstance(one, list) and isinstance(other, list):
        assert len(one) == len(other), path
        pairs = [(f"{path}[{i}]", *pair) for i, pair in enumerate(zip(one, other, strict=True))]
    else:
        return [(path, one, other)]
    return [leaf for where, a, b in pairs for leaf in both_leaves(a, b, where)]


def check_requests(result: SimulationResult) -> None:
    """Everybody is served once or refused, in causal order."""
    s = result.summary
    assert s["completed"] + s["failed"] == s["num_prompts"] == len(result.trace)
    done = result.completed
    times = [result.column(name)[done] for name in ("arrival_s", "scheduled_s", "first_token_s", "finish_s")]
    for earlier, later in pairwise(times):
        assert (earlier <= later + 1e-12).all()
    outputs = result.column("output_tokens")
    assert (outputs[done] >= 1).all() and (outputs[~done] == 0).all()
    assert (outputs[done] <= result.trace.output_tokens[done]).all()
    assert s["total_output_tokens"] == outputs.sum()
    assert (result.column("cached_tokens")[done] < result.column("input_tokens")[done]).all()


def check_account(result: SimulationResult) -> None:
    """Joules are the sum of their parts, of both pools where there are two; shares are shares."""
    s = result.summary
    parts = [s[f"{part}_energy_j"] for part in ("prefill", "decode", "idle")]
    assert min(parts) >= -1e-6 * s["energy_j"] and math.isfinite(s["energy_j"])
    assert math.isclose(sum(parts), s["energy_j"], rel_tol=1e-9)
    for pools in [s["pools"].values()] if "pools" in s else []:
        assert math.isclose(sum(pool["energy_j"] for pool in pools), s["energy_j"], rel_tol=1e-9)
    states = list(s["pools"].values()) if "pools" in s else [s]
    for state in states:
        assert 0 <= state["peak_kv_usage"] <= 1
        assert 0 <= state["utilisation"] <= 1 + 1e-9
        assert state["mfu"] >= 0


def check_links(result: SimulationResult) -> None:
    """What leaves one end arrives at the other: pieces of tiers are somewhere, KV of prompts is what was sent."""
    for replica in result.record.replicas:
        for tier in replica.tiers:
            assert tier.stored == tier.there + tier.loaded + tier.moved_down + tier.dropped + tier.superseded
        for upper, lower in pairwise(replica.tiers):
            assert lower.stored == upper.moved_down
    moved = result.summary.get("kv_transfer")
    if moved is None:
        return
    assert math.isclose(moved["bytes"], float(result.column("kv_bytes").sum()), rel_tol=1e-9)
    longer = result.completed & (result.column("output_tokens") > 1)
    least = float(result.column("input_tokens")[longer].sum()) * moved["bytes_per_token"]
    assert moved["bytes"] >= least * (1 - 1e-9)
    if not result.summary.get("requests_retried"):
        assert moved["requests"] == longer.sum()
