"""StepModel: closed forms, linearity, the breakdown adds up, and more work never takes less time."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from physics_helpers import (
    A100,
    CPU,
    DEEPSEEK_V3,
    ENGINE,
    H100,
    HYBRID,
    LLAMA_8B,
    LLAMA_70B,
    MIXTRAL,
    V100,
    WINDOWED,
    cluster,
    decode_shape,
    mixed_shape,
    prefill_shape,
)

from hardware_profiles.errors import UserError
from hardware_profiles.schema import DecodeAttentionFit
from simulator.physics.efficiency import efficiency_of
from simulator.physics.layout import check_plan
from simulator.physics.power import energy_j, power_fit_of
from simulator.physics.shape import StepShape
from simulator.physics.step_model import StepModel
from simulator.plan import ParallelPlan
from workloads.catalog import load_model

CASES = {
    "dense": (LLAMA_8B, ParallelPlan(), 1),
    "tp": (LLAMA_70B, ParallelPlan(tp=8), 1),
    "tp over kv heads": (LLAMA_8B, ParallelPlan(tp=16), 2),
    "pp": (LLAMA_70B, ParallelPlan(tp=4, pp=3), 2),
    "moe": (MIXTRAL, ParallelPlan(tp=2), 1),
    "moe ep": (MIXTRAL, ParallelPlan(tp=2, ep=2), 1),
    "moe dp ep": (MIXTRAL, ParallelPlan(tp=2, dp=4, ep=8), 1),
    "mla": (DEEPSEEK_V3, ParallelPlan(tp=8, ep=8), 1),
    "mla wide ep": (DEEPSEEK_V3, ParallelPlan(tp=1, dp=16, ep=16), 2),
    "windows": (WINDOWED, ParallelPlan(), 1),
    "linear": (HYBRID, ParallelPlan(tp=2), 1),
    "fp8": (LLAMA_8B, ParallelPlan(quantization="fp8", kv_cache_dtype="fp8"), 1),
    "awq": (LLAMA_8B, ParallelPlan(quantization="awq"), 1),
}
SHAPES = [
    decode_shape(1, 10),
    decode_shape(64, 3000, 1024),
    prefill_shape(2048),
    prefill_shape(512, cached=4000, seqs=3, completes=False),
    mixed_shape(decode_shape(60, 700), prefill_shape(1500)),
]


def build(model, plan=None, nodes=1, device=H100, **engine) -> StepModel:
    return StepModel(model, cluster(device, nodes=nodes), plan or ParallelPlan(), replace(ENGINE, **engine))


@pytest.fixture(scope="module", params=CASES, name="steps")
def _steps(request) -> StepModel:
    return build(*CASES[request.param])


def test_breakdown_and_stages_add_up_to_the_step(steps):
    for shape in SHAPES:
        seconds, joules = steps.step(shape)
        parts = steps.explain(shape)
        assert sum(c.seconds for c in parts) == pytest.approx(seconds, rel=1e-9)
        assert sum(c.share for c in parts) == pytest.approx(1)
        assert sum(steps.stage_s(shape)) == pytest.approx(seconds, rel=1e-9)
        assert sum(c.flop for c in parts) == pytest.approx(steps.flop(shape), rel=1e-9)
        assert sum(c.hbm_bytes for c in parts) == pytest.approx(steps.hbm_bytes(shape), rel=1e-9)
        assert joules > 0


def test_decode_is_a_line_in_the_context_and_agrees_with_step(steps):
    line = steps.decode(32)
    for context in (1, 100, 5000):
        shape = decode_shape(32, context, steps.window)
        seconds, joules = steps.step(shape)
        assert seconds == line.base_s + line.context_s * shape.context_tokens + line.window_s * shape.window_tokens
        assert joules == line.base_j + line.context_j * shape.context_tokens + line.window_j * shape.window_tokens
        assert sum(c.seconds for c in steps.explain(shape)) == pytest.approx(seconds, rel=1e-9)


def test_utilisation_stays_below_the_peaks_and_power_below_tdp(steps):
    for shape in SHAPES:
        seconds, joules = steps.step(shape)
        assert steps.flop(shape) < seconds * steps.peak_flop_per_s * steps.num_devices
        assert steps.hbm_bytes(shape) < seconds * steps.bandwidth_bytes_per_s * steps.num_devices
        assert joules <= seconds * 700.0 * steps.num_devices * (1 + 1e-12)


def test_gemm_flop_are_two_per_matrix_weight_and_token():
    steps = build(LLAMA_8B)
    group = LLAMA_8B.layers[0]
    weights = 32 * sum(m.params for m in (*group.attention.matrices, *group.mlp.matrices))
    shape = prefill_shape(1000, completes=False)
    attention = 4 * 128 * 32 * 32 * shape.prefill_pairs
    assert steps.flop(shape) == pytest.approx(2 * 1000 * weights + attention)
    head = 2 * LLAMA_8B.vocab_size * 4096
    assert steps.flop(prefill_shape(1000)) - steps.flop(shape) == pytest.approx(head)


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_tensor_parallelism_keeps_flop_and_adds_two_all_reduces_per_layer(tp):
    steps = build(LLAMA_70B, ParallelPlan(tp=tp))
    shape = prefill_shape(512)
    assert steps.flop(shape) == pytest.approx(build(LLAMA_70B).flop(shape))
    parts = {c.name: c for c in steps.explain(shape)}
    if tp == 1:
        assert not any(c.link_bytes for c in parts.values())
    else:
        each = tp * 80 * 512 * 8192 * 2 * 2 * (tp - 1) / tp
        assert parts["all_reduce.attention"].link_bytes == pytest.approx(each)
        assert parts["all_reduce.mlp"].link_bytes == pytest.approx(each)


def test_more_tensor_parallelism_is_faster_but_less_than_linearly():
    times = [build(LLAMA_70B, ParallelPlan(tp=tp)).step(decode_shape(16, 1000))[0] for tp in (1, 2, 4, 8)]
    for slow, fast in pairwise(times):
        assert slow / 2 < fast < slow


def test_kv_heads_are_repeated_when_tp_exceeds_them():
    shape = decode_shape(8, 10_000)
    kv = [
        next(c.hbm_bytes for c in build(LLAMA_8B, ParallelPlan(tp=tp), nodes=2).explain(shape) if "decode" in c.name)
        for tp in (1, 8, 16)
    ]
    assert kv[0] == pytest.approx(kv[1])
    assert kv[2] == pytest.approx(2 * kv[1])


def test_decode_reads_the_kv_cache_once():
    per_token = build(LLAMA_8B).hbm_bytes(decode_shape(1, 1001)) - build(LLAMA_8B).hbm_bytes(decode_shape(1, 1000))
    assert per_token == 131_072
    mla = build(DEEPSEEK_V3, ParallelPlan(tp=1, dp=16, ep=16), nodes=2)
    assert mla.hbm_bytes(decode_shape(1, 1001)) - mla.hbm_bytes(decode_shape(1, 1000)) == pytest.approx(70_272)


def test_fp8_kv_cache_halves_the_bytes_of_the_context():
    half, full = build(LLAMA_8B, ParallelPlan(kv_cache_dtype="fp8")), build(LLAMA_8B)
    assert half.stages[0].attention[0].decode_bytes * 2 == full.stages[0].attention[0].decode_bytes


def test_absorbed_mla_is_bound_by_compute_when_many_heads_share_a_latent():
    """128 heads need 2*128*(2*512 + 64) FLOP per 1152 bytes: 242 per byte, near an H100's ridge; fp8 passes it."""
    steps = build(DEEPSEEK_V3, ParallelPlan(tp=1, dp=16, ep=16, kv_cache_dtype="fp8"), nodes=2)
    coefficients = steps.stages[0].attention[0]
    assert coefficients.decode_flop / coefficients.decode_bytes == pytest.approx(2 * 128 * 1088 / 576)
    assert coefficients.decode_is_compute


