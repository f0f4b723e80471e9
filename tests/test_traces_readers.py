"""Trace files: every format on rows in its published syntax, and errors that name file, line, column and value."""

from __future__ import annotations

import gzip
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardware_profiles.errors import UserError
from workloads.describe import describe
from workloads.readers import READERS, detect_format, read_trace
from workloads.rows import spread_ties

DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data" / "traces"

AZURE_2023 = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:15:46.6805900,374,44\r\n"
    "2023-11-16 18:15:50.9951690,396,109\r\n2023-11-16 18:15:51.2224670,879,55"
)
AZURE_2024 = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,2162,5\n"
    "2024-05-10 00:00:01+00:00,2399,6\n2024-05-10 00:00:01.5+00:00,76,15\n"
)
BURST_1 = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,Conversation log\n"
    "45,ChatGPT,1087,0,1087,Conversation log\n45,ChatGPT,0,0,0,API log\n118,GPT-4,417,276,693,Conversation log\n"
)
BURST_3 = (
    "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "19440110.0,1722ac82,43,GPT-4,906,446,1352,Conversation log\n19440120.0,,2,ChatGPT,36,29,65,API log\n"
    "19440170.0,1722ac82,8,GPT-4,1779,0,1779,Conversation log\n"
    "19440190.0,1722ac82,8,GPT-4,1779,123,1902,Conversation log\n"
)
MOONCAKE = "".join(
    json.dumps({"timestamp": t, "input_length": n, "output_length": 9, "hash_ids": ids}) + "\n"
    for t, n, ids in [(0, 1000, [0, 1]), (0, 1100, [0, 2, 3]), (3000, 512, [0]), (3000, 1025, [0, 1, 4])]
)


def write(tmp_path: Path, text: str, name: str = "trace.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


def test_azure_2023_with_seven_digits_carriage_returns_and_no_final_newline(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path, AZURE_2023))
    assert trace.arrival_s.tolist() == [0.0, 4.314579, 4.541877]
    assert trace.input_tokens.tolist() == [374, 396, 879]
    assert trace.output_tokens.tolist() == [44, 109, 55]
    assert trace.report is not None and trace.report.rows_read == trace.report.emitted == 3


def test_azure_2024_with_mixed_fractions_and_zone(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path, AZURE_2024))
    assert trace.arrival_s.tolist() == [0.0, 0.99007, 1.49007]


def test_burstgpt_drops_and_counts_failures(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path, BURST_1))
    assert trace.arrival_s.tolist() == [0.0, 113.0]
    assert trace.report is not None
    assert (trace.report.rows_read, trace.report.emitted) == (4, 2)
    assert trace.report.dropped == {"no response (failure)": 2}


def test_burstgpt_3_is_read_by_column_name_and_sessions_on_request(tmp_path: Path) -> None:
    path = write(tmp_path, BURST_3)
    plain = read_trace(path)
    assert plain.input_tokens.tolist() == [906, 36, 1779]
    assert plain.previous is None
    linked = read_trace(path, sessions=True)
    assert linked.previous is not None and linked.think_s is not None
    assert linked.previous.tolist() == [-1, -1, 0]  # over the failed row between them
    assert linked.think_s.tolist() == [0, 0, 12]  # 190 - (170 + 8): since the failed turn ended
    with pytest.raises(UserError, match="BurstGPT v3"):
        read_trace(write(tmp_path, BURST_1, "one.csv"), sessions=True)


def test_mooncake_blocks_ties_and_block_size(tmp_path: Path) -> None:
    path = write(tmp_path, MOONCAKE, "mooncake.jsonl")
    trace = read_trace(path)
    assert trace.arrival_s.tolist() == [0, 0, 3, 3]
    assert trace.prefix_of(1).tolist() == [0, 2, 3] and trace.prefix_block_tokens == 512
    facts = describe(trace)
    assert facts["prefixes"] == {"block_tokens": 512, "prompt_blocks": 9, "hit_share": 4 / 9}
    assert read_trace(path, spread_ties=True).arrival_s.tolist() == [0, 1.5, 3, 4.5]
    with pytest.raises(UserError, match="line 1: 2 hash_ids for input_length 1000; 16-token blocks need 63"):
        read_trace(path, block_tokens=16)


def test_bailian_counts_seconds_and_16_token_blocks(tmp_path: Path) -> None:
    row = {
        "chat_id": 1,
        "parent_chat_id": -1,
        "timestamp": 61.114,
        "input_length": 33,
        "output_length": 5,
        "type": "text",
    }
    rows = [row | {"hash_ids": [1, 2, 3]}, row | {"timestamp": 62.114, "hash_ids": [1, 2, 4]}]
    trace = read_trace(write(tmp_path, "\n".join(map(json.dumps, rows)), "b.jsonl"))
    assert trace.arrival_s == pytest.approx([0, 1]) and trace.prefix_block_tokens == 16


