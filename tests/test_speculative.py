"""Speculative decoding: closed forms, conservation of tokens and blocks, spans against steps, refusals."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from apex_sim.api import build_deployment, make_trace, simulate
from apex_sim.cli import main
from hardware_profiles.errors import UserError
from planners.bounds import bound
from planners.demand import WorkloadStats
from simulator.elastic.settings import Elasticity
from simulator.simulate import simulate_deployment
from simulator.speculative.acceptance import Draws, expected_tokens, rate_of_mean
from simulator.speculative.config import parse_speculative
from simulator.speculative.lane import SpeculativeLane
from workloads.trace import Trace

DRAFT = {"method": "draft_model", "model": "llama-3.2-1b", "num_speculative_tokens": 5, "acceptance": 0.7}


def run(config=None, *, model="llama-3.1-8b", cluster="h100-sxm:2", exact_steps=False, seed=3, **settings):
    workload = {
        "rate": 20.0,
        "input_len": "lognormal(median=300,sigma=0.8)",
        "output_len": "lognormal(median=60,sigma=0.9)",
    }
    workload |= {name: settings.pop(name) for name in list(settings) if name in {*workload, "arrival", "num_requests"}}
    workload = {"num_requests": 150} | workload
    deployment = build_deployment(model, cluster, speculative_config=config, **settings)
    trace = make_trace(**workload, seed=seed)
    return simulate_deployment(deployment, trace, seed=seed, exact_steps=exact_steps)


def same(a, b):
    for name in ("scheduled_s", "first_token_s", "finish_s", "output_tokens", "num_preemptions"):
        assert np.array_equal(a.column(name), b.column(name), equal_nan=True), name


# -- draws -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "places"), [(0.0, 3), (0.5, 1), (0.7, 5), (0.9, 8), (1.0, 4)])
def test_mean_tokens_per_step_is_the_closed_form(rate, places):
    draws = Draws((rate,) * places, seed=11)
    accepted = np.concatenate([draws.steps(row, 1, 400)[1] for row in range(60)])
    expected = places + 1 if rate == 1 else (1 - rate ** (places + 1)) / (1 - rate)
    assert expected_tokens([rate] * places) == pytest.approx(expected)
    noise = accepted.std() / np.sqrt(len(accepted))
    assert abs(1 + accepted.mean() - expected) <= 4 * noise + 1e-12


def test_rates_by_place_are_conditional():
    rates = (0.9, 0.5, 0.2)
    accepted = np.concatenate([Draws(rates).steps(row, 1, 300)[1] for row in range(200)])
    shares = [float((accepted >= place).mean()) for place in (1, 2, 3)]
    assert shares == pytest.approx([0.9, 0.45, 0.09], abs=0.01)


def test_tokens_of_all_steps_are_the_output():
    for row in range(50):
        tokens, accepted = Draws((0.8,) * 4, seed=5).steps(row, 1, 30 + row)
        assert tokens.sum() == 29 + row and tokens.min() >= 1
        assert (tokens[:-1] == accepted[:-1] + 1).all() and tokens[-1] <= accepted[-1] + 1


@pytest.mark.parametrize(("rate", "places"), [(0.0, 3), (0.3, 1), (0.8, 2), (0.95, 6), (1.0, 4)])
def test_equal_rates_are_cut_as_one_by_one(rate, places):
    for row in range(40):
        start, output = 1 + row % 7, 8 + row
        uniform = Draws((rate,) * places, seed=9).uniform(row, output + places)
        tokens, accepted, at = [], [], start
        while at < output:
            good = 0
            while good < places and uniform[at + good] < rate:
                good += 1
            accepted.append(good)
            tokens.append(min(good + 1, output - at))
            at += good + 1
        found = Draws((rate,) * places, seed=9).steps(row, start, output)
        assert found[0].tolist() == tokens and found[1].tolist() == accepted


def test_rate_of_a_mean_accepted_length():
    assert expected_tokens([rate_of_mean(3.2, 6)] * 6) == pytest.approx(3.2)


# -- runs --------------------------------------------------------------------------------------------------------------

SETUPS = [
    {},
    {"engine": "sglang"},
    {"engine": "sglang", "batching": "prefill-priority-mixed"},
    {"engine": "trtllm"},
    {"tp": 2},
    {"dp": 2, "routing": "least-outstanding"},
    {"max_num_seqs": 8},
    {"num_gpu_blocks_override": 300, "max_model_len": 4000},
    {"async_scheduling": False},
    {"cpu_offload_gb": 4.0},
    {"attention_top_k": 256, "kv_cache_dtype": "fp8"},
    {"nano_batch_tokens": 64, "enable_lora": True},
    {"model": "mistral-7b-v0.1", "cluster": "h100-sxm:1"},
]
CONFIGS = [
    DRAFT,
    {"method": "ngram", "num_speculative_tokens": 3, "acceptance": [0.6, 0.4, 0.2]},
    {"method": "eagle3", "num_speculative_tokens": 4, "num_candidates": 16, "mean_accepted_length": 3.0},
]


@pytest.mark.filterwarnings("ignore:.*vocabulary")
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c["method"])
@pytest.mark.parametrize("setup", SETUPS, ids=str)
def test_spans_and_single_steps_agree_and_tokens_are_conserved(config, setup, monkeypatch):
    check_blocks(monkeypatch)
    spans, steps = run(config, **setup), run(config, **setup, exact_steps=True)
    same(spans, steps)
    assert spans.summary["engine_steps"] == steps.summary["engine_steps"]
    assert spans.summary["energy_j"] == pytest.approx(steps.summary["energy_j"], rel=1e-9)
    assert spans.summary["p99_itl_ms"] == pytest.approx(steps.summary["p99_itl_ms"], rel=1e-12)
    assert spans.summary["prefix_hit_rate"] == steps.summary["prefix_hit_rate"]
    s = spans.summary
    counters = [replica.speculative for replica in spans.record.replicas]
    firsts = s["completed"] + s["num_preemptions"]  # a token after each prompt, computed again after a preemption
    emitted = sum(c.emitted_tokens for c in counters)
    assert s["total_output_tokens"] - firsts <= emitted <= s["total_output_tokens"] - s["completed"]
    assert s["spec_decode_num_drafts"] == sum(c.seq_steps for c in counters)
    queries = spans.deployment.speculative.queries
    assert s["spec_decode_num_draft_tokens"] == (queries - 1) * s["spec_decode_num_drafts"]
    assert sum(r.counters.decode_tokens for r in spans.record.replicas) == queries * s["spec_decode_num_drafts"]
    assert 0 <= s["spec_decode_draft_time_share"] < 1


def check_blocks(monkeypatch):
    """The lane's sums against a count over its members, now and then."""
    advance = SpeculativeLane.advance

    def checked(lane, steps):
        advance(lane, steps)
        size, members = lane.block_size, lane._members
        lengths = {request: lane.length(request) for request in members}
        assert lane.num_seqs == len(members) and lane.context == sum(lengths.values())
        assert lane.private == sum(length - 1 - request.shared for request, length in lengths.items())
        assert lane.blocks() == sum(-(-(length - 1 - r.shared) // size) for r, length in lengths.items())
        assert lane.blocks() <= lane.blocks_bound()
        if lane.window is not None:
            assert lane.window_context == sum(min(length, lane.window) for length in lengths.values())
        going = {r: length for r, length in lengths.items() if r.finish_it > lane.it}
        need = sum(
            -(-(min(length - 1 + lane.queries, lane.longest) - r.shared) // size) + (-(length - 1 - r.shared) // size)
            for r, length in going.items()
        )
        assert int(lane.ahead(3, 1)[0]) == need

    monkeypatch.setattr(SpeculativeLane, "advance", checked)


def test_memory_pressure_preempts_and_loses_nothing(monkeypatch):
    check_blocks(monkeypatch)
    setup = {"num_gpu_blocks_override": 130, "max_model_len": 2000, "enable_prefix_caching": False, "rate": 60.0}
    spans, steps = run(DRAFT, **setup), run(DRAFT, **setup, exact_steps=True)
    same(spans, steps)
    assert spans.summary["num_preemptions"] > 0
    assert spans.summary["peak_kv_usage"] <= 1
    assert spans.summary["completed"] + spans.summary["failed"] == 150


@pytest.mark.parametrize("seed", range(8))
def test_shared_prefixes_under_pressure(seed, monkeypatch):
    """Five families of prompts, cached by blocks, on replicas with little memory."""
    check_blocks(monkeypatch)
    rng = np.random.default_rng(seed)
    count, piece = 60, 64
    inputs, outputs = rng.integers(1, 1800, count), rng.integers(1, 300, count)
    ids, offsets = [], [0]
    for row, pieces in enumerate((-(-inputs // piece)).tolist()):
        family, shared = int(rng.integers(5)), int(rng.integers(pieces + 1))
        ids += [family * 1000 + i if i < shared else 10**6 + 1000 * row + i for i in range(pieces)]
        offsets.append(len(ids))
    trace = Trace(
        name="families",
        arrival_s=np.sort(rng.random(count) * [0, 1, 5][seed % 3]),
        input_tokens=inputs,
        output_tokens=outputs,
        prefix_ids=np.array(ids),
        prefix_offsets=np.array(offsets),
        prefix_block_tokens=piece,
    )
    settings = {"max_model_len": 2200, "num_gpu_blocks_override": 180, "dp": 1 + seed % 2}
    if seed % 2:
        settings["routing"] = "kv-aware"
    config = DRAFT | {"num_speculative_tokens": 1 + seed}
    deployment = build_deployment("llama-3.1-8b", "h100-sxm:2", speculative_config=config, **settings)
    spans, steps = (simulate_deployment(deployment, trace, seed=seed, exact_steps=exact) for exact in (False, True))
    same(spans, steps)
    assert np.array_equal(spans.column("cached_tokens"), steps.column("cached_tokens"))
    assert spans.summary["prefix_hit_rate"] > 0 and spans.summary["completed"] == count
    assert spans.summary["peak_kv_usage"] == steps.summary["peak_kv_usage"] <= 1
    assert spans.summary["total_output_tokens"] == outputs.sum()


@pytest.mark.parametrize("policy", [None, "tokens(target=400)"])
def test_replicas_that_fail_and_scale(policy):
    elasticity = Elasticity(policy=policy, mtbf_s=2.0, repair_s=1.0, retry_s=0.5, startup_s=0.7, interval_s=0.5)
    trace = make_trace(rate=20.0, input_len=300, output_len="lognormal(median=80,sigma=0.9)", num_requests=120, seed=5)
    deployment = build_deployment("llama-3.1-8b", "h100-sxm:2", dp=2, speculative_config=DRAFT)
    deployment = dataclasses.replace(deployment, elasticity=elasticity)
    spans, steps = (simulate_deployment(deployment, trace, seed=5, exact_steps=exact) for exact in (False, True))
    same(spans, steps)
    assert spans.summary["replica_failures"] == steps.summary["replica_failures"] > 0
    assert spans.summary["completed"] == 120
    assert spans.summary["energy_j"] == pytest.approx(steps.summary["energy_j"], rel=1e-9)
    assert spans.summary["spec_decode_num_accepted_tokens"] == steps.summary["spec_decode_num_accepted_tokens"]


@pytest.mark.parametrize("gib", [0.05, 1.0])
def test_prefixes_in_host_memory(gib):
    """Sessions whose turns find their history in a lower tier."""
    rng = np.random.default_rng(2)
    count, piece = 80, 64
    inputs, outputs = rng.integers(200, 1500, count), rng.integers(1, 200, count)
    ids, offsets = [], [0]
    for row, pieces in enumerate((-(-inputs // piece)).tolist()):
        ids += [row % 12 * 1000 + i for i in range(pieces)]
        offsets.append(len(ids))
    trace = Trace(
        name="sessions",
        arrival_s=np.sort(rng.random(count) * 8),
        input_tokens=inputs,
        output_tokens=outputs,
        prefix_ids=np.array(ids),
        prefix_offsets=np.array(offsets),
        prefix_block_tokens=piece,
    )
    settings = {"max_model_len": 2000, "num_gpu_blocks_override": 160, "kv_offloading_size": gib}
    deployment = build_deployment("llama-3.1-8b", "h100-sxm", speculative_config=DRAFT, **settings)
    spans, steps = (simulate_deployment(deployment, trace, exact_steps=exact) for exact in (False, True))
    same(spans, steps)
    assert np.array_equal(spans.column("cached_tokens"), steps.column("cached_tokens"))
    assert spans.summary["total_output_tokens"] == outputs.sum()


def test_decode_pools_draft():
    pools = ("prefill=tp1,dp1", "decode=tp1,dp2")
    workload = {"rate": 20.0, "input_len": 400, "output_len": "lognormal(median=80,sigma=0.9)", "num_requests": 100}
    workload |= {"disaggregate": pools, "max_model_len": 8000, "seed": 5}
    spans, steps, plain = (
        simulate("llama-3.1-8b", "h100-sxm:4", **workload, speculative_config=config, exact_steps=exact)
        for config, exact in ((DRAFT, False), (DRAFT, True), (None, False))
    )
    assert np.array_equal(spans.column("finish_s"), steps.column("finish_s"))
    assert spans.summary["mean_tpot_ms"] < plain.summary["mean_tpot_ms"]
    assert spans.summary["total_output_tokens"] == plain.summary["total_output_tokens"]


def test_accepted_drafts_do_not_depend_on_the_batch_or_the_router():
    alone = run(DRAFT, rate=0.05)
    busy = run(DRAFT, rate=100.0)
    routed = run(DRAFT, dp=2, routing="random")
    for other in (busy, routed):
        if other.summary["num_preemptions"] == 0:
            assert other.summary["spec_decode_num_accepted_tokens"] == alone.summary["spec_decode_num_accepted_tokens"]
    assert run(DRAFT, seed=4).summary != alone.summary


def test_speed_of_a_single_request_is_the_formula():
    """E / (1 + g c) with c from the two models' own decode steps, and verification as cheap as a decode step."""
    common = {
        "model": "llama-3.1-70b",
        "cluster": "h100-sxm:4",
        "tp": 4,
        "arrival": "closed(concurrency=1)",
        "rate": None,
    }
    common |= {"input_len": 200, "output_len": 1500, "num_requests": 6}
    plain, drafted = run(**common), run(DRAFT, **common)
    config, model = drafted.deployment.speculative, drafted.deployment.replica_setup().step_model
    step_s = plain.deployment.step_model.decode(1).cost(950, 950)[0]
    draft_s = model.draft(1).cost(950, 950)[0]
    verify_s = model.decode(1).cost(950, 950)[0] - draft_s
    assert verify_s == pytest.approx(step_s, rel=0.06)
    formula = config.expected_tokens / (1 + draft_s / step_s)
    speedup = plain.summary["mean_tpot_ms"] / drafted.summary["mean_tpot_ms"]
    assert speedup == pytest.approx(formula, rel=0.06)


def test_drafts_gain_at_low_load_and_lose_at_high_load():
    common = {
        "input_len": 100,
        "output_len": 100,
        "rate": None,
        "model": "llama-3.1-70b",
        "cluster": "h100-sxm:4",
        "tp": 4,
    }
    gains = []
    for clients in (1, 16, 256):
        setup = common | {"arrival": f"closed(concurrency={clients})", "num_requests": 2 * clients + 4}
        gains.append(run(DRAFT, **setup).summary["output_throughput"] / run(**setup).summary["output_throughput"])
    assert gains[0] > 1.8 and gains[0] > gains[1] > gains[2] and gains[2] < 1


def test_deepseek_mtp_reaches_its_published_speed():
    """1.8 times the tokens per second (DeepSeek-V3 report, arXiv 2412.19437, section 5.4.3), at 85 to 90 %."""
    common = {
        "model": "deepseek-v3",
        "cluster": "h200-sxm:8",
        "tp": 8,
        "rate": None,
        "arrival": "closed(concurrency=1)",
    }
    common |= {"input_len": 500, "output_len": 500, "num_requests": 4}
    plain = run(**common).summary["mean_tpot_ms"]
    gains = [plain / run({"method": "mtp", "acceptance": a}, **common).summary["mean_tpot_ms"] for a in (0.85, 0.9)]
    assert 1.5 < gains[0] < gains[1] < 1.9


def test_one_token_per_step_costs_what_a_plain_step_costs():
    """Drafts that are free and never right: the tokens per step are plain decoding's, and the steps as many."""
    config = {"method": "ngram", "num_speculative_tokens": 1, "acceptance": 0.0}
    plain, drafted = (
        run(arrival="closed(concurrency=1)", rate=None),
        run(config, arrival="closed(concurrency=1)", rate=None),
    )
    assert plain.summary["engine_steps"] == drafted.summary["engine_steps"]
    assert drafted.summary["mean_tpot_ms"] == pytest.approx(plain.summary["mean_tpot_ms"], rel=0.05)
    assert drafted.summary["mean_tpot_ms"] >= plain.summary["mean_tpot_ms"]


def test_draft_takes_memory():
    plain, drafted = (
        build_deployment("llama-3.1-8b", "h100-sxm"),
        build_deployment("llama-3.1-8b", "h100-sxm", speculative_config=DRAFT),
    )
    assert drafted.memory.weight_bytes - plain.memory.weight_bytes == pytest.approx(1.24e9 * 2, rel=0.01)
    assert drafted.memory.kv_bytes_per_token - plain.memory.kv_bytes_per_token == 16 * 2 * 8 * 64 * 2
    apart = build_deployment("llama-3.1-8b", "h100-sxm", speculative_config=DRAFT | {"draft_device": "l4"})
    assert apart.memory == plain.memory
    assert apart.draft.cluster.device.name.lower() == "l4"


def test_a_layer_parallel_draft_takes_less_time():
    shares = [
        run(DRAFT | {"draft_speedup": x}, num_requests=20).summary["spec_decode_draft_time_share"] for x in (1, 1.62)
    ]
    assert shares[1] < shares[0]


def test_plan_keeps_the_drafts():
    from apex_sim.api import plan

    settings = {"rate": 2.0, "input_len": 200, "output_len": 50, "num_requests": 40, "top": 1}
    result = plan("llama-3.1-8b", "h100-sxm:2", slo="ttft=1s,tpot=12ms", speculative_config=DRAFT, **settings)
    assert result.deployment().speculative is not None
    assert "--speculative-config" in result.launch_command


# -- input -------------------------------------------------------------------------------------------------------------

BAD = [
    ({"method": "draft_model", "num_speculative_tokens": 5, "acceptance": 0.7}, "no draft model"),
    (DRAFT | {"acceptance": 1.2}, "acceptance is 1.2"),
    (DRAFT | {"acceptance": -0.1}, "acceptance is -0.1"),
    (DRAFT | {"acceptance": "high"}, "acceptance is 'high'"),
    (DRAFT | {"acceptance": [0.7, 0.6]}, "lists 2 places"),
    (DRAFT | {"num_speculative_tokens": 0}, "at least 1"),
    (DRAFT | {"num_speculative_tokens": -2}, "num_speculative_tokens"),
    (DRAFT | {"method": "medusa"}, "method"),
    (DRAFT | {"num_speculativ_tokens": 3}, "did you mean 'num_speculative_tokens'"),
    (DRAFT | {"acceptence": 0.7}, "did you mean 'acceptance'"),
    (DRAFT | {"rates": [0.7]}, "use one of method, model, num_speculative_tokens"),
    (DRAFT | {"num_candidates": 3}, "num_candidates"),
    (DRAFT | {"mean_accepted_length": 3.0}, "leave one out"),
    ({"method": "ngram", "num_speculative_tokens": 2, "mean_accepted_length": 9}, "mean_accepted_length"),
    ({"method": "ngram", "num_speculative_tokens": 2}, "acceptance is missing"),
    ("{nonsense", "not valid JSON"),
    ("", "write JSON"),
    ("/nowhere/spec.yaml", "cannot be read"),
    (17, "write JSON"),
    (DRAFT | {"draft_tensor_parallel_size": 4}, "draft_tensor_parallel_size is 4"),
    (DRAFT | {"model": "no-such-model"}, "no-such-model"),
    (DRAFT | {"model": "llama-3.1-70b"}, "GB"),
    (DRAFT | {"model": "llama-3.1-70b", "draft_device": "l4"}, "GB"),
    (DRAFT | {"draft_device": "l99"}, "l99"),
]


@pytest.mark.parametrize(("config", "part"), BAD, ids=lambda v: str(v)[:40])
def test_bad_configurations_get_one_line(config, part):
    with pytest.raises(UserError) as caught:
        _ = build_deployment("llama-3.1-8b", "h100-sxm", speculative_config=config).memory
    assert part in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        *({"engine": name} for name in ("orca", "static", "vllm-v0", "apex-serve")),
        {"pp": 2},
        {"preemption_mode": "swap"},
        {"max_num_batched_tokens": 4},
    ],
    ids=str,
)
def test_engines_that_cannot(settings):
    with pytest.raises(UserError) as caught:
        build_deployment("llama-3.1-8b", "h100-sxm:2", speculative_config=DRAFT, **settings)
    assert "--speculative-config" in str(caught.value) and "\n" not in str(caught.value)


def test_another_vocabulary_is_warned_of():
    with pytest.warns(UserWarning, match="vocabulary"):
        _ = build_deployment("mistral-7b-v0.1", "h100-sxm", speculative_config=DRAFT).memory


def test_json_yaml_and_mappings_are_the_same(tmp_path):
    file = tmp_path / "drafts.yaml"
    file.write_text("method: draft_model\nmodel: llama-3.2-1b\nnum_speculative_tokens: 5\nacceptance: 0.7\n")
    assert parse_speculative(DRAFT) == parse_speculative(json.dumps(DRAFT)) == parse_speculative(str(file))


def test_simulate_takes_the_setting():
    result = simulate(
        "llama-3.1-8b", "h100-sxm", rate=1.0, input_len=64, output_len=32, num_requests=5, speculative_config=DRAFT
    )
    assert result.summary["spec_decode_method"] == "draft_model"
    assert result.summary["step_mode"].startswith("spans")


# -- plan and docs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("acceptance", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("method", ["draft_model", "ngram"])
def test_bounds_hold(acceptance, method):
    config = {"method": method, "num_speculative_tokens": 4, "acceptance": acceptance}
    if method == "draft_model":
        config["model"] = "llama-3.2-1b"
    deployment = build_deployment("llama-3.1-8b", "h100-sxm", speculative_config=config)
    trace = make_trace(rate=30.0, input_len=300, output_len="lognormal(median=60,sigma=0.9)", num_requests=150, seed=1)
    limits = bound(deployment, WorkloadStats.of(trace), None)
    found = simulate_deployment(deployment, trace, seed=1).summary
    assert limits.median_tpot_s * 1e3 <= found["median_tpot_ms"]
    assert limits.p95_tpot_s * 1e3 <= found["p95_tpot_ms"]
    assert limits.duration_s <= found["duration"]


def test_the_example_of_the_page_runs(capsys):
    page = (Path(__file__).parents[1] / "docs" / "speculative.md").read_text()
    command = page.split("```sh\n")[1].split("```")[0].replace("\\\n", " ")
    assert main([*shlex.split(command)[1:], "--num-requests", "20"]) == 0
    assert "mean accepted length" in capsys.readouterr().out
