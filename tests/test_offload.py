"""Experts in a cache, attention outside the device, weights that the host computes: closed forms, both modes, bounds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apex_sim import cli, simulate
from apex_sim.case_studies.inline import written
from hardware_profiles.cluster import parse_cluster
from hardware_profiles.errors import UserError
from hardware_profiles.loader import load_device
from hardware_profiles.records import read_yaml
from hardware_profiles.schema import Cluster
from planners.bounds import bound
from planners.demand import WorkloadStats
from planners.launch import launch_notes
from simulator.build import build_deployment
from simulator.deployment import Deployment
from simulator.physics.efficiency import efficiency_of
from simulator.physics.expert_cache import held_experts, occupancy, uncached_bytes
from simulator.physics.explain import step_shape
from simulator.physics.moe import expert_probabilities
from simulator.physics.offload import DRAM_SHARE
from simulator.physics.offload_costs import PREDICTOR_SHARE, Neurons
from simulator.physics.step_model import StepModel
from simulator.techniques import GIB
from workloads.slo import Slo

DRAM = 204.8e9


def _host(device: str = "a40:1", **changes: Any) -> Cluster:
    machines = parse_cluster(device)
    given = {"host_memory_bandwidth_bytes_per_s": DRAM, "host_memory_bytes": 512 << 30, **changes}
    return replace(machines, node=replace(machines.node, **given))


def _deployment(model: str = "mixtral-8x7b", cluster: Cluster | None = None, **settings: Any) -> Deployment:
    return build_deployment(model, cluster or _host(), **{"max_model_len": 2048, **settings})


def _step_s(model: StepModel, seqs: int, context: int, prefill: int = 0) -> float:
    shape = step_shape(decode_seqs=seqs, context=context, prefill=prefill, window=model.window)
    return model.step(shape)[0]


def _popularity(experts: int, chosen: int, skew: float) -> tuple[float, ...]:
    return tuple(expert_probabilities(experts, chosen, skew).tolist())


# -- experts in a cache ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eviction", ["lru", "fifo", "lfu"])
@pytest.mark.parametrize("skew", [0.0, 0.7, 2.0])
def test_a_cache_is_full_and_holds_popular_experts_rather(eviction: Any, skew: float) -> None:
    for held in (2.0, 7.5, 40.0, 63.0, 64.0):
        there = occupancy(_popularity(64, 6, skew), held, eviction)
        assert there.sum() == pytest.approx(held, rel=1e-6)
        assert (there >= 0).all() and (there <= 1 + 1e-12).all()
        assert (np.diff(there) <= 1e-9).all()


def test_equal_experts_are_hit_as_often_as_they_are_held() -> None:
    for eviction in ("lru", "fifo"):
        assert occupancy(_popularity(64, 6, 0.0), 16.0, eviction) == pytest.approx(np.full(64, 0.25))  # type: ignore[arg-type]


@pytest.mark.parametrize("held", [8, 20])
def test_occupancy_is_that_of_a_simulated_cache(held: int) -> None:
    """Tokens that draw experts independently through a list in order of last use; Che's approximation is within 2 points."""
    hit = expert_probabilities(32, 3, 0.9)
    rng = np.random.default_rng(3)
    order: list[int] = []
    seen = np.zeros(32)
    draws = rng.random((12000, 32)) < hit
    for token in draws:
        seen[order[:held]] += 1
        used = rng.permutation(np.flatnonzero(token)).tolist()
        order = used + [e for e in order if e not in used]
    assert seen / len(draws) == pytest.approx(occupancy(_popularity(32, 3, 0.9), held, "lru"), abs=0.06)
    assert (hit * seen).sum() == pytest.approx(
        len(draws) * (hit * occupancy(_popularity(32, 3, 0.9), held, "lru")).sum(), rel=0.02
    )


def test_popular_experts_kept_for_good_are_hit_most() -> None:
    hit = expert_probabilities(64, 6, 0.9)
    rates = [float((hit * occupancy(_popularity(64, 6, 0.9), 16.0, e)).sum()) for e in ("lfu", "lru", "fifo")]  # type: ignore[arg-type]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[1] > rates[2]


