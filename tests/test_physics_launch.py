"""CUDA graphs and launches: what a step costs when the host has to launch it, and what padding to captured sizes does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from engine_checks import assert_same_run
from engine_helpers import LineModel, make_trace, simulate_small
from physics_helpers import ENGINE, H100, LLAMA_8B, LLAMA_70B, cluster, decode_shape, prefill_shape

from hardware_profiles.cluster import parse_cluster
from simulator.build import build_deployment
from simulator.engine import EngineProfile
from simulator.physics.launch import capture_sizes, launches_of
from simulator.physics.shape import DecodeLine, StepShape
from simulator.physics.slowdown import slower_compute
from simulator.physics.step_model import StepModel
from simulator.plan import ParallelPlan
from workloads.model import ModelSpec

GRAPHS = replace(
    ENGINE,
    cuda_graphs="full-and-piecewise",
    max_cudagraph_capture_size=512,
    launch_layer_s=3e-4,
    piece_layer_s=1e-4,
)
EAGER = replace(GRAPHS, cuda_graphs="none")
DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "runs" / "dgx_prompt_token_times.csv"


def build(engine: EngineProfile, model: ModelSpec = LLAMA_8B, tp: int = 1, pp: int = 1) -> StepModel:
    return StepModel(model, cluster(), ParallelPlan(tp=tp, pp=pp), engine)


def test_sizes_are_those_that_vllm_captures() -> None:
    sizes = capture_sizes(512)
    assert sizes[:6] == [1, 2, 4, 8, 16, 24] and sizes[-3:] == [480, 496, 512]
    assert len(sizes) == 51, "as its log counts them"
    assert capture_sizes(4) == [1, 2, 4] and capture_sizes(0) == []


@pytest.mark.parametrize(
    ("graphs", "decode", "prompts", "large"),
    [
        ("full-and-piecewise", "graph", "pieces", "eager"),
        ("piecewise", "pieces", "pieces", "eager"),
        ("decode", "graph", "eager", "eager"),
        ("none", "eager", "eager", "eager"),
    ],
)
def test_what_a_step_runs_as(graphs: str, decode: str, prompts: str, large: str) -> None:
    launches = launches_of(replace(GRAPHS, cuda_graphs=graphs), 1.0)  # type: ignore[arg-type]
    assert launches.mode(512, False) == decode
    assert launches.mode(512, True) == prompts
    assert launches.mode(513, False) == launches.mode(513, True) == large


def test_a_batch_between_captured_sizes_costs_the_next_one_but_samples_its_own_rows() -> None:
    steps = build(GRAPHS)
    stage = steps.stages[0]

    def without_rows(n: int) -> float:
        host_s = steps.step(decode_shape(n, 1))[0]
        return host_s - stage.rows(n).seconds - stage.decode_attention(n, False).base_s - ENGINE.step_seq_s * n

    per_token = ENGINE.step_token_s + steps.decode(8).context_s
    assert without_rows(5) + 3 * per_token == pytest.approx(without_rows(8), rel=1e-9)
    assert (
        build(replace(GRAPHS, max_cudagraph_capture_size=0, launch_layer_s=0.0)).decode(5).base_s
        < steps.decode(5).base_s
    )


def test_an_eager_step_takes_what_the_host_needs_until_the_device_needs_more() -> None:
    steps, bare = build(EAGER), build(replace(EAGER, launch_layer_s=0.0))
    short, long = decode_shape(4, 100), decode_shape(64, 20_000)
    host_s = ENGINE.step_fixed_s + 4 * (ENGINE.step_seq_s + ENGINE.step_token_s)
    assert steps.step(short)[0] == pytest.approx(32 * 3e-4 + host_s)
    assert bare.step(short)[0] < steps.step(short)[0]
    assert steps.step(long) == bare.step(long)


def test_waiting_for_the_host_costs_base_power() -> None:
    steps, bare = build(EAGER), build(replace(EAGER, launch_layer_s=0.0))
    waited_s = steps.step(decode_shape(4, 100))[0] - bare.step(decode_shape(4, 100))[0]
    more_j = steps.step(decode_shape(4, 100))[1] - bare.step(decode_shape(4, 100))[1]
    assert more_j / waited_s == pytest.approx(0.20 * 700.0)


def test_prompts_may_take_longer_to_launch() -> None:
    steps = build(replace(EAGER, prompt_launch_layer_s=6e-4))
    assert steps.step(prefill_shape(16))[0] == pytest.approx(32 * 6e-4, rel=0.1)
    assert steps.step(decode_shape(1, 16))[0] == pytest.approx(32 * 3e-4, rel=0.15)


@pytest.mark.parametrize("shape", [decode_shape(3, 100), prefill_shape(40), decode_shape(100, 9000)])
@pytest.mark.parametrize("pp", [1, 2])
def test_stages_and_components_add_up_to_the_step(shape: StepShape, pp: int) -> None:
    for engine in (EAGER, GRAPHS):
        steps = build(engine, pp=pp)
        assert sum(steps.stage_s(shape)) == pytest.approx(steps.step(shape)[0])
        assert sum(c.seconds for c in steps.explain(shape)) == pytest.approx(steps.step(shape)[0])


def test_a_slow_host_stretches_what_the_host_does_and_nothing_else() -> None:
    node = replace(cluster().node, cpu_slowness=2.0)
    slow = StepModel(LLAMA_8B, replace(cluster(), node=node), ParallelPlan(), EAGER)
    assert slow.step(decode_shape(1, 100))[0] == pytest.approx(2 * build(EAGER).step(decode_shape(1, 100))[0])
    quick, late = build(GRAPHS).decode(64), StepModel(LLAMA_8B, replace(cluster(), node=node), ParallelPlan(), GRAPHS)
    host_s = ENGINE.step_fixed_s + 64 * (ENGINE.step_seq_s + ENGINE.step_token_s)
    assert late.decode(64).base_s - quick.base_s == pytest.approx(host_s)


def test_a_dgx_a100_has_the_slower_host() -> None:
    assert parse_cluster("a100-sxm-80gb:8").node.cpu_slowness > parse_cluster("h100-sxm:8").node.cpu_slowness == 1.0


def test_old_kernels_are_slower_where_arithmetic_bounds_them() -> None:
    hopper = replace(H100, architecture="Hopper")
    assert slower_compute(hopper, 1.0) is hopper
    machines = replace(cluster(), node=replace(cluster().node, device=hopper))
    now, then = (
        StepModel(LLAMA_70B, machines, ParallelPlan(tp=2), replace(ENGINE, compute_slowdown=s))
        for s in ({}, {"hopper": 1.5, "ampere": 9.0})
    )
    assert 1.3 < then.step(prefill_shape(8192))[0] / now.step(prefill_shape(8192))[0] < 1.5
    assert then.step(decode_shape(1, 100))[0] == pytest.approx(now.step(decode_shape(1, 100))[0], rel=0.01)


class FlooredModel(LineModel):
    """Decode steps of at least 30 ms: the context of a long answer crosses it on the way."""

    def decode(self, num_seqs: int) -> DecodeLine:
        return super().decode(num_seqs)._replace(floor_s=30e-3, wait_w=100.0)

    def step(self, shape: StepShape) -> tuple[float, float]:
        if shape.prefill_tokens == 0:
            return self.decode(shape.decode_seqs).cost(shape.context_tokens, shape.window_tokens)
        return super().step(shape)


@pytest.mark.parametrize("window", [None, 300])
def test_jumping_over_steps_that_wait_for_the_host_is_exact(window: int | None) -> None:
    trace = make_trace([0.0, 0.1, 2.0, 9.0], [500, 400, 10, 700], [400, 350, 300, 200])
    options = {"model": FlooredModel(window), "window": window, "num_blocks": 400}
    one, two = (simulate_small(trace, exact_steps=exact, **options) for exact in (False, True))  # type: ignore[arg-type]
    assert_same_run(one, two)
    bare = simulate_small(trace, **(options | {"model": LineModel(window)}))  # type: ignore[arg-type]
    assert one.replicas[0].counters.busy_ticks > bare.replicas[0].counters.busy_ticks, "some steps wait"


def test_layer_norms_and_biases_are_kernels_too() -> None:
    """BLOOM, which nothing was fitted on: decode steps of SplitwiseSim's table (MIT; TP 8, prompt 512), measured 48.8 ms on
    DGX-A100 and 36.1 ms on DGX-H100 for one sequence, 65.4 and 45.8 ms for 32."""
    assert build(EAGER).stages[0].layout.launches == 32
    for name, one_s, many_s in (("a100-sxm-80gb:8", 48.8e-3, 65.4e-3), ("h100-sxm:8", 36.1e-3, 45.8e-3)):
        steps = build_deployment("bloom", name, tp=8, engine="vllm@0.2", max_model_len=2048).step_model
        assert steps.stages[0].layout.launches == pytest.approx(1.4 * 70)
        assert steps.step(decode_shape(1, 576))[0] == pytest.approx(one_s, rel=0.1)
        assert steps.step(decode_shape(32, 576))[0] == pytest.approx(many_s, rel=0.1)


def test_eager_is_a_setting() -> None:
    settings = {"max_model_len": 4096}
    graphs = build_deployment("llama-3.1-8b", "h100-sxm:1", **settings)  # type: ignore[arg-type]
    eager = build_deployment("llama-3.1-8b", "h100-sxm:1", enforce_eager=True, **settings)  # type: ignore[arg-type]
    small = build_deployment("llama-3.1-8b", "h100-sxm:1", max_cudagraph_capture_size=8, **settings)  # type: ignore[arg-type]
    assert eager.engine.cuda_graphs == "none"
    assert eager.step_model.step(decode_shape(1, 100))[0] > graphs.step_model.step(decode_shape(1, 100))[0]
    assert small.engine.max_cudagraph_capture_size == 8


@pytest.mark.skipif(not DATA.is_file(), reason=f"no measured runs in {DATA.parent}")
def test_constants_of_the_eager_engine_are_what_the_tables_give() -> None:
    pytest.importorskip("scipy")
    from simulator.calibration.eager import BOUNDS, read_steps
    from simulator.calibration.fitting import errors, fit_and_score
    from simulator.engine_loader import load_engine

    steps = read_steps(DATA)
    scored = fit_and_score(steps.predict, steps.measured_s, steps.cells, BOUNDS)
    engine = load_engine("vllm@0.2", parse_cluster("h100-sxm:1").device)
    shipped = {name: getattr(engine, name, None) for name in BOUNDS}
    shipped |= {"hopper_slowdown": engine.compute_slowdown["hopper"]}
    shipped |= {"a100_cpu_slowness": parse_cluster("a100-sxm-80gb:1").node.cpu_slowness}
    assert scored.parameters == pytest.approx(shipped, rel=0.1), "kernels moved: rerun simulator.calibration.eager"
    for kind in (steps.prompts, ~steps.prompts):
        assert errors(scored.held_out_s[kind], steps.measured_s[kind])[0] < 0.05
