"""The serving engine that really runs: its schedule is the simulator's, its fit finds what was put in, its files can be read
back. Everything here runs without PyTorch, on a clock that the test moves."""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from engine_helpers import LineModel, make_trace, random_trace

from apex_sim.cli import main
from apex_sim.serve import add_arguments
from apex_sim.serve_settings import cases_of
from hardware_profiles.errors import UserError
from simulator.batching import ChunkedPrefill
from simulator.build import build_deployment
from simulator.core import CoreLimits
from simulator.costs import StepCosts
from simulator.deployment import Deployment
from simulator.routing import ROUTING
from simulator.run import ReplicaSetup, RunRecord, run
from simulator.serve_runner.batch import StepBatch
from simulator.serve_runner.compare import compare, describe, runs_yaml, table
from simulator.serve_runner.engine_fit import HOST_FIELDS, calibration_traces, fit_engine, kernel_s
from simulator.serve_runner.files import engine_yaml, fitted_engine, requests_csv, steps_csv, write_all
from simulator.serve_runner.graphs import graph_sizes
from simulator.serve_runner.loop import STEP_COLUMNS, ServeLoop
from simulator.serve_runner.session import ServedRun
from simulator.serve_runner.shapes import OWN_SHAPES, architecture_of, serve_model
from simulator.serve_runner.suites import SUITES, clipped
from simulator.simulate import simulate_deployment
from simulator.validation.files import read_runs
from simulator.validation.replay import predict
from workloads.trace import Trace

COLUMNS = ("arrival_s", "scheduled_s", "first_token_s", "finish_s", "preemptions", "output_tokens", "status")


class SetClock:
    """Time that only the worker moves."""

    def __init__(self) -> None:
        self.tick = 0

    def now(self) -> int:
        return self.tick

    def sleep_until(self, tick: int) -> None:
        self.tick = max(self.tick, tick)


class ModelledWorker:
    """Takes exactly as long as a step model says, and checks what it is given."""

    def __init__(self, clock: SetClock, costs: StepCosts) -> None:
        self.clock, self.costs = clock, costs
        self.cached: dict[int, int] = {}

    def execute(self, batch: StepBatch) -> list[int]:
        shape = batch.shape
        for piece in batch.pieces:
            assert piece.start == self.cached.get(piece.row, 0), "a piece must begin where the KV entries end"
            self.cached[piece.row] = piece.end
        if batch.prefill:
            self.clock.tick += self.costs.step(shape)[0]
        else:
            line = self.costs.decode(shape.decode_seqs)
            self.clock.tick += max(line[0] + line[1] * shape.context_tokens, line[6])
        return [piece.row for piece in batch.pieces if piece.samples]

    def release(self, row: int) -> None:
        self.cached.pop(row, None)


def served(trace: Trace, limits: CoreLimits, costs: StepCosts) -> tuple[RunRecord, ServeLoop, ModelledWorker]:
    clock = SetClock()
    worker = ModelledWorker(clock, costs)
    loop = ServeLoop(trace, limits, ChunkedPrefill(), worker, clock, vocab=100)
    return loop.run(), loop, worker


# -- the schedule -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks, concurrency", [(10_000, None), (80, None), (80, 13), (64, 40)])
def test_with_a_worker_that_takes_as_long_as_the_model_says_every_tick_is_the_simulators(
    blocks: int, concurrency: int | None
) -> None:
    """Chunked prompts, full batches, preemption and closed loops: equal times to the tick mean equal batches in every step."""
    trace = random_trace(3, 150, 40.0, concurrency=concurrency)
    limits = CoreLimits(
        num_blocks=blocks, block_size=16, max_num_seqs=24, max_num_batched_tokens=300, max_model_len=1020
    )
    setup = ReplicaSetup(limits=limits, step_model=LineModel(), batching=ChunkedPrefill)
    simulated = run(trace, setup, 1, ROUTING["round-robin"](0), exact_steps=True)
    real, loop, worker = served(trace, limits, StepCosts(LineModel()))
    for column in COLUMNS:
        assert np.array_equal(getattr(simulated.table, column), getattr(real.table, column)), column
    ours, theirs = real.replicas[0].counters, simulated.replicas[0].counters
    assert (ours.steps, ours.preemptions, ours.peak_blocks) == (theirs.steps, theirs.preemptions, theirs.peak_blocks)
    assert (blocks == 10_000) == (ours.preemptions == 0)
    assert not worker.cached and len(loop.steps.table) == ours.steps
    gaps, counts = real.replicas[0].gaps.weighted()
    expected, weights = simulated.replicas[0].gaps.weighted()
    assert counts.sum() == weights.sum()
    assert (gaps * counts).sum() == pytest.approx((expected * weights).sum(), rel=1e-12)