def test_missing_experts_come_over_the_link() -> None:
    """One token of Mixtral, four of eight experts held: one of the two it needs is missing in each of 32 layers."""
    whole, cached = (
        _deployment(cluster=_host("a40:4"), tp=4),
        _deployment(cluster=_host("a40:4"), tp=4, expert_cache_size=4),
    )
    link = cached.cluster.device.host_link
    assert link is not None
    rate = min(link.bandwidth_bytes_per_s * link.efficiency, DRAM_SHARE * DRAM / 4)
    expert = 3 * 4096 * 14336 * 2 / 4
    wait_s = _step_s(cached.step_model, 1, 100) - _step_s(whole.step_model, 1, 100)
    assert wait_s == pytest.approx(32 * 2 * 0.5 * expert / rate)
    assert whole.memory.weight_bytes - cached.memory.weight_bytes == pytest.approx(32 * 4 * expert)


def test_prompts_miss_what_the_cache_does_not_hold() -> None:
    model = _deployment(expert_cache_size=3).step_model
    assert model.hybrids is not None
    cache = model.hybrids[0].cache
    assert cache is not None
    traffic = cache.traffic(5000)
    assert traffic.needed == pytest.approx(32 * 8)
    assert traffic.missed == pytest.approx(32 * 5)


def test_prefetches_hide_in_their_window_and_wrong_ones_do_not() -> None:
    demand, layer, attention = (
        _deployment(expert_cache_size=7, expert_prefetch=p).step_model for p in (None, "layer", "attention")
    )
    wrong = _deployment(expert_cache_size=7, expert_prefetch="layer", expert_prefetch_accuracy=0.0).step_model
    late = _step_s(demand, 64, 1000)
    assert _step_s(layer, 64, 1000) <= _step_s(attention, 64, 1000) < late <= _step_s(wrong, 64, 1000)
    resident = _deployment(cluster=_host("h100-sxm:2"), tp=2).step_model
    # a long prompt computes longer than its experts take
    hidden = _deployment(cluster=_host("h100-sxm:2"), tp=2, expert_cache_size=7, expert_prefetch="layer").step_model
    assert _step_s(hidden, 0, 0, 16000) == pytest.approx(_step_s(resident, 0, 0, 16000))


def test_a_cache_in_bytes_is_a_cache_in_experts() -> None:
    by_size = _deployment(expert_cache_size=2)
    nbytes = 2 * 32 * 3 * 4096 * 14336 * 2.0
    by_bytes = _deployment(expert_cache_gb=nbytes / GIB)
    assert by_bytes.memory.weight_bytes == pytest.approx(by_size.memory.weight_bytes)
    assert by_bytes.step_model.decode(7).base_s == pytest.approx(by_size.step_model.decode(7).base_s)


def test_summary_has_the_hit_rate_of_the_steps() -> None:
    result = simulate(
        *("mixtral-8x7b", _host()),
        **{"expert_cache_size": 2, "arrival": "closed(concurrency=1)", "num_requests": 3, "input_len": "1"},
        **{"output_len": "20", "max_model_len": 512},
    )
    steps = result.summary["engine_steps"]
    assert result.summary["expert_hit_rate"] == pytest.approx(0.25)
    assert result.summary["expert_link_bytes"] == pytest.approx(steps * 32 * 2 * 0.75 * 3 * 4096 * 14336 * 2)
    plain = simulate("llama-3.1-8b", "h100-sxm:1", rate=1.0, num_requests=2, input_len="5", output_len="5")
    assert "expert_hit_rate" not in plain.summary


def test_popularity_comes_from_a_routing_trace(tmp_path: Path) -> None:
    """Every token chooses experts 3 and one other of its layer: half of the choices always hit, however small the cache."""
    rng = np.random.default_rng(0)
    others = rng.choice([0, 1, 2, 4, 5, 6, 7], size=(4000, 32))
    np.savez(tmp_path / "routing_trace.npz", experts=np.stack([np.full((4000, 32), 3), others], axis=2))
    path = str(tmp_path / "routing_trace.npz")
    cached = _deployment(expert_cache_size=2, expert_cache_eviction="lfu", expert_cache_trace=path)
    assert cached.step_model.hybrids is not None and cached.step_model.hybrids[0].cache is not None
    traffic = cached.step_model.hybrids[0].cache.traffic(1)
    assert traffic.needed == pytest.approx(64)
    assert traffic.missed == pytest.approx(32 * 6 / 7, rel=0.02)
    with pytest.raises(UserError, match="drop one"):
        _deployment(expert_cache_size=2, moe_skew=1.0, expert_cache_trace=path)
    with pytest.raises(UserError, match="Record the routing"):
        _deployment("mixtral-8x22b", expert_cache_size=2, expert_cache_trace=path)


