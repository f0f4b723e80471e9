"""Attention outside the device, copies that wait, layers and neurons that the host computes: closed forms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from offload_helpers import DRAM, build, host, step_s

from hardware_profiles.errors import UserError
from hardware_profiles.loader import load_device
from simulator.physics.efficiency import efficiency_of
from simulator.physics.explain import step_shape
from simulator.physics.offload import DRAM_SHARE
from simulator.physics.offload_costs import PREDICTOR_SHARE, Neurons
from simulator.techniques import GIB

# -- attention elsewhere -----------------------------------------------------------------------------------------------


def test_attention_on_the_host_reads_kv_at_the_speed_of_its_memory() -> None:
    here = build("llama-3.1-8b", max_num_seqs=512)
    there = build("llama-3.1-8b", max_num_seqs=512, attention_device="cpu", attention_device_gb=100.0)
    assert there.memory.kv_tokens == pytest.approx(100 * GIB / 131072, rel=1e-3)
    assert there.memory.weight_bytes == here.memory.weight_bytes
    line = there.step_model.decode(256)
    assert line.context_s == pytest.approx(131072 / (DRAM_SHARE * DRAM))
    assert line.floor_s < here.step_model.decode(256).cost(256 * 100, 0)[0]
    assert step_s(there.step_model, 256, 1) == line.floor_s
    assert step_s(there.step_model, 256, 2000) > 256 * 2000 * line.context_s


@pytest.mark.parametrize("serial", [False, True])
@pytest.mark.parametrize(
    "weights",
    [{"cpu_offload_gb": 8.0, "offload_backend": backend} for backend in ("prefetch", "uva", "blocking")]
    + [{"expert_cache_size": 3, "expert_prefetch": ahead} for ahead in (None, "layer")],
)
def test_no_link_carries_more_than_its_bandwidth(weights: dict[str, Any], serial: bool) -> None:
    """KV that is read from drives and weights cross the same host link."""
    cluster = host("a40:1")
    name = "mixtral-8x7b" if "expert_cache_size" in weights else "llama-3.1-8b"
    kv: dict[str, Any] = {"attention_device": "nvme-pcie4:16", "attention_device_gb": 60.0}
    model = build(name, cluster, max_num_seqs=64, attention_device_serial=serial, **kv, **weights).step_model
    shape = step_shape(decode_seqs=32, context=2000)
    link = cluster.device.host_link
    assert link is not None
    crossing = sum(c.link_bytes for c in model.explain(shape)) + 32 * 2000 * 131072
    least_s = crossing / (link.bandwidth_bytes_per_s * link.efficiency)
    assert least_s * (1 - 1e-9) <= model.step(shape)[0] < least_s * 1.1


@pytest.mark.parametrize("device", ["cpu", "instcsd:2", "nvme-pcie4"])
def test_bytes_of_the_breakdown_are_those_of_the_step(device: str) -> None:
    """New entries of the KV cache included."""
    model = build("llama-3.1-8b", attention_device=device, attention_device_gb=16.0).step_model
    for prefill in (0, 320):
        shape = step_shape(decode_seqs=64, context=1000, prefill=prefill)
        assert sum(c.hbm_bytes for c in model.explain(shape)) == pytest.approx(model.hbm_bytes(shape), rel=1e-9)


def test_one_after_the_other_takes_the_sum() -> None:
    both, serial = (
        build("llama-3.1-8b", attention_device="cpu", attention_device_gb=20.0, attention_device_serial=s).step_model
        for s in (False, True)
    )
    fast, slow = both.decode(64), serial.decode(64)
    assert slow.context_s == fast.context_s
    assert slow.base_s == pytest.approx(fast.base_s + fast.floor_s, rel=0.05)  # the host counts once


def test_streamed_weights_take_their_part_of_the_hosts_memory() -> None:
    settings: dict[str, Any] = {"attention_device": "cpu", "attention_device_gb": 50.0}
    alone = build("llama-3.1-8b", **settings).step_model
    beside = build("llama-3.1-8b", cpu_offload_gb=6.0, offload_backend="prefetch", **settings).step_model
    more_s = beside.decode(64).base_s - alone.decode(64).base_s
    assert more_s == pytest.approx(6 * GIB / (DRAM_SHARE * DRAM))
    assert beside.decode(64).floor_s >= 6 * GIB / 31.5e9


def test_processors_that_are_slow_bound_attention() -> None:
    known = build("llama-3.1-8b", host(host_flop_per_s=1e11), attention_device="cpu", attention_device_gb=20.0)
    flop = 4 * 32 * 128 * 32
    assert known.step_model.decode(8).context_s == pytest.approx(flop / 1e11)


def test_drives_with_engines_add_up_and_plain_drives_are_read_over_the_link() -> None:
    slopes = {
        name: build("opt-13b", attention_device=name).step_model.decode(64).context_s
        for name in ("instcsd", "instcsd:4", "nvme-pcie4", "nvme-pcie4:20")
    }
    kv_bytes = 819_200
    assert slopes["instcsd"] == pytest.approx(kv_bytes / 11.2e9)
    assert slopes["instcsd:4"] == pytest.approx(slopes["instcsd"] / 4)
    assert slopes["nvme-pcie4"] == pytest.approx(kv_bytes / 7e9)
    assert slopes["nvme-pcie4:20"] == pytest.approx(kv_bytes / (31.5e9 * 0.82))
    eighth = build("opt-13b", attention_device="instcsd", attention_density=0.125).step_model.decode(64)
    assert eighth.context_s == pytest.approx(slopes["instcsd"] / 8)


# -- weights that wait for each other, or that the host computes -------------------------------------------------------


def test_copies_that_wait_take_the_sum_of_all_hops() -> None:
    plain = build("llama-3.1-8b").step_model
    settings: dict[str, Any] = {"cpu_offload_gb": 6.0, "offload_source": "nvme-pcie4"}
    serial = build("llama-3.1-8b", offload_backend="blocking", **settings)
    ahead = build("llama-3.1-8b", offload_backend="prefetch", **settings)
    hops_s = 6 * GIB / 7e9 + 6 * GIB / (31.5e9 * 0.82)
    assert step_s(serial.step_model, 8, 500) - step_s(plain, 8, 500) == pytest.approx(hops_s)
    assert step_s(ahead.step_model, 8, 500) == pytest.approx(6 * GIB / 7e9, rel=1e-3)
    assert serial.memory.weight_bytes < ahead.memory.weight_bytes  # one block in flight, not two


def test_layers_on_the_host_run_at_the_speed_of_its_memory() -> None:
    plain = build("llama-3.1-8b").step_model
    computed = build("llama-3.1-8b", cpu_offload_gb=6.0, offload_backend="cpu-layers").step_model
    slower_s = step_s(computed, 1, 100) - step_s(plain, 1, 100)
    host_s = 6 * GIB / (DRAM_SHARE * DRAM)
    assert host_s * 0.7 < slower_s < host_s
    copied_s = 6 * GIB / (31.5e9 * 0.82)
    slow = build(
        "llama-3.1-8b", host(host_flop_per_s=1e12), cpu_offload_gb=6.0, offload_backend="cpu-layers"
    ).step_model
    assert step_s(slow, 0, 0, 2000) - step_s(plain, 0, 0, 2000) <= copied_s


def test_cold_neurons_take_as_long_as_their_part_of_the_activations() -> None:
    """A third of the neurons on the device, 90 % silent: the host reads the rest that fires, beside the device's MLP."""
    settings: dict[str, Any] = {"cpu_offload_gb": 25.0, "offload_backend": "cpu-neurons", "activation_sparsity": 0.9}
    deployment = build("opt-30b", **settings)
    mlp = 48 * 2 * 7168 * 28672 * 2.0
    cold = 25 * GIB / mlp
    components = {c.name: c for c in deployment.step_model.explain(step_shape(decode_seqs=1, context=100))}
    host_s = 0.1 * cold * mlp / (DRAM_SHARE * DRAM) + 2 * 48 * 1e-5
    here_s = sum(c.seconds for name, c in components.items() if name.startswith("mlp."))
    assert components["weights.cpu"].seconds == pytest.approx(host_s - here_s, rel=1e-6)
    assert components["mlp.predictor"].hbm_bytes == pytest.approx(PREDICTOR_SHARE * mlp)


