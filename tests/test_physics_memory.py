"""Memory plan: parameter counts, KV bytes of known models, refusals with remedies, and vLLM's own block counts."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
from physics_helpers import (
    CODELLAMA_34B,
    DEEPSEEK_V3,
    ENGINE,
    GIB,
    H100,
    HYBRID,
    LLAMA_8B,
    LLAMA_70B,
    MIXTRAL,
    WINDOWED,
    cluster,
)

from hardware_profiles.errors import UserError
from simulator.engine_loader import load_engine
from simulator.physics.memory import estimate_memory, memory_plan
from simulator.plan import ParallelPlan

DATA = Path(__file__).parents[1] / ".." / "shared" / "data"


def test_weights_are_the_parameters_split_over_ranks():
    assert memory_plan(LLAMA_8B, cluster(), ParallelPlan(), ENGINE).weight_bytes == pytest.approx(2 * 8_030_261_248)
    half = memory_plan(LLAMA_8B, cluster(), ParallelPlan(tp=2), ENGINE).weight_bytes
    assert half == pytest.approx(8_030_261_248, rel=1e-3)
    assert estimate_memory(DEEPSEEK_V3, cluster(), ParallelPlan(), ENGINE).weight_bytes == pytest.approx(
        2 * 671.03e9, rel=1e-3
    )


@pytest.mark.parametrize(
    ("model", "plan", "expected"),
    [
        (LLAMA_8B, ParallelPlan(), 131_072),
        (LLAMA_8B, ParallelPlan(tp=8), 16_384),
        (LLAMA_8B, ParallelPlan(tp=16), 16_384),
        (LLAMA_8B, ParallelPlan(kv_cache_dtype="fp8"), 65_536),
        (LLAMA_70B, ParallelPlan(), 327_680),
        (LLAMA_70B, ParallelPlan(pp=2), 163_840),
        (MIXTRAL, ParallelPlan(tp=2), 65_536),
        (DEEPSEEK_V3, ParallelPlan(), 70_272),
        (DEEPSEEK_V3, ParallelPlan(tp=8), 70_272),
        (WINDOWED, ParallelPlan(), 131_072),
        (HYBRID, ParallelPlan(), 32_768),
    ],
)
def test_kv_bytes_per_token_and_device(model, plan, expected):
    assert estimate_memory(model, cluster(nodes=2), plan, ENGINE).kv_bytes_per_token == expected


def test_the_parts_fill_the_budget_up_to_one_block():
    plan = memory_plan(LLAMA_8B, cluster(), ParallelPlan(), ENGINE)
    block = plan.block_size * plan.kv_bytes_per_token
    assert plan.num_blocks * 16 == plan.kv_tokens
    assert 0 <= plan.free_bytes - plan.kv_bytes < block


def test_a_model_that_does_not_fit_is_refused_with_what_would():
    with pytest.raises(UserError) as error:
        memory_plan(LLAMA_70B, cluster(devices=1), ParallelPlan(), ENGINE)
    text = str(error.value)
    assert "\n" not in text
    for part in (
        "needs 141.1 GB of weights",
        "1 x h100-test has 85.9 GB x 0.90 less 1% for the driver",
        "short by",
        "Use tp >= 2",
        "fp8",
    ):
        assert part in text


@pytest.mark.parametrize("engine", ["vllm-v1", "trtllm"])
def test_what_is_short_follows_from_the_printed_numbers(engine):
    with pytest.raises(UserError) as error:
        memory_plan(LLAMA_70B, cluster(devices=1), ParallelPlan(), load_engine(engine, H100))
    weights, other, device, rest = re.search(
        r"needs ([\d.]+) GB of weights \+ ([\d.]+) GB .* has ([\d.]+) GB(.*)", str(error.value)
    ).groups()
    share, short = re.search(r"(?: x ([\d.]+))? less 1% for the driver: short by ([\d.]+) GB", rest).groups()
    room = float(device) * 0.99 * float(share or 1)
    assert float(short) == pytest.approx(float(weights) + float(other) - room, abs=0.2)


def test_four_bits_are_named_where_eight_do_not_fit():
    with pytest.raises(UserError, match=r"use --quantization awq \(fits with tp=1\)"):
        memory_plan(LLAMA_70B, cluster(replace(H100, memory_bytes=48 * GIB), devices=1), ParallelPlan(), ENGINE)


def test_a_context_that_does_not_fit_is_refused():
    small = replace(H100, name="small", memory_bytes=24 * GIB)
    with pytest.raises(
        UserError, match=r"max_model_len 131072 needs 17.2 GB of KV cache.*Lower max_model_len or use tp >= 2"
    ):
        memory_plan(LLAMA_8B, cluster(small), ParallelPlan(), ENGINE, max_model_len=131_072)


def test_blocks_can_be_overridden():
    assert memory_plan(LLAMA_8B, cluster(), ParallelPlan(), ENGINE, num_gpu_blocks_override=77).num_blocks == 77


def test_expert_parallelism_over_replicas_saves_expert_weights():
    alone = estimate_memory(DEEPSEEK_V3, cluster(nodes=4), ParallelPlan(dp=32), ENGINE)
    wide = estimate_memory(DEEPSEEK_V3, cluster(nodes=4), ParallelPlan(dp=32, ep=32), ENGINE)
    assert wide.weight_bytes < alone.weight_bytes / 10


def test_state_of_linear_layers_is_reserved_for_every_sequence():
    plan = estimate_memory(HYBRID, cluster(), ParallelPlan(tp=2), ENGINE)
    assert plan.state_bytes == 256 * 24 * 32 * 128 * 128 * 2 / 2


MIB = 1024**2
MEMORY = {"RTX4090": 24564 * MIB, "A6000": 49140 * MIB, "H100": 81559 * MIB}  # totals that nvidia-smi shows
MODELS = {"Llama-3.1-8B": LLAMA_8B, "Llama-3.1-8B-Instruct": LLAMA_8B}
MODELS |= {"codellama/CodeLlama-34b-Instruct-hf": CODELLAMA_34B, "mistralai/Mixtral-8x7B-v0.1": MIXTRAL}


def _rows(name: str) -> list[dict[str, str]]:
    with (DATA / name).open() as file:
        return list(csv.DictReader(file))


def _truth() -> set[tuple[str, str, int, int, int, float]]:
    """(hardware, model, tp, max_num_seqs, token budget, blocks) of real vLLM servers."""
    logs = _rows("fits/kv_capacity_truth.csv")
    runs = [r for r in _rows("runs/vllm_sim2real_runs.csv") if r["total_kv_blocks"] and r["max_num_seqs"]]
    return {
        (
            r["hardware"],
            r["model"],
            int(r.get("tp") or r["num_gpus_tp"]),
            int(float(r["max_num_seqs"].rstrip("?"))),
            int(r["max_num_batched_tokens"]),
            float(r.get("total_kv_blocks") or float(r["kv_tokens"]) / 16),
        )
        for r in [*logs, *runs]
    }


@pytest.mark.skipif(not (DATA / "fits" / "kv_capacity_truth.csv").exists(), reason="measured data are not here")
def test_block_counts_of_real_servers_within_one_percent():
    errors = {}
    for hardware, name, tp, seqs, budget, blocks in _truth():
        device = replace(H100, name=hardware, memory_bytes=MEMORY[hardware])
        engine = replace(ENGINE, max_num_seqs=seqs, max_num_batched_tokens=budget)
        plan = memory_plan(MODELS[name], cluster(device), ParallelPlan(tp=tp), engine)
        errors[hardware, name, tp, seqs] = plan.num_blocks / blocks - 1
    assert len(errors) >= 6
    assert median(abs(e) for e in errors.values()) < 0.005, errors
    assert max(abs(e) for e in errors.values()) < 0.01, errors
