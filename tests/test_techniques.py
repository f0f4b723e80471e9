"""Techniques that change a step's cost: closed forms, neutral values, both modes of the event loop, nonsense refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from apex_sim import cli, simulate
from apex_sim.deployment_text import describe_deployment
from hardware_profiles.cluster import parse_cluster
from hardware_profiles.errors import UserError
from hardware_profiles.schema import Cluster
from planners.launch import launch_notes, vllm_command
from simulator.build import build_deployment
from simulator.deployment import Deployment
from simulator.physics.explain import step_shape
from simulator.physics.lora import DISTINCT_S, SGMV_MEMORY, adapter_bytes, distinct_ranks
from simulator.physics.offload import DRAM_SHARE, path_of
from simulator.physics.overlap import is_collective
from simulator.physics.step_model import StepModel
from simulator.techniques import GIB, Lora


def _deployment(model: str = "llama-3.1-8b", cluster: str = "h100-sxm:1", **settings: Any) -> Deployment:
    return build_deployment(model, cluster, **{"max_model_len": 4096, **settings})


def _decode_s(model: StepModel, seqs: int, context: int) -> float:
    return model.decode(seqs).cost(seqs * context, seqs * min(context, model.window or context))[0]


EVERY = (
    {"cpu_offload_gb": 6.0},
    {"cpu_offload_gb": 6.0, "offload_backend": "prefetch"},
    {"cpu_offload_gb": 6.0, "offload_backend": "prefetch", "offload_source": "nvme-pcie4"},
    {"nano_batch_tokens": 16},
    {"attention_density": 0.1, "attention_selection": 0.02},
    {"attention_top_k": 256, "attention_selection": 0.02},
    {"kv_compression": 0.2},
    {"activation_sparsity": 0.9, "cpu_offload_gb": 4.0},
    {"enable_lora": True, "max_loras": 8, "max_lora_rank": 32, "num_loras": 100, "lora_skew": 1.0},
    {
        "quantization": "df11",
        "nano_batch_tokens": 16,
        "enable_lora": True,
        "attention_density": 0.5,
        "cpu_offload_gb": 1.0,
    },
)


@pytest.mark.parametrize("settings", EVERY, ids=str)
def test_spans_equal_single_steps(settings: dict[str, Any]) -> None:
    load: dict[str, Any] = {
        "rate": 20.0,
        "input_len": "lognormal(median=300,sigma=0.8)",
        "output_len": "60",
        "num_requests": 60,
    }
    runs = [
        simulate("llama-3.1-8b", "h100-sxm:1", max_model_len=4096, exact_steps=steps, **load, **settings)
        for steps in (False, True)
    ]
    assert runs[0].requests.finish_s.tolist() == runs[1].requests.finish_s.tolist()
    assert runs[0].summary["duration"] == runs[1].summary["duration"]
    assert runs[0].summary["energy_j"] == pytest.approx(runs[1].summary["energy_j"], rel=1e-9)


@pytest.mark.parametrize("settings", EVERY, ids=str)
def test_breakdown_adds_up_to_the_step(settings: dict[str, Any]) -> None:
    model = _deployment(**settings).step_model
    for shape in (
        step_shape(decode_seqs=20, context=900, window=model.window),
        step_shape(decode_seqs=20, context=900, prefill=400, cached=100, window=model.window),
        step_shape(prefill=1000, window=model.window),
    ):
        parts = model.explain(shape)
        assert sum(c.seconds for c in parts) == pytest.approx(model.step(shape)[0], rel=1e-9)
        assert sum(c.hbm_bytes for c in parts) == pytest.approx(model.hbm_bytes(shape), rel=0.2)  # graphs pad tokens


def test_neutral_values_change_nothing() -> None:
    plain = _deployment("mixtral-8x7b", "h100-sxm:4", tp=4)
    neutral = _deployment(
        *("mixtral-8x7b", "h100-sxm:4"),
        **{"tp": 4, "cpu_offload_gb": 0.0, "comm_overlap": 0.0, "nano_batch_tokens": 0, "fused_moe": False},
        **{"attention_density": 1.0, "kv_compression": 1.0, "enable_lora": False},
    )
    assert neutral.memory == plain.memory
    for seqs in (1, 30, 200):
        assert neutral.step_model.decode(seqs) == plain.step_model.decode(seqs)
    shape = step_shape(decode_seqs=9, context=700, prefill=512)
    assert neutral.step_model.step(shape) == plain.step_model.step(shape)


# -- weight offload ----------------------------------------------------------------------------------------------------


def test_weights_copied_ahead_bound_a_step_by_the_link() -> None:
    """MoE-Lens: a pass over Mixtral's 94 GB takes 3.8 to 5.9 s at 25 to 16 GB/s; here its blocks at 25.8 GB/s."""
    deployment = _deployment(
        "mixtral-8x7b", "a40:1", cpu_offload_gb=86.2, offload_backend="prefetch", max_model_len=2048
    )
    link = deployment.cluster.device.host_link
    assert link is not None
    pass_s = 86.2 * GIB / (link.bandwidth_bytes_per_s * link.efficiency)
    assert 3.4 < pass_s < 3.8
    model = deployment.step_model
    assert _decode_s(model, 1, 100) == pytest.approx(pass_s, rel=0.01)
    assert _decode_s(model, 128, 100) == pytest.approx(pass_s, rel=0.01)
    large = step_shape(prefill=60_000)
    assert model.step(large)[0] > 2 * pass_s
    resident = StepModel(
        deployment.model,
        deployment.cluster,
        replace(deployment.plan, techniques=replace(deployment.plan.techniques, offload=None)),
        deployment.engine,
    )
    assert model.step(large)[0] == resident.step(large)[0]


