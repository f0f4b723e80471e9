"""Definitions of the summary, against cases worked out by hand."""

from __future__ import annotations

import math
from array import array
from dataclasses import replace

import numpy as np
import pytest

import apex_sim as apex
from simulator import clock, gaps
from simulator.build import build_deployment
from simulator.physics.shape import StepShape
from simulator.recorder import COMPLETED, REJECTED, ReplicaRecord, RequestTable
from simulator.result import SimulationResult, Spread, weighted_percentile
from simulator.run import RunRecord
from workloads.slo import Slo
from workloads.trace import Trace

NAN = float("nan")


def hand_made(slo: Slo | None = None, response_s: float = 0.0) -> SimulationResult:
    """Four requests on two H100: two ordinary ones, one of a single token, one refused.

    ========  ========  ===========  ========  ======
    arrival   first     finish       tokens    status
    0         0.5       2.5          10 + 5    done
    1         1.2       1.2          20 + 1    done
    2         -         -            5000 + 9  refused
    2         3         6            30 + 4    done
    """
    deployment = build_deployment("llama-3.1-8b", "h100-sxm:2", tp=2, num_gpu_blocks_override=100)
    deployment = replace(deployment, engine=replace(deployment.engine, response_s=response_s), _cache={})
    table = RequestTable(4)
    table.arrival_s = array("d", [0.0, 1.0, 2.0, 2.0])
    table.scheduled_s = array("d", [0.1, 1.1, NAN, 2.3])
    table.first_token_s = array("d", [0.5, 1.2, NAN, 3.0])
    table.finish_s = array("d", [2.5, 1.2, NAN, 6.0])
    table.output_tokens = array("q", [5, 1, 0, 4])
    table.status = array("b", [COMPLETED, COMPLETED, REJECTED, COMPLETED])
    table.replica = array("i", [0, 0, -1, 0])
    table.cached_tokens = array("q", [6, 0, 0, 0])
    replica = ReplicaRecord()
    second = clock.TICKS_PER_S
    replica.gaps.add(1, 4, second // 2, 0)
    replica.gaps.add(1, 3, second, 0)
    replica.counters.joules = 1000.0
    replica.counters.busy_ticks = 4 * second
    replica.counters.peak_blocks = 25
    trace = Trace(
        arrival_s=np.array([0.0, 1.0, 2.0, 2.0]),
        input_tokens=np.array([10, 20, 5000, 30]),
        output_tokens=np.array([5, 1, 9, 4]),
    )
    record = RunRecord(table=table, replicas=[replica], end_s=6.0)
    return SimulationResult(deployment=deployment, trace=trace, record=record, slo=slo)


def test_volume_counts_completed_requests_over_the_time_from_first_arrival_to_last_token():
    s = hand_made().summary
    assert (s["num_prompts"], s["completed"], s["failed"]) == (4, 3, 1)
    assert s["duration"] == 6.0
    assert (s["total_input_tokens"], s["total_output_tokens"]) == (60, 10)
    assert s["request_throughput"] == 3 / 6
    assert s["output_throughput"] == 10 / 6
    assert s["total_token_throughput"] == 70 / 6
    assert s["output_throughput_per_gpu"] == 10 / 6 / 2
    assert s["request_rate"] == 3 / 2
    assert s["max_concurrent_requests"] == 2


def test_latencies_leave_refused_requests_out_and_tpot_those_of_one_token():
    s = hand_made().summary
    assert s["mean_ttft_ms"] == pytest.approx(1e3 * (0.5 + 0.2 + 1.0) / 3)
    assert s["median_ttft_ms"] == pytest.approx(500)
    assert s["std_ttft_ms"] == pytest.approx(1e3 * np.std([0.5, 0.2, 1.0]))
    assert s["p95_ttft_ms"] == pytest.approx(1e3 * np.percentile([0.5, 0.2, 1.0], 95))
    assert s["mean_tpot_ms"] == pytest.approx(1e3 * (0.5 + 1.0) / 2)
    assert s["mean_e2el_ms"] == pytest.approx(1e3 * (2.5 + 0.2 + 4.0) / 3)
    assert s["mean_queue_ms"] == pytest.approx(1e3 * (0.1 + 0.1 + 0.3) / 3)


def test_itl_counts_every_gap_so_its_mean_is_not_that_of_tpot():
    s = hand_made().summary
    assert s["mean_itl_ms"] == pytest.approx(1e3 * (4 * 0.5 + 3 * 1.0) / 7)
    assert s["median_itl_ms"] == 500 and s["p90_itl_ms"] == 1000
    assert s["std_itl_ms"] == pytest.approx(1e3 * np.std([0.5] * 4 + [1.0] * 3))


def test_response_time_delays_every_token_of_the_client_but_no_gap():
    plain, late = hand_made().summary, hand_made(response_s=0.25).summary
    for name in ("mean_ttft_ms", "mean_e2el_ms", "p99_ttft_ms"):
        assert late[name] == pytest.approx(plain[name] + 250)
    for name in ("mean_tpot_ms", "mean_itl_ms", "mean_queue_ms"):
        assert late[name] == pytest.approx(plain[name])
    assert late["duration"] == 6.25


def test_without_an_slo_there_is_no_goodput():
    s = hand_made().summary
    assert s["request_goodput"] is None and s["slo_attainment"] is None and s["slo"] is None


def test_refused_requests_miss_the_slo_and_tpot_does_not_bind_one_token():
    s = hand_made(Slo(ttft_s=0.9, tpot_s=0.6)).summary
    assert s["slo_attainment"] == 2 / 4
    assert s["request_goodput"] == 2 / 6
    assert hand_made(Slo(tpot_s=0.01)).attainment == 1 / 4


def test_energy_is_that_of_the_steps_and_of_idling_in_between():
    result = hand_made()
    idle_w = result.deployment.cluster.device.idle_w
    joules = 1000.0 + 2 * idle_w * (6 - 4)
    s = result.summary
    assert s["energy_j"] == pytest.approx(joules)
    assert s["average_power_w"] == pytest.approx(joules / 6)
    assert s["joules_per_output_token"] == pytest.approx(joules / 10)
    assert s["joules_per_request"] == pytest.approx(joules / 3)
    assert s["utilisation"] == pytest.approx(4 / 6)


def test_cost_is_the_rent_of_the_devices_in_use_for_the_duration():
    result = hand_made()
    hourly = 2 * result.deployment.cluster.device.price.usd_per_hour
    s = result.summary
    assert s["usd_per_hour"] == hourly
    assert s["usd_per_million_output_tokens"] == pytest.approx(hourly * 6 / 3600 / 10 * 1e6)
    assert s["usd_per_million_tokens"] == pytest.approx(hourly * 6 / 3600 / 70 * 1e6)


def test_state_of_the_engine():
    s = hand_made().summary
    assert s["peak_kv_usage"] == 0.25
    assert s["prefix_hit_rate"] == 6 / 60


def test_every_name_of_vllm_bench_serve_is_there():
    s = hand_made().summary
    names = {f"{stat}_{m}_ms" for stat in ("mean", "median", "std", "p90", "p95", "p99")
             for m in ("ttft", "tpot", "itl", "e2el")}  # fmt: skip
    names |= {
        "backend",
        "model_id",
        "num_prompts",
        "request_rate",
        "max_concurrency",
        "duration",
        "completed",
        "failed",
    }
    names |= {"total_input_tokens", "total_output_tokens", "request_throughput", "request_goodput", "output_throughput"}
    names |= {"total_token_throughput", "max_concurrent_requests"}
    assert names <= set(s)


def test_the_timeline_includes_idle_power():
    result = hand_made()
    timeline, counters = result.record.replicas[0].timeline, result.record.replicas[0].counters
    second = clock.TICKS_PER_S
    counters.joules, counters.busy_ticks = 300.0, second
    timeline.add(3 * second, 1, 0, 10, counters)
    counters.joules, counters.busy_ticks = 1000.0, 2 * second
    timeline.add(4 * second, 2, 1, 50, counters)
    frame = result.timeline
    idle_w = 2 * result.deployment.cluster.device.idle_w
    assert frame["power_w"].tolist() == pytest.approx([(300 + 2 * idle_w) / 3, 700.0])
    assert frame["kv_usage"].tolist() == [0.1, 0.5]
    assert frame["time_s"].tolist() == [3.0, 4.0]


@pytest.mark.parametrize("model", ["llama-3.1-8b", "gpt-oss-20b"])
def test_mfu_of_one_request_is_its_flop_over_the_peak(model):
    """Prompt of 300 tokens, then 19 decode steps that read 300, 301 ... entries (own token included: one more)."""
    trace = Trace(arrival_s=np.zeros(1), input_tokens=np.array([300]), output_tokens=np.array([20]))
    result = apex.simulate(model, "h100-sxm:1", trace=trace, max_num_batched_tokens=2048)
    steps = result.deployment.step_model
    window = steps.window or 10**9
    pairs = 300 * 301 // 2
    near = pairs if window >= 300 else window * (window + 1) // 2 + (300 - window) * window
    prompt = StepShape(prefill_tokens=300, prefill_pairs=pairs, window_pairs=near, prefill_seqs=1, logits_rows=1)
    flop = steps.flop(prompt)
    for i in range(19):
        context = 301 + i
        flop += steps.flop(
            StepShape(decode_seqs=1, context_tokens=context, window_tokens=min(context, window), logits_rows=1)
        )
    expected = flop / (steps.peak_flop_per_s * result.duration_s)
    assert result.summary["mfu"] == pytest.approx(expected, rel=1e-9)


def test_a_run_of_refused_requests_has_no_numbers_but_does_not_fail():
    result = hand_made(Slo(ttft_s=1.0))
    table = result.record.table
    for name in ("scheduled_s", "first_token_s", "finish_s"):
        setattr(table, name, array("d", [NAN] * 4))
    table.output_tokens = array("q", [0] * 4)
    table.status = array("b", [REJECTED] * 4)
    result.record.replicas[0] = ReplicaRecord()
    s = result.summary
    assert (s["completed"], s["failed"], s["duration"], s["slo_attainment"]) == (0, 4, 0.0, 0.0)
    assert math.isnan(s["mean_ttft_ms"]) and s["usd_per_million_output_tokens"] is None
    assert "nan" not in repr(result) and "nan" not in apex.describe(result)
    assert result.plot_latency() and result.plot_timeline()


def test_percentiles_of_a_weighted_sample_are_values_of_it():
    values, counts = np.array([3.0, 1.0, 2.0]), np.array([1, 98, 1])
    assert weighted_percentile(values, counts, (50, 98, 99, 100)) == [1.0, 1.0, 2.0, 3.0]
    assert all(math.isnan(v) for v in weighted_percentile(np.zeros(0), np.zeros(0, dtype=np.int64), (50,)))


def test_spread_of_a_weighted_sample_is_that_of_the_repeated_one():
    values, counts = np.array([1.0, 4.0, 2.0]), np.array([3, 1, 2])
    plain, weighted = Spread.of(np.repeat(values, counts)), Spread.of_weighted(values, counts)
    assert (weighted.mean, weighted.std) == pytest.approx((plain.mean, plain.std))


def test_concurrency_of_a_closed_loop_is_its_number_of_clients():
    result = apex.simulate(
        "llama-3.1-8b", "h100-sxm:1", arrival="closed(concurrency=7)", input_len=100, output_len=20, num_requests=50
    )
    s = result.summary
    assert s["max_concurrent_requests"] == s["max_concurrency"] == 7
    assert s["request_rate"] == s["request_throughput"]


def test_littles_law_holds_between_the_columns():
    result = apex.simulate("llama-3.1-8b", "h100-sxm:1", num_requests=200)
    in_system = result.column("e2e_s").sum() / result.duration_s
    assert in_system == pytest.approx(result.summary["request_throughput"] * result.summary["mean_e2el_ms"] / 1e3)


def test_devices_without_an_idle_figure_still_draw_power_when_nothing_runs():
    """Their idle time used to cost nothing."""
    deployment = build_deployment("llama-3.1-8b", "a6000:1")
    device = deployment.cluster.device
    assert device.idle_w is None and device.tdp_w == 300.0
    result = hand_made()
    result = SimulationResult(deployment=deployment, trace=result.trace, record=result.record)
    assert result.replica_idle_w == pytest.approx(0.19 * 300.0)
    assert result.energy_j == pytest.approx(1000.0 + 0.19 * 300.0 * (6 - 4))


@pytest.mark.parametrize("total", [7, 100, 1000, 4242, 100_000])
def test_ranks_of_percentiles_are_exact(total):
    """0.95 * 100 must not become 95.00000000000001 and the 96th value."""
    values = np.arange(1.0, total + 1)
    ones = np.ones(total, dtype=np.int64)
    percents = tuple(range(1, 101))
    assert weighted_percentile(values, ones, percents) == [-(-p * total // 100) for p in percents]


def test_gaps_are_folded_before_their_steps_fill_the_memory(monkeypatch):
    monkeypatch.setattr(gaps, "FOLD_STEPS", 1000)
    some = gaps.TokenGaps()
    for _ in range(30):
        some.add(2, 100, clock.TICKS_PER_S // 100, clock.TICKS_PER_S // 10_000)
    assert not some.is_exact
    values, counts = some.weighted()
    assert counts.sum() == 30 * 2 * 100 and len(values) <= 100
    exact = 0.01 + 1e-4 * 49.5
    assert (values * counts).sum() / counts.sum() == pytest.approx(exact, rel=gaps.BIN_WIDTH)


def two_replicas() -> SimulationResult:
    """The requests of :func:`hand_made` on two replicas of two pipeline stages: four H100, work split one to three."""
    deployment = build_deployment("llama-3.1-8b", "h100-sxm:4", pp=2, dp=2, num_gpu_blocks_override=100)
    whole = hand_made()
    first, second = whole.record.replicas[0], ReplicaRecord()
    for index, counters in enumerate((first.counters, second.counters)):
        counters.joules, counters.busy_ticks = (300.0, 900.0)[index], (1, 3)[index] * clock.TICKS_PER_S
        counters.peak_blocks, counters.peak_running, counters.peak_waiting = (
            (10, 60)[index],
            (3, 7)[index],
            (5, 2)[index],
        )
        counters.preemptions, counters.steps = (4, 9)[index], (11, 22)[index]
        counters.prefill_tokens, counters.decode_tokens = (100, 300)[index], (2, 5)[index]
    record = replace(whole.record, replicas=[first, second])
    return SimulationResult(deployment=deployment, trace=whole.trace, record=record)


def test_replicas_add_up_peaks_are_the_highest_and_utilisation_is_the_mean():
    result = two_replicas()
    s, device = result.summary, result.deployment.cluster.device
    assert s["num_gpus"] == 4
    assert s["peak_kv_usage"] == 0.6 and s["peak_running"] == 7 and s["peak_waiting"] == 5
    assert s["num_preemptions"] == 13 and s["engine_steps"] == 33
    assert s["utilisation"] == pytest.approx((1 / 6 + 3 / 6) / 2)
    assert s["energy_j"] == pytest.approx(300 + 900 + 2 * device.idle_w * ((6 - 1) + (6 - 3)))
    assert s["usd_per_hour"] == pytest.approx(4 * device.price.usd_per_hour)
    assert s["output_throughput_per_gpu"] == pytest.approx(10 / 6 / 4)
    model = result.deployment.step_model
    shape = StepShape(decode_seqs=7, prefill_tokens=400, logits_rows=7 + 3)
    assert s["mfu"] == pytest.approx(model.flop(shape) / (4 * model.peak_flop_per_s * 6))


def test_mfu_counts_the_latents_that_chunks_expand_again():
    """MLA: a chunk turns the cached latents of its prompt into keys and values once more."""
    trace = Trace(arrival_s=np.zeros(1), input_tokens=np.array([300]), output_tokens=np.array([1]))
    result = apex.simulate("deepseek-v2-lite", "h100-sxm:1", trace=trace, max_num_batched_tokens=128)
    steps, flop = result.deployment.step_model, 0.0
    for past, new in ((0, 128), (128, 128), (256, 44)):
        pairs = new * past + new * (new + 1) // 2
        chunk = StepShape(0, 0, 0, new, pairs, pairs, 1, past, 1 if past == 256 else 0)
        flop += steps.flop(chunk)
    assert flop > steps.flop(StepShape(0, 0, 0, 300, 300 * 301 // 2, 300 * 301 // 2, 1, 0, 1))
    assert result.summary["mfu"] == pytest.approx(flop / (steps.peak_flop_per_s * result.duration_s), rel=1e-9)


def test_outputs_cut_at_the_longest_request_are_counted():
    result = apex.simulate("llama-3.1-8b", "h100-sxm:1", trace=make_lengths([100, 1000], [50, 200]), max_model_len=1100)
    assert result.summary["truncated"] == 1
    assert result.column("output_tokens").tolist() == [50, 100]
    assert hand_made().summary["truncated"] == 0


def make_lengths(inputs: list[int], outputs: list[int]) -> Trace:
    """Requests of these lengths, a second apart."""
    arrivals = np.arange(len(inputs), dtype=np.float64)
    return Trace(arrival_s=arrivals, input_tokens=np.array(inputs), output_tokens=np.array(outputs))
