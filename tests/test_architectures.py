"""State-space layers, encoder-decoder models and models of one pass: laws of their cost, memory, and both modes of time."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest

import apex_sim
from hardware_profiles.errors import UserError
from simulator.build import build_deployment
from simulator.physics.explain import step_shape
from workloads.catalog import load_model
from workloads.huggingface import model_from_config
from workloads.model import ModelSpec

COLUMNS = ("arrival_s", "first_token_s", "finish_s", "num_preemptions", "output_tokens")


def both_modes(model: str | ModelSpec, cluster: str = "h100-sxm:1", **settings: object) -> apex_sim.SimulationResult:
    """The run in spans, after its steps one by one came out equal."""
    spans, steps = (apex_sim.simulate(model, cluster, exact_steps=exact, **settings) for exact in (False, True))
    for name in COLUMNS:
        assert np.array_equal(spans.column(name), steps.column(name), equal_nan=True), name
    if spans.summary["joules_per_request"] is not None:
        assert spans.summary["joules_per_request"] == pytest.approx(steps.summary["joules_per_request"], rel=1e-9)
    return spans


# -- state-space layers ------------------------------------------------------------------------------------------------


def test_state_of_mamba_is_inner_times_state_and_the_tail_of_the_convolution() -> None:
    first, second = load_model("mamba-2.8b"), load_model("mamba2-2.7b")
    assert first.state_elements == 64 * (5120 * 16 + 5120 * 3)
    assert second.state_elements == 64 * (80 * 64 * 128 + (5120 + 2 * 128) * 3)
    assert first.kv_bytes(100_000) == second.kv_bytes(100_000) == 0.0


def test_chunks_of_mamba_2_are_four_products() -> None:
    ssm = load_model("mamba2-2.7b").layers[0].attention.ssm
    assert ssm is not None
    q, n, p = 256, 128, 5120
    assert ssm.scan_flop == 2 * q * n + 2 * q * p + 2 * n * p + 2 * n * p + 2 * 4 * (5120 + 256)


def test_decode_of_states_does_not_depend_on_the_context() -> None:
    model = build_deployment("mamba2-2.7b", "h100-sxm:1").step_model
    line = model.decode(8)
    assert line.context_s == line.window_s == 0.0
    one, two = (model.decode(n).base_s for n in (8, 9))
    assert two - one >= 2 * 2 * load_model("mamba2-2.7b").state_elements / model.bandwidth_bytes_per_s


def test_moving_states_is_no_waiting() -> None:
    deployment = build_deployment("mamba2-2.7b", "h100-sxm:1")
    bounds = [apex_sim.explain_step(deployment, decode_seqs=n).loc["attention.decode", "bound"] for n in (1, 64)]
    assert bounds == ["latency", "memory"]


def test_a_prompt_costs_time_in_proportion_to_its_length() -> None:
    model = build_deployment("mamba2-2.7b", "h100-sxm:1", max_num_batched_tokens=65536).step_model
    short, long = (model.step(step_shape(prefill=n, window=None))[0] for n in (16384, 32768))
    assert long / short == pytest.approx(2.0, rel=0.02)


def test_places_are_those_that_have_a_state() -> None:
    few = build_deployment("mamba2-2.7b", "l4:1", max_num_seqs=1024)
    places = few.replica_setup().limits.max_num_seqs
    state = 2 * load_model("mamba2-2.7b").state_elements
    assert places == int(few.memory.state_bytes / state + 1e-9) < 1024
    wide = build_deployment("mamba2-2.7b", "l4:1", max_num_seqs=1024, mamba_ssm_cache_dtype="float32")
    assert places / 2.1 < wide.replica_setup().limits.max_num_seqs < places / 1.9
    assert apex_sim.simulate("mamba2-2.7b", "l4:1", max_num_seqs=1024, input_len=8, output_len=64, num_requests=400,
                             arrival="at-once").summary["peak_running"] <= places  # fmt: skip


def test_states_and_kv_share_what_is_left() -> None:
    memory = build_deployment("nemotron-h-8b", "h100-sxm:1").memory
    assert memory.state_bytes == pytest.approx(memory.kv_bytes, rel=1e-3)
    fewer = build_deployment("nemotron-h-8b", "h100-sxm:1", max_num_seqs=64).memory
    assert fewer.state_bytes == 64 * 2 * load_model("nemotron-h-8b").state_elements


def test_groups_are_repeated_on_ranks_that_share_them() -> None:
    model = load_model("mamba2-2.7b")  # one group
    spec = model.layers[0].attention
    assert spec.params_per_rank(2) == (2 * 5120 // 2 + 256 + 80 // 2) * 2560 + 2560 * 5120 // 2
    assert model.weight_bytes_per_device(2) > model.weight_bytes() / 2


def test_hybrid_patterns_say_which_layer_is_what() -> None:
    model = load_model("nemotron-h-8b")
    layers = [model.layers[i].attention for i in model.layer_sequence]
    kinds = ["*" if a.reads_context else "M" if a.ssm else "-" for a in layers]
    assert "".join(kinds) == "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"
    assert (model.num_full_layers, model.num_linear_layers, model.num_layers) == (4, 24, 52)


def test_configs_of_the_authors_package_are_read_too() -> None:
    config = {"d_model": 2560, "n_layer": 64, "vocab_size": 50277, "ssm_cfg": {"layer": "Mamba2"},
              "pad_vocab_size_multiple": 16, "tie_embeddings": True}  # fmt: skip
    assert model_from_config(config).num_params == load_model("mamba2-2.7b").num_params


# -- encoder-decoder ---------------------------------------------------------------------------------------------------


def test_an_encoder_sees_all_pairs_and_the_decoder_one_row() -> None:
    model = build_deployment("flan-t5-large", "h100-sxm:1").step_model
    spec = load_model("flan-t5-large")
    assert spec.encoder is not None
    shape = step_shape(prefill=512, window=None)
    row = 2 * sum(m.params for m in spec.layers[0].attention.matrices + spec.layers[0].mlp.matrices) * 24
    head = 2 * 32128 * 1024
    attention = spec.layers[0].attention.flop_per_token(513) * 24
    assert model.flop(shape) == pytest.approx(spec.encoder.flop(512) + row + head + attention, rel=1e-3)


def test_rows_read_the_input_the_output_and_the_start_token() -> None:
    model = build_deployment("flan-t5-large", "h100-sxm:1").step_model
    line = model.decode(4)
    per_entry = 2 * 2 * 16 * 64 * 24
    assert model.hbm_bytes(step_shape(decode_seqs=4, context=1000, window=None)) - model.hbm_bytes(
        step_shape(decode_seqs=4, context=999, window=None)
    ) == pytest.approx(4 * per_entry)
    assert line.base_s > super(type(model), model)._compile_decode(4).base_s


def test_breakdown_of_a_mixed_step_adds_up_to_its_time() -> None:
    for name in ("whisper-large-v3", "bert-large", "mamba2-2.7b", "granite-4.0-h-tiny"):
        model = build_deployment(name, "h100-sxm:1").step_model
        rows = 0 if name == "bert-large" else 7  # with the start token 8, which is a captured size
        shape = step_shape(decode_seqs=rows, context=700, prefill=1500, window=None)
        parts = model.explain(shape)
        assert sum(p.seconds for p in parts) == pytest.approx(model.step(shape)[0], rel=1e-6), name
        assert sum(p.share for p in parts) == pytest.approx(1.0)
        assert sum(p.flop for p in parts) == pytest.approx(model.flop(shape), rel=1e-6), name


def test_encoders_take_their_memory() -> None:
    memory = build_deployment("flan-t5-xl", "h100-sxm:1").memory
    assert memory.weight_bytes == pytest.approx(2 * load_model("flan-t5-xl").num_params, rel=1e-3)
    assert memory.kv_bytes_per_token == 2 * 2 * 24 * 32 * 64


def test_inputs_are_computed_whole() -> None:
    result = both_modes("flan-t5-large", input_len=3000, output_len=20, num_requests=30, rate=20.0)
    assert result.deployment.engine.batching == "in-flight"
    assert result.summary["completed"] == 30


def test_inputs_beyond_the_positions_are_refused() -> None:
    with pytest.raises(UserError, match="1,500 positions"):
        apex_sim.simulate("whisper-small", "h100-sxm:1", input_len=1600, output_len=8, num_requests=4, rate=1.0)


# -- one pass ----------------------------------------------------------------------------------------------------------


def test_a_pass_is_one_answer_and_no_decode() -> None:
    result = both_modes("bert-large", input_len=200, output_len=50, num_requests=40, rate=50.0)
    assert result.column("output_tokens").tolist() == [1] * 40
    assert result.record.replicas[0].counters.decode_tokens == 0
    assert np.array_equal(result.column("first_token_s"), result.column("finish_s"))


def test_a_decoder_that_pools_has_no_lm_head() -> None:
    plain, pooled = (build_deployment("qwen3-8b", "h100-sxm:1", runner=r) for r in ("auto", "pooling"))
    head = 2 * 151936 * 4096
    assert plain.memory.weight_bytes - pooled.memory.weight_bytes == pytest.approx(head, rel=1e-3)
    shape = step_shape(prefill=100, window=None)
    assert "lm_head" in [p.name for p in plain.step_model.explain(shape)]
    assert "lm_head" not in [p.name for p in pooled.step_model.explain(shape)]
    both_modes("qwen3-8b", runner="pooling", input_len=200, output_len=50, num_requests=20, rate=50.0)


def test_pairs_of_encoders_are_squares() -> None:
    model = build_deployment("vit-base", "h100-sxm:1").step_model
    matrices = (
        2 * sum(m.params for g in load_model("vit-base").layers for m in g.attention.matrices + g.mlp.matrices) * 12
    )
    assert model.flop(step_shape(prefill=197, window=None)) == pytest.approx(matrices * 197 + 4 * 197**2 * 768 * 12)


# -- both modes, with other techniques ---------------------------------------------------------------------------------

SIZES = {"whisper-small": 448, "vit-base": 197}
MORE: tuple[dict[str, object], ...] = (
    {},
    {"tp": 2, "cluster": "h100-sxm:2"},
    {"dp": 2, "cluster": "h100-sxm:2", "routing": "least-outstanding"},
    {"quantization": "fp8"},
    {"engine": "vllm-v0"},
    {"engine": "sglang"},
    {"max_num_seqs": 4},
    {"power_cap": 400.0},
    {"async_scheduling": False},
)


@pytest.mark.parametrize(
    "model", ["mamba2-1.3b", "mamba-1.4b", "granite-4.0-h-micro", "flan-t5-base", "whisper-small", "vit-base"]
)
def test_spans_equal_steps_with_other_techniques(model: str) -> None:
    chance = random.Random(model)
    for _ in range(3):
        settings = dict(chance.choice(MORE)) | dict(chance.choice(MORE))
        length = SIZES.get(model, chance.choice((60, 700)))
        cluster = str(settings.pop("cluster", "h100-sxm:1"))
        if settings.get("tp", 1) == settings.get("dp", 1) == 2:
            cluster = "h100-sxm:4"
        both_modes(model, cluster, input_len=length, output_len=24, num_requests=25, rate=40.0, **settings)


def test_preempted_requests_come_back_in_both_modes() -> None:
    for model in ("flan-t5-large", "granite-4.0-h-micro"):
        result = both_modes(model, input_len=100, output_len=120, num_requests=40, arrival="at-once",
                            num_gpu_blocks_override=200, max_model_len=400)  # fmt: skip
        assert result.column("num_preemptions").sum() > 0


def test_a_pipeline_of_streams_and_arrays_runs_states_too() -> None:
    result = both_modes("mamba2-2.7b", "vhk158:1", quantization="flightllm", input_len=64, output_len=16, num_requests=4,
                        rate=0.5)  # fmt: skip
    assert result.summary["completed"] == 4
    model = result.deployment.step_model
    stored = 2 * load_model("mamba2-2.7b").state_elements
    assert model.decode(2).base_s - model.decode(1).base_s >= 2 * stored / model.bandwidth_bytes_per_s


def test_states_travel_between_pools() -> None:
    spans, steps = (
        apex_sim.simulate("granite-4.0-h-micro", "h100-sxm:2", exact_steps=exact, input_len=300, output_len=20, num_requests=30,
                          rate=20.0, disaggregate={"prefill": {"tp": 1}, "decode": {"tp": 1}})
        for exact in (False, True)
    )  # fmt: skip
    assert np.array_equal(spans.column("finish_s"), steps.column("finish_s"))


NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "acceptance": 0.5}


@pytest.mark.parametrize(
    ("model", "settings", "words"),
    [
        ("mamba2-2.7b", {"enable_prefix_caching": True}, "no prefixes to reuse"),
        ("flan-t5-base", {"enable_prefix_caching": True}, "no prefixes to reuse"),
        ("mamba2-2.7b", {"kv_compression": 0.5}, "has none"),
        ("mamba2-2.7b", {"attention_top_k": 128}, "has none"),
        ("mamba2-2.7b", {"attention_device": "cpu", "attention_device_gb": 20.0}, "has none"),
        ("mamba2-2.7b", {"recursion_depths": "0.5,0.5"}, "has none"),
        ("nemotron-h-8b", {"preemption_mode": "swap"}, "cannot follow"),
        ("nemotron-h-8b", {"speculative_config": NGRAM}, "states of every draft"),
        ("flan-t5-base", {"batching": "chunked"}, "in-flight"),
        ("flan-t5-base", {"attention_density": 0.5}, "encoder"),
        ("flan-t5-base", {"runner": "pooling"}, "encoder-decoder"),
        ("bert-base", {"runner": "generate"}, "generates nothing"),
        ("bert-base", {"runner": "pool"}, "runner"),
        ("llama-3.1-8b", {"mamba_ssm_cache_dtype": "float32"}, "no recurrent state"),
        ("mamba2-2.7b", {"mamba_ssm_cache_dtype": "int3"}, "int3"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_one_line(model: str, settings: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        _ = build_deployment(model, "h100-sxm:1", **settings).memory
    assert "\n" not in str(caught.value)


def test_a_part_of_an_input_is_no_step_of_an_encoder() -> None:
    model = build_deployment("flan-t5-base", "h100-sxm:1").step_model
    with pytest.raises(UserError, match="computes its input whole"):
        model.step(step_shape(prefill=100, cached=50, window=None))


@pytest.mark.parametrize("seed", range(4))
def test_random_patterns_of_layers_run_in_both_modes(seed: int) -> None:
    chance = random.Random(seed)
    pattern = "".join(chance.choice("MM*-E") for _ in range(10)) + "M-"
    config = {
        "model_type": "nemotron_h", "hidden_size": 1024, "num_hidden_layers": 12, "hybrid_override_pattern": pattern,
        "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 64, "intermediate_size": 4096, "mamba_num_heads": 32,
        "mamba_head_dim": 64, "n_groups": chance.choice((1, 2, 8)), "ssm_state_size": 64, "conv_kernel": 4, "chunk_size": 128,
        "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 512, "vocab_size": 32000,
        "max_position_embeddings": 4096, "tie_word_embeddings": False,
    }  # fmt: skip
    model = model_from_config(config, pattern)
    assert model.num_params == sum(model.params_by_component().values())
    tp = chance.choice((1, 2))
    result = both_modes(model, f"h100-sxm:{tp}", tp=tp, input_len=200, output_len=20, num_requests=20, rate=50.0,
                        max_num_seqs=chance.choice((3, 256)))  # fmt: skip
    assert result.summary["completed"] == 20
    stage = result.deployment.step_model.stages[0]
    weights = sum(layer.weight_bytes * count for layer, count in stage.layout.layers)
    assert (
        weights >= (model.weight_bytes() - 2 * (2 * 32000 + 1) * 1024) / tp
    )  # without embedding, LM head and final norm


def test_models_with_states_do_not_draft() -> None:
    drafts = {"method": "draft_model", "model": "mamba2-130m", "num_speculative_tokens": 3, "acceptance": 0.7}
    with pytest.raises(UserError, match="cannot draft"):
        _ = build_deployment("llama-3.1-8b", "h100-sxm:1", speculative_config=drafts).draft


def test_models_that_cannot_be_read_are_refused() -> None:
    for kind in ("zamba2", "falcon_h1"):
        with pytest.raises(UserError, match="not modelled"):
            model_from_config({"model_type": kind, "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100})
    broken = {"model_type": "nemotron_h", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100}
    with pytest.raises(UserError, match="3 letters for 2 layers"):
        model_from_config(broken | {"hybrid_override_pattern": "M*-"})
    with pytest.raises(UserError, match="'X'"):
        model_from_config(broken | {"hybrid_override_pattern": "X-"})


def test_a_state_that_does_not_fit_is_said() -> None:
    with pytest.raises(UserError, match="short by"):
        _ = build_deployment("falcon-mamba-7b", "t4:1").memory


def test_models_without_new_layers_have_no_new_parts() -> None:
    spec = dataclasses.replace(load_model("llama-3.1-8b"))
    assert spec.encoder is None and not spec.pooling


def test_models_are_shown_with_what_they_have(capsys: pytest.CaptureFixture[str]) -> None:
    from apex_sim.cli import main

    words = {
        "nemotron-h-8b": "GQA 32:8 + Mamba 2",
        "flan-t5-large": "keys and values of cross-attention",
        "bert-base": "one pass per request",
        "mamba-2.8b": "5120 channels of 16 states",
    }
    for name, expected in words.items():
        assert main(["models", "show", name]) == 0
        assert expected in capsys.readouterr().out
    assert main(["explain", "step", "--model", "mamba2-2.7b", "--cluster", "h100-sxm:1", "--decode", "4"]) == 0
    assert "no KV cache" in capsys.readouterr().out


def test_plans_of_new_architectures_keep_their_promise() -> None:
    for name in ("mamba2-2.7b", "flan-t5-large", "bert-large"):
        result = apex_sim.plan(
            name, "h100-sxm:1", slo="ttft=1s", input_len=400, output_len=32, num_requests=60, rate=20.0
        )
        assert result.best.measured is not None
        assert result.best.measured.metrics["slo_attainment"] == 1.0


def test_bounds_are_below_what_is_simulated() -> None:
    from planners.bounds import bound
    from planners.demand import WorkloadStats
    from workloads.slo import parse_slo

    slo = parse_slo("ttft=1s")
    for name in ("mamba2-2.7b", "flan-t5-large", "bert-large", "granite-4.0-h-micro"):
        result = apex_sim.simulate(name, "h100-sxm:1", input_len=400, output_len=32, num_requests=60, rate=100.0)
        bounds = bound(result.deployment, WorkloadStats.of(result.trace), slo)
        assert bounds.median_ttft_s * 1e3 <= result.summary["median_ttft_ms"]
        assert bounds.duration_s <= result.duration_s
        assert bounds.mean_e2e_s * 1e3 <= result.summary["mean_e2el_ms"]


def test_matmul_free_models_have_ternary_weights_and_a_state_per_channel() -> None:
    config = {
        "model_type": "hgrn_bit", "hidden_size": 2560, "num_hidden_layers": 32, "intermediate_size": 6912, "vocab_size": 32000,
        "tie_word_embeddings": False, "torch_dtype": "float16", "quantization_config": {"quant_method": "bitnet"},
    }  # fmt: skip
    model = model_from_config(config, "mmfree-2.7b")
    assert model.num_params == pytest.approx(2.7e9, rel=0.01)
    assert model.state_elements == 32 * 2560
    embeddings = 2 * 2 * 32000 * 2560
    assert model.weight_bytes() == pytest.approx(0.25 * (model.num_params - 2 * 32000 * 2560) + embeddings, rel=0.01)
    deployment = build_deployment(model, "h100-sxm:1")
    assert not deployment.engine.prefix_caching