def test_windowed_layers_read_the_window_only():
    steps = build(WINDOWED)
    assert steps.window == 1024
    line, full = steps.decode(4), build(LLAMA_8B).decode(4)
    assert line.context_s == pytest.approx(full.context_s / 2)
    assert line.window_s == pytest.approx(full.context_s / 2)


def test_linear_attention_does_not_grow_with_the_context():
    line, full = build(HYBRID).decode(4), build(LLAMA_8B).decode(4)
    assert line.context_s == pytest.approx(full.context_s * 8 / 32)


def test_prefill_beside_decode_slows_decode_rows_on_small_devices():
    """A decode row fills a 57-row tile: on a card with little compute per byte that outweighs reading its KV."""
    card = replace(H100, name="card", dense_flop_per_s={"bfloat16": 165e12}, memory_bandwidth_bytes_per_s=1.0e12)
    steps = build(LLAMA_8B, device=card)
    coefficients = steps.stages[0].attention[0]
    assert coefficients.mixed_context_s > coefficients.decode_context_s
    decodes, chunk = decode_shape(64, 4000), prefill_shape(512, completes=False)
    together = steps.step(mixed_shape(decodes, chunk))[0]
    assert together > steps.step(chunk)[0] + steps.stages[0].attention[0].decode_context_s * decodes.context_tokens