def test_expert_ranks_share_the_experts_of_the_cache() -> None:
    one, four = _deployment(expert_cache_size=4), _deployment(cluster=_host("a40:4"), tp=4, ep=4, expert_cache_size=1)
    stage = four.step_model.stages[0].layout
    assert uncached_bytes(stage, four.plan) == pytest.approx(
        uncached_bytes(one.step_model.stages[0].layout, one.plan) / 4
    )
    assert [layer.held for layer in held_experts(stage, four.plan)] == [1.0]
    first, spread = one.step_model.hybrids, four.step_model.hybrids
    assert first is not None and spread is not None and first[0].cache is not None and spread[0].cache is not None
    assert spread[0].cache.traffic(9).missed == pytest.approx(first[0].cache.traffic(9).missed / 4)


# -- attention elsewhere -----------------------------------------------------------------------------------------------


def test_attention_on_the_host_reads_kv_at_the_speed_of_its_memory() -> None:
    here = _deployment("llama-3.1-8b", max_num_seqs=512)
    there = _deployment("llama-3.1-8b", max_num_seqs=512, attention_device="cpu", attention_device_gb=100.0)
    assert there.memory.kv_tokens == pytest.approx(100 * GIB / 131072, rel=1e-3)
    assert there.memory.weight_bytes == here.memory.weight_bytes
    line = there.step_model.decode(256)
    assert line.context_s == pytest.approx(131072 / (DRAM_SHARE * DRAM))
    assert line.floor_s < here.step_model.decode(256).cost(256 * 100, 0)[0]
    assert _step_s(there.step_model, 256, 1) == line.floor_s
    assert _step_s(there.step_model, 256, 2000) > 256 * 2000 * line.context_s


def test_one_after_the_other_takes_the_sum() -> None:
    both, serial = (
        _deployment(
            "llama-3.1-8b", attention_device="cpu", attention_device_gb=20.0, attention_device_serial=s
        ).step_model
        for s in (False, True)
    )
    fast, slow = both.decode(64), serial.decode(64)
    assert slow.context_s == fast.context_s
    assert slow.base_s == pytest.approx(fast.base_s + fast.floor_s, rel=0.05)  # the host counts once


def test_streamed_weights_take_their_part_of_the_hosts_memory() -> None:
    settings: dict[str, Any] = {"attention_device": "cpu", "attention_device_gb": 50.0}
    alone = _deployment("llama-3.1-8b", **settings).step_model
    beside = _deployment("llama-3.1-8b", cpu_offload_gb=6.0, offload_backend="prefetch", **settings).step_model
    more_s = beside.decode(64).base_s - alone.decode(64).base_s
    assert more_s == pytest.approx(6 * GIB / (DRAM_SHARE * DRAM))
    assert beside.decode(64).floor_s >= 6 * GIB / 31.5e9


def test_processors_that_are_slow_bound_attention() -> None:
    known = _deployment("llama-3.1-8b", _host(host_flop_per_s=1e11), attention_device="cpu", attention_device_gb=20.0)
    flop = 4 * 32 * 128 * 32
    assert known.step_model.decode(8).context_s == pytest.approx(flop / 1e11)


