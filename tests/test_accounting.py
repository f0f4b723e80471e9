"""Dollars, kilowatt-hours and grams: what goes in comes out again, and every wrong setting is one line."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import apex_sim as apex
from hardware_profiles.cluster import parse_cluster
from hardware_profiles.errors import UserError
from hardware_profiles.schema import Cluster
from hardware_profiles.sites import grids
from hardware_profiles.terms import HOURS_PER_YEAR, with_terms
from simulator.accounting.account import Usage, account
from simulator.accounting.rates import Rates, full_power_usd_per_hour
from simulator.costs import StepCosts
from simulator.phases import PromptShares
from simulator.physics.shape import StepShape

H100 = parse_cluster("h100-sxm:8")

usages = st.builds(
    Usage,
    devices=st.integers(1, 64),
    duration_s=st.floats(0.1, 1e6),
    prefill_j=st.floats(0, 1e9),
    decode_j=st.floats(0, 1e9),
    idle_j=st.floats(0, 1e9),
    prefill_share=st.floats(0, 1),
    input_tokens=st.integers(1, 10**9),
    output_tokens=st.integers(1, 10**9),
    requests=st.integers(1, 10**6),
)
sites = st.fixed_dictionaries({"pue": st.floats(1, 3), "grid": st.floats(0, 1000), "usd_per_kwh": st.floats(0, 1)})
terms = st.one_of(
    st.fixed_dictionaries({"usd_per_gpu_hour": st.floats(0.01, 50)}),
    st.fixed_dictionaries(
        {"pricing": st.just("owned"), "purchase_usd": st.floats(100, 1e5), "lifetime_years": st.floats(1, 10)}
    ),
)


@given(usages, sites, terms)
def test_parts_sum_to_the_whole(usage: Usage, site: dict[str, float], paid: dict[str, float]) -> None:
    cluster = with_terms(H100, **site, **paid)  # type: ignore[arg-type]
    s = account(usage, Rates.of(cluster))
    assert s["prefill_energy_j"] + s["decode_energy_j"] + s["idle_energy_j"] == pytest.approx(s["energy_j"])
    assert s["facility_kwh"] == pytest.approx(site["pue"] * (s["energy_j"] + s["host_energy_j"]) / 3.6e6)
    usd = s["usd_per_hour"] * usage.duration_s / 3600
    prices = [s[f"break_even_usd_per_million_{kind}_tokens"] for kind in ("input", "output")]
    assert (prices[0] * usage.input_tokens + prices[1] * usage.output_tokens) / 1e6 == pytest.approx(usd)
    assert s["usd_per_request"] * usage.requests == pytest.approx(usd)
    grams = s["operational_gco2e"] + s["embodied_gco2e"]
    assert s["gco2e_per_request"] * usage.requests == pytest.approx(grams)
    assert s["operational_gco2e"] == pytest.approx(site["grid"] * s["facility_kwh"])


@given(usages, usages, sites, terms)
def test_two_runs_cost_what_each_costs(a: Usage, b: Usage, site: dict[str, float], paid: dict[str, float]) -> None:
    rates = Rates.of(with_terms(H100, **site, **paid))  # type: ignore[arg-type]
    for amount in (rates.usd, rates.facility_kwh, rates.gco2e):
        both = amount(a.device_s + b.device_s, a.device_j + b.device_j)
        one, other = amount(a.device_s, a.device_j), amount(b.device_s, b.device_j)
        assert one is not None and other is not None
        assert both == pytest.approx(one + other)


def test_an_owned_hour_by_hand() -> None:
    cluster = with_terms(H100, pricing="owned", purchase_usd=40_000, lifetime_years=4, pue=1.25, usd_per_kwh=0.10)
    usage = Usage(
        devices=8,
        duration_s=3600.0,
        prefill_j=0.0,
        decode_j=8 * 700.0 * 3600,
        idle_j=0.0,
        prefill_share=0.0,
        input_tokens=1,
        output_tokens=1_000_000,
        requests=1000,
    )
    s = account(usage, Rates.of(cluster))
    kwh = 1.25 * (5.6 + 0.09 * 5.6 + 8 * 0.275)  # devices, 9 % of them, and 275 W of host each
    assert s["facility_kwh"] == pytest.approx(kwh)
    assert s["usd_per_hour"] == pytest.approx(8 * 40_000 / (4 * HOURS_PER_YEAR) + 0.10 * kwh)
    assert full_power_usd_per_hour(cluster) == pytest.approx(s["usd_per_hour"])
    assert s["usd_per_million_output_tokens"] == pytest.approx(s["usd_per_hour"])


def test_rented_devices_pay_no_electricity() -> None:
    dear = with_terms(H100, usd_per_kwh=100.0)
    assert full_power_usd_per_hour(dear) == full_power_usd_per_hour(H100) == H100.usd_per_hour


@pytest.mark.parametrize("tp, pp", [(1, 1), (2, 1), (1, 2)])
def test_a_run_adds_up(tp: int, pp: int) -> None:
    result = apex.simulate(
        "llama-3.1-8b", "h100-sxm:2", tp=tp, pp=pp, rate=6, input_len=700, output_len=40, num_requests=150, grid="world"
    )
    s, usage = result.summary, result.usage
    assert s["energy_j"] == result.energy_j == usage.device_j
    assert 0 < s["prefill_energy_j"] < s["energy_j"] and s["decode_energy_j"] > 0 and s["idle_energy_j"] > 0
    assert 0 < usage.prefill_share < 1
    assert s["operational_gco2e"] == pytest.approx(473 * s["facility_kwh"])


def test_prompts_alone_are_all_prefill_and_cost_what_they_take() -> None:
    result = apex.simulate("llama-3.1-8b", "h100-sxm:1", rate=1, input_len=500, output_len=1, num_requests=20)
    assert result.usage.prefill_share == 1.0 and result.summary["decode_energy_j"] == 0.0
    assert result.summary["break_even_usd_per_million_output_tokens"] == 0.0


def test_the_time_of_a_prompt_is_what_it_adds() -> None:
    settings: dict[str, object] = {"output_len": 200, "num_requests": 40, "rate": 4.0, "seed": 1}
    short = apex.simulate("llama-3.1-8b", "h100-sxm:1", input_len=64, **settings)  # type: ignore[arg-type]
    long = apex.simulate("llama-3.1-8b", "h100-sxm:1", input_len=4096, **settings)  # type: ignore[arg-type]
    per_token = [run.summary["prefill_joules_per_input_token"] for run in (short, long)]
    assert 1 < per_token[1] / per_token[0] < 1.3, "arithmetic per token, and the attention of a longer prompt"
    assert long.usage.prefill_share > 50 * short.usage.prefill_share, "few tokens ride along with decoding for nothing"


@pytest.mark.parametrize("pp", [1, 2])
def test_both_modes_split_alike(pp: int) -> None:
    runs = [
        apex.simulate(
            "llama-3.1-8b",
            "h100-sxm:2",
            pp=pp,
            rate=20,
            input_len="uniform(10,900)",
            output_len="uniform(1,60)",
            num_requests=120,
            exact_steps=exact,
        ).record.replicas[0]
        for exact in (False, True)
    ]
    spans, steps = (run.prompts.totals() for run in runs)
    assert spans == steps


def test_blocks_of_steps_add_up_to_each_step_by_hand() -> None:
    deployment = apex.build_deployment("llama-3.1-8b", "h100-sxm:1")
    costs = StepCosts(deployment.step_model)
    shares = PromptShares(costs)
    shares.BLOCK = 7
    shares._full = 7 * shares.COLUMNS
    ticks = joules = 0.0
    for i in range(50):
        shape = StepShape(decode_seqs=i % 5, context_tokens=100 * (i % 5), window_tokens=100 * (i % 5), prefill_tokens=64,
                          prefill_pairs=2080, window_pairs=2080, prefill_seqs=1, logits_rows=i % 5 + 1)  # fmt: skip
        step_ticks, step_j = costs.step(shape)
        shares.add(*shape[:3], step_ticks, step_j)
        alone_s, alone_j = deployment.step_model.decode(i % 5).cost(100 * (i % 5), 100 * (i % 5))
        ticks += step_ticks - alone_s * 1e15
        joules += step_j - alone_j
    assert shares.totals() == pytest.approx((ticks, joules), rel=1e-6)


def test_a_cluster_file_says_where_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "ours.yaml"
    file.write_text(
        "device: h100-sxm\ndevices_per_node: 8\nhost_embodied_kgco2e: 2000\npricing: owned\npurchase_usd: 30000\n"
        "lifetime_years: 4\nsite: {pue: 1.1, gco2_per_kwh: 20, usd_per_kwh: 0.05}\n"
    )
    cluster = parse_cluster(file)
    assert (cluster.site.pue, cluster.site.gco2_per_kwh, cluster.site.grid) == (1.1, 20.0, "own figure")
    rates = Rates.of(cluster)
    assert rates.usd_per_device_hour == pytest.approx(30_000 / (4 * HOURS_PER_YEAR))
    assert rates.embodied_g_per_device_hour == pytest.approx(1e3 * (164 + 250) / (4 * HOURS_PER_YEAR))
    assert with_terms(cluster, grid="world").site.gco2_per_kwh == 473
    assert with_terms(cluster, pricing="on-demand", usd_per_gpu_hour=3.0).terms.pricing == "on-demand"


def test_unknown_embodied_carbon_is_said_so() -> None:
    node = dataclasses.replace(H100.node, device=dataclasses.replace(H100.device, embodied_kgco2e=None))
    rates = Rates.of(dataclasses.replace(H100, node=node))
    assert rates.embodied_g(3600) is None
    assert rates.gco2e(3600, 1e6) == rates.operational_g(3600, 1e6)


def test_every_grid_is_plausible() -> None:
    assert all(0 < grid.gco2_per_kwh < 1200 and grid.source for grid in grids().values())


def unpriced() -> Cluster:
    device = dataclasses.replace(H100.device, price=None, purchase_usd=None)
    return dataclasses.replace(H100, node=dataclasses.replace(H100.node, device=device))


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"pricing": "leased"}, "pricing 'leased'"),
        ({"pricing": "spot"}, "has no such price"),
        ({"pricing": "owned"}, "--purchase-usd"),
        ({"pricing": "owned", "purchase_usd": 1.0, "usd_per_gpu_hour": 2.0}, "--usd-per-gpu-hour 2 is a rent"),
        ({"purchase_usd": 30_000.0}, "add --pricing owned"),
        ({"usd_per_gpu_hour": -1.0}, "--usd-per-gpu-hour is -1"),
        ({"lifetime_years": 0.0}, "--lifetime-years is 0"),
        ({"pue": 0.9}, "pue is 0.9"),
        ({"pue": float("nan")}, "--pue is nan"),
        ({"grid": "atlantis"}, "grid is 'atlantis'"),
        ({"grid": -3}, "--grid is -3"),
        ({"usd_per_kwh": float("inf")}, "--usd-per-kwh is inf"),
    ],
)
def test_wrong_terms_are_one_line(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(UserError) as error:
        with_terms(unpriced(), **wrong)  # type: ignore[arg-type]
    assert words in str(error.value) and "\n" not in str(error.value)


def test_the_command_line_refuses_them_with_code_2() -> None:
    command = [sys.executable, "-m", "apex_sim", "simulate", "--model", "llama-3.1-8b", "--cluster", "h100-sxm:1"]
    done = subprocess.run([*command, "--grid", "atlantis"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "atlantis" in done.stderr


@pytest.mark.parametrize("objective", ["request-cost", "kwh", "carbon"])
def test_a_plan_by_each_objective_is_the_least(objective: str) -> None:
    from planners.outcome import OBJECTIVES

    result = apex.plan(
        "llama-3.1-8b",
        "h100-sxm:2",
        slo="ttft=1s,tpot=50ms",
        objective=objective,
        num_requests=150,
        grid=56,  # type: ignore[arg-type]
    )
    field = OBJECTIVES[result.objective][0]
    seen = [e.measured.metrics[field] for e in result.entries if e.measured]
    assert result.best.measured is not None
    assert result.best.measured.metrics[field] <= min(seen) * 1.005
    assert len(seen) >= 2


def test_a_clean_grid_only_changes_the_carbon() -> None:
    dirty, clean = (
        apex.simulate("llama-3.1-8b", "h100-sxm:1", num_requests=50, grid=grid).summary for grid in (800, 20)
    )
    changed = {name for name in dirty if dirty[name] != clean[name]}
    assert changed == {
        "gco2_per_kwh",
        "operational_gco2e",
        "gco2e_per_request",
        "gco2e_per_million_output_tokens",
    }


def test_options_replace_what_a_file_lacks(tmp_path: Path) -> None:
    file = tmp_path / "ours.yaml"
    file.write_text("device: h20\npricing: owned\n")
    with pytest.raises(UserError, match=r"ours\.yaml: pricing is owned, but h20 has no purchase_usd"):
        apex.simulate("llama-3.1-8b", str(file), num_requests=10)
    settings: dict[str, object] = {"num_requests": 10, "purchase_usd": 20_000.0}
    assert apex.simulate("llama-3.1-8b", str(file), **settings).summary["usd_per_hour"] > 0.4  # type: ignore[arg-type]
    with pytest.raises(UserError, match="h20 has no purchase_usd"):
        apex.simulate("llama-3.1-8b", str(file), num_requests=10, pue=1.1)


def test_another_grid_leaves_the_price_of_the_last_behind() -> None:
    california = with_terms(H100, grid="us-ca")
    assert california.site.usd_per_kwh == grids()["us-ca"].usd_per_kwh != H100.site.usd_per_kwh
    assert with_terms(california, grid=" FR ").site == with_terms(H100, grid="fr").site
    own = with_terms(california, usd_per_kwh=0.05)
    assert with_terms(own, grid="fr").site.usd_per_kwh == 0.05


@pytest.mark.parametrize(
    "site, words",
    [
        ("{grid: no}", "in quotes: a bare no or yes is a boolean"),
        ("{grid: germany}", "did you mean 'de'?"),
        ("{grid: uk}", "did you mean 'gb'?"),
        ("{grid: '56'}", "gco2_per_kwh"),
        ("{pue: 0.5}", "site.pue is 0.5"),
    ],
)
def test_a_wrong_site_of_a_file_is_one_line(tmp_path: Path, site: str, words: str) -> None:
    file = tmp_path / "ours.yaml"
    file.write_text(f"device: h100-sxm\nsite: {site}\n")
    with pytest.raises(UserError) as error:
        parse_cluster(file)
    assert words in str(error.value) and "ours.yaml: site." in str(error.value) and "\n" not in str(error.value)


def test_devices_that_wait_for_a_compiler_or_for_swapped_blocks_draw_power() -> None:
    settings: dict[str, object] = {"tp": 8, "arrival": "closed(4)", "input_len": "uniform(300,1500)", "output_len": 60}
    cold, warm = (
        apex.simulate("mixtral-8x7b", "h100-sxm:8", cold_start=cold, num_requests=40, **settings).usage  # type: ignore[arg-type]
        for cold in (True, False)
    )
    waited_s = cold.duration_s - warm.duration_s
    assert waited_s > 5
    assert (cold.device_j - warm.device_j) / (8 * waited_s) == pytest.approx(140, rel=0.15), "base power of an H100 [W]"
    crowded: dict[str, object] = {
        "engine": "vllm-v0",
        "rate": 50,
        "input_len": "uniform(500,2000)",
        "output_len": "uniform(300,600)",
        "num_requests": 100,
    }
    runs = [
        apex.simulate("llama-3.1-8b", "rtx-4090:1", preemption_mode="swap", exact_steps=exact, **crowded)  # type: ignore[arg-type]
        for exact in (False, True)
    ]
    assert runs[0].summary["num_preemptions"] > 0
    assert runs[0].energy_j == pytest.approx(runs[1].energy_j, rel=1e-12)


def test_dollars_have_no_exponents() -> None:
    from apex_sim.text import dollars

    shown = [dollars(value) for value in (None, 0.0, 3.07e-5, 0.154, 0.9999, 1.0, 12345.678)]
    assert shown == ["-", "$0.00", "$0.0000307", "$0.154", "$1.00", "$1.00", "$12,345.68"]


def test_a_plan_shows_its_objective_and_says_under_which_terms() -> None:
    from apex_sim.plan_report import plan_dict, plan_text

    settings: dict[str, object] = {"num_requests": 60, "grid": "fr", "pricing": "owned", "purchase_usd": 9_000.0}
    result = apex.plan("llama-3.1-8b", "h20:1", objective="request-cost", **settings)  # type: ignore[arg-type]
    written = plan_dict(result)
    assert written["site"]["grid"] == "fr" and written["terms"]["pricing"] == "owned"
    assert apex.pareto_figure(result).axes[0].get_ylabel() == "$ per request"
    text = plan_text(result, 1)
    assert "(embodied unknown)" in text and "e-0" not in text


def test_unknown_power_is_said_so_and_no_objective() -> None:
    from apex_sim.report import summary_text

    result = apex.simulate("llama-3.2-1b", "m2-ultra:1", num_requests=10)
    s = result.summary
    unknown = {"energy_j", "average_power_w", "facility_kwh", "operational_gco2e", "gco2e_per_request"}
    assert all(s[name] is None for name in unknown) and s["pue"] == 1.56
    assert "energy       unknown: the device profile has neither tdp_w nor power" in summary_text(result)
    for objective in ("energy", "kwh", "carbon"):
        with pytest.raises(UserError, match=f"neither tdp_w nor power in its profile, so objective {objective}"):
            apex.plan("llama-3.2-1b", "m2-ultra:1", num_requests=10, objective=objective)  # type: ignore[arg-type]


def test_free_devices_can_be_planned_and_plotted() -> None:
    result = apex.plan("llama-3.1-8b", "h100-sxm:2", num_requests=40, usd_per_gpu_hour=0.0)
    assert result.best.candidate.num_devices == 1
    assert apex.pareto_figure(result).axes