def test_quantisation_needs_hardware_for_its_arithmetic():
    fp8 = ParallelPlan(quantization="fp8")
    assert build(LLAMA_8B, fp8).peak_flop_per_s == 1978.9e12
    on_a100 = build(LLAMA_8B, fp8, device=A100)
    assert on_a100.peak_flop_per_s == 312e12
    assert on_a100.precision.linear.weight_bytes == 1.0
    assert build(LLAMA_8B, device=V100).precision.base.name == "float16"
    with pytest.raises(UserError, match=r"unknown quantization 'fp9'.*fp8"):
        build(LLAMA_8B, ParallelPlan(quantization="fp9"))


def test_weight_only_quantisation_gains_at_small_batch_and_loses_at_large():
    awq, plain = build(LLAMA_8B, ParallelPlan(quantization="awq")), build(LLAMA_8B)
    assert awq.decode(1).base_s < 0.6 * plain.decode(1).base_s
    assert awq.step(prefill_shape(8192))[0] > plain.step(prefill_shape(8192))[0]


def test_cpu_is_a_roofline_without_launches():
    steps = build(LLAMA_8B, device=CPU)
    assert steps.provenance == "datasheet"
    bare_s = steps.decode(1).base_s - ENGINE.step_fixed_s
    assert bare_s == pytest.approx(2 * (8.03e9 - 0.53e9) / (0.80 * 300e9), rel=0.02)  # the embedding is not read


def test_stages_split_layers_evenly_with_the_head_last():
    steps = build(LLAMA_70B, ParallelPlan(tp=4, pp=3), nodes=2)
    assert [s.layout.num_layers for s in steps.stages] == [27, 27, 26]
    names = [{c.name for c in s.costs(decode_shape(4, 100))} for s in steps.stages]
    assert "lm_head" in names[2] and "lm_head" not in names[0]
    assert "pipeline_send" in names[0] and "pipeline_send" not in names[2]
    assert "all_reduce.embedding" in names[0] and "all_reduce.embedding" not in names[1]


def test_wide_expert_parallelism_dispatches_and_combines():
    steps = build(MIXTRAL, ParallelPlan(tp=2, dp=4, ep=8))
    names = {c.name for c in steps.explain(decode_shape(16, 100))}
    assert {"all_to_all.dispatch", "all_to_all.combine", "all_gather.moe", "all_reduce.attention"} <= names
    inside = build(MIXTRAL, ParallelPlan(tp=2, ep=2))
    assert "all_reduce.mlp" in {c.name for c in inside.explain(decode_shape(16, 100))}


def test_skewed_experts_slow_the_busiest_rank():
    plan = ParallelPlan(tp=8, ep=8)
    flat = StepModel(DEEPSEEK_V3, cluster(), plan, ENGINE)
    skewed = StepModel(DEEPSEEK_V3, cluster(), plan, ENGINE, moe_skew=0.8)
    assert skewed.step(prefill_shape(4096))[0] > flat.step(prefill_shape(4096))[0]


def test_host_work_shows_when_steps_are_not_scheduled_ahead():
    exposed = {"sync_step_fixed_s": 1e-3, "sync_step_seq_s": 3e-5}
    ahead, waiting = (
        StepModel(LLAMA_8B, cluster(), ParallelPlan(), replace(ENGINE, **exposed, async_scheduling=a))
        for a in (True, False)
    )
    assert waiting.decode(10).base_s - ahead.decode(10).base_s == pytest.approx(1.3e-3)
    stages = [StepModel(LLAMA_8B, cluster(), ParallelPlan(pp=2), replace(ENGINE, **e)) for e in ({}, exposed)]
    assert stages[0].decode(10) == stages[1].decode(10), "micro-batches of other stages hide it"


def test_host_overhead_is_fixed_plus_per_sequence_plus_per_token():
    bare = build(LLAMA_8B, step_fixed_s=0.0, step_seq_s=0.0, step_token_s=0.0)
    host = build(LLAMA_8B, step_fixed_s=1e-3, step_seq_s=1e-5, step_token_s=1e-6)
    shape = mixed_shape(decode_shape(10, 100), prefill_shape(90))
    assert host.step(shape)[0] - bare.step(shape)[0] == pytest.approx(1e-3 + 11e-5 + 100e-6)
    assert "host" not in {c.name for c in bare.explain(shape)}