def test_kernels_that_read_the_host_take_the_longer_of_both() -> None:
    plain, offloaded = _deployment(), _deployment(cpu_offload_gb=6.0)
    link = offloaded.cluster.device.host_link
    assert link is not None
    read_s = 6.0 * GIB / (link.bandwidth_bytes_per_s * link.efficiency)
    slower_s = _decode_s(offloaded.step_model, 8, 500) - _decode_s(plain.step_model, 8, 500)
    kernels_s = 6.0 * GIB / 3.35e12
    assert slower_s == pytest.approx(read_s - kernels_s, rel=0.03)
    crossing = [c for c in offloaded.step_model.explain(step_shape(decode_seqs=8, context=500)) if c.link_bytes]
    assert sum(c.link_bytes for c in crossing) == pytest.approx(6.0 * GIB, rel=0.01)


def test_only_experts_that_are_hit_are_read_from_the_host() -> None:
    model = _deployment("mixtral-8x7b", "a40:1", cpu_offload_gb=86.2, max_model_len=2048).step_model
    assert _decode_s(model, 1, 100) == pytest.approx(2 / 8 * _decode_s(model, 128, 100), rel=0.1)


def test_offload_frees_memory_for_kv() -> None:
    plain = _deployment().memory
    read = _deployment(cpu_offload_gb=6.0).memory
    ahead = _deployment(cpu_offload_gb=6.0, offload_backend="prefetch").memory
    assert plain.weight_bytes - read.weight_bytes == 6.0 * GIB
    assert read.kv_bytes - plain.kv_bytes == pytest.approx(6.0 * GIB, rel=1e-3)
    assert plain.weight_bytes > ahead.weight_bytes > read.weight_bytes  # two blocks are staged


def test_devices_of_a_node_share_its_dram_and_its_drive() -> None:
    def rate(machines: Cluster, devices: int, source: str | None = None) -> float:
        backend = None if source is None else "prefetch"
        built = build_deployment(
            *("llama-3.1-8b", machines),
            **{"dp": devices, "cpu_offload_gb": 4.0, "offload_backend": backend, "offload_source": source},
        )
        path = path_of(machines, built.plan)
        assert path is not None
        return path.bandwidth_bytes_per_s

    machines = parse_cluster("a100-sxm-80gb:8")
    narrow = replace(machines, node=replace(machines.node, host_memory_bandwidth_bytes_per_s=204.8e9))
    assert rate(narrow, 1) == 31.5e9 * 0.82
    assert rate(narrow, 8) == pytest.approx(DRAM_SHARE * 204.8e9 / 8)
    assert rate(machines, 1, "nvme-pcie4") == 7e9
    assert rate(machines, 8, "nvme-pcie4") == 7e9 / 8