def test_a_preempted_request_is_computed_again_from_the_tokens_it_had() -> None:
    trace = make_trace([0.0, 0.0], [30, 30], [40, 40])
    limits = CoreLimits(num_blocks=6, block_size=16, max_num_seqs=4, max_num_batched_tokens=64, max_model_len=90)
    seen: dict[int, dict[int, int]] = {}

    class Remembering(ModelledWorker):
        def execute(self, batch: StepBatch) -> list[int]:
            super().execute(batch)
            for piece in batch.pieces:
                for position, token in enumerate(piece.tokens, piece.start):
                    assert seen.setdefault(piece.row, {}).setdefault(position, token) == token
            return [piece.end % 97 for piece in batch.pieces if piece.samples]

    clock = SetClock()
    loop = ServeLoop(trace, limits, ChunkedPrefill(), Remembering(clock, StepCosts(LineModel())), clock, vocab=100)
    record = loop.run()
    assert sum(record.table.preemptions) > 0
    assert list(record.table.output_tokens) == [40, 40]
    assert set(seen[0]) == set(range(30 + 40 - 1))


def test_prompts_that_leave_no_room_are_refused_and_the_rest_goes_on() -> None:
    trace = make_trace([0.0, 0.0], [64, 10], [5, 5])
    limits = CoreLimits(num_blocks=8, block_size=16, max_num_seqs=4, max_num_batched_tokens=64, max_model_len=64)
    record, _, _ = served(trace, limits, StepCosts(LineModel()))
    assert list(record.table.status) == [2, 1]


def test_sessions_are_refused_in_one_line() -> None:
    trace = make_trace([0.0, 1.0], [8, 8], [2, 2], previous=np.array([-1, 0]), think_s=np.zeros(2))
    limits = CoreLimits(num_blocks=8, block_size=16, max_num_seqs=4, max_num_batched_tokens=64, max_model_len=64)
    with pytest.raises(UserError, match="sessions"):
        served(trace, limits, StepCosts(LineModel()))


# -- fit, comparison, files -------------------------------------------------------------------------------------------


def deployment_of(**host: float) -> Deployment:
    """A small model on a CPU, under the project's engine with the given host times."""
    deployment = build_deployment(
        serve_model("small"),
        "epyc-9654",
        engine="apex-serve",
        max_num_seqs=8,
        max_num_batched_tokens=64,
        max_model_len=256,
        num_gpu_blocks_override=128,
        dtype="bfloat16",
    )
    engine = dataclasses.replace(deployment.engine, **dict.fromkeys(HOST_FIELDS, 0.0) | host)  # type: ignore[arg-type]
    return dataclasses.replace(deployment, engine=engine, _cache={})


def served_by_model(deployment: Deployment, trace: Trace) -> ServedRun:
    limits = deployment.replica_setup().limits
    record, loop, _ = served(trace, limits, StepCosts(deployment.step_model))
    return ServedRun(trace=trace, record=record, steps=loop.steps.table, power_w=None)


def test_the_fit_finds_the_host_times_that_a_step_log_was_made_with() -> None:
    hidden = {"step_fixed_s": 2e-3, "step_seq_s": 1e-4, "step_token_s": 5e-6}
    slow, free = deployment_of(**hidden), deployment_of()
    logs = [(free, served_by_model(slow, trace).steps) for trace in calibration_traces(8, 256)]
    fit = fit_engine(logs)
    assert fit.seconds == pytest.approx(hidden, rel=0.02)
    assert fit.median_error < 1e-3 and 0 < fit.kernel_share < 1


