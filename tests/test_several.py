"""Several models on one cluster: turns, memory, cascades; spans equal to steps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_checks import COARSE, COARSEST, FINE, OPTIONS, assert_same_run, ticks, trace_of
from engine_helpers import LineModel, make_trace
from hypothesis import given
from hypothesis import strategies as st
from test_engine_properties import bounded

from apex_sim import UserError, simulate, simulate_several
from apex_sim.cli import main
from simulator.batching import BATCHING
from simulator.core import CoreLimits
from simulator.routing import ROUTING
from simulator.run import ReplicaSetup
from simulator.several.build import build_several
from simulator.several.cascade import escalated, with_models
from simulator.several.run import MemberSetup, SeveralRecord, SeveralSimulation
from simulator.several.settings import Cascade, Switch
from workloads.trace import Trace

DRAWN = st.fixed_dictionaries(
    {
        "ticks_per_s": st.sampled_from([FINE, FINE, COARSE, COARSEST]),
        "policy": st.sampled_from(["run-to-empty", "round-robin", "deadline"]),
        "on_switch": st.sampled_from(["drain", "suspend"]),
        "residence_s": st.sampled_from([0.0, 0.03, 0.4, 5.0]),
        "resident": st.sampled_from([1, 2, 9]),
        "load_s": st.sampled_from([0.0, 0.02, 0.9]),
        "models": st.sampled_from([2, 3, 5]),
        "groups": st.sampled_from([1, 1, 2]),
        "replicas": st.sampled_from([1, 2]),
        "batching": st.sampled_from([name for name in OPTIONS["batching"] if name not in ("orca", "static")]),
        "num_blocks": st.sampled_from([69, 80, 200]),
        "async_scheduling": st.booleans(),
        "reserve_full_prompt": st.booleans(),
        "window": st.sampled_from([None, None, 64]),
        "num_requests": st.sampled_from([1, 15, 40]),
        "rate_per_s": st.sampled_from([2.0, 8.0, 30.0, 1000.0]),
        "flow": st.sampled_from(["open", "open", "closed", "sessions"]),
        "concurrency": st.sampled_from([1, 5]),
        "think_s": st.sampled_from([0.0, 0.5]),
        "prefix_block_tokens": st.just(0),
        "trace_seed": st.integers(0, 500),
    }
)


def run_models(o: dict[str, Any], trace: Trace, exact_steps: bool) -> SeveralRecord:
    """Models of the line model, equal but for their loading times."""
    limits = CoreLimits(
        num_blocks=o["num_blocks"],
        block_size=16,
        max_num_seqs=16,
        max_num_batched_tokens=512,
        max_model_len=1100,
        reserve_full_prompt=o["reserve_full_prompt"],
    )
    setup = ReplicaSetup(
        limits=limits,
        step_model=LineModel(o["window"]),
        batching=BATCHING[o["batching"]],
        async_scheduling=o["async_scheduling"],
        request_fixed_s=0.01,
    )
    members = [
        MemberSetup(
            setup=setup,
            replicas=o["replicas"],
            group=f"group {i % o['groups']}",
            load_s=o["load_s"] * (1 + i),
            deadline_s=0.5 * i,
        )
        for i in range(o["models"])
    ]
    switch = Switch(policy=o["policy"], on_switch=o["on_switch"], residence_s=o["residence_s"], resident=o["resident"])
    routers = [ROUTING["least-outstanding"](0) for _ in members]
    with ticks(o["ticks_per_s"]):
        return SeveralSimulation(trace, members, switch, routers, exact_steps=exact_steps).run()


@bounded(40)
@given(options=DRAWN)
def test_spans_and_single_steps_give_the_same_run_with_turns(options: dict[str, Any]) -> None:
    names = [f"m{i}" for i in range(options["models"])]
    trace = with_models(trace_of(options), names, [1.0] * len(names), options["trace_seed"])
    spans, steps = run_models(options, trace, False), run_models(options, trace, True)
    assert (np.array(spans.table.status) == 1).all()
    assert np.array(spans.table.output_tokens).tolist() == trace.output_tokens.tolist()
    assert_same_run(spans, steps, options["ticks_per_s"])
    assert spans.turns == steps.turns
    assert trace.model is not None
    served = np.array(spans.table.replica) // options["replicas"]
    assert served.tolist() == trace.model.tolist(), "a request runs on a replica of its model"


LOAD: dict[str, Any] = {"rate": 4.0, "num_requests": 60, "input_len": 200, "output_len": 60}
TWO: dict[str, Any] = {
    "cluster": "h100-sxm:1",
    "models": {"chat": {"model": "llama-3.1-8b", "share": 0.7}, "code": {"model": "llama-2-7b", "share": 0.3}},
}


def test_one_model_runs_as_it_does_alone() -> None:
    alone = simulate("llama-3.1-8b", "h100-sxm:1", **LOAD)
    one = simulate_several({"cluster": "h100-sxm:1", "models": {"chat": {"model": "llama-3.1-8b"}}}, **LOAD)
    np.testing.assert_array_equal(one.column("finish_s"), alone.column("finish_s"))
    assert one.summary["energy_j"] == pytest.approx(alone.summary["energy_j"])
    assert one.summary["usd_per_hour"] == alone.summary["usd_per_hour"]


def test_weights_come_over_the_host_link_and_resident_ones_take_the_caches_memory() -> None:
    swapped, both = (simulate_several(TWO | {"switch": {"resident": n}}, **LOAD) for n in (1, 2))
    turns = swapped.summary["turns"]
    device = swapped.several.cluster.device
    assert device.host_link is not None
    pace = device.host_link.bandwidth_bytes_per_s * device.host_link.efficiency
    weights = [view.deployment.memory.weight_bytes for view in swapped.models.values()]
    assert turns["loads"] == turns["switches"] > 0
    assert min(weights) / pace * turns["loads"] <= turns["load_s"] <= max(weights) / pace * turns["loads"]
    assert both.summary["turns"]["loads"] == 0
    fewer = swapped.models["chat"].deployment.memory.kv_bytes - both.models["chat"].deployment.memory.kv_bytes
    assert fewer == pytest.approx(weights[1], rel=0.01)


def test_waiting_for_a_turn_is_shorter_with_shorter_turns() -> None:
    long, short = (
        simulate_several(
            TWO | {"switch": {"policy": "round-robin", "residence_s": s, "resident": 2, "on_switch": "suspend"}}, **LOAD
        )
        for s in (2.0, 0.05)
    )
    assert short.summary["mean_ttft_ms"] < long.summary["mean_ttft_ms"]
    assert short.summary["mean_itl_ms"] > 0 and short.summary["turns"]["switches"] > long.summary["turns"]["switches"]


# -- cascades ----------------------------------------------------------------------------------------------------------


def test_a_cascade_sends_the_second_request_when_the_first_has_finished() -> None:
    config = {
        "cluster": "h100-sxm:4",
        "models": {"small": {"model": "llama-3.1-8b", "group": "s"}, "large": {"model": "llama-2-7b", "group": "l"}},
        "cascade": {"first": "small", "then": "large", "escalate": 0.4, "carry": "prompt+answer"},
    }
    runs = [simulate_several(config, **LOAD, exact_steps=steps) for steps in (False, True)]
    np.testing.assert_array_equal(runs[0].column("finish_s"), runs[1].column("finish_s"))
    result = runs[0]
    assert result.first_of is not None
    second = np.flatnonzero(result.first_of >= 0)
    first = result.first_of[second]
    response_s = result.deployment.engine.response_s
    np.testing.assert_allclose(
        result.column("arrival_s")[second], result.column("finish_s")[first], atol=2 * response_s
    )
    assert (result.column("input_tokens")[second] == 260).all()
    cascade = result.summary["cascade"]
    assert (cascade["requests"], cascade["escalated"]) == (60, len(second))
    assert cascade["answers"] == 60
    assert cascade["mean_e2el_ms"] > result.summary["models"]["small"]["mean_e2el_ms"]


@pytest.mark.parametrize(("share", "rows"), [(0.0, 50), (1.0, 100)])
def test_none_or_all_go_on(share: float, rows: int) -> None:
    trace = make_trace([0.1 * i for i in range(50)], [10] * 50, [5] * 50)
    both, first_of = escalated(trace, Cascade(first="a", then="b", escalate=share), ["a", "b"], 0)
    assert len(both) == rows and int((first_of >= 0).sum()) == rows - 50


def test_later_turns_wait_for_the_second_answer() -> None:
    trace = make_trace([0.0, 0.0], [10, 20], [5, 5], previous=np.array([-1, 0]), think_s=np.array([0.0, 1.0]))
    both, _ = escalated(trace, Cascade(first="a", then="b", escalate=1.0), ["a", "b"], 0)
    assert both.previous is not None and both.previous.tolist() == [-1, 0, 1, 2]
    assert both.think_s is not None and both.think_s.tolist() == [0.0, 0.0, 1.0, 0.0]


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_trace_names_the_models() -> None:
    trace = make_trace([0.0, 0.1, 0.2], [50] * 3, [5] * 3, model=np.array([0, 1, 0]), model_names=("code", "chat"))
    result = simulate_several(TWO, trace=trace)
    assert [m["num_prompts"] for m in result.summary["models"].values()] == [1, 2]
    with pytest.raises(UserError, match="request 1 asks for model 'draw'"):
        simulate_several(TWO, trace=dataclasses.replace(trace, model_names=("code", "draw")))


def test_copies_share_the_requests_by_popularity() -> None:
    several = build_several(
        {"cluster": "h100-sxm:1", "models": {"m": {"model": "llama-2-7b", "copies": 3, "skew": 1.0}}}
    )
    assert [member.name for member in several.members] == ["m-0", "m-1", "m-2"]
    assert [member.share for member in several.members] == pytest.approx([6 / 11, 3 / 11, 2 / 11])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"modles": {}}, "unknown key 'modles'"),
        ({"models": {}}, "models is missing"),
        ({"models": {"a": {"share": 1}}}, "models.a: model is missing"),
        ({"models": {"a": {"model": "llama-2-7b", "tensor": 2}}}, "models.a: unknown key 'tensor'"),
        ({"models": {"a": {"model": "llama-2-7b", "copies": 0}}}, "copies"),
        ({"switch": {"resident": 0}}, "switch.resident is 0"),
        ({"switch": {"policy": "lottery"}}, "policy"),
        ({"switch": {"resident": 2}, "settings": {"gpu_memory_utilization": 0.37}}, "resident models leave"),
        (
            {"settings": {"scheduling_policy": "sjf"}},
            "scheduling_policy sjf does not go with models that share devices",
        ),
        ({"cascade": {"first": "chat", "then": "large", "escalate": 0.3}}, "cascade.then: unknown model 'large'"),
        ({"cascade": {"first": "chat", "then": "code", "escalate": 1.3}}, "cascade.escalate is 1.3"),
        ({"cluster": "h100-sxm:1", "models": {n: {"model": "llama-2-7b", "group": n} for n in "ab"}}, "need 2 devices"),
        (
            {"settings": {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2, "acceptance": 0.5}}},
            "share devices",
        ),
    ],
)
def test_mistakes_are_one_line(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        simulate_several(TWO | change, **LOAD)
    assert "\n" not in str(error.value)


def test_the_command_prints_each_model_and_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import yaml

    file = tmp_path / "models.yaml"
    file.write_text(yaml.safe_dump(TWO))
    table = tmp_path / "requests.csv"
    load = ["--rate", "4", "--num-requests", "30", "--input-len", "100", "--output-len", "20"]
    assert main(["several", str(file), *load, "--requests", str(table)]) == 0
    text = capsys.readouterr().out
    assert "chat" in text and "code" in text and "switches" in text
    assert table.read_text().splitlines()[0].endswith(",model")