def test_spread_ties_keeps_order_and_coarse_rate() -> None:
    times = np.repeat(np.arange(50) * 3.0, np.arange(50) % 7 + 1)
    spread = spread_ties(times)
    assert (np.diff(spread) > 0).all()
    assert np.array_equal(np.floor(spread / 3 + 1e-9) * 3, times)


def conversations(with_tokens: bool) -> list[dict[str, object]]:
    def message(speaker: str, characters: int) -> dict[str, object]:
        base: dict[str, object] = {"from": speaker, "value": "x" * characters}
        return base | ({"tokens": characters} if with_tokens else {})

    turns = [message("human", 40), message("gpt", 80), message("human", 20), message("gpt", 60)]
    return [
        {"id": "a", "conversations": turns},
        {"id": "b", "conversations": [message("gpt", 9), *turns[:2]]},
        {"id": "c", "conversations": []},
    ]


def test_sharegpt_takes_the_first_pair_and_counts_the_rest(tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps(conversations(True)), "sharegpt.json")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trace = read_trace(path, arrival="constant", rate_per_s=2)
    assert (trace.input_tokens.tolist(), trace.output_tokens.tolist()) == ([40, 40], [80, 80])
    assert trace.report is not None
    assert trace.report.dropped == {"no human-gpt pair": 1, "later turn": 1}
    with pytest.raises(UserError, match="no arrival times"):
        read_trace(path)


def test_sharegpt_estimates_tokens_with_a_warning_and_links_sessions(tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps(conversations(False)), "sharegpt.json")
    with pytest.warns(UserWarning, match="6 lengths estimated at 4 characters per token"):
        trace = read_trace(path, arrival="constant", rate_per_s=2, sessions=True, think_s="5")
    assert trace.previous is not None
    assert sorted(trace.input_tokens.tolist()) == [10, 10, 10 + 20 + 5]
    assert trace.previous.tolist() == [-1, -1, 0]


@pytest.mark.parametrize(
    ("header", "unit"),
    [
        ("arrived_at,num_prefill_tokens,num_decode_tokens", 1),
        ("arrival_timestamp,prompt_size,token_size", 1),
        ("arrival_time_ns,input_toks,output_toks", 1e9),
        ("arrival_s,input_length,output_length", 1),
    ],
)
def test_columns_of_other_tools_are_understood(tmp_path: Path, header: str, unit: float) -> None:
    text = f"{header}\n0,5,6\n{2 * unit:.0f},7,8\n"
    trace = read_trace(write(tmp_path, text))
    assert trace.arrival_s == pytest.approx([0, 2]) and trace.input_tokens.tolist() == [5, 7]


def test_own_log_with_dates_and_renamed_columns(tmp_path: Path) -> None:
    text = "when,asked,got\n2025-01-01T00:00:00Z,5,6\n2025-01-01T00:00:02.5Z,7,8\n"
    columns = {"arrival_s": "when", "input_tokens": "asked", "output_tokens": "got"}
    trace = read_trace(write(tmp_path, text), "csv", columns=columns)
    assert trace.arrival_s.tolist() == [0.0, 2.5]


def test_timestamp_without_a_unit_is_refused_and_with_one_read(tmp_path: Path) -> None:
    path = write(tmp_path, "timestamp,input_tokens,output_tokens\n500,1,1\n1500,1,1\n")
    with pytest.raises(UserError, match="does not say its unit"):
        read_trace(path)
    assert read_trace(path, time_unit="ms").arrival_s.tolist() == [0.0, 1.0]


def test_epoch_seconds_are_moved_to_zero_and_small_offsets_are_kept(tmp_path: Path) -> None:
    epoch = "arrival_s,input_tokens,output_tokens\n1700000000.25,1,1\n1700000001.5,1,1\n"
    assert read_trace(write(tmp_path, epoch)).arrival_s.tolist() == [0.0, 1.25]
    late = "arrival_s,input_tokens,output_tokens\n7.25,1,1\n"
    assert read_trace(write(tmp_path, late)).arrival_s.tolist() == [7.25]


def test_prefix_groups_and_sessions_of_plain_files(tmp_path: Path) -> None:
    text = (
        "arrival_s,input_tokens,output_tokens,session_id,think_s,prefix_id,prefix_tokens\n"
        "0,100,5,a,,sys,40\n1,100,5,b,,sys,70\n2,200,5,a,3.5,,\n"
    )
    trace = read_trace(write(tmp_path, text))
    assert trace.previous is not None and trace.think_s is not None
    assert trace.previous.tolist() == [-1, -1, 0] and trace.think_s.tolist() == [0, 0, 3.5]
    assert [trace.prefix_of(i).tolist() for i in range(3)] == [[0, 1], [0, 1, 2, 3], []]