@settings(max_examples=60, deadline=None)
@given(
    case=st.sampled_from(sorted(CASES)),
    decode=st.tuples(st.integers(1, 200), st.integers(1, 20_000)),
    prefill=st.tuples(st.integers(1, 4000), st.integers(0, 8000)),
    more=st.integers(1, 300),
)
def test_more_work_never_takes_less_time(case, decode, prefill, more):
    steps = _model(case)
    n, context = decode
    q, p = prefill

    def seconds(shape: StepShape) -> float:
        return steps.step(shape)[0]

    base = seconds(mixed_shape(decode_shape(n, context), prefill_shape(q, p)))
    assert seconds(mixed_shape(decode_shape(n, context + more), prefill_shape(q, p))) >= base
    assert seconds(mixed_shape(decode_shape(n, context), prefill_shape(q, p + more))) >= base
    assert seconds(decode_shape(n + more, context)) >= seconds(decode_shape(n, context))


_MODELS: dict[str, StepModel] = {}


def _model(case: str) -> StepModel:
    if case not in _MODELS:
        _MODELS[case] = build(*CASES[case])
    return _MODELS[case]


def test_an_empty_step_costs_nothing():
    steps = build(LLAMA_8B)
    assert steps.step(StepShape()) == (0.0, 0.0)
    assert steps.explain(StepShape()) == []
    assert steps.stage_s(StepShape()) == (0.0,)


def test_memoised_steps_take_microseconds():
    """About 0.5 us for decode and 3 us for a mixed step on a laptop core; the limit is loose for busy machines."""
    steps = build(LLAMA_70B, ParallelPlan(tp=4))
    shape = mixed_shape(decode_shape(64, 1000), prefill_shape(1984, completes=False))
    steps.step(shape)
    start = time.process_time()
    for _ in range(2000):
        steps.step(shape)
    assert (time.process_time() - start) / 2000 < 50e-6


def test_power_is_a_capped_line_and_energy_its_integral():
    fit = power_fit_of(H100)
    assert energy_j(fit, 1.0, 0.0, 0.0, 700.0) == pytest.approx(0.20 * 700)
    assert energy_j(fit, 1.0, 1.0, 1.0, 700.0) == 700.0
    assert energy_j(fit, 2.0, 0.5, 1.0, 700.0) == pytest.approx(2.0 * energy_j(fit, 1.0, 0.25, 0.5, 700.0))


def test_impossible_plans_say_what_would_work():
    with pytest.raises(
        UserError, match=r"llama-3.1-8b: 32 attention heads are not divisible by tp=3. Valid tp: 1, 2, 4, 8, 16, 32"
    ):
        build(LLAMA_8B, ParallelPlan(tp=3))
    with pytest.raises(UserError, match="needs 16 devices; h100-test:8x1 has 8"):
        build(LLAMA_8B, ParallelPlan(tp=16))
    with pytest.raises(UserError, match="needs 3 groups of 4 devices; h100-test:6x2 has room for 2"):
        StepModel(LLAMA_8B, cluster(devices=6, nodes=2), ParallelPlan(tp=4, dp=3), ENGINE)
    with pytest.raises(UserError, match=r"MLP width 27648 .* not divisible by tp=5"):
        check_plan(load_model("llama-2-13b"), cluster(), ParallelPlan(tp=5))
    with pytest.raises(UserError, match=r"is dense\. Use ep=1"):
        build(LLAMA_8B, ParallelPlan(tp=2, ep=2))
    with pytest.raises(UserError, match="Valid ep: 1, 2"):
        build(MIXTRAL, ParallelPlan(tp=2, ep=3))
    with pytest.raises(UserError, match="Use pp <= 32"):
        build(LLAMA_8B, ParallelPlan(pp=33), nodes=8)


def test_absorbed_mla_has_its_own_share_of_the_peak():
    """Compute-bound MLA decode (128 heads on one rank) slows in proportion when its share of the peak is lower."""
    slow = DecodeAttentionFit(memory=0.9, launch_s=1e-5, compute=0.4)
    fast = replace(slow, compute=0.5)
    slopes = []
    for fit in (slow, fast):
        efficiency = replace(efficiency_of(H100), decode_attention={"bfloat16": slow, "mla_bfloat16": fit})
        device = replace(H100, efficiency=efficiency)
        plan = ParallelPlan(dp=8, ep=8)
        slopes.append(StepModel(DEEPSEEK_V3, cluster(device), plan, ENGINE).decode(8).context_s)
    assert slopes[0] / slopes[1] == pytest.approx(0.5 / 0.4)
