"""The ML.ENERGY runs as they were sent: answer lengths, conversations, repeated prompts; the power line of the A100."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hardware_profiles.loader import load_device
from simulator.validation.rows import Row
from simulator.validation.sources.mlenergy import BLOCK_TOKENS, read
from workloads.trace import Trace

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "runs" / "dgx_prompt_token_times.csv"
CELLS = {
    "task": "lm-arena-chat",
    "model_id": "meta-llama/Llama-3.1-8B-Instruct",
    "gpu": "H100",
    "num_gpus": "1",
    "engine": "vLLM 0.11.1",
    "max_num_seqs": "32",
    "max_model_len": "20480",
    "max_output_tokens": "4096",
    "unique_requests": "400",
    "request_repeats": "2",
    "hist_requests": "800",
    "avg_output_len": "390",
    "out_p10": "40",
    "out_p50": "320",
    "out_p90": "790",
    "out_p99": "1550",
    "median_itl_ms": "8.9",
}


def trace_of(**changes: str) -> Trace:
    (run,) = read(Path("runs.csv"), [Row({**CELLS, **changes}, "runs.csv: line 2")])
    assert run.workload.requests is not None
    return run.workload.requests


def prefix(trace: Trace, request: int) -> list[int]:
    assert trace.prefix_ids is not None and trace.prefix_offsets is not None
    return trace.prefix_ids[trace.prefix_offsets[request] : trace.prefix_offsets[request + 1]].tolist()


def test_answers_have_the_published_mean_and_quantiles() -> None:
    lengths = trace_of().output_tokens
    assert len(lengths) == 800
    assert lengths.mean() == pytest.approx(390, rel=0.01)
    assert np.percentile(lengths, [10, 50, 90, 99]) == pytest.approx([40, 320, 790, 1550], rel=0.1)
    assert lengths.max() <= 4096


def test_every_request_samples_with_top_p_and_all_are_sent_at_once() -> None:
    (run,) = read(Path("runs.csv"), [Row(CELLS, "runs.csv: line 2")])
    assert run.settings["sampling"] == "top-p", "the benchmark's client asks for it, whatever the model's defaults"
    assert not trace_of().arrival_s.any()


def test_a_later_turn_begins_with_the_whole_prompt_of_the_turn_before() -> None:
    trace = trace_of()
    prompts = [prefix(trace, request) for request in range(400)]
    later = [i for i in range(1, 400) if prompts[i][:1] == prompts[i - 1][:1] and prompts[i - 1]]
    assert 0.3 < len(later) / 400 < 0.5
    assert all(prompts[i][: len(prompts[i - 1])] == prompts[i - 1] for i in later)
    assert all(len(prompts[i]) == trace.input_tokens[i] // BLOCK_TOKENS for i in range(400))


def test_repeated_prompts_are_the_same_and_questions_share_nothing() -> None:
    trace = trace_of()
    assert all(prefix(trace, i) == prefix(trace, i + 400) for i in range(400))
    questions = trace_of(task="gpqa", unique_requests="198", hist_requests="198")
    firsts = [prefix(questions, i)[0] for i in range(198)]
    assert len(set(firsts)) == 198


def test_runs_that_cannot_be_replayed_say_why() -> None:
    runs = read(
        Path("runs.csv"), [Row({**CELLS, "task": "image-chat"}, "x"), Row({**CELLS, "data_parallel": "2"}, "y")]
    )
    assert [run.skip is not None for run in runs] == [True, True]
    assert "images" in str(runs[0].skip)


@pytest.mark.skipif(not DATA.is_file(), reason=f"no measured runs in {DATA.parent}")
def test_the_power_line_of_the_a100_is_what_the_table_gives() -> None:
    pytest.importorskip("scipy")
    from simulator.calibration.batch_power import points_of
    from simulator.calibration.serving_power import fit_line, left_out_errors

    points, line = points_of(DATA), load_device("a100-sxm-80gb").power
    assert line is not None
    assert fit_line(points, 400.0) == pytest.approx([line.base_w, line.compute_w, line.memory_w], rel=0.02)
    assert np.median(left_out_errors(points, 400.0)) < 0.08, "batches of one TP, predicted from those of the others"
