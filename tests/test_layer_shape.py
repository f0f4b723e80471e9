"""Depth and width of layers: skipped and shared layers, low rank, zeros, channels; closed forms, both modes, refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from apex_sim import simulate
from hardware_profiles.errors import UserError
from simulator.build import build_deployment
from simulator.deployment import Deployment
from simulator.model_changes import changed_model, rank_of
from simulator.physics.explain import step_shape
from simulator.physics.sparsity import MASK_BYTES, channels_used
from simulator.shape_settings import LayerShape
from simulator.techniques import NONE
from workloads.catalog import load_model
from workloads.layers import Matrix


def _deployment(model: str = "llama-3.1-8b", cluster: str = "h100-sxm:1", **settings: Any) -> Deployment:
    return build_deployment(model, cluster, **{"max_model_len": 4096, **settings})


def _step_s(deployment: Deployment, **shape: int) -> float:
    return deployment.step_model.step(step_shape(**shape))[0]


EVERY: tuple[dict[str, Any], ...] = (
    {"skip_layers": 9, "kv_compression": 0.5},
    {"recursion_depths": "0.5,0.3,0,0.2"},
    {"recursion_depths": "0.6,0.4", "recursion_kv": "shared", "activation_sparsity": 0.8},
    {"linear_rank": 0.5, "quantization": "fp8"},
    {"linear_rank": 300, "recursion_depths": "0.5,0.5", "attention_top_k": 200},
    {"active_channels": 1000, "cpu_offload_gb": 2.0},
)


@pytest.mark.parametrize("settings", EVERY, ids=str)
def test_spans_equal_single_steps(settings: dict[str, Any]) -> None:
    load: dict[str, Any] = {"rate": 20.0, "input_len": "lognormal(median=300,sigma=0.8)", "output_len": "40"}
    runs = [
        simulate(
            *("llama-3.1-8b", "h100-sxm:1"),
            **{"max_model_len": 4096, "num_requests": 40, "exact_steps": steps, **load, **settings},
        )
        for steps in (False, True)
    ]
    assert runs[0].requests.finish_s.tolist() == runs[1].requests.finish_s.tolist()
    assert runs[0].summary["energy_j"] == pytest.approx(runs[1].summary["energy_j"], rel=1e-9)


@pytest.mark.parametrize("settings", EVERY, ids=str)
def test_breakdown_adds_up_to_the_step(settings: dict[str, Any]) -> None:
    model = _deployment(**settings).step_model
    for shape in (
        step_shape(decode_seqs=20, context=900, window=model.window),
        step_shape(decode_seqs=20, context=900, prefill=400, cached=100, window=model.window),
    ):
        parts = model.explain(shape)
        assert sum(c.seconds for c in parts) == pytest.approx(model.step(shape)[0], rel=1e-9)
        assert sum(c.flop for c in parts) == pytest.approx(model.flop(shape), rel=0.25)  # graphs pad tokens


def test_neutral_values_change_nothing() -> None:
    plain, neutral = _deployment(), _deployment(skip_layers=0, weight_sparsity=0.0)
    assert (plain.plan, plain.model) == (neutral.plan, neutral.model)


# -- skipped layers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama-3.1-8b", "gemma-3-27b", "qwen3-next-80b-a3b"])
@pytest.mark.parametrize("fewer", [1, 7, 20])
def test_skipped_layers_are_spread_over_the_model(name: str, fewer: int) -> None:
    model = load_model(name)
    short = changed_model(model, replace(NONE, shape=LayerShape(skip_layers=fewer)))
    assert short.num_layers == model.num_layers - fewer
    assert len(short.layer_sequence) == short.num_layers
    kinds = [short.layers[i].attention for i in short.layer_sequence]
    whole = [model.layers[i].attention for i in model.layer_sequence]
    kept = iter(whole)
    assert all(any(kind == other for other in kept) for kind in kinds)  # a subsequence
    assert short.num_params < model.num_params


def test_skipped_layers_cost_neither_time_nor_memory() -> None:
    whole, half = _deployment(), _deployment(skip_layers=16)
    assert half.memory.kv_bytes_per_token == whole.memory.kv_bytes_per_token / 2
    layers = [p for p in half.step_model.explain(step_shape(prefill=4096)) if p.name == "mlp.down_proj"]
    assert layers[0].seconds == pytest.approx(
        next(p.seconds for p in whole.step_model.explain(step_shape(prefill=4096)) if p.name == "mlp.down_proj") / 2
    )


# -- recursion ---------------------------------------------------------------------------------------------------------


def test_tokens_that_pass_all_layers_cost_what_they_cost_in_a_model_without_sharing() -> None:
    plain, shared = _deployment(), _deployment(recursion_depths="0,0,0,1")
    for shape in ({"decode_seqs": 30, "context": 800}, {"prefill": 3000}):
        assert _step_s(shared, **shape) == pytest.approx(_step_s(plain, **shape), rel=1e-12)
    assert shared.memory.kv_bytes_per_token == plain.memory.kv_bytes_per_token
    blocks = 2.0 * sum(g.count * g.params for g in plain.model.layers)
    assert plain.memory.weight_bytes - shared.memory.weight_bytes == pytest.approx(0.75 * blocks, rel=1e-3)


def test_kv_and_work_follow_the_tokens_that_reach_a_pass() -> None:
    plain = _deployment()
    cached = _deployment(recursion_depths="0.5,0.25,0.15,0.1")
    reached = (1.0, 0.5, 0.25, 0.1)
    mean = sum(reached) / 4
    assert cached.memory.kv_bytes_per_token == pytest.approx(mean * plain.memory.kv_bytes_per_token)
    shared = _deployment(recursion_depths="0.5,0.25,0.15,0.1", recursion_kv="shared")
    assert shared.memory.kv_bytes_per_token == pytest.approx(plain.memory.kv_bytes_per_token / 4)

    def part(deployment: Deployment, name: str, **shape: int) -> Any:
        return next(p for p in deployment.step_model.explain(step_shape(**shape)) if p.name == name)

    flop = part(cached, "mlp.down_proj", prefill=4000).flop / part(plain, "mlp.down_proj", prefill=4000).flop
    assert flop == pytest.approx(mean)
    read = [part(d, "attention.decode", decode_seqs=8, context=3000) for d in (plain, cached, shared)]
    assert read[1].flop / read[0].flop == pytest.approx(sum(a * a for a in reached) / 4)
    assert read[2].flop / read[0].flop == pytest.approx(mean)


# -- low rank ----------------------------------------------------------------------------------------------------------


def test_factors_have_r_times_m_plus_n_weights() -> None:
    matrix = Matrix(name="x", rows=3072, cols=768)
    assert rank_of(matrix, 0.5) == int(0.5 * 3072 * 768 / (3072 + 768))
    assert rank_of(matrix, 614) == 614
    assert rank_of(matrix, 615) is None  # 614.4: as many weights as the matrix
    model = load_model("llama-3.1-8b")
    low = changed_model(model, replace(NONE, shape=LayerShape(linear_rank=256)))
    group, before = low.layers[0], model.layers[0]
    for matrices, whole in (
        (group.attention.matrices, before.attention.matrices),
        (group.mlp.matrices, before.mlp.matrices),
    ):
        assert sum(m.params for m in matrices) == sum(256 * (m.rows + m.cols) for m in whole)


@pytest.mark.parametrize("tp", [1, 4])
def test_factors_add_kernels_but_no_communication(tp: int) -> None:
    plain, low = (_deployment(cluster="h100-sxm:4", tp=tp, linear_rank=r) for r in (None, 0.5))
    shape = step_shape(prefill=4096)
    link = [sum(p.link_bytes for p in d.step_model.explain(shape)) for d in (plain, low)]
    assert link[0] == link[1]
    assert low.step_model.stages[0].layout.launches == pytest.approx(plain.step_model.stages[0].layout.launches * 1.4)
    if tp == 1:
        parts = {p.name: p.flop for p in low.step_model.explain(shape)}
        for whole in plain.step_model.explain(shape):
            if whole.name.startswith(("attention.qkv", "attention.o_", "mlp.")):
                assert parts[whole.name] + parts[whole.name + ".factor"] == pytest.approx(0.5 * whole.flop, rel=1e-3)


# -- zeros and channels ------------------------------------------------------------------------------------------------


def test_zeros_save_bytes_and_arithmetic_on_a_processor() -> None:
    plain, sparse = (_deployment(cluster="xeon-8380:1", weight_sparsity=s) for s in (0.0, 0.75))
    formats = [d.step_model.precision.linear for d in (plain, sparse)]
    assert formats[1].weight_bytes == 0.25 * 2.0 + MASK_BYTES
    for shape in (step_shape(decode_seqs=1, context=100), step_shape(prefill=2000)):
        parts = [{p.name: p for p in d.step_model.explain(shape)} for d in (plain, sparse)]
        mlp = [p["mlp.down_proj"] for p in parts]
        assert mlp[1].flop == pytest.approx(0.25 * mlp[0].flop)
        ratio = (0.25 * 2.0 + MASK_BYTES) / 2.0 if mlp[0].bound == "memory" else 0.25
        assert mlp[1].seconds / mlp[0].seconds == pytest.approx(ratio, rel=0.1)
        assert parts[1]["lm_head"] == parts[0]["lm_head"] or parts[1]["lm_head"].seconds == parts[0]["lm_head"].seconds


def test_channels_of_a_batch_are_those_that_any_token_uses() -> None:
    assert channels_used("mlp.down_proj", 1, 0.25) == 0.25
    assert channels_used("mlp.down_proj", 3, 0.25) == pytest.approx(1 - 0.75**3)
    assert channels_used("mlp.gate_up_proj", 1, 0.25) == 0.625  # the gate is whole
    assert channels_used("mlp.gate_proj", 1, 0.25) == 1.0
    assert channels_used("attention.o_proj", 1, 0.25) == 1.0
    whole, few = _deployment(), _deployment(active_channels=3584)
    parts = [
        {p.name: p.hbm_bytes for p in d.step_model.explain(step_shape(decode_seqs=1, context=9))} for d in (whole, few)
    ]
    assert parts[1]["mlp.down_proj"] / parts[0]["mlp.down_proj"] == pytest.approx(0.25, rel=1e-3)
    assert parts[1]["mlp.gate_up_proj"] / parts[0]["mlp.gate_up_proj"] == pytest.approx(0.625, rel=1e-3)


def test_int8_with_two_of_four_weights() -> None:
    """GPUSQ-ViT's format: half of the INT8 weights and a bit per weight for their places, twice the INT8 peak at 80 %."""
    dense, sparse = (_deployment(cluster="a100-sxm-80gb:1", quantization=q) for q in ("w8a8", "w8a8_24"))
    formats = [d.step_model.precision.linear for d in (dense, sparse)]
    assert formats[1].weight_bytes == 0.625
    assert formats[1].peak_flop_per_s == 2 * formats[0].peak_flop_per_s
    gain = _step_s(dense, prefill=8192) / _step_s(sparse, prefill=8192)
    assert 1.2 < gain < 1.6


