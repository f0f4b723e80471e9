"""``plan --search`` over formats, drafts and shared prefixes: as brute force, explained, with commands that say so."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import apex_sim
from apex_sim import UserError
from apex_sim.cli import main
from apex_sim.plan_report import plan_dict, plan_text
from apex_sim.plan_techniques import _choices, technique_lines
from hardware_profiles.cluster import parse_cluster
from planners import search as search_module
from planners.outcome import OBJECTIVES, TIE, Objective
from planners.parallel import PlanResult
from planners.pools import build_any
from planners.technique_search import was_left_out
from planners.techniques import ASSUMED, acceptance_of, drafts_of, formats_of, smallest_draft
from simulator.deployment import Deployment
from simulator.disaggregated import DisaggregatedDeployment
from simulator.simulate import simulate_deployment
from simulator.speculative.config import SpeculativeConfig
from workloads.catalog import load_model
from workloads.trace import Trace

LIMITS: dict[str, Any] = {"max_num_batched_tokens": 2048, "max_num_seqs": 128}


def chat(n: int = 50, rate: float = 6.0, seed: int = 0, shared: bool = False) -> Trace:
    """Chat-like lengths; with ``shared`` four prompts of 2,048 tokens that requests begin with."""
    rng = np.random.default_rng(seed)
    inputs = np.clip(rng.lognormal(np.log(500), 0.7, n), 1, 4000).astype(np.int64)
    extra: dict[str, Any] = {}
    if shared:
        inputs += 2048
        pieces = -(-inputs // 64)
        group = rng.integers(0, 4, n)
        ids = [(group[i] * 1000 if p < 32 else 100_000 * (i + 1)) + p for i in range(n) for p in range(pieces[i])]
        offsets = np.concatenate(([0], np.cumsum(pieces)))
        extra = {"prefix_ids": np.array(ids), "prefix_offsets": offsets, "prefix_block_tokens": 64}
    return Trace(
        arrival_s=np.cumsum(rng.exponential(1 / rate, n)),
        input_tokens=inputs,
        output_tokens=np.clip(rng.lognormal(np.log(80), 0.7, n), 1, 400).astype(np.int64),
        name="chat",
        **extra,
    )


def plan(model: str, cluster: str, **options: Any) -> PlanResult:
    return apex_sim.plan(model, cluster, **LIMITS, **options)


def brute_force(result: PlanResult) -> list[dict[str, Any]]:
    """Every candidate with the engine's limits that fits, on the whole trace."""
    found = []
    for entry in result.entries:
        if entry.candidate.has_own_limits or entry.status == "unfit":
            continue
        deployment = build_any(result.model, result.cluster, result.space, entry.candidate)
        assert isinstance(deployment, Deployment)
        found.append(simulate_deployment(deployment, result.trace, slo=result.slo, seed=result.seed).summary)
    return found


@pytest.mark.parametrize(
    ("objective", "cluster", "search", "rate", "slo", "short"),
    [
        ("cost", "h100-sxm:2", ("quantization",), 30.0, "ttft=500ms,tpot=20ms", 2000),
        ("tpot", "l40s:1", ("speculative",), 1.0, "ttft=2s,tpot=60ms", 2000),
        ("tpot", "h100-sxm:1", ("speculative",), 10.0, "ttft=1s,tpot=50ms", 60),
        ("energy", "a100-sxm-80gb:1", ("prefix-cache", "quantization"), 8.0, "ttft=1s,tpot=50ms", 2000),
        ("ttft", "h100-sxm:2", ("prefix-cache",), 30.0, "ttft=1s,tpot=50ms", 2000),
        ("goodput", "h100-sxm:1", ("quantization",), 60.0, "ttft=300ms,tpot=20ms,attainment=0.8", 60),
    ],
)
def test_the_winner_is_as_good_as_that_of_brute_force(
    objective: Objective,
    cluster: str,
    search: tuple[str, ...],
    rate: float,
    slo: str,
    short: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search_module, "SCREEN_REQUESTS", short)
    trace = chat(rate=rate, shared="prefix-cache" in search)
    result = plan("llama-3.1-8b", cluster, search=search, slo=slo, objective=objective, trace=trace)
    name, larger, _ = OBJECTIVES[objective]
    assert result.slo is not None and result.best.measured is not None
    values = [s[name] for s in brute_force(result) if s["slo_attainment"] >= result.slo.attainment]
    best = max(values) if larger else min(values)
    found = result.best.measured.metrics[name]
    assert (best - found if larger else found - best) <= TIE * abs(best)
    assert all(entry.reason for entry in result.entries)


@pytest.fixture(scope="module")
def planned() -> PlanResult:
    return plan(
        "llama-3.1-70b",
        "h100-sxm:4",
        search=("quantization", "speculative"),
        slo="ttft=1s,tpot=30ms",
        trace=chat(40, rate=1.0),
    )


def test_fewer_devices_with_a_format_and_drafts_and_the_command_has_them(planned: PlanResult) -> None:
    plain = plan("llama-3.1-70b", "h100-sxm:4", slo="ttft=1s,tpot=30ms", trace=chat(40, rate=1.0))
    best = planned.best.candidate
    assert best.num_devices < plain.best.candidate.num_devices
    assert best.quantization
    if best.draft:
        assert "--speculative-config" in planned.launch_command
    assert f"--quantization {best.quantization}" in planned.launch_command or any(
        best.quantization in note for note in planned.launch_notes
    )