def test_drives_with_engines_add_up_and_plain_drives_are_read_over_the_link() -> None:
    slopes = {
        name: _deployment("opt-13b", attention_device=name).step_model.decode(64).context_s
        for name in ("instcsd", "instcsd:4", "nvme-pcie4", "nvme-pcie4:20")
    }
    kv_bytes = 819_200
    assert slopes["instcsd"] == pytest.approx(kv_bytes / 11.2e9)
    assert slopes["instcsd:4"] == pytest.approx(slopes["instcsd"] / 4)
    assert slopes["nvme-pcie4"] == pytest.approx(kv_bytes / 7e9)
    assert slopes["nvme-pcie4:20"] == pytest.approx(kv_bytes / (31.5e9 * 0.82))
    eighth = _deployment("opt-13b", attention_device="instcsd", attention_density=0.125).step_model.decode(64)
    assert eighth.context_s == pytest.approx(slopes["instcsd"] / 8)


# -- weights that wait for each other, or that the host computes -------------------------------------------------------


def test_copies_that_wait_take_the_sum_of_all_hops() -> None:
    plain = _deployment("llama-3.1-8b").step_model
    settings: dict[str, Any] = {"cpu_offload_gb": 6.0, "offload_source": "nvme-pcie4"}
    serial = _deployment("llama-3.1-8b", offload_backend="blocking", **settings)
    ahead = _deployment("llama-3.1-8b", offload_backend="prefetch", **settings)
    hops_s = 6 * GIB / 7e9 + 6 * GIB / (31.5e9 * 0.82)
    assert _step_s(serial.step_model, 8, 500) - _step_s(plain, 8, 500) == pytest.approx(hops_s)
    assert _step_s(ahead.step_model, 8, 500) == pytest.approx(6 * GIB / 7e9, rel=1e-3)
    assert serial.memory.weight_bytes < ahead.memory.weight_bytes  # one block in flight, not two


def test_layers_on_the_host_run_at_the_speed_of_its_memory() -> None:
    plain = _deployment("llama-3.1-8b").step_model
    host = _deployment("llama-3.1-8b", cpu_offload_gb=6.0, offload_backend="cpu-layers").step_model
    slower_s = _step_s(host, 1, 100) - _step_s(plain, 1, 100)
    host_s = 6 * GIB / (DRAM_SHARE * DRAM)
    assert host_s * 0.7 < slower_s < host_s
    copied_s = 6 * GIB / (31.5e9 * 0.82)
    slow = _deployment(
        "llama-3.1-8b", _host(host_flop_per_s=1e12), cpu_offload_gb=6.0, offload_backend="cpu-layers"
    ).step_model
    assert _step_s(slow, 0, 0, 2000) - _step_s(plain, 0, 0, 2000) <= copied_s


def test_cold_neurons_take_as_long_as_their_part_of_the_activations() -> None:
    """A third of the neurons on the device, 90 % silent: the host reads the rest that fires, beside the device's MLP."""
    settings: dict[str, Any] = {"cpu_offload_gb": 25.0, "offload_backend": "cpu-neurons", "activation_sparsity": 0.9}
    deployment = _deployment("opt-30b", **settings)
    mlp = 48 * 2 * 7168 * 28672 * 2.0
    cold = 25 * GIB / mlp
    components = {c.name: c for c in deployment.step_model.explain(step_shape(decode_seqs=1, context=100))}
    host_s = 0.1 * cold * mlp / (DRAM_SHARE * DRAM) + 2 * 48 * 1e-5
    here_s = sum(c.seconds for name, c in components.items() if name.startswith("mlp."))
    assert components["weights.cpu"].seconds == pytest.approx(host_s - here_s, rel=1e-6)
    assert components["mlp.predictor"].hbm_bytes == pytest.approx(PREDICTOR_SHARE * mlp)


def test_skewed_neurons_leave_less_to_the_host() -> None:
    for tokens in (1, 4, 32):
        equal, skewed = (Neurons(sparsity=0.9, skew=s, hot=0.3).fired(tokens) for s in (0.0, 0.8))
        assert skewed[1] < equal[1]
        assert equal[0] + equal[1] == pytest.approx(1 - 0.9**tokens)
        assert skewed[0] + skewed[1] <= equal[0] + equal[1] + 1e-9
    hot, cold, _ = Neurons(sparsity=0.9, skew=0.83, hot=0.26).fired(1)
    assert 0.6 < hot / (hot + cold) < 0.9  # 26 % of the neurons of OPT have 80 % of the activations


# -- both modes, combined, bounds --------------------------------------------------------------------------------------

