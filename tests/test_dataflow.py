"""Spatial designs (FPGA, processing in memory): stages, published times, limits, and the files that describe them."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from apex_sim.api import build_deployment, generate_trace, simulate
from apex_sim.report import basis
from hardware_profiles.errors import UserError
from hardware_profiles.loader import DEVICE_DIR, load_device, read_device_file
from simulator.build import check_compute
from simulator.physics.explain import explain_values, format_explanation
from simulator.physics.shape import StepShape


def step_model(cluster, **settings):
    return build_deployment("llama-2-7b", cluster, **settings).step_model


def flightllm(cluster):
    return step_model(cluster, quantization="flightllm", kv_cache_dtype="fp8")


def prompt(tokens):
    return StepShape(prefill_tokens=tokens, prefill_pairs=tokens * (tokens + 1) // 2, prefill_seqs=1, logits_rows=1)


PUBLISHED_MS = [
    (128, 512, 289.9, 4946.4),
    (128, 1024, 289.9, 10318.6),
    (128, 1536, 289.9, 16103.1),
    (512, 512, 1181.4, 5269.0),
    (512, 1024, 1181.4, 10950.5),
    (512, 1536, 1181.4, 17044.3),
]
"""Llama-2-7B on the VHK158: prompt, output, ms of each (FlightLLM's artefact, profile/README.md; its simulator)."""


@pytest.mark.parametrize(("prompt_tokens", "output_tokens", "prefill_ms", "decode_ms"), PUBLISHED_MS)
def test_flightllm_on_the_vhk158_takes_what_its_authors_state(prompt_tokens, output_tokens, prefill_ms, decode_ms):
    model = flightllm("vhk158")
    mean_context = prompt_tokens + output_tokens // 2
    per_token_s, _ = model.decode(1).cost(mean_context, mean_context)
    # one number is fitted, on the shorter prefill; softmax and the spread of the KV cache over channels are left out
    assert model.step(prompt(prompt_tokens))[0] * 1e3 == pytest.approx(prefill_ms, rel=0.03)
    assert per_token_s * output_tokens * 1e3 == pytest.approx(decode_ms, rel=0.11)


def test_flightllm_on_the_u280_reaches_the_published_speed():
    seconds, _ = flightllm("alveo-u280").decode(1).cost(512, 512)
    assert 1 / seconds == pytest.approx(55, rel=0.1)  # tokens/s in table VII of AccLLM, arXiv:2505.03745


def test_the_vhk158_beats_an_a100_by_a_fifth():
    ours, _ = flightllm("vhk158").decode(1).cost(640, 640)
    theirs, _ = step_model("a100", engine="vllm-v0", dtype="float16").decode(1).cost(640, 640)
    assert theirs / ours == pytest.approx(1.2, abs=0.1)


def test_a_board_of_constant_power_takes_power_times_time():
    model = flightllm("alveo-u280")
    seconds, joules = model.decode(1).cost(512, 512)
    assert joules == pytest.approx(45 * seconds)


def closed_form(device, weights, weight_bytes, rows):
    design = device.dataflow
    return max(
        weights * weight_bytes / (design.bandwidth_share * device.memory_bandwidth_bytes_per_s),
        weights / (design.busy_share * design.weight_elements_per_s),
        2 * rows * weights / (design.busy_share * device.dense_flop_per_s["int8"]),
    )


@pytest.mark.parametrize(("quantization", "bound"), [(None, "memory"), ("flightllm", "compute")])
@pytest.mark.parametrize("rows", [1, 3, 64])
def test_a_product_takes_as_long_as_its_slowest_stage(quantization, bound, rows):
    device = load_device("vhk158")
    model = step_model("vhk158", quantization=quantization)
    line = next(c for c in model.explain(StepShape(decode_seqs=rows, logits_rows=rows)) if c.name == "mlp.down_proj")
    weight_bytes = 2.0 if quantization is None else 3.5 / 8
    assert line.seconds == pytest.approx(32 * closed_form(device, 4096 * 11008, weight_bytes, rows))
    assert line.hbm_bytes == 32 * 4096 * 11008 * weight_bytes  # activations stay on chip
    assert line.bound == (bound if rows < 64 else "compute")


def test_a_decode_step_is_a_line_in_its_context():
    model = flightllm("vhk158")
    line = model.decode(4)
    for context in (0, 1000, 40_000):
        assert model.step(StepShape(4, context, context, logits_rows=4)) == line.cost(context, context)
    assert line.floor_s == 0


def test_batches_gain_until_the_arrays_are_full():
    model = flightllm("vhk158")
    rates = [n / model.decode(n).cost(0, 0)[0] for n in (1, 2, 4, 8, 16)]
    assert rates[2] / rates[0] == pytest.approx(4, rel=0.1)  # four rows per weight: 16384 multipliers on 4096 lanes
    assert rates[4] / rates[2] < 1.1


def test_exact_spans_give_what_single_steps_give():
    trace = generate_trace(input_len="uniform(20, 400)", output_len="uniform(5, 90)", num_requests=30, rate_per_s=1.0)
    runs = [
        simulate("llama-2-7b", "vhk158", quantization="flightllm", trace=trace, exact_steps=steps)
        for steps in (False, True)
    ]
    assert runs[0].requests.equals(runs[1].requests)


def test_experts_stream_and_enter_too():
    model = build_deployment("deepseek-v2-lite", "vhk158:2", tp=2, quantization="int4").step_model
    line = next(c for c in model.explain(StepShape(decode_seqs=1, logits_rows=1)) if c.name == "moe.experts")
    assert line.seconds > 0


PIM = """
name: banks
kind: pim
vendor: ACME
dense_flop_per_s: {bfloat16: 4.096e+12}
memory_bytes: 4_294_967_296
memory_bandwidth_bytes_per_s: 4.096e+12
dataflow: {weight_elements_per_s: 2.048e+12, busy_share: 1.0, bandwidth_share: 1.0}
sources: {spec: 8 x 16 banks of 32 B/ns, memory_bytes: assumed, dataflow: 16 multipliers per bank at 1 GHz}
"""


def test_processing_in_memory_is_bank_bandwidth_behind_the_same_interface(tmp_path):
    path = tmp_path / "banks.yaml"
    path.write_text(PIM)
    shape = StepShape(decode_seqs=1, context_tokens=512, logits_rows=1)

    def kernels_s(cluster, **settings):
        model = build_deployment("gpt2", cluster, engine="vllm-v0", dtype="float16", **settings).step_model
        return sum(c.seconds for c in model.explain(shape) if c.name != "host")

    ideal, launched = kernels_s("t4"), kernels_s("t4", enforce_eager=True)
    assert ideal / kernels_s(path) > 12.8  # bandwidth alone: 4096 over 320 GB/s
    assert 41 < launched / kernels_s(path) < 137  # PIM-GPT, arXiv:2310.09385: against eager GPUs (direction only)


def test_reports_of_a_design_claim_no_measured_range():
    run = simulate(
        "llama-2-7b", "alveo-u280", quantization="flightllm", rate=0.1, input_len=50, output_len=20, num_requests=3
    )
    assert run.intervals == {}
    assert "FlightLLM" in basis(run.summary["provenance"], run.summary["weaker_parts"], run.deployment)


def test_energy_of_a_board_without_power_is_unknown():
    unknown, known = flightllm("vhk158"), flightllm("alveo-u280")
    shape = StepShape(decode_seqs=1, context_tokens=64, window_tokens=64, logits_rows=1)
    assert "energy unknown on 1 device(s)" in format_explanation(unknown, shape)
    assert explain_values(unknown, shape)["joules"] is None and explain_values(known, shape)["joules"] > 0


def test_a_device_without_a_design_is_refused():
    for name in ("vck190", "alveo-v80"):
        with pytest.raises(UserError, match="fpga"):
            build_deployment("llama-2-7b", name)
    bare = dataclasses.replace(load_device("vhk158"), dataflow=None)
    cluster = build_deployment("llama-2-7b", "vhk158").cluster
    with pytest.raises(UserError, match="no design to run a model on"):
        check_compute(dataclasses.replace(cluster, node=dataclasses.replace(cluster.node, device=bare)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"busy_share": 1.2}, "dataflow.busy_share is 1.2; it is a share, at most 1"),
        ({"bandwidth_share": 0}, "dataflow.bandwidth_share is 0; it must be above zero"),
        ({"weight_elements_per_s": "1e9"}, "dataflow.weight_elements_per_s is the string"),
        ({"lanes": 3}, "unknown field 'dataflow.lanes'"),
    ],
)
def test_wrong_designs_are_refused_in_one_line(tmp_path, change, message):
    content = yaml.safe_load((DEVICE_DIR / "vhk158.yaml").read_text())
    content["dataflow"] |= change
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=message) as refusal:
        read_device_file(path)
    assert "\n" not in str(refusal.value)


def test_a_design_without_a_peak_is_refused(tmp_path):
    content = yaml.safe_load((DEVICE_DIR / "vhk158.yaml").read_text())
    del content["dense_flop_per_s"], content["sources"]["dense_flop_per_s"]
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="dataflow without dense_flop_per_s"):
        read_device_file(path)