def test_the_report_says_what_was_assumed_and_what_each_choice_led_to(planned: PlanResult) -> None:
    text = plan_text(planned, 5)
    assert "what it does to accuracy is not predicted" in text
    assert "acceptance of ngram is assumed to be 0.4" in text
    for words in ("best with each choice", "fp8", "ngram", "llama-3.2-1b"):
        assert words in text
    content = plan_dict(planned)
    assert content["searched"] == ["quantization", "speculative"] and len(content["assumptions"]) == 3
    assert content["best"]["speculative_config"] == json.loads(json.dumps(content["best"]["speculative_config"]))
    drafted = [row for row in content["candidates"] if row["drafts"]]
    assert {row["speculative_config"]["num_speculative_tokens"] for row in drafted} == {1, 2, 3, 4, 5}
    assert {"drafts", "prefix_cache"} & set(planned.table.columns) == {"drafts"}


def test_the_best_with_a_choice_says_when_others_were_not_run(planned: PlanResult) -> None:
    lines = technique_lines(planned)
    for name, has in _choices(planned):
        having = [e for e in planned.entries if has(e.candidate)]
        line = next(text for text in lines if text.startswith(f"  {name}: "))
        known = any(e.measured and e.status in ("best", "pareto", "met") for e in having)
        unknown = sum(map(was_left_out, having))
        assert (f"; {unknown} more that may be better" in line) == (
            known and unknown > 0 and planned.best not in having
        )
    assert any("more that may be better were not simulated" in line for line in lines)


def test_any_number_of_processes_gives_the_same_candidates(planned: PlanResult) -> None:
    other = plan(
        "llama-3.1-70b",
        "h100-sxm:4",
        search=("quantization", "speculative"),
        slo="ttft=1s,tpot=30ms",
        trace=chat(40, rate=1.0),
        jobs=2,
    )
    assert other.rows() == planned.rows()


def test_tiers_win_where_prefixes_do_not_fit_and_are_in_the_command() -> None:
    result = plan(
        "llama-3.1-8b",
        "h100-sxm:1",
        search=("prefix-cache",),
        objective="ttft",
        trace=chat(80, rate=4.0, shared=True),
        num_gpu_blocks_override=700,
    )
    by_cache = {e.candidate.cache: e for e in result.entries if not e.candidate.has_own_limits}
    assert set(by_cache) == {"on", "off", "host", "disk"}
    assert result.best.candidate.cache in ("on", "host", "disk")
    rows = {row["prefix_cache"]: row for row in result.rows()}
    assert rows["host"]["kv_offloading_size"] and rows["disk"]["kv_offloading_disk"]
    assert rows["on"]["kv_offloading_size"] is None


def test_splits_into_pools_share_prefixes_where_prompts_are_computed() -> None:
    result = plan("llama-3.1-8b", "h100-sxm:2", search=("pd", "prefix-cache"), trace=chat(60, rate=4.0, shared=True))
    split = next(e for e in result.entries if e.candidate.decode and e.candidate.cache == "host")
    deployment = build_any(result.model, result.cluster, result.space, split.candidate)
    assert isinstance(deployment, DisaggregatedDeployment)
    assert deployment.prefill.kv_offload.host_bytes and not deployment.decode.kv_offload.host_bytes


def test_formats_are_those_that_the_device_has() -> None:
    model = load_model("llama-3.1-8b")
    formats = {
        name: formats_of(model, parse_cluster(f"{name}:1").device) for name in ("h100-sxm", "a100-sxm-80gb", "mi300x")
    }
    assert formats["h100-sxm"] == ((None, "fp8", "w8a8", "awq_marlin"), ("auto", "fp8"))
    assert formats["a100-sxm-80gb"] == ((None, "w8a8", "awq_marlin"), ("auto",))
    assert formats_of(load_model("deepseek-v3"), parse_cluster("h100-sxm:8").device)[0] == (None,)


def test_drafts_share_the_vocabulary_and_modules_come_with_the_checkpoint() -> None:
    small = smallest_draft(load_model("llama-3.1-70b"))
    assert small is not None and load_model(small).vocab_size == load_model("llama-3.1-70b").vocab_size
    methods = {c.method for c in drafts_of(load_model("deepseek-v3"), None, {}).values()}
    assert methods == {"ngram", "mtp"}
    drafts = drafts_of(load_model("llama-3.1-70b"), None, {"ngram": 0.2})
    assert {c.rates[0] for c in drafts.values()} == {0.2, ASSUMED["draft_model"][0]}
    own: SpeculativeConfig = drafts_of(
        load_model("llama-3.1-70b"), {"method": "eagle", "num_speculative_tokens": 7, "acceptance": 0.7}, {}
    )["eagle x7"]
    assert own.rates == (0.7,) * 7


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--search", "quantisation"], "unknown search 'quantisation'"),
        (["--search", "prefix-cache", "--kv-offloading-size", "8"], "--kv-offloading-size fixes"),
        (["--draft-acceptance", "0.5"], "--draft-acceptance is for drafts"),
        (["--search", "speculative", "--draft-acceptance", "1.5"], "a probability from 0 to 1"),
        (["--search", "speculative", "--draft-acceptance", "n-gram=0.5"], "unknown method of --draft-acceptance"),
        (["--search", "quantization", "--kv-link", "inf"], "add --search pd"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--model", "llama-3.1-8b", "--cluster", "h100-sxm:1", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_acceptance_is_one_for_all_or_by_method() -> None:
    assert acceptance_of("0.5") == dict.fromkeys(ASSUMED, 0.5)
    assert acceptance_of("ngram=0.3, mtp=0.9") == {"ngram": 0.3, "mtp": 0.9}
    with pytest.raises(UserError, match="probability"):
        acceptance_of("ngram=high")