@pytest.mark.parametrize("offloaded", [1.0, 3.0, 6.0])
def test_neurons_on_the_host_do_not_shorten_prompts(offloaded: float) -> None:
    """Copied neurons are computed by the device; arithmetic of a host of unknown speed is not for nothing."""
    cluster = host("h100-sxm:1")
    plain = {c.name: c for c in build("llama-3.1-8b", cluster).step_model.explain(step_shape(prefill=2000))}
    whole_s = sum(c.seconds for name, c in plain.items() if name.startswith("mlp."))
    for flop in (None, 1e12):
        path = replace(cluster, node=replace(cluster.node, host_flop_per_s=flop))
        on_host = build("llama-3.1-8b", path, cpu_offload_gb=offloaded, offload_backend="cpu-neurons").step_model
        components = {c.name: c for c in on_host.explain(step_shape(prefill=2000))}
        mlp = {name: c for name, c in components.items() if name.startswith(("mlp.", "weights."))}
        assert sum(c.seconds for c in mlp.values()) >= whole_s * (1 - 1e-12)
        if flop is not None:
            assert components["weights.copies"].link_bytes == pytest.approx(offloaded * GIB)
            assert sum(c.flop for c in mlp.values()) == pytest.approx(
                sum(c.flop for name, c in plain.items() if name.startswith("mlp.")), rel=1e-3
            )