# -- overlap -----------------------------------------------------------------------------------------------------------


def test_hidden_collectives_leave_the_larger_of_work_and_communication() -> None:
    plain = _deployment("llama-3.1-70b", "h100-sxm:8", tp=8).step_model
    hidden = _deployment("llama-3.1-70b", "h100-sxm:8", tp=8, comm_overlap=1.0).step_model
    for tokens in (1, 64, 4096):
        costs = plain.stages[0].token_costs(tokens)
        comm_s = sum(c.seconds for c in costs if is_collective(c))
        work_s = sum(c.seconds for c in costs) - comm_s
        left_s = sum(c.seconds for c in hidden.stages[0].token_costs(tokens))
        assert left_s == pytest.approx(max(comm_s, work_s), rel=1e-9)


def test_ladder_residual_gains_what_was_published() -> None:
    """About 1.3x end to end for 70B at TP 8 (prompts of 1024, outputs of 512, batch 64): inside 1.2 to 1.35."""

    def seconds(**settings: Any) -> float:
        model = _deployment("llama-3.1-70b", "h100-sxm:8", tp=8, **settings).step_model
        prompts = 64 * model.step(step_shape(prefill=1024))[0]
        return prompts + sum(_decode_s(model, 64, 1024 + i) for i in range(512))

    assert 1.2 < seconds() / seconds(comm_overlap=1.0) < 1.35


def test_nano_batches_take_the_time_of_the_busiest_resource() -> None:
    plain = _deployment("llama-2-70b", "a100-sxm-80gb:8", tp=8).step_model
    split = _deployment("llama-2-70b", "a100-sxm-80gb:8", tp=8, nano_batch_tokens=64).step_model
    work = plain.stages[0].resources(256, 256)
    line = split.decode(256)
    far = 256 * 4000
    attention_s = plain.stages[0].decode_attention(256, mixed=False)
    expected = plain.stages[0].fixed_s + work.memory_s + attention_s.base_s + attention_s.context_s * far
    assert line.cost(far, far)[0] - line.cost(0, 0)[0] > 0
    assert line.cost(far, far)[0] == pytest.approx(expected, rel=0.02)  # and the host
    assert line.cost(0, 0)[0] == line.floor_s
    assert split.decode(32) == plain.decode(32)


def test_nano_batches_gain_what_nanoflow_gained_over_its_own_sequence() -> None:
    """1.17x over the same engine without overlap (ablation; the share of arithmetic's speed is fitted to it), at most the
    optimum of peak over 2 P = 1857 tokens/s per GPU."""
    shape = step_shape(decode_seqs=1024, context=768, prefill=1024)
    model = {"model": "llama-2-70b", "cluster": "a100-sxm-80gb:8", "tp": 8}
    seconds = [_deployment(**model, nano_batch_tokens=n).step_model.step(shape)[0] for n in (0, 512)]
    assert seconds[0] / seconds[1] == pytest.approx(1.17, rel=0.1)
    assert 2048 / seconds[1] / 8 < 1857


def test_fused_experts_hide_the_exchange_and_have_no_padding() -> None:
    plain = _deployment("qwen3-30b-a3b", "h100-sxm:8", dp=8, ep=8).step_model
    fused = _deployment("qwen3-30b-a3b", "h100-sxm:8", dp=8, ep=8, fused_moe=True).step_model
    moe = fused.precision.experts.moe
    assert (moe.launch_s, moe.row_pad) == (0.0, 1.0)
    shape = step_shape(prefill=256)

    def layer_s(model: StepModel, names: tuple[str, ...]) -> float:
        return sum(c.seconds for c in model.explain(shape) if c.name.startswith(names))

    both = ("moe.experts", "all_to_all")
    assert layer_s(fused, both) == pytest.approx(max(layer_s(fused, ("moe.experts",)), layer_s(plain, ("all_to_all",))))
    assert layer_s(plain, both) / layer_s(fused, both) > 2


