"""Changes of token counts: arithmetic, sessions, shared prefixes, every way in (API, command line, YAML), wrong values."""

from __future__ import annotations

import json

import numpy as np
import pytest

from apex_sim.api import build_deployment, make_trace, simulate
from apex_sim.cli import main
from hardware_profiles.errors import UserError
from simulator.physics.shape import StepShape
from workloads.spec import workload_from_dict
from workloads.synthetic import Sessions, SharedPrefix, generate
from workloads.token_changes import TOKEN_KEYS, TokenChanges, change_tokens
from workloads.trace import Trace


def plain(inputs, outputs, **more):
    return Trace(arrival_s=np.arange(len(inputs)), input_tokens=inputs, output_tokens=outputs, **more)


def changed(trace, **changes):
    return change_tokens(trace, TokenChanges(**changes))


@pytest.mark.parametrize(
    ("changes", "inputs", "outputs"),
    [
        ({"scale_input": 0.5}, [50, 1, 500], [10, 1, 100]),
        ({"scale_output": 0.47}, [100, 1, 1000], [5, 1, 47]),
        ({"extra_input": 576}, [676, 577, 1576], [10, 1, 100]),
        ({"max_input": 200}, [100, 1, 200], [10, 1, 100]),
        ({"max_output": 1}, [100, 1, 1000], [1, 1, 1]),
        ({"scale_input": 2, "extra_input": 5, "max_input": 205}, [205, 7, 205], [10, 1, 100]),
        ({"thinking_share": 0.9, "thinking_requests": 0}, [100, 1, 1000], [1, 1, 10]),
        ({"thinking_share": 0.9, "thinking_requests": 1}, [100, 1, 1000], [10, 1, 100]),
        ({"extra_input": 9, "extra_input_share": 0}, [100, 1, 1000], [10, 1, 100]),
    ],
)
def test_counts_change_as_the_names_say(changes, inputs, outputs):
    trace = changed(plain([100, 1, 1000], [10, 1, 100]), **changes)
    assert trace.input_tokens.tolist() == inputs
    assert trace.output_tokens.tolist() == outputs


def test_no_change_is_the_same_trace():
    trace = plain([3], [4])
    assert changed(trace) is trace


def test_shares_are_drawn_from_the_seed():
    trace = plain([10] * 4000, [100] * 4000)
    thinks = changed(trace, thinking_share=0.75, thinking_requests=0.3).output_tokens
    assert set(thinks.tolist()) == {25, 100}
    assert np.mean(thinks == 100) == pytest.approx(0.3, abs=0.03)
    assert np.array_equal(thinks, changed(trace, thinking_share=0.75, thinking_requests=0.3).output_tokens)
    assert not np.array_equal(thinks, changed(trace, thinking_share=0.75, thinking_requests=0.3, seed=1).output_tokens)


def test_a_shorter_answer_shortens_the_history_of_the_next_turn():
    trace = plain([100, 200, 400], [20, 40, 80], previous=[-1, 0, 1], think_s=[0, 1, 1])
    short = changed(trace, scale_output=0.5)
    assert short.output_tokens.tolist() == [10, 20, 40]
    assert short.input_tokens.tolist() == [100, 190, 370]  # turns add 80 and 160 to what came before
    longer = changed(trace, scale_input=2)
    assert longer.input_tokens.tolist() == [200, 200 + 20 + 160, 380 + 40 + 320]


def test_prompts_without_their_history_are_changed_alone():
    trace = plain([100, 90], [20, 40], previous=[-1, 0], think_s=[0, 1])
    assert changed(trace, scale_input=2).input_tokens.tolist() == [200, 180]


def test_shared_prefixes_stay_shared_as_far_as_prompts_reach():
    trace = plain(
        [64, 80], [16, 16], prefix_ids=[1, 2, 3, 4, 1, 2, 7, 8, 9], prefix_offsets=[0, 4, 9], prefix_block_tokens=16
    )
    half = changed(trace, scale_input=0.5)
    assert [half.prefix_of(i).tolist() for i in (0, 1)] == [[1, 2], [1, 2]]
    longer = changed(trace, extra_input=100)
    assert [longer.prefix_of(i).tolist() for i in (0, 1)] == [[1, 2, 3, 4], [1, 2, 7, 8, 9]]


