"""Laws of ModelSpec: windows, sharding, FLOP; and the ``models`` subcommand."""

from __future__ import annotations

import argparse
import json

import pytest

from apex_sim.commands import models as command
from hardware_profiles.errors import UserError
from workloads.catalog import load_model
from workloads.model import dtype_bytes

SAMPLE = [
    "llama-3.1-8b",
    "qwen2.5-7b",
    "mixtral-8x7b",
    "deepseek-v3",
    "gpt-oss-20b",
    "gemma-3-4b",
    "opt-13b",
    "falcon-7b",
]


@pytest.mark.parametrize("name", SAMPLE)
def test_one_device_holds_the_whole_model(name: str) -> None:
    model = load_model(name)
    assert model.weight_bytes_per_device() == pytest.approx(model.weight_bytes(), rel=1e-12)


@pytest.mark.parametrize("name", SAMPLE)
def test_more_devices_never_hold_more_each_nor_less_in_all(name: str) -> None:
    model = load_model(name)
    shares = [model.weight_bytes_per_device(tp) for tp in model.valid_tps(16)]
    assert shares == sorted(shares, reverse=True)
    for tp, share in zip(model.valid_tps(16), shares, strict=True):
        assert tp * share >= model.weight_bytes() * (1 - 1e-12)
    assert model.weight_bytes_per_device(1, pp=2) <= model.weight_bytes()


def test_tp_shares_are_exact_for_a_plain_llama() -> None:
    model = load_model("llama-3.1-70b")
    norms = model.params_by_component()["norms"] + model.other_params
    assert model.weight_bytes_per_device(8) == 2 * ((model.num_params - norms) // 8 + norms)


def test_kv_heads_are_replicated_beyond_their_number() -> None:
    model = load_model("llama-3.1-8b")
    qkv_o = [model.layers[0].attention.params_per_rank(tp) for tp in (8, 16)]
    q_and_o = 2 * 4096 * 4096
    assert qkv_o == [q_and_o // 8 + 2 * 128 * 4096, q_and_o // 16 + 2 * 128 * 4096]
    assert model.kv_bytes_per_token_per_device(8) == model.kv_bytes_per_token() / 8
    assert model.kv_bytes_per_token_per_device(16) == model.kv_bytes_per_token() / 8


def test_mla_cache_is_whole_on_every_tp_rank() -> None:
    model = load_model("deepseek-v3")
    assert model.kv_bytes_per_token(2.0) == 70_272
    assert model.kv_bytes_per_token_per_device(8) == 70_272


def test_expert_parallel_and_tensor_parallel_split_experts_alike_when_even() -> None:
    model = load_model("deepseek-v3")
    assert model.weight_bytes_per_device(8, ep=8) == pytest.approx(model.weight_bytes_per_device(8))
    wide = model.weight_bytes_per_device(8, ep=64)
    expert_bytes = model.expert_params * (1 + 4 / 16384)
    assert model.weight_bytes_per_device(8, ep=8) - wide == pytest.approx(expert_bytes / 8 - expert_bytes / 64)


def test_stages_are_split_as_vllm_splits_them() -> None:
    model = load_model("deepseek-v3")
    assert [len(stage) for stage in model.stage_layers(4)] == [15, 15, 16, 15]
    assert [len(stage) for stage in model.stage_layers(2)] == [31, 30]
    assert [i for stage in model.stage_layers(8) for i in stage] == list(model.layer_sequence)
    with pytest.raises(UserError, match="pp=62 leaves stages empty"):
        model.stage_layers(62)


def test_window_layers_stop_growing_at_the_window() -> None:
    model = load_model("gpt-oss-120b")
    kv = 2 * 8 * 64 * 2
    for context in (1, 127, 128, 129, 100_000):
        assert model.kv_bytes(context) == 18 * kv * context + 18 * kv * min(context, 128)
    assert model.kv_bytes(1) == model.kv_bytes_per_token()


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-30b-a3b", "deepseek-v3", "gemma-2-9b"])
def test_flop_is_twice_the_active_matrices_plus_attention(name: str) -> None:
    model = load_model(name)
    small = (
        sum(g.count * (g.norm_params + g.attention.small_params + g.mlp.small_params) for g in model.layers)
        + model.other_params
    )
    looked_up = 0 if model.tie_word_embeddings else model.embedding_params
    assert model.flop_per_token(0) == 2 * (model.num_active_params - small - looked_up)
    attention = model.flop_per_token(1000) - model.flop_per_token(0)
    expected = sum(
        g.count * 2 * g.attention.num_heads * (g.attention.head_dim + g.attention.v_head_dim) for g in model.layers
    )
    assert attention == 1000 * expected


def test_impossible_tp_names_the_possible_ones() -> None:
    with pytest.raises(UserError, match=r"28 attention heads are not divisible by tp=8. Valid tp: 1, 2, 4$"):
        load_model("qwen2.5-7b").check_tp(8)
    with pytest.raises(UserError, match="tp=0"):
        load_model("qwen2.5-7b").check_tp(0)
    load_model("llama-3.1-8b").check_tp(16)
    assert load_model("falcon-7b").valid_tps() == (1,)


def test_dtypes_have_short_names() -> None:
    assert (dtype_bytes("bf16"), dtype_bytes("fp8_e4m3"), dtype_bytes("float32")) == (2.0, 1.0, 4.0)
    with pytest.raises(UserError, match="unknown dtype"):
        dtype_bytes("f8")


# ---- the subcommand


def run(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers(dest="command"))
    return command.run(parser.parse_args(["models", *argv]))


def test_show_prints_what_a_planner_wants_to_know(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", "llama-3.1-70b", "--tp", "8") == 0
    text = capsys.readouterr().out
    for expected in ("70,553,706,496 (70.55 B)", "141.11 GB", "TP 8", "327,680 B", "GQA 64:8", "GFLOP"):
        assert expected in text


def test_show_json_is_in_si_units(capsys: pytest.CaptureFixture[str]) -> None:
    run("show", "deepseek-v3", "--kv-cache-dtype", "fp8", "--json")
    facts = json.loads(capsys.readouterr().out)
    assert facts["kv_bytes_per_token"] == 35_136
    assert facts["quantization"]["weight_dtype"] == "fp8_block"
    assert facts["kv_bytes_at_context"]["131072"] == 35_136 * 131_072


def test_show_takes_dtypes_and_quantisation(capsys: pytest.CaptureFixture[str]) -> None:
    run("show", "llama-3.1-8b", "--dtype", "fp32", "--json")
    assert json.loads(capsys.readouterr().out)["weight_bytes"] == 4 * 8_030_261_248
    run("show", "llama-3.1-8b", "--quantization", "fp8", "--json")
    assert json.loads(capsys.readouterr().out)["weight_bytes"] == pytest.approx(9.08e9, rel=0.01)
    with pytest.raises(UserError, match="unknown dtype"):
        run("show", "llama-3.1-8b", "--dtype", "int4")


def test_list_filters_by_text(capsys: pytest.CaptureFixture[str]) -> None:
    run("list", "mixtral", "--json")
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in rows} == {"mixtral-8x7b", "mixtral-8x22b", "mixtral-8x22b-instruct"}
    with pytest.raises(UserError, match="no built-in model has 'zzz'"):
        run("list", "zzz")
