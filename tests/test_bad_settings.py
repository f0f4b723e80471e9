"""Settings out of all reason, of the wrong type, or in a file that is none: one line that names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import apex_sim
from apex_sim import UserError, simulate, simulate_several
from apex_sim.cli import main
from simulator.build import build_deployment
from simulator.sharing.tenants import Tenant
from simulator.sharing.timetable import Timetable

DENSE, MOE = "llama-3.2-1b", "phi-mini-moe"
LONG = "x" * 5000
WORK: dict[str, Any] = {"rate": 5.0, "input_len": 50, "output_len": 5, "num_requests": 4}


def line_of(settings: dict[str, Any], model: str = DENSE) -> str:
    with pytest.raises(UserError) as caught:
        _ = build_deployment(model, "h100-sxm:2", **settings).memory
    return str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"max_cudagraph_capture_size": 10**12},
            "--max-cudagraph-capture-size is 1e+12; it must be a whole number of at",
        ),
        ({"kv_offloading_size": 1e300}, "--kv-offloading-size is 1e+300; it must be a finite number of at most 1e+12"),
        ({"enable_lora": True, "num_loras": 10**30}, "--num-loras is 1e+30"),
        ({"moe_skew": 1e18, "model": MOE}, "--moe-skew is 1e+18; it must be a finite number of at most 100"),
        ({"block_size": 10**12}, "--block-size is 1e+12"),
        (
            {"expert_routing": "generated(tokens=1e12)", "dp": 2, "ep": 2, "model": MOE},
            "tokens is 1e+12; it must be at most",
        ),
        ({"expert_routing": "generated(seed=1e300)", "dp": 2, "ep": 2, "model": MOE}, "seed is 1e+300"),
        ({"expert_routing": LONG, "dp": 2, "ep": 2, "model": MOE}, "no such file"),
        ({"expert_cache_size": 4, "expert_cache_trace": LONG, "model": MOE}, "no such file"),
        ({"speculative_config": "a\0b"}, "cannot be the name of a file"),
        ({"batching": []}, "--batching is []; it must be text"),
        ({"runner": 3.5}, "--runner is 3.5; it must be text"),
        ({"lora_dtype": "", "enable_lora": True}, "--lora-dtype is empty"),
        ({"scheduling_policy": "("}, "--scheduling-policy is '('; write a name such as priority(preempt=1)"),
        ({"lora_ranks": 0}, "--lora-ranks without adapters; add --enable-lora"),
        ({"lora_ranks": "\u00b2", "enable_lora": True}, "write whole numbers above 0"),
        ({"recursion_depths": "0.5,0.5,0.0"}, "leave the zero at the end out"),
        ({"kv_offloading_disk_device": "nvme-pcie4"}, "--kv-offloading-disk-device nvme-pcie4: there is no disk below"),
        ({"attention_device": "cpu", "attention_device_gb": 1e-6}, "--attention-device-gb 1e-06 holds no KV block"),
        ({"sm_split": "("}, "--sm-split is '('; write a share such as 0.6, or a name such as proactive(slack=1.5)"),
    ],
)
def test_what_no_run_could_use_is_refused_by_name(settings: dict[str, Any], words: str) -> None:
    model = settings.pop("model", DENSE)
    line = line_of(settings, model)
    assert words in line and "\n" not in line, line


def test_numbers_of_numpy_are_numbers() -> None:
    assert build_deployment(DENSE, "h100-sxm:1", sm_split=np.float64(0.5)).sm_split is not None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kv_eviction": "abc"}, "unknown eviction order (kv_eviction) 'abc'"),
        ({"moe_skew": 1.0}, "moe_skew is 1, but"),
        ({"num_loras": 3}, "num_loras without adapters"),
    ],
)
def test_a_plan_says_what_is_wrong_and_not_that_nothing_fits(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        apex_sim.plan(DENSE, "h100-sxm:2", slo="ttft=1s", jobs=1, **settings, **WORK)
    assert str(caught.value).startswith(words), str(caught.value)


def test_numbers_that_no_memory_holds() -> None:
    for settings in ({"num_requests": 10**12}, {"scale_input": 10**30}):
        with pytest.raises(UserError, match=r"num.requests is 1e\+12|scale.input makes"):
            simulate(DENSE, "h100-sxm:1", **{**WORK, **settings})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"min_replicas": "two"}, "--min-replicas is 'two'; it must be a whole number"),
        ({"initial_replicas": []}, "--initial-replicas is []"),
        ({"startup_s": "1s"}, "--startup is '1s'; it must be a number"),
        ({"cooldown_s": None}, "--cooldown is None"),
        ({"interval_s": 1e300}, "--interval is 1e+300"),
    ],
)
def test_replicas_that_come_and_go_by_numbers_alone(values: dict[str, Any], words: str) -> None:
    elasticity = apex_sim.Elasticity(**{"policy": "outstanding(target=2)", **values})
    with pytest.raises(UserError) as caught:
        simulate(DENSE, "h100-sxm:2", dp=2, elasticity=elasticity, **WORK)
    assert words in str(caught.value), str(caught.value)


def test_an_empty_search_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--model", DENSE, "--cluster", "h100-sxm:1", "--search", ","]) == 2
    assert "--search is ','" in capsys.readouterr().err


def test_pricing_of_the_wrong_type_is_one_line() -> None:
    with pytest.raises(UserError, match=r"unknown pricing '3\.5'"):
        simulate(DENSE, "h100-sxm:1", pricing=3.5, **WORK)


def test_a_value_of_two_lines_is_shown_in_one(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["simulate", "--model", DENSE, "--cluster", "h100-sxm:1", "--routing", "a\nb"]
    assert main(argv) == 2
    assert capsys.readouterr().err.count("\n") == 1


TWO: dict[str, Any] = {"cluster": "h100-sxm:1", "models": {"a": {"model": DENSE}, "b": {"model": "llama-3.2-3b"}}}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"settings": "abc"}, "settings is 'abc'"),
        ({"settings": [1]}, "settings is [1]"),
        ({"switch": {"residence_s": 1e300}}, "switch.residence_s is 1e+300"),
        ({"switch": {"load_bytes_per_s": 2.0}}, "switch.load_bytes_per_s is 2; it must be at least 1,000"),
        ({"switch": {"load_from": "abc"}}, "switch.load_from: unknown device 'abc'"),
        ({"models": {"a": {"model": DENSE, "share": 0}}}, "every share is 0"),
        ({"models": {"a": {"model": DENSE, "share": -1}}}, ": models.a.share is -1"),
        ({"models": {"a": {"model": DENSE, "copies": 10**9}}}, ": models.a.copies is 1e+09"),
    ],
)
def test_files_of_several_models_name_the_key(tmp_path: Path, more: dict[str, Any], words: str) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(yaml.safe_dump(TWO | more))
    with pytest.raises(UserError) as caught:
        simulate_several(file, **WORK)
    assert words in str(caught.value) and "\n" not in str(caught.value), str(caught.value)


@pytest.mark.parametrize("on_switch", ["drain", "suspend"])
def test_turns_go_on_after_hours(on_switch: str) -> None:
    """Ticks have no largest number: 2^62 of them are 77 minutes."""
    config = TWO | {"switch": {"policy": "round-robin", "residence_s": 1.0, "on_switch": on_switch}}
    work = WORK | {"rate": 0.001, "num_requests": 20}
    spans, steps = (simulate_several(config, exact_steps=exact, **work) for exact in (False, True))
    assert spans.completed.all() and spans.requests.equals(steps.requests)


def test_bursts_go_on_after_hours() -> None:
    tenant = Tenant(compute=2.0, on_s=50.0, off_s=50.0)
    table = Timetable([tenant], seed=1, replica=0)
    hour = 3600 * 10**15
    slow = sum(table.at(2 * hour + i * hour // 100)[0].compute == 2.0 for i in range(100))
    assert 20 < slow < 80
    assert table.at(2 * hour)[1] > 2 * hour


def test_a_run_of_hours_beside_bursts_is_the_same_in_both_modes() -> None:
    work = WORK | {"rate": 0.001, "num_requests": 10}
    spans, steps = (
        simulate(DENSE, "h100-sxm:1", interference="memory=2,on=20s,off=40s", exact_steps=exact, **work)
        for exact in (False, True)
    )
    assert spans.requests.equals(steps.requests) and spans.completed.all()
