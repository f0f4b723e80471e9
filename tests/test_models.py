"""Built-in models against published parameter totals and KV sizes, and the catalog's names."""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path

import pytest

from hardware_profiles.errors import UserError
from workloads.catalog import catalog, load_model, model_names
from workloads.huggingface import model_from_config

SHARED = Path(__file__).parents[1] / ".." / "shared" / "data" / "hf"
HUB = "https://huggingface.co/"

# Name, published total, exact?, KV bytes per token in 16 bits (None: not published), source. Exact totals are the
# safetensors parameter counts of the model pages; the others are rounded in their source, or include a vision tower.
PUBLISHED: list[tuple[str, float, bool, int | None, str]] = [
    ("meta-llama/Llama-2-7b-hf", 6_738_415_616, True, 524_288, HUB + "meta-llama/Llama-2-7b-hf"),
    ("meta-llama/Llama-2-13b-hf", 13_015_864_320, True, 819_200, HUB + "meta-llama/Llama-2-13b-hf"),
    ("meta-llama/Llama-2-70b-hf", 68_976_648_192, True, 327_680, HUB + "meta-llama/Llama-2-70b-hf"),
    ("codellama/CodeLlama-34b-hf", 33_743_970_304, True, 196_608, HUB + "codellama/CodeLlama-34b-hf"),
    ("01-ai/Yi-34B", 34_388_917_248, True, 245_760, HUB + "01-ai/Yi-34B"),
    ("meta-llama/Meta-Llama-3-8B", 8_030_261_248, True, 131_072, HUB + "meta-llama/Meta-Llama-3-8B"),
    ("meta-llama/Meta-Llama-3-70B", 70_553_706_496, True, 327_680, HUB + "meta-llama/Meta-Llama-3-70B"),
    ("meta-llama/Llama-3.1-8B", 8_030_261_248, True, 131_072, HUB + "meta-llama/Llama-3.1-8B"),
    ("meta-llama/Llama-3.1-70B", 70_553_706_496, True, 327_680, HUB + "meta-llama/Llama-3.1-70B"),
    ("meta-llama/Llama-3.1-405B", 405_853_388_800, True, 516_096, HUB + "meta-llama/Llama-3.1-405B"),
    ("meta-llama/Llama-3.2-1B", 1_235_814_400, True, 32_768, HUB + "meta-llama/Llama-3.2-1B"),
    ("meta-llama/Llama-3.2-3B", 3_212_749_824, True, 114_688, HUB + "meta-llama/Llama-3.2-3B"),
    ("meta-llama/Llama-3.3-70B-Instruct", 70_553_706_496, True, 327_680, HUB + "meta-llama/Llama-3.3-70B-Instruct"),
    ("meta-llama/Llama-4-Scout-17B-16E", 108.6e9, False, 196_608, HUB + "meta-llama/Llama-4-Scout-17B-16E"),
    ("meta-llama/Llama-4-Maverick-17B-128E", 401.6e9, False, None, HUB + "meta-llama/Llama-4-Maverick-17B-128E"),
    ("mistralai/Mistral-7B-v0.1", 7_241_732_096, True, 131_072, HUB + "mistralai/Mistral-7B-v0.1"),
    ("mistralai/Mistral-7B-v0.3", 7_248_023_552, True, 131_072, HUB + "mistralai/Mistral-7B-v0.3"),
    ("mistralai/Mistral-Nemo-Base-2407", 12_247_782_400, True, 163_840, HUB + "mistralai/Mistral-Nemo-Base-2407"),
    (
        "mistralai/Mistral-Small-24B-Base-2501",
        23_572_403_200,
        True,
        None,
        HUB + "mistralai/Mistral-Small-24B-Base-2501",
    ),
    (
        "mistralai/Mistral-Large-Instruct-2407",
        122_610_069_504,
        True,
        None,
        HUB + "mistralai/Mistral-Large-Instruct-2407",
    ),
    ("mistralai/Mixtral-8x7B-v0.1", 46_702_792_704, True, 131_072, HUB + "mistralai/Mixtral-8x7B-v0.1"),
    ("mistralai/Mixtral-8x22B-v0.1", 140_620_634_112, True, 229_376, HUB + "mistralai/Mixtral-8x22B-v0.1"),
    ("mistralai/Mixtral-8x22B-Instruct-v0.1", 140_630_071_296, True, 229_376, HUB + "mistralai/Mixtral-8x22B-v0.1"),
    ("Qwen/Qwen2.5-0.5B", 494_032_768, True, None, HUB + "Qwen/Qwen2.5-0.5B"),
    ("Qwen/Qwen2.5-1.5B", 1_543_714_304, True, None, HUB + "Qwen/Qwen2.5-1.5B"),
    ("Qwen/Qwen2.5-3B", 3_085_938_688, True, None, HUB + "Qwen/Qwen2.5-3B"),
    ("Qwen/Qwen2.5-7B", 7_615_616_512, True, 57_344, HUB + "Qwen/Qwen2.5-7B"),
    ("Qwen/Qwen2.5-14B", 14_770_033_664, True, None, HUB + "Qwen/Qwen2.5-14B"),
    ("Qwen/Qwen2.5-32B", 32_763_876_352, True, None, HUB + "Qwen/Qwen2.5-32B"),
    ("Qwen/Qwen2.5-72B", 72_706_203_648, True, None, HUB + "Qwen/Qwen2.5-72B"),
    ("Qwen/Qwen3-0.6B", 596_049_920, True, 114_688, HUB + "Qwen/Qwen3-0.6B"),
    ("Qwen/Qwen3-4B", 4_022_468_096, True, 147_456, HUB + "Qwen/Qwen3-4B"),
    ("Qwen/Qwen3-8B", 8_190_735_360, True, 147_456, HUB + "Qwen/Qwen3-8B"),
    ("Qwen/Qwen3-14B", 14_768_307_200, True, 163_840, HUB + "Qwen/Qwen3-14B"),
    ("Qwen/Qwen3-32B", 32_762_123_264, True, 262_144, HUB + "Qwen/Qwen3-32B"),
    ("Qwen/Qwen3-30B-A3B", 30_532_122_624, True, 98_304, HUB + "Qwen/Qwen3-30B-A3B"),
    ("Qwen/Qwen3-235B-A22B", 235_093_634_560, True, 192_512, HUB + "Qwen/Qwen3-235B-A22B"),
    ("Qwen/Qwen3-Next-80B-A3B-Instruct", 80e9, False, 24_576, HUB + "Qwen/Qwen3-Next-80B-A3B-Instruct"),
    ("Qwen/Qwen3.5-35B-A3B", 35e9, False, None, HUB + "Qwen/Qwen3.5-35B-A3B"),
    ("deepseek-ai/DeepSeek-V2", 236e9, False, 69_120, "https://arxiv.org/abs/2405.04434"),
    ("deepseek-ai/DeepSeek-V2-Lite", 15_706_484_224, True, 31_104, HUB + "deepseek-ai/DeepSeek-V2-Lite"),
    ("deepseek-ai/DeepSeek-V3", 671_026_419_200, True, 70_272, "https://arxiv.org/abs/2412.19437"),
    ("deepseek-ai/DeepSeek-R1", 671_026_419_200, True, 70_272, "https://arxiv.org/abs/2501.12948"),
    ("moonshotai/Kimi-K2-Instruct", 1_026_408_232_448, True, 70_272, HUB + "moonshotai/Kimi-K2-Instruct"),
    ("openai/gpt-oss-20b", 20_914_757_184, True, 49_152, "https://arxiv.org/abs/2508.10925"),
    ("openai/gpt-oss-120b", 116_829_156_672, True, 73_728, "https://arxiv.org/abs/2508.10925"),
    ("zai-org/GLM-4.5-Air", 106e9, False, None, HUB + "zai-org/GLM-4.5-Air"),
    ("zai-org/GLM-4.5", 355e9, False, None, HUB + "zai-org/GLM-4.5"),
    ("google/gemma-2-2b", 2_614_341_888, True, 106_496, HUB + "google/gemma-2-2b"),
    ("google/gemma-2-9b", 9_241_705_984, True, 344_064, HUB + "google/gemma-2-9b"),
    ("google/gemma-2-27b", 27_227_128_320, True, None, HUB + "google/gemma-2-27b"),
    ("google/gemma-3-1b-it", 999_885_952, True, 26_624, HUB + "google/gemma-3-1b-it"),
    # Table 1: 675 + 3,209, 1,012 + 10,759 and 1,416 + 25,600 million embedding and other parameters.
    ("google/gemma-3-4b-it", 3_884e6, False, None, "https://arxiv.org/abs/2503.19786"),
    ("google/gemma-3-12b-it", 11_771e6, False, None, "https://arxiv.org/abs/2503.19786"),
    ("google/gemma-3-27b-it", 27_016e6, False, None, "https://arxiv.org/abs/2503.19786"),
    ("google/gemma-4-26B-A4B", 25.2e9, False, None, HUB + "google/gemma-4-26B-A4B-it"),
    ("microsoft/phi-2", 2_779_683_840, True, 327_680, HUB + "microsoft/phi-2"),
    ("microsoft/Phi-3-mini-4k-instruct", 3_821_079_552, True, 393_216, HUB + "microsoft/Phi-3-mini-4k-instruct"),
    ("microsoft/Phi-3-medium-4k-instruct", 13_960_238_080, True, None, HUB + "microsoft/Phi-3-medium-4k-instruct"),
    ("microsoft/phi-4", 14_659_507_200, True, None, HUB + "microsoft/phi-4"),
    ("microsoft/Phi-4-mini-instruct", 3_836_021_760, True, None, HUB + "microsoft/Phi-4-mini-instruct"),
    ("microsoft/Phi-3.5-MoE-instruct", 41_873_153_344, True, None, HUB + "microsoft/Phi-3.5-MoE-instruct"),
    ("microsoft/Phi-mini-MoE-instruct", 7.6e9, False, None, HUB + "microsoft/Phi-mini-MoE-instruct"),
    ("facebook/opt-1.3b", 1_315_758_080, True, 196_608, HUB + "facebook/opt-1.3b"),
    ("facebook/opt-13b", 12_853_473_280, True, None, HUB + "facebook/opt-13b"),
    ("facebook/opt-30b", 29_974_540_288, True, None, HUB + "facebook/opt-30b"),
    ("facebook/opt-66b", 66e9, False, None, "https://arxiv.org/abs/2205.01068"),
    ("facebook/opt-175b", 175e9, False, 4_718_592, "https://arxiv.org/abs/2205.01068"),
    ("tiiuae/falcon-7b", 6_921_720_704, True, 8_192, HUB + "tiiuae/falcon-7b"),
    ("tiiuae/falcon-40b", 41_303_293_952, True, 122_880, HUB + "tiiuae/falcon-40b"),
    ("tiiuae/falcon-180B", 179.5e9, False, None, HUB + "tiiuae/falcon-180B"),
    ("bigscience/bloom", 176_247_271_424, True, 4_014_080, HUB + "bigscience/bloom"),
    ("bigscience/bloom-7b1", 7_069_016_064, True, None, HUB + "bigscience/bloom-7b1"),
    ("EleutherAI/gpt-j-6b", 6_050_882_784, True, None, HUB + "EleutherAI/gpt-j-6b"),
    ("openai-community/gpt2", 124_439_808, True, None, HUB + "openai-community/gpt2"),
    # State-space layers and hybrids; totals of the model pages, rounded ones as their names say.
    ("state-spaces/mamba-130m-hf", 129_135_360, True, 0, HUB + "state-spaces/mamba-130m-hf"),
    ("state-spaces/mamba-2.8b-hf", 2_768_345_600, True, 0, HUB + "state-spaces/mamba-2.8b-hf"),
    ("tiiuae/falcon-mamba-7b", 7_272_665_088, True, 0, HUB + "tiiuae/falcon-mamba-7b"),
    ("state-spaces/mamba2-130m", 128_989_632, True, 0, HUB + "state-spaces/mamba2-130m"),
    ("state-spaces/mamba2-2.7b", 2_702_599_680, True, 0, HUB + "state-spaces/mamba2-2.7b"),
    ("mistralai/Mamba-Codestral-7B-v0.1", 7_285_403_648, True, 0, HUB + "mistralai/Mamba-Codestral-7B-v0.1"),
    ("ai21labs/Jamba-v0.1", 51_570_323_328, True, 16_384, HUB + "ai21labs/Jamba-v0.1"),
    ("ai21labs/AI21-Jamba-1.5-Large", 398e9, False, 36_864, "https://arxiv.org/abs/2408.12570"),
    ("ibm-ai-platform/Bamba-9B-v1", 9.78e9, False, 12_288, HUB + "ibm-ai-platform/Bamba-9B-v1"),
    ("ibm-granite/granite-4.0-h-micro", 3.19e9, False, 8_192, HUB + "ibm-granite/granite-4.0-h-micro"),
    ("ibm-granite/granite-4.0-h-tiny", 6.94e9, False, 8_192, HUB + "ibm-granite/granite-4.0-h-tiny"),
    ("ibm-granite/granite-4.0-h-small", 32.2e9, False, 16_384, HUB + "ibm-granite/granite-4.0-h-small"),
    ("nvidia/Nemotron-H-8B-Base-8K", 8.1e9, False, 16_384, "https://arxiv.org/abs/2504.03624"),
    ("nvidia/NVIDIA-Nemotron-Nano-9B-v2", 8.89e9, False, 16_384, HUB + "nvidia/NVIDIA-Nemotron-Nano-9B-v2"),
    (
        "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
        31.6e9,
        False,
        6_144,
        HUB + "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
    ),
    # Encoder-decoder models; KV is that of the decoder, for inputs and outputs alike.
    ("google-t5/t5-small", 60_506_624, True, 12_288, HUB + "google-t5/t5-small"),
    ("google-t5/t5-base", 222_903_552, True, 36_864, HUB + "google-t5/t5-base"),
    ("google-t5/t5-large", 737_668_096, True, 98_304, HUB + "google-t5/t5-large"),
    ("google-t5/t5-11b", 11_307_321_344, True, None, HUB + "google-t5/t5-11b"),
    ("google/flan-t5-base", 247_577_856, True, 36_864, HUB + "google/flan-t5-base"),
    ("google/flan-t5-large", 783_150_080, True, 98_304, HUB + "google/flan-t5-large"),
    ("google/flan-t5-xl", 2_849_757_184, True, None, HUB + "google/flan-t5-xl"),
    ("google/flan-t5-xxl", 11_135_332_352, True, None, HUB + "google/flan-t5-xxl"),
    ("facebook/bart-base", 139_420_416, True, 18_432, HUB + "facebook/bart-base"),
    ("facebook/bart-large", 406_291_456, True, 49_152, HUB + "facebook/bart-large"),
    ("openai/whisper-tiny", 37_760_640, True, 6_144, HUB + "openai/whisper-tiny"),
    ("openai/whisper-small", 241_734_912, True, 36_864, HUB + "openai/whisper-small"),
    ("openai/whisper-medium", 763_857_920, True, None, HUB + "openai/whisper-medium"),
    ("openai/whisper-large-v3", 1_543_490_560, True, 163_840, HUB + "openai/whisper-large-v3"),
    ("openai/whisper-large-v3-turbo", 808_878_080, True, 20_480, HUB + "openai/whisper-large-v3-turbo"),
    # Encoders
    ("google-bert/bert-base-uncased", 109_482_240, True, 0, HUB + "google-bert/bert-base-uncased"),
    ("google-bert/bert-large-uncased", 335_141_888, True, 0, HUB + "google-bert/bert-large-uncased"),
    ("sentence-transformers/all-MiniLM-L6-v2", 22_713_216, True, 0, HUB + "sentence-transformers/all-MiniLM-L6-v2"),
    ("FacebookAI/roberta-base", 124_645_632, True, 0, HUB + "FacebookAI/roberta-base"),
    ("BAAI/bge-m3", 567_754_752, True, 0, HUB + "BAAI/bge-m3"),
    ("facebook/deit-small-patch16-224", 22_050_664, True, 0, HUB + "facebook/deit-small-patch16-224"),
    ("google/vit-base-patch16-224", 86_567_656, True, 0, HUB + "google/vit-base-patch16-224"),
    ("google/vit-large-patch16-224", 304_326_632, True, 0, HUB + "google/vit-large-patch16-224"),
]