# -- attention and KV --------------------------------------------------------------------------------------------------


def test_density_and_selection_scale_what_depends_on_the_context() -> None:
    plain = _deployment().step_model.decode(16)
    sparse = _deployment(attention_density=0.1, attention_selection=0.05).step_model.decode(16)
    assert sparse.context_s == pytest.approx(0.15 * plain.context_s)
    assert sparse.base_s == plain.base_s


def test_top_k_reads_no_more_than_k_and_what_choosing_takes() -> None:
    plain = _deployment().step_model.decode(16)
    bounded = _deployment(attention_top_k=512, attention_selection=0.05).step_model
    assert bounded.window == 512
    line = bounded.decode(16)
    assert line.window_s == pytest.approx(plain.context_s)
    assert line.context_s == pytest.approx(0.05 * plain.context_s)


def test_kept_share_of_kv_bytes_counts_for_capacity_and_reading() -> None:
    plain, fifth = _deployment(), _deployment(kv_compression=0.2)
    assert fifth.memory.kv_bytes_per_token == pytest.approx(0.2 * plain.memory.kv_bytes_per_token)
    assert fifth.memory.kv_tokens == pytest.approx(5 * plain.memory.kv_tokens, rel=1e-3)
    assert fifth.step_model.decode(8).context_s == pytest.approx(0.2 * plain.step_model.decode(8).context_s)


def test_sparse_activations_stop_helping_in_batches() -> None:
    plain, sparse = _deployment().step_model, _deployment(activation_sparsity=0.9).step_model

    def mlp_bytes(model: StepModel, tokens: int) -> float:
        return sum(c.nbytes for c in model.stages[0].token_costs(tokens) if c.name.startswith("mlp."))

    assert mlp_bytes(sparse, 1) == pytest.approx(0.1 * mlp_bytes(plain, 1), rel=0.01)
    assert mlp_bytes(sparse, 16) == pytest.approx((1 - 0.9**16) * mlp_bytes(plain, 16), rel=0.01)
    gains = [_decode_s(plain, n, 100) / _decode_s(sparse, n, 100) for n in (1, 16, 128)]
    assert gains[0] > 1.8 > 1.2 > gains[1] > gains[2] == pytest.approx(1.0, abs=0.01)


# -- adapters ----------------------------------------------------------------------------------------------------------


def test_expected_distinct_adapters() -> None:
    uniform = Lora(slots=64, rank=8, adapters=10)
    assert distinct_ranks(1, uniform)[0] == pytest.approx(1.0)
    assert distinct_ranks(7, uniform)[0] == pytest.approx(10 * (1 - 0.9**7))
    assert distinct_ranks(10_000, uniform)[0] == pytest.approx(10)
    skewed = replace(uniform, skew=1.5)
    assert 1.0 < distinct_ranks(7, skewed)[0] < distinct_ranks(7, uniform)[0]
    assert distinct_ranks(500, Lora(slots=4, rank=8, adapters=1000))[0] == 4


def test_segmented_kernel_follows_the_published_figures() -> None:
    """72, 75, 89, 118 us at ranks 8 to 64 with 64 distinct adapters, 37 us with one, on an A100 (1.935 TB/s)."""

    def variable_us(distinct: int, rank: int) -> float:
        return 1e6 * (distinct * DISTINCT_S + distinct * rank * 8192 * 2.0 / (SGMV_MEMORY * 1.935e12))

    launch_us = 37.0 - variable_us(1, 64)
    found = [launch_us + variable_us(64, rank) for rank in (8, 16, 32, 64)]
    assert found == pytest.approx([72, 75, 89, 118], rel=0.04)


