"""Terms of a fleet's prices, and what the simulated fleet costs, draws and emits."""

from __future__ import annotations

import json

import numpy as np
import pytest

from apex_sim.api import make_trace
from apex_sim.cli import main
from hardware_profiles.cluster import parse_cluster
from planners.fleet.account import fleet_account, fleet_span_s, spent_on, total, unit_costs, usage_over
from planners.fleet.check import Checked
from planners.fleet.instance import Candidate, Serving
from planners.fleet.problem import GpuType
from simulator.accounting.rates import Rates
from simulator.physics.power import idle_w_of
from simulator.simulate import simulate_deployment
from workloads.catalog import load_model

SUMS = ("device_s", "usd", "energy_j", "facility_kwh", "operational_gco2e", "embodied_gco2e", "gco2e", "output_tokens")
COMMAND = ["gpus", "--model", "llama-3.1-8b", "--num-requests", "150", "--seed", "3", "--slo", "tpot=80ms,ttft=2s"]
SIZES = ["--rate", "6", "--input-len", "uniform(low=50,high=900)", "--output-len", "60"]


def _candidate(name):
    return Candidate(kind=GpuType(name=name, usd_per_hour=1.0), cluster=parse_cluster(name))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def plan(cache, capsys):
    def run(*options, code=0):
        gpus = [] if "--gpus" in options else ["--gpus", "a100-sxm-80gb,l4"]
        assert main([*COMMAND, *SIZES, *gpus, "--cache", cache, *options, "--json", "-"]) == code
        captured = capsys.readouterr()
        return json.loads(captured.out) if code == 0 else captured.err

    return run


def test_the_types_add_up_to_the_fleet_and_the_rent_is_the_plans(plan):
    data = plan("--gpus", "a10g,l4", "--limit", "a10g=1,l4=1", "--rate", "5")
    account, types = data["account"], [t["account"] for t in data["types"]]
    assert sum(t["count"] > 0 for t in data["types"]) == 2
    for name in SUMS:
        assert account[name] == pytest.approx(sum(t[name] for t in types)), name
    assert account["usd"] == pytest.approx(data["usd_per_hour"] * account["duration_s"] / 3600)
    assert account["output_tokens"] == 150 * 60 and account["requests"] == 150
    assert account["gco2e"] == pytest.approx(account["operational_gco2e"] + account["embodied_gco2e"])
    assert account["joules_per_output_token"] == pytest.approx(account["energy_j"] / 9000)
    assert account["usd_per_request"] == pytest.approx(account["usd"] / 150)
    held = sum(t["count"] for t in data["types"]) * account["duration_s"]
    assert account["device_s"] == pytest.approx(held)


def test_over_its_own_time_a_type_spends_what_its_summary_says_and_later_only_idles():
    candidate = _candidate("l4")
    serving = Serving(model=load_model("llama-3.1-8b"), engine="vllm-v1", settings={"routing": "least-outstanding"})
    trace = make_trace(rate=3, input_len="200", output_len="40", num_requests=60)
    result = simulate_deployment(serving.deployment(candidate, 2), trace)
    summary, rates = result.summary, Rates.of(candidate.cluster)
    spent = unit_costs(spent_on(usage_over(candidate, 2, result, result.duration_s), rates))
    for name in ("energy_j", "facility_kwh", "usd_per_million_output_tokens", "gco2e_per_million_output_tokens"):
        assert spent[name] == pytest.approx(summary[name]), name
    later = spent_on(usage_over(candidate, 2, result, result.duration_s + 100), rates)
    assert later["energy_j"] - spent["energy_j"] == pytest.approx(200 * idle_w_of(candidate.cluster.device))
    checked = Checked(attainment=1.0, left_out=0, types=np.zeros(60, dtype=np.int64), results=(result, None))
    span_s = fleet_span_s(checked, trace)
    assert span_s == pytest.approx(result.duration_s)
    both = fleet_account([candidate, _candidate("a10g")], [2, 3], checked, span_s)
    assert both[1]["device_s"] == pytest.approx(3 * span_s) and both[1]["energy_j"] > 0
    assert total(both)["energy_j"] == pytest.approx(both[0]["energy_j"] + both[1]["energy_j"])