def test_lengths_without_arrivals_need_a_process(tmp_path: Path) -> None:
    path = write(tmp_path, "num_prefill_tokens,num_decode_tokens\n10,1\n20,2\n")
    with pytest.raises(UserError, match="has lengths but no arrival column; give an arrival process"):
        read_trace(path)
    assert read_trace(path, arrival="constant", rate_per_s=4).arrival_s.tolist() == [0, 0.25]
    assert read_trace(path, arrival="closed(2)").concurrency == 2


def test_gzip_is_read_as_the_file_in_it(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(gzip.compress(AZURE_2023.encode()))
    assert len(read_trace(path)) == 3


PLAIN = "arrival_s,input_tokens,output_tokens\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PLAIN + "0,1,1\n1,-5,1\n", "line 3: input_tokens is -5; it must be a whole number"),
        (PLAIN + "0,1,1\n1,5.5,1\n", "line 3: input_tokens is 5.5; it must be a whole number"),
        (PLAIN + "0,1,1\n1,many,1\n", "line 3: input_tokens is 'many'; it must be a finite number"),
        (PLAIN + "0,1,1\n1,,1\n", "line 3: input_tokens is missing"),
        (PLAIN + "0,true,1\n", "line 2: input_tokens is True; it must be a finite number"),
        (PLAIN.replace(",", ";") + "0;1;1\n", "cells are not separated by commas"),
        (PLAIN + "0,1,1\n1,1\n", "line 3: output_tokens is missing"),
        (PLAIN + "0,1,1\n\n\n1,inf,1\n", "line 5: input_tokens is inf; it must be a finite number"),
        (PLAIN + "0,0,1\n", "line 2: input_tokens is 0; a request has at least 1 token"),
        (PLAIN + "0,1,0\n", "line 2: output_tokens is 0; a request has at least 1 token"),
        (PLAIN + "-2,1,1\n", "line 2: arrival_s is -2; it must be at least 0"),
        (PLAIN + "0,1,1\n5,1,1\n4.5,1,1\n", r"line 4: arrival_s is 4.5; it is earlier .* set sort \(--trace-sort; --sort "),
        (PLAIN + "0,1,1\n1,1,000,1\n", "Expected 3 fields in line 3, saw 4"),
        (PLAIN + "0,1,1,7\n1,1,1,8\n", "line 2: 4 cells, the header has 3"),
        (PLAIN, "has a header but no rows"),
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("a,b,c\n1,2,3\n", r"cannot tell the trace format from the columns \(a, b, c\); name one of azure"),
        (AZURE_2023.split("\r")[0] + "\n2023-11-16 18:15:46,1,1\nyesterday,1,1\n", "line 3: TIMESTAMP is 'yesterday'"),
        (AZURE_2023.split("\r")[0] + "\n2023-11-16 18:15:46,1,1\n2023-11-16 18:15:45,1,1\n", "line 3: .* earlier"),
        (BURST_1.replace("5,ChatGPT,472", "5,ChatGPT,"), "line 2: Request tokens is missing"),
        (PLAIN.replace("\n", ",prefix_id\n") + "0,1,1,a\n", "no column 'prefix_tokens'"),
        (PLAIN.replace("\n", ",think_s\n") + "0,1,1,3\n", "think_s needs a column session_id"),
        (PLAIN.replace("\n", ",prefix_ids\n") + "0,1,1,1 x\n", "prefix_ids is .*whole numbers"),
    ],
)  # fmt: skip
def test_broken_csv_is_refused_naming_file_line_column_value(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError, match=message) as error:
        read_trace(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MOONCAKE + "{broken\n", "line 5: is not JSON"),
        (MOONCAKE + "[1]\n", "line 5: is not a JSON object"),
        (MOONCAKE.replace('"input_length": 512', '"input_length": "long"'), "line 3: input_length is 'long'"),
        (MOONCAKE.replace('"input_length": 512, ', ""), "line 3: input_length is missing"),
        (MOONCAKE.replace("[0, 1, 4]", '[0, "x", 4]'), "line 4: hash_ids is .*whole numbers"),
        (MOONCAKE.replace("3000", "-3000", 1), "line 3: timestamp is -3000.* earlier"),
    ],
)
def test_broken_jsonl_is_refused_naming_file_line_column_value(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_trace(write(tmp_path, text, "m.jsonl"))


def test_wrong_format_names_the_missing_column(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no column 'TIMESTAMP' .*; columns: arrival_s, input_tokens"):
        read_trace(write(tmp_path, PLAIN + "0,1,1\n"), "azure")
    with pytest.raises(UserError, match="Did you mean 'azure'"):
        read_trace(write(tmp_path, PLAIN + "0,1,1\n"), "azur")
    with pytest.raises(UserError, match="Did you mean 'sort'"):
        read_trace(write(tmp_path, PLAIN + "0,1,1\n"), sorted=True)
    with pytest.raises(UserError, match="cannot read"):
        read_trace(tmp_path / "nosuch.csv")
    (tmp_path / "x").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not a text file"):
        read_trace(tmp_path / "x")


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (AZURE_2023, {"columns": {"arrival_s": "TIMESTAMP"}}),
        (AZURE_2023, {"sessions": True}),
        (AZURE_2023, {"block_tokens": 16}),
        (MOONCAKE, {"time_unit": "s"}),
        (BURST_1, {"think_s": "3"}),
    ],
)
def test_an_option_that_the_format_cannot_follow_is_refused(tmp_path: Path, text: str, options: dict[str, Any]) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError, match=rf"{path}: {next(iter(options))} has no effect on the \w+ format, only on"):
        read_trace(path, **options)


