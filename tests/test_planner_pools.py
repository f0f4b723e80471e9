"""Splits into prefill and decode pools in the plan: all candidates counted, bounds that hold, the split that suits."""

from __future__ import annotations

import json

import pytest

import apex_sim
from apex_sim import UserError
from apex_sim.cli import main
from planners.demand import WorkloadStats
from planners.pools import bound_pools, build_any, enumerate_pools
from planners.space import Candidate, SearchSpace
from simulator.disaggregated import DisaggregatedDeployment
from simulator.result_disaggregated import DisaggregatedResult
from simulator.simulate_disaggregated import simulate_disaggregated
from workloads.slo import parse_slo

WORK = {"rate": 30, "input_len": "lognormal(median=2000,sigma=0.5)", "output_len": "lognormal(median=200,sigma=0.5)"}
SLO = "ttft=500ms,tpot=15ms"


def test_splits_use_each_device_once_and_none_is_listed_twice() -> None:
    model, cluster = apex_sim.load_model("llama-3.1-8b"), apex_sim.load_cluster("h100-sxm:4")
    candidates = enumerate_pools(model, cluster, SearchSpace())
    expected = {
        (tp, dp, other, n)
        for tp in (1, 2, 4)
        for other in (1, 2, 4)
        for dp in range(1, 5)
        for n in range(1, 5)
        if tp * dp + other * n <= 4
    }
    assert {(c.tp, c.dp, *c.decode) for c in candidates} == expected
    assert len(candidates) == len(expected)
    assert all(c.num_devices == c.tp * c.dp + c.decode[0] * c.decode[1] for c in candidates)
    assert Candidate(tp=2, pp=1, dp=3, ep=1, decode=(4, 1)).layout == "prefill tp2 dp3 + decode tp4"


@pytest.fixture(scope="module")
def planned() -> apex_sim.PlanResult:
    return apex_sim.plan("llama-3.1-8b", "h100-sxm:4", slo=SLO, search=("pd",), num_requests=600, **WORK)  # type: ignore[arg-type]


def test_two_pools_meet_an_slo_that_no_single_pool_meets(planned: apex_sim.PlanResult) -> None:
    """15 ms TPOT beside prompts of 2,000 tokens: their steps are longer."""
    assert planned.best.candidate.decode
    single = [e for e in planned.entries if not e.candidate.decode]
    assert single and {e.status for e in single} <= {"missed", "bounded", "unfit", "screened"}
    deployment = planned.deployment()
    assert isinstance(deployment, DisaggregatedDeployment)
    again = simulate_disaggregated(deployment, planned.trace, slo=parse_slo(SLO))
    assert isinstance(again, DisaggregatedResult)
    assert planned.best.measured is not None
    assert (
        again.summary["usd_per_million_output_tokens"] == planned.best.measured.metrics["usd_per_million_output_tokens"]
    )


def test_every_candidate_has_a_fate_and_both_pools_a_command(planned: apex_sim.PlanResult) -> None:
    rows = planned.rows()
    assert all(row["reason"] for row in rows)
    assert {row["decode_tp"] is None for row in rows} == {True, False}
    commands = planned.launch_command.splitlines()
    assert len(commands) == 2
    assert all("--kv-transfer-config" in command for command in commands)


def test_any_number_of_processes_gives_the_same_plan(planned: apex_sim.PlanResult) -> None:
    other = apex_sim.plan("llama-3.1-8b", "h100-sxm:4", slo=SLO, search=("pd",), num_requests=600, jobs=2, **WORK)  # type: ignore[arg-type]
    assert other.rows() == planned.rows()


