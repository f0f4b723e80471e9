"""Published tables become measured runs: small tables in their layouts, made up."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from simulator.validation.files import read_runs
from simulator.validation.run import MeasuredRun, Window


def table(folder: Path, rows: list[dict[str, Any]]) -> list[MeasuredRun]:
    path = folder / "table.csv"
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return read_runs(path)


STAGE = {
    "experiment": "7-llama", "scope": "stage0", "model": "meta-llama/Llama-3.1-8B-Instruct", "hardware": "H100",
    "num_gpus_tp": 2, "dp": "", "precision": "FP16", "max_num_batched_tokens": 2048, "vllm_version": "0.15.1",
    "workload": "general", "request_rate_rps": 8, "duration_s": 10, "num_requests": 80, "system_prompt_len": 100,
    "question_len": 447, "output_len_max_tokens": 248, "ttft_mean_ms": 25, "tpot_corrected_ms": 7.5, "e2e_mean_ms": 1880,
    "note": "",
}  # fmt: skip


def test_sim2real_rows_of_one_experiment_are_windows_of_one_load(tmp_path: Path) -> None:
    rows = [
        {**STAGE, "scope": "first300", "num_requests": 300, "duration_s": ""},
        STAGE,
        {**STAGE, "scope": "stage1", "num_requests": 200},
        {**STAGE, "scope": "summary", "num_requests": 280, "duration_s": "10;10", "request_rate_rps": "8;20"},
    ]
    runs = table(tmp_path, rows)
    assert [run.window for run in runs] == [Window(first=86), Window(stage=0), Window(stage=1), Window()]
    assert {run.workload for run in runs} == {runs[0].workload}
    load = runs[0].workload
    assert [stage.num_requests for stage in load.stages] == [80, 200]
    assert (load.input_len, load.output_len, load.distinct_prompts, load.shared_prefix_tokens) == (572, 248, 100, 100)
    assert (runs[0].cluster, runs[0].tp, runs[0].engine_version) == ("h100-sxm:8", 2, "0.15.1")
    assert runs[1].measured == {"ttft_mean_ms": 25, "e2e_mean_ms": 1880, "tpot_mean_ms": 7.5}
    assert all(run.skip is None for run in runs)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"note": "superseded run of same exp id"}, "superseded"),
        ({"note": "overload: 69% of requests failed (timeouts)"}, "overload"),
        ({"dp": 2}, "data parallel"),
        ({"e2e_mean_ms": 20}, "implausible"),
    ],
)
def test_sim2real_rows_that_cannot_be_scored_are_kept_with_a_reason(tmp_path: Path, changes: Any, reason: str) -> None:
    (run,) = table(tmp_path, [{**STAGE, **changes}])
    assert reason in str(run.skip)


CLOSED = {
    "source": "x", "row_id": "r1", "model": "Qwen/Qwen3-32B", "gpu": "h100_sxm", "num_gpus": 2, "mode": "agg", "tp": 2,
    "pp": 1, "moe_ep": 1, "gemm_quant": "", "weight_precision": "", "engine": "vllm", "engine_version": "0.12.0",
    "isl": 1024, "osl": 512, "len_kind": "fixed (stddev 0 assumed)", "concurrency": 8, "out_tok_s_gpu": 238.9,
    "tput_kind": "derived: x", "ttft_mean_ms": 153.6, "tpot_mean_ms": 16.5, "config_suspect": False,
    "dup_of_inferencex_row": False,
}  # fmt: skip


def test_closed_loops_keep_their_kind_of_lengths(tmp_path: Path) -> None:
    fixed, uniform = table(tmp_path, [CLOSED, {**CLOSED, "row_id": "r2", "len_kind": "uniform[0.8L,L] nominal L"}])
    assert (fixed.workload.input_len, fixed.workload.output_len) == (1024, 512)
    assert (uniform.workload.input_len, uniform.workload.output_len) == ("uniform(819, 1024)", "uniform(409, 512)")
    assert (fixed.workload.concurrency, fixed.workload.num_requests) == (8, 80)
    assert fixed.measured == {"tpot_mean_ms": 16.5, "ttft_mean_ms": 153.6, "implied_tok_s_per_gpu": 238.9}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mode": "disagg"}, "pools"),
        ({"config_suspect": True}, "implausible"),
        ({"dup_of_inferencex_row": True}, "duplicate"),
        ({"concurrency": ""}, "not stated"),
        ({"source": "MLPerf Inference v4.1 closed"}, "MLPerf"),
    ],
)
def test_closed_loops_that_cannot_be_replayed_are_kept_with_a_reason(tmp_path: Path, changes: Any, reason: str) -> None:
    (run,) = table(tmp_path, [{**CLOSED, **changes}])
    assert reason in str(run.skip)


def test_dgx_rows_are_batches(tmp_path: Path) -> None:
    row = {
        "model": "llama2-70b", "hardware": "a100-80gb", "tensor_parallel": 8, "prompt_size": 512, "batch_size": 4,
        "token_size": 128, "prompt_time_ms": 300, "token_time_ms": 45.8, "avg_power_frac_tdp": 0.5, "measured": True,
        "valid": True, "note": "",
    }  # fmt: skip
    real, made_up = table(
        tmp_path, [row, {**row, "hardware": "h100-80gb-pcap", "measured": False, "note": "synthetic"}]
    )
    assert (real.kind, real.workload.num_requests, real.workload.input_len) == ("batch", 4, 512)
    assert real.measured == {"prompt_time_ms": 300, "token_time_ms": 45.8, "power_w_per_gpu": 200}
    assert made_up.skip == "not a measurement: synthetic"


def test_a_bad_cell_names_file_line_and_column(tmp_path: Path) -> None:
    from hardware_profiles.errors import UserError

    with pytest.raises(UserError, match=r"table.csv: line 2: tp is 'two'; it must be a number"):
        table(tmp_path, [{**CLOSED, "tp": "two"}])
