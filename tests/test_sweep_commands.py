"""Sweeps that plan: rows are what the functions answer, keys say what was asked, mistakes are one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sweep_helpers import SWEEP
from test_sweep import sweep_here, tables

import apex_sim
from apex_sim.sweeps.design import points_of
from apex_sim.sweeps.settings import key_of
from apex_sim.sweeps.spec import load_sweep

LOAD: dict[str, Any] = {"model": "llama-3.1-8b", "input_len": 300, "output_len": 50, "num_requests": 30}
PLANS: dict[str, Any] = {
    "command": "plan",
    "fixed": {**LOAD, "cluster": "h100-sxm:2", "quantizations": [None, "fp8"]},
    "vary": {"rate": [4, 30], "slo": ["ttft=1s,tpot=50ms", "ttft=1ms"]},
}
MIXES: dict[str, Any] = {
    "command": "gpus",
    "fixed": {**LOAD, "slo": "ttft=3s,tpot=100ms", "cache": False, "rate": 1},
    "vary": {"gpus": [["l4", "l40s:2"]], "prices.l4": [0.5, 9]},
}
ROWS: dict[str, Any] = {
    "command": "power",
    "fixed": {"servers": 4, "days": 0.05, "model": "llama-3.1-8b", "cluster": "a100-sxm:1"},
    "vary": {"extra": [0.25], "t1": [0.8, 0.95]},
}


def rows_of(folder: Path) -> Any:
    import pandas as pd

    return pd.read_csv(folder / "results.csv")


def test_plans_are_those_of_plan_and_a_miss_is_a_row_with_its_reason(tmp_path: Path) -> None:
    sweep_here(tmp_path / "a", PLANS)
    frame = rows_of(tmp_path / "a")
    assert frame["status"].tolist() == ["ok", "failed"] * 2
    assert frame["reason"].dropna().str.startswith("no layout of").all()
    best = apex_sim.plan(rate=4, slo="ttft=1s,tpot=50ms", **{**PLANS["fixed"], "quantizations": (None, "fp8")})
    assert best.best.measured is not None
    first = frame.iloc[0]
    assert first["plan"].startswith(best.best.candidate.layout) and first["candidates"] == len(best.entries)
    for name in ("usd_per_million_output_tokens", "p95_ttft_ms"):
        assert first[name] == pytest.approx(best.best.measured.metrics[name], rel=1e-12)


def test_a_sweep_of_plans_that_was_stopped_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    assert sweep_here(tmp_path / "whole", PLANS) == 4
    assert sweep_here(tmp_path / "parts", PLANS, limit=1) == 1
    assert sweep_here(tmp_path / "parts", PLANS) == 3
    assert tables(tmp_path / "parts") == tables(tmp_path / "whole")


def test_mixes_are_those_of_gpus_and_a_price_is_a_part_of_a_setting() -> None:
    frame = apex_sim.sweep(MIXES, jobs=1)
    assert frame["status"].tolist() == ["ok"] * 2
    assert frame["prices.l4"].tolist() == [0.5, 9]
    assert frame["mix"].tolist() == ["1 x l4", "1 x l40s:2"]
    assert frame["num_l40s_2"].tolist() == [0, 1] and frame["usd_per_hour"].iloc[0] == 0.5
    mix = apex_sim.gpus(gpus=["l4", "l40s:2"], prices={"l4": 9}, **MIXES["fixed"])
    assert frame["usd_per_hour"].iloc[-1] == mix.summary["usd_per_hour"]


def test_rows_of_servers_are_those_of_power(tmp_path: Path) -> None:
    sweep_here(tmp_path / "a", ROWS)
    frame = rows_of(tmp_path / "a")
    assert frame["status"].tolist() == ["ok", "failed"]
    assert frame["reason"].iloc[1] == "t1 is 0.95 and t2 is 0.89; the first threshold must be below the second"
    first = frame.iloc[0]
    assert first["policy"] == "polca" and first["num_servers"] == 5 and first["servers_added"] == 1
    assert 0.79 < first["peak_share"] <= first["uncapped_peak_share"] == pytest.approx(0.79 * 5 / 4, rel=0.1)


def test_keys_say_what_was_asked_and_those_of_simulate_stay(tmp_path: Path) -> None:
    settings = {"model": "llama-3.1-8b", "cluster": "h100-sxm:1"}
    assert key_of(settings) == key_of(settings, "simulate") != key_of(settings, "plan")
    spec = {"fixed": {**LOAD, "cluster": "h100-sxm:1"}, "vary": {"rate": [2, 4]}}
    sweep_here(tmp_path / "a", spec)
    before = json.loads((tmp_path / "a" / "sweep.json").read_text("utf-8"))["sweep"]
    assert "command" not in before
    with pytest.raises(apex_sim.UserError, match="no longer asks for 2"):
        sweep_here(tmp_path / "a", {"command": "plan", **spec})
    assert [p.key for p in points_of(load_sweep({"command": "simulate", **spec}))] == [
        p.key for p in points_of(load_sweep(spec))
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"command": "plans"}, r"unknown command 'plans'\. Did you mean 'plan'\?"),
        ({"command": ["plan"]}, "unknown command"),
        ({"vary": {"tp": [1, 2]}}, "unknown setting 'tp'"),
        ({"vary": {"jobs": [1, 2]}}, "unknown setting 'jobs'"),
        ({"vary": {"rate.x": [1, 2]}}, "rate has no parts; only speculative_config, draft_acceptance have"),
        ({"command": "gpus"}, "unknown setting 'cluster'"),
        ({"command": "power"}, "unknown setting 'input_len'"),
        ({"command": "power", "fixed": {}, "vary": {"extra.x": [1]}}, "extra has no parts; none has"),
        ({"command": "gpus", "fixed": LOAD, "vary": {"rate": [1]}}, "gpus is missing; set it under fixed or vary"),
        ({"fixed": LOAD, "vary": {"rate": [1]}}, "cluster is missing"),
    ],
)
def test_mistakes_are_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(apex_sim.UserError, match=message) as caught:
        load_sweep({**PLANS, **change})
    assert "\n" not in str(caught.value)


def test_simulate_is_asked_unless_the_file_says_otherwise() -> None:
    assert load_sweep(SWEEP).command == "simulate"