# -- refusals ----------------------------------------------------------------------------------------------------------

WRONG: tuple[tuple[dict[str, Any], str], ...] = (
    ({"skip_layers": 32}, "at least one must stay"),
    ({"skip_layers": 1.5}, "--skip-layers is 1.5"),
    ({"recursion_depths": "0.5"}, "at least two"),
    ({"recursion_depths": "a,b"}, "--recursion-depths is 'a,b'"),
    ({"recursion_depths": 0.5}, "--recursion-depths is 0.5"),
    ({"recursion_depths": "0.5,0.4"}, "sum to 0.9"),
    ({"recursion_depths": "0.4,0.3,0.3"}, "do not divide"),
    ({"recursion_depths": "0.5,0.5", "pp": 2, "cluster": "h100-sxm:2"}, "use pp=1"),
    ({"recursion_depths": "0.5,0.5", "enable_lora": True}, "drop one"),
    ({"recursion_kv": "shared"}, "add --recursion-depths"),
    ({"recursion_depths": "0.5,0.5", "recursion_kv": "no"}, "unknown recursion kv"),
    ({"linear_rank": 0.0}, "--linear-rank is 0"),
    ({"linear_rank": 4000}, "leaves no linear layer"),
    ({"linear_rank": 1.5}, "whole number"),
    ({"active_channels": 10, "model": "opt-6.7b", "max_model_len": 2048}, "the gate of an MLP"),
    ({"linear_rank": 0.5, "enable_lora": True}, "drop one"),
    ({"linear_rank": 0.5, "activation_sparsity": 0.5}, "drop one"),
    ({"weight_sparsity": 1.0}, "some weights must stay"),
    ({"weight_sparsity": 0.5}, "sparse24"),
    ({"active_channels": 20_000}, "have 14336 channels"),
    ({"active_channels": 10, "model": "mixtral-8x7b", "cluster": "h100-sxm:4", "tp": 4}, "has none"),
    ({"active_channels": 10, "activation_sparsity": 0.5}, "drop one"),
)


@pytest.mark.parametrize(("settings", "message"), WRONG, ids=[str(s) for s, _ in WRONG])
def test_nonsense_is_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        assert _deployment(**settings).step_model
    assert message in str(error.value)
    assert "\n" not in str(error.value)