# Active parameters as published (billions); embeddings are counted differently by different authors.
ACTIVE = [
    ("mixtral-8x7b", 12.9, 0.01),
    ("deepseek-v3", 37.0, 0.02),
    ("deepseek-v2", 21.0, 0.02),
    ("kimi-k2", 32.0, 0.03),
    ("llama-4-scout", 17.0, 0.02),
    ("llama-4-maverick", 17.0, 0.02),
    ("phi-3.5-moe", 6.6, 0.01),
    ("phi-mini-moe", 2.4, 0.02),
    ("gemma-4-26b-a4b", 3.8, 0.01),
    ("jamba-v0.1", 12.0, 0.02),
    ("jamba-1.5-large", 94.0, 0.01),
    ("granite-4.0-h-small", 9.0, 0.03),
    ("nemotron-3-nano-30b-a3b", 3.6, 0.01),
]


@pytest.mark.parametrize(("name", "total", "exact", "kv", "source"), PUBLISHED, ids=[p[0] for p in PUBLISHED])
def test_totals_are_the_published_ones(name: str, total: float, exact: bool, kv: int | None, source: str) -> None:
    model = load_model(name)
    assert source.startswith("https://")
    assert model.num_params == (total if exact else pytest.approx(total, rel=0.01))
    assert sum(model.params_by_component().values()) == model.num_params
    if kv is not None:
        assert model.kv_bytes_per_token(2.0) == kv


