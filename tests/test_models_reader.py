"""Reading config.json: aliases, wrappers, windows, quantised checkpoints, and every mistake as one line."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from hardware_profiles.errors import UserError
from workloads.catalog import catalog, load_model
from workloads.huggingface import model_from_config
from workloads.model import ModelSpec

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 1000,
    "max_position_embeddings": 512,
}


def read(**changes: Any) -> ModelSpec:
    return model_from_config({k: v for k, v in {**LLAMA, **changes}.items() if v != "absent"})


def config_of(name: str, **changes: Any) -> dict[str, Any]:
    return {**catalog()[name].config, **changes}


# ---- structure


def test_matrices_are_fused_as_engines_fuse_them() -> None:
    layer = read().layers[0]
    shapes = [(m.name, m.rows, m.cols, m.parallel) for m in (*layer.attention.matrices, *layer.mlp.matrices)]
    assert shapes == [
        ("qkv_proj", 64 + 2 * 2 * 16, 64, "column"),
        ("o_proj", 64, 64, "row"),
        ("gate_up_proj", 256, 64, "column"),
        ("down_proj", 64, 128, "row"),
    ]


def test_mla_matrices_put_the_shared_down_projection_on_every_rank() -> None:
    attention = load_model("deepseek-v3").layers[0].attention
    assert [(m.name, m.rows, m.cols, m.parallel) for m in attention.matrices] == [
        ("fused_qkv_a", 1536 + 512 + 64, 7168, "replicated"),
        ("q_b_proj", 128 * 192, 1536, "column"),
        ("kv_b_proj", 128 * 256, 512, "column"),
        ("o_proj", 7168, 128 * 128, "row"),
    ]
    lite = load_model("deepseek-v2-lite").layers[0].attention
    assert [m.name for m in lite.matrices] == ["q_proj", "kv_a_proj", "kv_b_proj", "o_proj"]


def test_dense_first_layers_and_experts_are_separate_groups() -> None:
    model = load_model("deepseek-v3")
    assert [(g.count, g.mlp.num_experts, g.mlp.experts_per_token) for g in model.layers] == [(3, 0, 0), (58, 256, 8)]
    assert model.layers[1].mlp.shared_matrices[0].name == "shared_gate_up_proj"
    assert model.layer_pattern == ()


def test_maverick_routes_in_every_other_layer_only() -> None:
    model = load_model("llama-4-maverick")
    assert sum(g.count for g in model.layers if g.mlp.is_moe) == 24
    assert sum(g.count for g in model.layers if g.attention.sliding_window == 8192) == 36


def test_layer_pattern_is_kept_where_kinds_alternate() -> None:
    model = load_model("gemma-3-1b")
    kinds = [model.layers[i].attention.sliding_window is None for i in model.layer_sequence]
    assert [i for i, full in enumerate(kinds) if full] == [5, 11, 17, 23]


def test_linear_attention_has_a_state_and_no_cache() -> None:
    model = load_model("qwen3-next-80b-a3b")
    assert (model.num_linear_layers, model.num_full_layers) == (36, 12)
    per_layer = 32 * 128 * 128 + (2 * 2048 + 4096) * 3
    assert model.state_elements == 36 * per_layer
    assert model.kv_bytes(1000) == 12 * 2 * 2 * 256 * 2 * 1000


def test_windows_that_do_not_bind_are_dropped() -> None:
    assert read(model_type="qwen2", sliding_window=128, use_sliding_window=False).sliding_window is None
    assert read(model_type="mistral", sliding_window=None).sliding_window is None
    assert read(model_type="phi3", sliding_window=100_000).sliding_window is None
    assert read(model_type="mistral", sliding_window=128).num_window_layers == 2
    upper = read(model_type="qwen2", sliding_window=128, use_sliding_window=True, max_window_layers=1)
    assert (upper.num_full_layers, upper.num_window_layers) == (1, 1)


def test_aliases_of_older_configs_are_understood() -> None:
    gpt2 = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257}
    assert model_from_config(gpt2).num_params == 124_439_808
    pythia = {
        "model_type": "gpt_neox",
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "intermediate_size": 16384,
        "vocab_size": 50432,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
    }
    assert model_from_config(pythia).num_params == 6_857_302_016  # https://huggingface.co/EleutherAI/pythia-6.9b


def test_text_config_of_a_multimodal_model_is_unwrapped() -> None:
    text = {k: v for k, v in LLAMA.items() if k != "tie_word_embeddings"}
    wrapped = {
        "model_type": "llava",
        "torch_dtype": "float16",
        "text_config": text,
        "vision_config": {"hidden_size": 9},
    }
    assert model_from_config(wrapped).num_params == read().num_params
    assert model_from_config(wrapped).dtype == "float16"
    gemma = {
        "model_type": "gemma3",
        "text_config": {
            "model_type": "gemma3_text",
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 34,
            "sliding_window": 1024,
        },
    }
    assert model_from_config(gemma).layers == load_model("gemma-3-4b").layers


def test_unknown_type_is_read_as_a_llama_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="model_type 'nova' is not known"):
        model = read(model_type="nova")
    assert model.num_params == read().num_params


def test_both_spellings_of_dtype_are_read() -> None:
    assert read(dtype="float16").dtype == "float16"
    assert read(torch_dtype="torch.float32").dtype == "float32"
    assert read().dtype == "bfloat16"


# ---- quantised checkpoints

CT_FP8 = {
    "quant_method": "compressed-tensors",
    "config_groups": {
        "group_0": {
            "weights": {"num_bits": 8, "type": "float", "strategy": "channel"},
            "input_activations": {"num_bits": 8, "type": "float"},
        }
    },
    "ignore": ["lm_head"],
}
CT_W4A16 = {
    "quant_method": "compressed-tensors",
    "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 128, "symmetric": True}}},
}
CT_NVFP4 = {
    "quant_method": "compressed-tensors",
    "config_groups": {
        "group_0": {
            "weights": {"num_bits": 4, "type": "float", "group_size": 16},
            "input_activations": {"num_bits": 4, "type": "float"},
        }
    },
}
QUANTISED = [
    ({"quant_method": "fp8", "activation_scheme": "dynamic"}, "fp8", 1.0, "fp8"),
    ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block", 1 + 4 / 16384, "fp8"),
    ({"quant_method": "awq", "bits": 4, "group_size": 128}, "int4", 0.5 + 2.5 / 128, None),
    ({"quant_method": "gptq", "bits": 4, "group_size": 32}, "int4", 0.5 + 2.5 / 32, None),
    ({"quant_method": "gptq", "bits": 8, "group_size": -1}, "int8", 1.0, None),
    (CT_FP8, "fp8", 1.0, "fp8"),
    (CT_W4A16, "int4", 0.5 + 2 / 128, None),
    (CT_NVFP4, "nvfp4", 0.5625, "nvfp4"),
    ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4", 0.5625, "nvfp4"),
    ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8", 1.0, "fp8"),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4", 0.5625, None),
    ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8", 1.0, None),
]


@pytest.mark.parametrize(("block", "dtype", "nbytes", "activation"), QUANTISED)
def test_quantised_linear_layers_weigh_their_stored_bytes(
    block: dict[str, Any], dtype: str, nbytes: float, activation: str | None
) -> None:
    model, plain = read(quantization_config=block), read()
    assert model.quant is not None
    assert (model.quant.weight_dtype, model.quant.activation_dtype) == (dtype, activation)
    assert model.quant.bytes_per_weight == pytest.approx(nbytes)
    linear = 2 * (128 * 64 + 64 * 64 + 256 * 64 + 64 * 128)
    assert model.weight_bytes() == pytest.approx(plain.weight_bytes() - linear * (2 - nbytes))


def test_mxfp4_covers_routed_experts_only() -> None:
    model = load_model("gpt-oss-120b")
    experts = model.expert_params
    assert model.weight_bytes() == pytest.approx(experts * 0.53125 + 2 * (model.num_params - experts))
    # The checkpoint's safetensors files add up to 65.2 GB (https://huggingface.co/openai/gpt-oss-120b).
    assert model.weight_bytes() == pytest.approx(65.25e9, rel=0.005)


def test_attention_left_alone_by_a_pattern_means_experts_only() -> None:
    block = {**CT_W4A16, "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*"]}
    assert model_from_config(config_of("kimi-k2", quantization_config=block)).quant.scope == "experts"  # type: ignore[union-attr]
    gates = {**CT_FP8, "ignore": [f"model.layers.{i}.mlp.gate" for i in range(48)] + ["lm_head"]}
    assert model_from_config(config_of("qwen3-30b-a3b", quantization_config=gates)).quant.scope == "linear"  # type: ignore[union-attr]


def test_sibling_quantisation_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    assert load_model(str(tmp_path)).quant is None
    inner = {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}
    (tmp_path / "hf_quant_config.json").write_text(
        json.dumps({"producer": {"name": "modelopt"}, "quantization": inner})
    )
    quant = load_model(str(tmp_path)).quant
    assert quant is not None
    assert (quant.weight_dtype, quant.kv_cache_dtype) == ("fp8", "fp8")


# ---- mistakes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "absent"}, "field 'hidden_size' is missing"),
        ({"vocab_size": None}, "field 'vocab_size' is missing"),
        ({"intermediate_size": "absent"}, "field 'intermediate_size' is missing"),
        ({"hidden_size": "4096"}, "hidden_size is '4096'; it must be a whole number"),
        ({"num_hidden_layers": float("nan")}, "num_hidden_layers is nan"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"num_attention_heads": -4}, "num_attention_heads is -4"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0; it must be 1 or more"),
        ({"num_key_value_heads": 3}, "not a multiple of num_key_value_heads 3"),
        ({"num_attention_heads": 7, "num_key_value_heads": 7}, "not a multiple of num_attention_heads 7"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no'"),
        ({"torch_dtype": "fp7"}, "torch_dtype is 'fp7'"),
        ({"layer_types": ["full_attention"]}, "layer_types has 1 entries for 2 layers"),
        ({"layer_types": ["mamba", "mamba"]}, r"layer_types\[0\] is 'mamba', not modelled"),
        ({"layer_types": "full_attention"}, "layer_types must be a list"),
        ({"num_local_experts": 4}, "field 'num_experts_per_tok' is missing"),
        ({"num_local_experts": 4, "num_experts_per_tok": 5}, "num_experts_per_tok 5 exceeds the 4 experts"),
        ({"quantization_config": {"quant_method": "magic"}}, "unknown quant_method in config 'magic'"),
        ({"quantization_config": "fp8"}, "quantization_config is 'fp8'"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 3}}, "3-bit integer weights are not supported"),
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [0, 1]}}, "weight_block_size is"),
    ],
)
def test_a_broken_field_is_named_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read(**changes)
    assert "\n" not in str(error.value)


def test_unreadable_files_say_what_is_wrong(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text('{"model_type": "llama",')
    with pytest.raises(UserError, match=r"broken.json: broken JSON at line 1"):
        load_model(str(broken))
    with pytest.raises(UserError, match="no such file"):
        load_model(str(tmp_path / "nothing.json"))
    with pytest.raises(UserError, match=r"this folder has no config.json"):
        load_model(str(tmp_path))
    listed = tmp_path / "list.json"
    listed.write_text("[1]")
    with pytest.raises(UserError, match="holds a JSON list"):
        load_model(str(listed))
    binary = tmp_path / "weights.json"
    binary.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(UserError, match="not a text file"):
        load_model(str(binary))


def test_a_folder_names_its_model(tmp_path: Path) -> None:
    folder = tmp_path / "my-llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    assert load_model(str(folder)).name == "my-llama"
    assert load_model(str(folder / "config.json")).name == "my-llama"
    assert model_from_config(folder, "other").name == "other"


@pytest.mark.parametrize("name", ["llama-3.1-8b", "deepseek-v3", "gpt-oss-20b", "qwen3-next-80b-a3b", "gemma-3-4b"])
def test_junk_in_any_field_is_a_user_error_or_harmless(name: str) -> None:
    base = config_of(name, num_hidden_layers=4)
    for field in base:
        for junk in (None, "junk", -1, 0, 1.5, float("inf"), True, [], {}, [1, "a"], {"a": 1}):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    model = model_from_config({**base, field: junk})
                except UserError as error:
                    assert "\n" not in str(error)
                else:
                    assert model.num_params > 0
                    assert model.weight_bytes() > 0