def test_sort_and_drop_empty_keep_the_account(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path, PLAIN + "5,1,1\n0,2,2\n3,0,4\n4,4,0\n"), sort=True, drop_empty=True)
    assert trace.arrival_s.tolist() == [0, 5] and trace.input_tokens.tolist() == [2, 1]
    assert trace.report is not None
    assert trace.report.dropped == {"zero output tokens": 1, "zero input tokens": 1}
    assert trace.report.rows_read == trace.report.emitted + sum(trace.report.dropped.values())


# --- published traces; the numbers are those of the statistics table kept with them ----------------------------------


def shared(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is absent")
    return path


@pytest.mark.parametrize(
    ("name", "requests", "facts", "inputs", "outputs"),
    [
        ("AzureLLMInferenceTrace_code.csv", 8_819, (3436, 2.57, 13.15, 13.2, 164, 4.2),
         (2048, 1469, 7303, 7436, 7437), (28, 13, 90, 252, 1899)),
        ("AzureLLMInferenceTrace_conv.csv", 19_366, (3502, 5.53, 1.09, 1.4, 16, 1.5),
         (1155, 1020, 4083, 4142, 14050), (211, 129, 451, 601, 1000)),
        ("mooncake_conversation_head5000.jsonl", 5_000, (1593, 3.14, 2.90, 7.4, 2.7, 1.3),
         (13066, 7748, 42548, 94410, 123192), (346, 356, 708, 1110, 2000)),
        ("burstgpt3_head105_converted.csv", 105, (32700, 0.003, 1.87, 1.0, 1.2, 16),
         (1180, 384, 5704, 13082, 25085), (201, 98, 639, 861, 879)),
    ],
)  # fmt: skip
def test_statistics_of_published_traces(
    name: str, requests: int, facts: tuple[float, ...], inputs: tuple[int, ...], outputs: tuple[int, ...]
) -> None:
    found = describe(read_trace(shared(name)))
    assert found["requests"] == requests
    keys = (
        "duration_s",
        "request_rate_per_s",
        "interarrival_cv",
        "dispersion_1s",
        "dispersion_60s",
        "peak_to_mean_60s",
    )
    for key, value in zip(keys, facts, strict=True):
        digits = len(str(value).split(".")[1]) if isinstance(value, float) else 0
        assert round(found[key], digits) == value, key
    for side, values in (("input_tokens", inputs), ("output_tokens", outputs)):
        measured = [found[side][key] for key in ("mean", "p50", "p95", "p99", "max")]
        assert measured == pytest.approx(values, abs=1.0)  # the table rounds, percentiles by different rules


def test_mooncake_reuse_is_the_published_third() -> None:
    facts = describe(read_trace(shared("mooncake_conversation_head5000.jsonl")))
    assert round(facts["prefixes"]["hit_share"], 3) == 0.333
    assert facts["tie_share"] == pytest.approx(0.89, abs=0.01)


def test_every_shared_trace_is_detected_or_refused_with_reason() -> None:
    expected = {
        "AzureLLMInferenceTrace_conv.csv": "azure", "conv_1week_head5_tail5_verbatim.csv": "azure",
        "code_1week_head5_tail5_verbatim.csv": "azure", "burstgpt1_first3_verbatim.csv": "burstgpt",
        "burstgpt3_first4_verbatim.csv": "burstgpt", "sharegpt_val_10k_llama2_lengths.csv": "csv",
        "mooncake_conversation_head5000.jsonl": "mooncake",
    }  # fmt: skip
    assert {name: detect_format(shared(name)) for name in expected} == expected
    assert set(expected.values()) <= READERS.keys()


def test_azure_hour_reads_within_its_budget() -> None:
    path = shared("AzureLLMInferenceTrace_conv.csv")
    read_trace(path)  # imports
    start = time.perf_counter()
    read_trace(path)
    assert time.perf_counter() - start < 0.3