MIXTRAL: dict[str, Any] = {"model": "mixtral-8x7b"}
LLAMA: dict[str, Any] = {"model": "llama-3.1-8b"}
COMBINED = (
    {**MIXTRAL, "expert_cache_size": 3, "enable_prefix_caching": True, "moe_skew": 0.8},
    {
        **MIXTRAL,
        "expert_cache_gb": 30.0,
        "expert_prefetch": "attention",
        "expert_cache_eviction": "lfu",
        "kv_compression": 0.5,
    },
    {
        **MIXTRAL,
        "expert_cache_gb": 30.0,
        "expert_prefetch": "layer",
        "expert_prefetch_accuracy": 0.7,
        "devices": 2,
        "pp": 2,
    },
    {
        **MIXTRAL,
        "expert_cache_size": 3,
        "offload_source": "nvme-pcie4",
        "attention_device": "cpu",
        "attention_device_gb": 4.0,
    },
    {
        **MIXTRAL,
        "expert_cache_size": 3,
        "speculative_config": {"method": "ngram", "num_speculative_tokens": 3, "acceptance": 0.6},
    },
    {
        **LLAMA,
        "attention_device": "cpu",
        "attention_device_gb": 1.0,
        "cpu_offload_gb": 6.0,
        "offload_backend": "prefetch",
    },
    {**LLAMA, "attention_device": "instcsd:2", "attention_device_serial": True, "enable_lora": True, "num_loras": 5},
    {**LLAMA, "attention_device": "nvme-pcie4", "attention_density": 0.2, "devices": 2, "dp": 2},
    {**LLAMA, "attention_device": "cpu", "attention_device_gb": 2.0, "attention_top_k": 128, "devices": 2, "pp": 2},
    {
        **LLAMA,
        "cpu_offload_gb": 5.0,
        "offload_backend": "cpu-neurons",
        "activation_sparsity": 0.9,
        "activation_skew": 0.8,
    },
    {**LLAMA, "cpu_offload_gb": 5.0, "offload_backend": "blocking", "kv_cache_dtype": "fp8"},
)


def _load(settings: dict[str, Any]) -> dict[str, Any]:
    given = dict(settings)
    cluster = _host(f"a40:{given.pop('devices', 1)}")
    load = {"rate": 3.0, "input_len": "lognormal(median=200,sigma=0.8)", "output_len": "40", "num_requests": 25}
    return {"cluster": cluster, "max_model_len": 2048, **load, **given}


@pytest.mark.parametrize("settings", COMBINED, ids=str)
def test_spans_equal_single_steps(settings: dict[str, Any]) -> None:
    spans, steps = (simulate(exact_steps=exact, **_load(settings)) for exact in (False, True))
    for name in ("finish_s", "first_token_s"):
        assert spans.requests[name].tolist() == steps.requests[name].tolist()
    for name in ("duration", "engine_steps", "expert_hit_rate", "expert_link_bytes", "mean_itl_ms"):
        assert spans.summary.get(name) == steps.summary.get(name)
    assert spans.summary["energy_j"] == pytest.approx(steps.summary["energy_j"], rel=1e-9)


BASES: tuple[dict[str, Any], ...] = (
    {**MIXTRAL, "expert_cache_size": 3},
    {**MIXTRAL, "expert_cache_gb": 30.0, "expert_prefetch": "layer", "expert_prefetch_accuracy": 0.6, "moe_skew": 0.5},
    {**LLAMA, "attention_device": "cpu", "attention_device_gb": 2.0},
    {**LLAMA, "attention_device": "instcsd", "attention_device_serial": True},
    {**LLAMA, "cpu_offload_gb": 5.0, "offload_backend": "cpu-layers"},
)
BESIDE: tuple[dict[str, Any], ...] = (
    {"batching": "prefill-first"},
    {"scheduling_policy": "sjf"},
    {"enable_lora": True, "num_loras": 9, "max_loras": 2},
    {"enable_prefix_caching": True, "kv_offloading_size": 4.0},
    {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2, "acceptance": 0.5}},
    {"preemption_mode": "swap", "num_gpu_blocks_override": 150},
    {"interference": "memory=1.5,host_link=2,on=3s,off=3s"},
    {"sm_split": "0.5"},
    {"quantization": "int4"},
    {"gpu_clock": 900.0},
    {"num_gpu_blocks_override": 140},
)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_beside_it_both_modes_agree_or_it_is_refused(seed: int) -> None:
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(BESIDE), size=2, replace=False)
    settings = {**BASES[seed % len(BASES)], **BESIDE[chosen[0]], **BESIDE[chosen[1]]}
    runs = []
    for exact in (False, True):
        try:
            runs.append(simulate(exact_steps=exact, **_load(settings)))
        except UserError as error:
            assert "\n" not in str(error)
            return
    spans, steps = runs
    for name in ("finish_s", "first_token_s"):
        assert spans.requests[name].tolist() == steps.requests[name].tolist()
    assert spans.summary["engine_steps"] == steps.summary["engine_steps"]
    assert spans.summary.get("expert_hit_rate") == steps.summary.get("expert_hit_rate")
    outputs = spans.requests["output_tokens"].sum()
    assert outputs == steps.requests["output_tokens"].sum() == 25 * 40