@pytest.mark.parametrize(("name", "billions", "rel"), ACTIVE)
def test_active_parameters_are_about_the_published_ones(name: str, billions: float, rel: float) -> None:
    assert load_model(name).num_active_params / 1e9 == pytest.approx(billions, rel=rel)


def _golden() -> list[dict[str, object]]:
    path = SHARED / "hf_golden.json"
    return json.loads(path.read_text()) if path.is_file() else []


_GOLDEN_NAMES = {
    "llama-2-7b": "meta-llama/Llama-2-7b-hf",
    "mistral-nemo-2407": "mistral-nemo",
    "mixtral-8x7b": "mixtral-8x7b",
}


@pytest.mark.skipif(not _golden(), reason="../shared/data/hf/hf_golden.json is not here")
def test_every_golden_vector_is_met_exactly() -> None:
    for row in _golden():
        name = str(row["name"])
        model = load_model(_GOLDEN_NAMES.get(name.lower(), name))
        if name == "Mixtral-8x22B":
            model = load_model("mistralai/Mixtral-8x22B-v0.1")
        assert (model.num_params, model.num_active_params) == (row["params"], row["active"]), name
        assert model.kv_bytes_per_token(2.0) == row["kv_bytes_tok_bf16_all"], name
        assert (model.num_full_layers, model.num_window_layers) == (row["full_layers"], row["sliding_layers"]), name
        assert model.sliding_window == row["window"], name
        growing = model.kv_bytes(100_001, 2.0) - model.kv_bytes(100_000, 2.0)
        assert growing == row["kv_bytes_tok_bf16_full"], name