def test_the_fit_finds_what_it_costs_to_launch_a_layer_where_launches_are_slower_than_kernels() -> None:
    hidden = {"step_fixed_s": 1e-3, "launch_layer_s": 1.2e-4}
    logs = [(deployment_of(), served_by_model(deployment_of(**hidden), t).steps) for t in calibration_traces(8, 256)]
    fit = fit_engine(logs, launches=True)
    assert fit.seconds["launch_layer_s"] == pytest.approx(1.2e-4, rel=0.05)
    assert fit.seconds["step_fixed_s"] == pytest.approx(1e-3, rel=0.05)


def test_kernel_times_leave_the_host_out() -> None:
    trace = calibration_traces(8, 256)[1]
    steps = served_by_model(deployment_of(step_fixed_s=1.0), trace).steps
    assert kernel_s(deployment_of(step_fixed_s=1.0), steps) == pytest.approx(kernel_s(deployment_of(), steps))


def test_calibration_requests_depend_on_nothing_but_the_limits() -> None:
    first, again = calibration_traces(8, 256), calibration_traces(8, 256)
    assert [t.concurrency for t in first] == [1, 2, 4, 8]
    assert all(np.array_equal(a.input_tokens, b.input_tokens) for a, b in zip(first, again, strict=True))
    assert all(int((t.input_tokens + t.output_tokens).max()) <= 256 for t in first)


def test_what_is_written_is_read_and_predicted_alike_by_validate(tmp_path: Path) -> None:
    deployment = deployment_of(step_fixed_s=2e-3)
    logs = [(deployment, served_by_model(deployment, trace).steps) for trace in calibration_traces(8, 256)]
    fit = fit_engine(logs)
    fitted = dataclasses.replace(deployment, engine=fitted_engine(deployment.engine, fit), _cache={})
    trace = clipped(SUITES["tiny"][0].loads[0].trace(1), 256)
    run = served_by_model(deployment, trace)
    described = describe(
        "one",
        trace,
        fitted,
        model=str(tmp_path / "small.json"),
        cluster="epyc-9654",
        engine=str(tmp_path / "engine.yaml"),
        trace_file="requests.csv",
        note="a test",
        dtype="bfloat16",
    )
    found = compare("one", [run, run], fitted, described, predict=True)
    assert set(found.noise.values()) == {0.0}
    assert found.predicted == pytest.approx(found.run.measured, rel=0.01)
    import json

    config = json.dumps({**OWN_SHAPES["small"]})
    write_all(
        tmp_path,
        {
            "small.json": config,
            "engine.yaml": engine_yaml(fitted.engine, fit, "a test"),
            "requests.csv": requests_csv(run),
            "steps.csv": steps_csv(run.steps),
            "runs.yaml": runs_yaml([found]),
        },
    )
    (read,) = read_runs(tmp_path / "runs.yaml")
    assert read.measured == pytest.approx(found.run.measured, rel=1e-5)
    again = predict(read)
    assert again.failure is None
    assert again.metrics == pytest.approx(dict(found.predicted), rel=1e-3)
    assert (tmp_path / "steps.csv").read_text().splitlines()[0] == ",".join(STEP_COLUMNS)
    assert "ttft_mean_ms" in table([found]) and "+0." in table([found])


def test_a_closed_loop_is_written_so_that_it_can_be_replayed() -> None:
    deployment = deployment_of()
    trace = calibration_traces(8, 256)[1]
    run = served_by_model(deployment, trace)
    rows = [line.split(",") for line in requests_csv(run).splitlines()[1:]]
    arrivals = [float(row[0]) for row in rows]
    assert len(rows) == len(trace) and arrivals == sorted(arrivals)