def test_new_entries_are_written_no_faster_than_the_hosts_memory_takes_them() -> None:
    settings: dict[str, Any] = {"attention_device": "cpu", "attention_device_gb": 16.0, "attention_device_serial": True}
    prompts = [
        step_s(build("llama-3.1-8b", host(host_memory_bandwidth_bytes_per_s=dram), **settings).step_model, 0, 0, 1000)
        for dram in (1e9, 2e9)
    ]
    kv = 1000 * 32 * 2 * 8 * 128 * 2.0
    assert prompts[0] - prompts[1] == pytest.approx(kv / (DRAM_SHARE * 1e9) - kv / (DRAM_SHARE * 2e9), rel=1e-6)


def test_skewed_neurons_leave_less_to_the_host() -> None:
    for tokens in (1, 4, 32):
        equal, skewed = (Neurons(sparsity=0.9, skew=s, hot=0.3).fired(tokens) for s in (0.0, 0.8))
        assert skewed[1] < equal[1]
        assert equal[0] + equal[1] == pytest.approx(1 - 0.9**tokens)
        assert skewed[0] + skewed[1] <= equal[0] + equal[1] + 1e-9
    hot, cold, _ = Neurons(sparsity=0.9, skew=0.83, hot=0.26).fired(1)
    assert 0.6 < hot / (hot + cold) < 0.9  # 26 % of the neurons of OPT have 80 % of the activations


def test_a_wider_window_of_copies_takes_memory_and_no_time() -> None:
    settings: dict[str, Any] = {"cpu_offload_gb": 6.0, "offload_backend": "prefetch"}
    narrow, wide = (build("llama-3.1-8b", offload_prefetch_step=n, **settings) for n in (1, 5))
    block = narrow.step_model.stages[0].layout.layers[0][0].weight_bytes
    assert wide.memory.weight_bytes - narrow.memory.weight_bytes == pytest.approx(4 * block)
    assert wide.step_model.decode(8) == narrow.step_model.decode(8)
    with pytest.raises(UserError, match="--offload-backend prefetch"):
        build("llama-3.1-8b", cpu_offload_gb=6.0, offload_prefetch_step=2)


def test_processors_have_no_tiles_to_fill() -> None:
    assert {fit.row_pad for fit in efficiency_of(load_device("xeon-8380")).moe.values()} == {1.0}