@pytest.mark.parametrize("settings", [c for c in COMBINED if "speculative_config" not in c], ids=str)
def test_breakdown_adds_up_and_no_simulation_beats_the_bounds(settings: dict[str, Any]) -> None:
    keywords = _load(settings)
    result = simulate(**keywords)
    model = result.deployment.step_model
    for seqs, context, prefill in ((20, 900, 0), (20, 900, 400), (0, 0, 1000)):
        shape = step_shape(decode_seqs=seqs, context=context, prefill=prefill, window=model.window)
        assert sum(c.seconds for c in model.explain(shape)) == pytest.approx(model.step(shape)[0], rel=1e-9)
        assert sum(model.stage_s(shape)) == pytest.approx(model.step(shape)[0], rel=1e-9)
    bounds = bound(result.deployment, WorkloadStats.of(result.trace), Slo(ttft_s=1.0))
    assert result.summary["request_throughput"] <= bounds.capacity_per_s * (1 + 1e-9)
    assert result.summary["duration"] >= bounds.duration_s * (1 - 1e-9)
    assert result.summary["p95_tpot_ms"] >= 1e3 * bounds.p95_tpot_s * (1 - 1e-9)
    assert result.summary["p95_ttft_ms"] >= 1e3 * bounds.p95_ttft_s * (1 - 1e-9)