@pytest.mark.skipif(not (SHARED / "hf_configs").is_dir(), reason="../shared/data/hf/hf_configs is not here")
def test_real_config_files_agree_with_the_catalog() -> None:
    paths = sorted((SHARED / "hf_configs").glob("*.json"))
    assert paths
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in paths:
            read = model_from_config(path)
            known = load_model(_GOLDEN_NAMES.get(path.stem, path.stem))
            assert read.num_params == known.num_params, path.name
            assert read.layers == known.layers, path.name
            assert read.layer_sequence == known.layer_sequence, path.name
            assert read.max_position_embeddings in (known.max_position_embeddings, 32768), path.name
            assert (read.quant is None) == (known.quant is None), path.name
            assert read.weight_bytes() == known.weight_bytes(), path.name


def test_catalog_loads_without_a_warning_and_names_are_unique() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for stem, entry in catalog().items():
            model = load_model(stem)
            assert model.name == entry.names[0]
            assert model.source.startswith("https://")
            model.weight_bytes_per_device(1)
    names = [n.lower() for n in model_names()]
    assert len(names) == len(set(names))
    aliases = [a for entry in catalog().values() for a in entry.aliases if a not in catalog()]
    assert len(aliases) == len(set(aliases))


def test_every_hub_name_leads_to_its_own_file() -> None:
    for entry in catalog().values():
        for name in entry.names:
            model = load_model(name)
            assert model.name == name
            if model.encoder is None and not model.pooling:
                assert model.max_position_embeddings == entry.config.get("max_position_embeddings", 1 << 20)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("meta-llama/llama-3.1-70b", "meta-llama/Llama-3.1-70B"),
        ("meta-llama/Meta-Llama-3.1-70B-Instruct", "meta-llama/Meta-Llama-3.1-70B-Instruct"),
        ("Meta-Llama-3.1-70B", "meta-llama/Meta-Llama-3.1-70B"),
        ("llama-3.1-70b", "meta-llama/Llama-3.1-70B"),
        ("llama3.1-70b", "meta-llama/Llama-3.1-70B"),
        ("Llama_3.1_70B", "meta-llama/Llama-3.1-70B"),
        ("llama3-70b", "meta-llama/Meta-Llama-3-70B"),
        ("llama-2-7b-chat", "meta-llama/Llama-2-7b-chat-hf"),
        ("deepseek-r1", "deepseek-ai/DeepSeek-R1"),
        ("qwen2.5-7b", "Qwen/Qwen2.5-7B"),
        ("gemma-3-27b", "google/gemma-3-27b-pt"),
        ("gpt-oss-120b", "openai/gpt-oss-120b"),
        ("llama-3.3-70b", "meta-llama/Llama-3.3-70B-Instruct"),
        ("mixtral-8x7b-instruct-v0.1", "mistralai/Mixtral-8x7B-Instruct-v0.1"),
        ("Qwen3-30B-A3B-Instruct-2507", "Qwen/Qwen3-30B-A3B-Instruct-2507"),
    ],
)
def test_names_as_people_type_them(typed: str, meant: str) -> None:
    assert load_model(typed).name == meant


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match=r"Did you mean 'llama-3.1-70b'.*path of its config.json") as error:
        load_model("lama-3.1-70b")
    assert "\n" not in str(error.value)


def test_names_are_listed_fast() -> None:
    """Reading the whole catalog must not be felt (20 ms on an idle machine; five times that here)."""
    catalog.cache_clear()
    best = min(_seconds_to_read() for _ in range(3))
    assert best < 0.1


def _seconds_to_read() -> float:
    catalog.cache_clear()
    start = time.perf_counter()
    catalog()
    return time.perf_counter() - start


def test_a_model_downloaded_before_is_found_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "models--someone--mine" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    config = {**catalog()["llama-3.1-8b"].config, "num_hidden_layers": 7}
    (snapshot / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    model = load_model("someone/mine")
    assert (model.name, model.num_layers) == ("someone/mine", 7)