SESSIONS = {
    "input_len": "uniform(5, 200)",
    "output_len": "uniform(2, 150)",
    "num_requests": 300,
    "rate_per_s": 2.0,
    "prefix": SharedPrefix(tokens=100, groups=3),
    "sessions": Sessions(turns="geometric(mean=4)", think_s=2),
}
CHANGES = [
    {"scale_output": 0.47},
    {"scale_output": 3.1},
    {"scale_input": 0.4},
    {"scale_input": 2.5, "scale_output": 0.2},
    {"extra_input": 33, "extra_input_share": 0.5},
    {"max_input": 250},
    {"thinking_share": 0.6, "thinking_requests": 0.4, "max_output": 40},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_a_later_turn_begins_with_the_changed_stream_of_the_turn_before(changes):
    before = generate(**SESSIONS)
    after = changed(before, **changes)
    assert len(after) == len(before)
    assert np.array_equal(after.arrival_s, before.arrival_s)
    shared = 0
    for row, previous in enumerate(after.previous.tolist()):
        ids = after.prefix_of(row).tolist()
        assert len(ids) <= -(-int(after.input_tokens[row] + after.output_tokens[row]) // after.prefix_block_tokens)
        if previous >= 0:
            left = after.input_tokens[previous] + after.output_tokens[previous]
            whole = min(int(left), int(after.input_tokens[row])) // after.prefix_block_tokens
            assert ids[:whole][: len(after.prefix_of(previous))] == after.prefix_of(previous).tolist()[:whole]
            shared += min(whole, len(ids))
    assert shared > 0


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_changed_sessions_are_found_in_the_cache_and_exact_in_both_modes(changes):
    runs = [
        simulate("llama-3.1-8b", "h100-sxm", trace=generate(**SESSIONS), exact_steps=steps, **changes)
        for steps in (False, True)
    ]
    assert runs[0].requests.equals(runs[1].requests)
    assert runs[0].requests["cached_tokens"].sum() > 0.4 * runs[0].requests["input_tokens"].sum()


def test_factors_of_one_leave_a_trace_as_it_is():
    before = generate(**SESSIONS)
    after = changed(before, scale_input=1, scale_output=1, extra_input=0)
    for column in ("input_tokens", "output_tokens", "prefix_ids", "prefix_offsets", "previous"):
        assert np.array_equal(getattr(before, column), getattr(after, column)), column


def test_adaptthink_takes_53_percent_off_the_decode_work():
    # AdaptThink, arXiv:2505.13417: responses of DeepSeek-R1-Distill-Qwen-1.5B are 53 % shorter
    workload = {"rate": 2.0, "input_len": 200, "output_len": 2000, "num_requests": 40}
    runs = [simulate("qwen2.5-1.5b", "a100", **workload, **more) for more in ({}, {"scale_output": 0.47})]
    assert runs[1].requests["output_tokens"].sum() / runs[0].requests["output_tokens"].sum() == pytest.approx(0.47)


def test_llava_mini_takes_77_percent_off_the_flop():
    # LLaVA-Mini, arXiv:2501.03895: 576 vision tokens become 1; four blocks in front of 32 read all tokens (from memory)
    model = build_deployment("llama-2-7b", "a100").step_model
    flop = []
    for extra in (576, 1):
        trace = make_trace(rate=1, input_len=64, output_len=8, num_requests=1, extra_input=extra)
        tokens = int(trace.input_tokens[0])
        flop.append(
            model.flop(StepShape(prefill_tokens=tokens, prefill_pairs=tokens * (tokens + 1) // 2, prefill_seqs=1))
        )
    assert 1 - flop[1] / flop[0] - 4 / 32 == pytest.approx(0.77, abs=0.02)


def test_yaml_knows_the_same_keys(tmp_path):
    keys = {"num_requests": 5, "rate_per_s": 1, "input_len": 100, "output_len": 50}
    trace = workload_from_dict({**keys, "scale_output": 0.5, "extra_input": 10})
    assert trace.input_tokens.tolist() == [110] * 5
    assert trace.output_tokens.tolist() == [25] * 5
    trace.save(tmp_path / "t.csv")
    again = workload_from_dict({"trace": "t.csv", "head": 2, "max_input": 7}, folder=tmp_path)
    assert again.input_tokens.tolist() == [7, 7]
    with pytest.raises(UserError, match="scale_output is 0; it must be a number above 0"):
        workload_from_dict({**keys, "scale_output": 0})
    assert set(TOKEN_KEYS) == {f for f in TokenChanges.__dataclass_fields__ if f != "seed"}


def test_the_command_line_changes_traces_and_simulations(tmp_path, capsys):
    out = tmp_path / "t.csv"
    command = ["traces", "generate", "--num-requests", "4", "--rate", "1", "--input-len", "10", "--output-len", "100"]
    assert main([*command, "--scale-output", "0.47", "--out", str(out)]) == 0
    assert main(["traces", "describe", str(out), "--extra-input", "5", "--json"]) == 0
    text = capsys.readouterr().out
    facts = json.loads(text[text.index("{") :])
    assert facts["input_tokens"]["mean"] == 15
    assert facts["output_tokens"]["mean"] == 47
    run = ["simulate", "--model", "llama-3.1-8b", "--cluster", "h100-sxm", "--trace", str(out), "--max-output", "9"]
    assert main([*run, "--out", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scale-output", "0"], "scale_output is 0; it must be a number above 0"),
        (["--scale-input", "nan"], "scale_input is nan"),
        (["--scale-input", "1e12"], "the limit is 1,000,000,000"),
        (["--extra-input", "-1"], "extra_input is -1; it must be a whole number of tokens, at least 0"),
        (["--extra-input-share", "0.5"], "give extra_input"),
        (["--thinking-share", "0.5"], "go together"),
        (["--thinking-share", "1", "--thinking-requests", "0.5"], "thinking_share is 1"),
        (["--max-output", "0"], "max_output is 0"),
    ],
)
def test_wrong_values_are_one_line(options, message, capsys):
    assert main(["simulate", "--model", "llama-3.1-8b", "--cluster", "h100-sxm", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