# -- nonsense, and what comes out --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--model mixtral-8x7b --expert-cache-size 1", "a token needs 2"),
        ("--model mixtral-8x7b --expert-cache-gb 5", "Use 21"),
        ("--model mixtral-8x7b --expert-cache-size 9", "at most 8"),
        ("--model mixtral-8x7b --expert-cache-size 4", "host memory"),
        ("--model mixtral-8x7b --expert-cache-size 4 --expert-cache-gb 40", "drop one"),
        ("--model mixtral-8x7b --expert-cache-size 4 --cpu-offload-gb 4", "drop one"),
        ("--model mixtral-8x7b --expert-cache-size 4 --expert-prefetch later", "attention"),
        ("--model mixtral-8x7b --expert-cache-size 4 --expert-cache-eviction mru", "lru"),
        ("--model mixtral-8x7b --expert-cache-size 4 --expert-prefetch-accuracy 0.5", "--expert-prefetch"),
        ("--expert-prefetch layer", "--expert-cache-gb"),
        ("--expert-cache-gb 4", "no routed experts"),
        ("--attention-device cpu", "--attention-device-gb"),
        ("--attention-device cpu --attention-device-gb 900", "Use at most"),
        ("--attention-device cpu:2 --attention-device-gb 9", "write cpu"),
        ("--attention-device instcsd:0", "instcsd:2"),
        ("--attention-device l40s", "computational storage"),
        ("--attention-device-gb 9", "--attention-device"),
        ("--attention-device instcsd --preemption-mode swap", "drop --preemption-mode"),
        ("--attention-device instcsd --nano-batch-tokens 64", "drop one"),
        ("--attention-device instcsd --enable-prefix-caching --kv-offloading-size 9", "drop --kv-offloading-size"),
        (
            '--attention-device instcsd --speculative-config {"method":"ngram","num_speculative_tokens":2,"acceptance":0.5}',
            "one token",
        ),
        ("--cpu-offload-gb 4 --offload-backend cpu-layers --offload-source nvme-pcie4", "cannot read a drive"),
        ("--model mixtral-8x7b --cpu-offload-gb 4 --offload-backend cpu-neurons", "no dense MLP"),
        ("--cpu-offload-gb 13 --offload-backend cpu-neurons", "dense MLPs have"),
        ("--activation-skew 1", "--activation-sparsity"),
    ],
)
def test_nonsense_is_one_line(arguments: str, named: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "device: a40\nhost_memory_bandwidth_bytes_per_s: 2.0e+11\nhost_memory_bytes: 64000000000\n"
    )
    model = [] if "--model" in arguments else ["--model", "llama-3.1-8b"]
    command = ["simulate", *model, "--cluster", str(tmp_path / "c.yaml"), *arguments.split()]
    assert cli.main([*command, "--rate", "1", "--num-requests", "1", "--input-len", "9", "--output-len", "2"]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert len(error.strip().splitlines()) == 1


def test_host_memory_of_unknown_speed_asks_for_a_cluster_file() -> None:
    machines = _host(host_memory_bandwidth_bytes_per_s=None)
    for settings in (
        {"attention_device": "cpu", "attention_device_gb": 9.0},
        {"cpu_offload_gb": 4.0, "offload_backend": "cpu-layers"},
    ):
        with pytest.raises(UserError, match="host_memory_bandwidth_bytes_per_s"):
            _ = _deployment("llama-3.1-8b", machines, **settings).step_model


def test_launch_notes_say_what_vllm_has_no_flag_for() -> None:
    notes = launch_notes(_deployment(expert_cache_size=2, expert_prefetch="layer"))
    assert any("expert-cache=2" in note for note in notes)
    assert any(
        "cpu-layers" in n
        for n in launch_notes(_deployment("llama-3.1-8b", cpu_offload_gb=2, offload_backend="cpu-layers"))
    )


def test_a_wider_window_of_copies_takes_memory_and_no_time() -> None:
    settings: dict[str, Any] = {"cpu_offload_gb": 6.0, "offload_backend": "prefetch"}
    narrow, wide = (_deployment("llama-3.1-8b", offload_prefetch_step=n, **settings) for n in (1, 5))
    block = narrow.step_model.stages[0].layout.layers[0][0].weight_bytes
    assert wide.memory.weight_bytes - narrow.memory.weight_bytes == pytest.approx(4 * block)
    assert wide.step_model.decode(8) == narrow.step_model.decode(8)
    with pytest.raises(UserError, match="--offload-backend prefetch"):
        _deployment("llama-3.1-8b", cpu_offload_gb=6.0, offload_prefetch_step=2)


def test_processors_have_no_tiles_to_fill() -> None:
    assert {fit.row_pad for fit in efficiency_of(load_device("xeon-8380")).moe.values()} == {1.0}


def test_files_of_cases_keep_small_numbers() -> None:
    with written({"files": {"d.yaml": {"latency_s": 1e-5}}, "cluster": "d.yaml:1"}) as settings:
        assert read_yaml(Path(settings["cluster"].removesuffix(":1"))) == {"latency_s": 1e-5}


def test_two_pools_count_their_experts_together() -> None:
    """Every byte over a link is of one of the pools."""
    settings: dict[str, Any] = {
        "expert_cache_size": 3,
        "rate": 3.0,
        "input_len": "100",
        "output_len": "20",
        "num_requests": 8,
    }
    pools = {"prefill": {"tp": 1, "expert_cache_size": 4}, "decode": {"tp": 2}}
    summary = simulate("mixtral-8x7b", _host("h100-sxm:4"), disaggregate=pools, max_model_len=512, **settings).summary
    parts = summary["pools"].values()
    assert summary["expert_link_bytes"] == pytest.approx(sum(p["expert_link_bytes"] for p in parts))
    assert [p["expert_hit_rate"] for p in parts] == pytest.approx([0.5, 0.375])
    assert 0.375 < summary["expert_hit_rate"] < 0.5