def test_adapter_of_llama_7b_has_80_mb_and_costs_two_milliseconds() -> None:
    """Punica: 80 MB at rank 16, loaded in 2.5 to 3.2 ms over PCIe 4, 2 ms per token."""
    settings: dict[str, Any] = {"max_loras": 32, "max_lora_rank": 16}
    plain = _deployment("llama-2-7b", "a100-sxm-80gb:1")
    tuned = _deployment("llama-2-7b", "a100-sxm-80gb:1", enable_lora=True, num_loras=1, **settings)
    nbytes = adapter_bytes(tuned.step_model.stages[0].layout, tuned.plan) / 32
    assert nbytes == pytest.approx(80e6, rel=0.01)
    assert 2.5e-3 < nbytes / (31.5e9 * 0.82) < 3.2e-3
    assert tuned.memory.weight_bytes - plain.memory.weight_bytes == pytest.approx(32 * nbytes)
    assert _decode_s(tuned.step_model, 32, 512) - _decode_s(plain.step_model, 32, 512) == pytest.approx(2e-3, rel=0.15)
    many = _deployment("llama-2-7b", "a100-sxm-80gb:1", enable_lora=True, num_loras=1000, **settings)
    assert _decode_s(tuned.step_model, 32, 512) < _decode_s(many.step_model, 32, 512)


# -- nonsense ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--cpu-offload-gb 100", "Use at most"),
        ("--cpu-offload-gb -1", "--cpu-offload-gb"),
        ("--offload-backend prefetch", "--cpu-offload-gb"),
        ("--cpu-offload-gb 2 --offload-backend pipeline", "prefetch"),
        ("--cpu-offload-gb 2 --offload-source nvme-pcie4", "--offload-backend prefetch"),
        ("--cpu-offload-gb 2 --offload-backend prefetch --offload-source l40s", "nvme-pcie4"),
        ("--comm-overlap 1.5", "share"),
        ("--attention-density 0", "share"),
        ("--attention-density 0.5 --attention-top-k 64", "drop one"),
        ("--attention-selection 0.1", "--attention-density"),
        ("--kv-compression 0", "share"),
        ("--activation-sparsity 1", "some neurons"),
        ("--enable-lora --max-lora-rank 0", "--max-lora-rank"),
        ("--max-loras 4", "--enable-lora"),
        ("--nano-batch-tokens 64 --power-cap 400", "drop one"),
    ],
)
def test_nonsense_is_one_line(arguments: str, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = f"explain step --model llama-3.1-8b --cluster h100-sxm:1 --decode 4 --context 100 {arguments}"
    assert cli.main(command.split()) == 2
    error = capsys.readouterr().err
    assert named in error
    assert len(error.strip().splitlines()) == 1


def test_host_memory_that_is_too_small_asks_for_a_drive() -> None:
    with pytest.raises(UserError, match="nvme-pcie4"):
        _ = _deployment("llama-3.1-70b", "rtx-4090:1", cpu_offload_gb=125.0).memory


def test_top_k_is_refused_where_the_model_has_windows() -> None:
    with pytest.raises(UserError, match="sliding window"):
        _ = _deployment("gpt-oss-20b", attention_top_k=512).step_model


# -- what comes out ----------------------------------------------------------------------------------------------------


def test_launch_command_has_vllms_own_flags_and_says_what_has_none() -> None:
    settings: dict[str, Any] = {"enable_lora": True, "max_loras": 4, "num_loras": 50, "kv_compression": 0.5}
    deployment = _deployment(cpu_offload_gb=2.0, **settings)
    command = vllm_command(deployment)
    assert command.endswith("--cpu-offload-gb 2 --enable-lora --max-loras 4 --max-lora-rank 16 --max-cpu-loras 50")
    assert any("compressed KV cache" in note for note in launch_notes(deployment))
    ahead = _deployment(cpu_offload_gb=2.0, offload_backend="prefetch")
    assert "--cpu-offload-gb" not in vllm_command(ahead)
    assert any("--offload-group-size" in note for note in launch_notes(ahead))


def test_report_names_what_is_on() -> None:
    line = describe_deployment(_deployment(attention_top_k=512, nano_batch_tokens=64))
    assert "attention-top-k=512" in line
    assert "nano-batch-tokens=64" in line
    assert describe_deployment(_deployment()).endswith(
        f"max-num-batched-tokens={_deployment().engine.max_num_batched_tokens}"
    )


def test_fused_experts_need_experts() -> None:
    with pytest.raises(UserError, match="has no experts"):
        _deployment("llama-3.1-8b", "h100-sxm:1", fused_moe=True)