@pytest.mark.parametrize("split", [(1, 1, 1, 1), (1, 3, 1, 1), (1, 1, 1, 3), (2, 1, 1, 2), (1, 2, 2, 1)])
@pytest.mark.parametrize("rate", [1, 30])
def test_no_run_beats_its_bounds(split: tuple[int, ...], rate: float) -> None:
    model, cluster = apex_sim.load_model("llama-3.1-8b"), apex_sim.load_cluster("h100-sxm:4")
    candidate = Candidate(tp=split[0], pp=1, dp=split[1], ep=1, decode=split[2:])
    deployment = build_any(model, cluster, SearchSpace(), candidate)
    assert isinstance(deployment, DisaggregatedDeployment)
    trace = apex_sim.generate_trace(
        rate_per_s=rate,
        input_len=WORK["input_len"],
        output_len=WORK["output_len"],
        num_requests=200,
        arrival="poisson",
        seed=3,
    )
    slo = parse_slo(SLO)
    bounds = bound_pools(deployment, WorkloadStats.of(trace), slo)
    result = simulate_disaggregated(deployment, trace, slo=slo)
    s = result.summary
    assert s["p95_ttft_ms"] >= 1e3 * bounds.p95_ttft_s
    assert s["p95_tpot_ms"] >= 1e3 * bounds.p95_tpot_s
    assert s["duration"] >= bounds.duration_s
    assert result.attainment <= min(bounds.attainment, bounds.loaded_attainment)
    assert s["request_throughput"] <= bounds.capacity_per_s
    assert bounds.load <= 1.0 or s["duration"] > trace.duration_s


def best_split(rate: float, inputs: int, outputs: int) -> int:
    """Prefill replicas, of four in all, with the highest goodput."""
    goodput = {
        prefill: apex_sim.simulate(
            "llama-3.1-8b",
            "h100-sxm:4",
            disaggregate={"prefill": {"dp": prefill}, "decode": {"dp": 4 - prefill}},
            routing="least-outstanding",
            slo="ttft=2s,tpot=15ms",
            rate=rate,
            input_len=inputs,
            output_len=outputs,
            num_requests=300,
        ).summary["request_goodput"]
        for prefill in (1, 2, 3)
    }
    return max(goodput, key=lambda prefill: goodput[prefill])


def test_the_best_split_moves_with_the_work() -> None:
    """Long prompts and short outputs want prefill replicas, short prompts and long outputs decode replicas."""
    assert [best_split(16, 8000, 20), best_split(30, 3000, 200), best_split(40, 200, 500)] == [3, 2, 1]


def test_the_command_plans_pools(capsys: pytest.CaptureFixture[str], tmp_path) -> None:  # type: ignore[no-untyped-def]
    work = ["--rate", "20", "--input-len", "1500", "--output-len", "100", "--num-requests", "100", "--slo", "ttft=1s"]
    base = ["plan", "--model", "llama-3.1-8b", "--cluster", "h100-sxm:2", *work]
    assert main([*base, "--search", "pd", "--kv-link", "400Gb/s", "--jobs", "1", "--out", str(tmp_path)]) == 0
    assert "prefill tp1 + decode tp1" in capsys.readouterr().out
    found = json.loads((tmp_path / "plan.json").read_text())
    assert any(row["decode_tp"] == 1 for row in found["candidates"])
    assert main([*base, "--jobs", "1", "--json", "-"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert not any("decode_tp" in row for row in plain["candidates"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--search", "pq"], "Did you mean 'pd'"),
        (["--kv-link", "1GB/s"], "--search pd"),
        (["--search", "pd", "--kv-link", "0GB/s"], "--kv-link"),
        (["--search", "pd", "--engine", "orca", "--max-model-len", "4096"], "--search pd"),
        (["--search", "pd", "--cluster", "h100-sxm:1"], "at least 2"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--model", "llama-3.1-8b", "--cluster", "h100-sxm:2", *arguments]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.count("\n") == 1


def test_the_api_names_what_may_be_searched() -> None:
    with pytest.raises(UserError, match="pd"):
        apex_sim.plan("llama-3.1-8b", "h100-sxm:2", search=("pq",))