# -- shapes and suites ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-30b-a3b", "mixtral-8x7b", *OWN_SHAPES])
def test_matrices_of_the_network_are_those_of_the_model(name: str) -> None:
    """Weights counted from the engine's own shapes, against the model description (norms and biases aside)."""
    model = serve_model(name)
    a = architecture_of(model)
    width = a.head_dim * (a.num_heads + 2 * a.num_kv_heads)
    attention = width * a.hidden + a.hidden * a.num_heads * a.head_dim
    experts = a.num_experts * (3 * a.intermediate * a.hidden + a.hidden)
    dense = 3 * a.hidden * (a.shared_intermediate if a.num_experts else a.intermediate)
    ours = a.num_layers * (attention + experts + dense) + a.vocab * a.hidden * (1 if a.tied else 2)
    parts = model.params_by_component()
    assert ours == pytest.approx(sum(v for k, v in parts.items() if k not in ("norms", "other")), rel=1e-5)


@pytest.mark.parametrize(
    "name, what",
    [("deepseek-v3", "layers"), ("falcon-7b", "gate"), ("gemma-2-2b", "layers"), ("gpt-oss-20b", "layers")],
)
def test_models_that_the_engine_cannot_run_are_refused_in_one_line(name: str, what: str) -> None:
    with pytest.raises(UserError, match=what) as refused:
        architecture_of(serve_model(name))
    assert "\n" not in str(refused.value) and "--model" in str(refused.value)


@pytest.mark.parametrize("suite", SUITES)
def test_suites_fit_their_own_limits(suite: str) -> None:
    for case in SUITES[suite]:
        model = serve_model(case.model)
        architecture_of(model)
        assert case.max_num_batched_tokens >= case.max_num_seqs
        for load in case.loads:
            trace = clipped(load.trace(0), case.max_model_len)
            assert len(trace) == load.num_requests and trace.concurrency == load.concurrency
            assert int((trace.input_tokens + trace.output_tokens).max()) <= case.max_model_len
            simulated = clipped(load.trace(1), case.max_model_len)
            assert not np.array_equal(simulated.input_tokens, trace.input_tokens)


def test_recorded_batch_sizes_hold_every_batch() -> None:
    assert graph_sizes(1) == [1]
    assert graph_sizes(6) == [1, 2, 4, 6]
    assert graph_sizes(40) == [1, 2, 4, 8, 16, 32, 48]


def test_the_built_in_profile_of_the_engine_is_synchronous_and_shares_no_prefixes() -> None:
    engine = deployment_of().engine
    assert engine.batching == "chunked" and not engine.async_scheduling and not engine.prefix_caching
    trace = make_trace([0.0], [16], [4])
    assert simulate_deployment(deployment_of(), trace).completed.all()


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--suite", "h100"], "unknown suite 'h100'"),
        (["--suite", "tiny", "--rate", "3"], "--rate: --suite tiny brings its own"),
        (["--dtype", "fp8"], "unknown dtype 'fp8'"),
        (["--repeats", "0"], "--repeats is 0"),
        (["--engine", "vllm"], "--engine"),
        (["--time-limit", "-1"], "--time-limit"),
        (["--trace", "/nowhere/at/all.csv"], "/nowhere/at/all.csv"),
        (["--model", "no-such-model"], "no-such-model"),
        (["--rate", "1", "--input-len", "64"], "--output-len"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "--serve", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("apex-sim: error: ") and message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "requests", "rate_per_s", "concurrency"),
    [
        ([], 20, 0.5, None),
        (["--rate", "4", "--num-requests", "9"], 9, 4.0, None),
        (["--arrival", "closed(concurrency=8)"], 20, None, 8),
    ],
)
def test_without_a_trace_and_lengths_requests_are_short(
    arguments: list[str], requests: int, rate_per_s: float | None, concurrency: int | None
) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    ((_, trace),) = cases_of(argparse.Namespace(**vars(parser.parse_args(arguments)), device="cpu"))[0]["loads"]
    assert len(trace) == requests and trace.concurrency == concurrency
    assert trace.input_tokens.max() <= 256 and trace.output_tokens.max() <= 64
    if rate_per_s is not None:
        assert trace.request_rate_per_s == pytest.approx(
            rate_per_s, rel=4 / math.sqrt(requests)
        )  # four standard errors


def test_without_pytorch_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    assert main(["calibrate", "--serve", "--suite", "tiny", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "pip install 'apex-sim[gpu]'" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