def test_the_price_of_each_type_follows_the_pricing_and_a_price_of_ones_own_wins(plan):
    usual, spot = plan(), plan("--pricing", "spot")
    for before, after in zip(usual["types"], spot["types"], strict=True):
        price = parse_cluster(before["name"]).device.price
        assert before["usd_per_hour_each"] == price.usd_per_hour
        assert after["usd_per_hour_each"] == price.spot_usd_per_hour
    owned = plan("--gpus", "h100-sxm:2,l4", "--pricing", "owned", "--price", "l4=0.25")
    first, second = owned["types"]
    assert second["usd_per_hour_each"] == 0.25
    device = parse_cluster("h100-sxm").device
    assert first["usd_per_hour_each"] > 2 * device.purchase_usd / (5 * 8766)
    assert sum(t["account"]["usd"] for t in owned["types"]) == pytest.approx(owned["account"]["usd"])
    longer = plan("--gpus", "h100-sxm:2,l4", "--pricing", "owned", "--lifetime-years", "10", "--usd-per-kwh", "0")
    assert longer["types"][0]["usd_per_hour_each"] == pytest.approx(2 * device.purchase_usd / (10 * 8766))


def test_the_site_changes_kilowatt_hours_and_grams_not_the_rent(plan):
    usual, here = plan(), plan("--grid", "56", "--pue", "1.2")
    assert here["account"]["facility_kwh"] == pytest.approx(usual["account"]["facility_kwh"] * 1.2 / 1.56)
    assert here["account"]["operational_gco2e"] == pytest.approx(56 * here["account"]["facility_kwh"])
    assert here["account"]["usd"] == usual["account"]["usd"]


def test_a_day_adds_up_to_its_schedule(cache, capsys):
    day = ["--arrival", "diurnal(0.5,12,1200)", "--input-len", "300", "--output-len", "60", "--num-requests", "2500"]
    command = ["gpus", "--model", "llama-3.1-8b", "--gpus", "a100-sxm-80gb,l4", "--slo", "tpot=80ms,ttft=1s", *day]
    command += ["--autoscale", "5min", "--startup", "60s", "--cache", cache, "--no-headroom"]
    assert main([*command, "--json", "-"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["starts"] and data["account"]["usd"] == pytest.approx(data["usd"])
    assert data["account"]["output_tokens"] == 2500 * 60
    for name in SUMS:
        assert data["account"][name] == pytest.approx(sum(t["account"][name] for t in data["types"])), name
    assert main(command) == 0
    assert "J per output token" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--pricing", "reserved-9y"), "unknown pricing 'reserved-9y'"),
        (
            ("--gpus", "l4,a100-pcie-80gb", "--pricing", "spot"),
            "a100-pcie-80gb: its profile has no price for --pricing spot; give one: --price a100-pcie-80gb=",
        ),
        (("--grid", "nowhere"), "--grid is 'nowhere'"),
        (("--pue", "0.5"), "--pue is 0.5"),
        (("--lifetime-years", "0"), "--lifetime-years is 0"),
        (("--usd-per-kwh", "-1"), "--usd-per-kwh is -1"),
    ],
)
def test_mistakes_are_one_line(plan, options, words):
    error = plan(*options, code=2)
    assert words in error and error.count("\n") == 1


def test_terms_have_no_meaning_beside_a_table(tmp_path, capsys):
    table = tmp_path / "p.json"
    table.write_text(
        '{"workload_distribution": [[1]], "total_request_rate": 1, "gpu_info": {"g": {"cost": 1, "tputs": [[1]]}}}'
    )
    assert main(["gpus", "--profile", str(table), "--pricing", "spot"]) == 2
    assert "--pricing has no meaning beside --profile" in capsys.readouterr().err


def test_a_cluster_file_is_an_instance_with_its_own_host_and_price(plan, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("device: l4\nprice: {usd_per_hour: 0.5, provider: mine, date: '2025'}\ncpu_slowness: 3\n")
    data = plan("--gpus", f"l4,{file}")
    assert data["types"][1]["usd_per_hour_each"] == 0.5
    serving = Serving(model=load_model("llama-3.1-8b"), engine="vllm-v1", settings={})
    deployment = serving.deployment(_candidate(str(file)), 3)
    assert deployment.cluster.node.cpu_slowness == 3 and deployment.cluster.num_nodes == 3
