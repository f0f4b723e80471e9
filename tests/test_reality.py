"""Simulated against measured serving runs. The bands say why; docs/accuracy.md lists every run, the bad ones too."""

from __future__ import annotations

import numpy as np
import pytest
import reality_runs
from reality_runs import RUNS, Point

pytestmark = pytest.mark.skipif(not RUNS.is_dir(), reason=f"no measured runs in {RUNS}")

DEGRADED = "27-mixtral-8x7b-tp2-general-2"
"""Almost four times slower per token than the same set-up with a larger token budget (run 29), for a reason the data do
not show; its ``lite`` twin with the same budget is normal. Listed in docs/accuracy.md, not asserted."""

BANDS = {
    # noise between equal runs is 1-2 % (E2E) and up to 9 % (TTFT); kernels are fitted to 4-10 %
    ("TPOT", False): 0.13,
    ("E2E", False): 0.13,
    ("TTFT", False): 0.15,
    # grouped GEMM kernels are fitted to 10 % (p90 28 %); a prompt step outside the CUDA graph launches more kernels
    ("TPOT", True): 0.15,
    ("E2E", True): 0.15,
    ("TTFT", True): 0.22,
    # block counts are arithmetic on bytes
    ("KV blocks", False): 0.02,
    ("KV blocks", True): 0.02,
}


def shown(points: list[Point]) -> str:
    return "\n".join(f"{p.device} {p.model} {p.run} {p.metric}: {100 * p.error:+.1f} %" for p in points)


def blis(metric: str, *, moe: bool) -> list[Point]:
    chosen = [p for p in reality_runs.blis() if p.metric == metric and p.moe == moe]
    return [p for p in chosen if DEGRADED not in p.run or "lite" in p.run]


def absolute(points: list[Point]) -> np.ndarray:
    return np.array([abs(p.error) for p in points])


@pytest.mark.parametrize(("metric", "moe"), BANDS)
def test_every_stage_of_the_blis_runs_is_within_its_band(metric: str, moe: bool) -> None:
    outside = [p for p in blis(metric, moe=moe) if not abs(p.error) <= BANDS[metric, moe]]
    assert not outside, shown(outside)


@pytest.mark.parametrize(("moe", "median"), [(False, 0.04), (True, 0.06)])
def test_time_per_token_is_right_on_median(moe: bool, median: float) -> None:
    assert np.median(absolute(blis("TPOT", moe=moe))) < median


def test_dense_runs_that_nothing_was_fitted_on_are_as_good_as_the_others() -> None:
    fitted, fresh = ([p for p in blis("TPOT", moe=False) if p.fitted == f] for f in (True, False))
    assert np.median(absolute(fresh)) < np.median(absolute(fitted)) + 0.02


def test_sharegpt_replays_are_within_a_tenth() -> None:
    """Cold prompts, chunked prefill, preemption (RTX 4090) and a queue of hundreds: all of the scheduler at once."""
    outside = [p for p in reality_runs.sharegpt() if not abs(p.error) <= (0.04 if p.metric == "KV blocks" else 0.10)]
    assert not outside, shown(outside)


def test_closed_loops_of_synchronous_vllm() -> None:
    """Constants fitted on the rows with 1024 input tokens; those with 4096 are new. AIConfigurator: TPOT 11 % on median."""
    points, others = reality_runs.silicon(rounds=3)
    fresh = [p for p in points if not p.fitted]
    tpot, throughput = ([p for p in fresh if p.metric == m] for m in ("TPOT", "throughput"))
    assert np.median(absolute(tpot)) < 0.05, shown(tpot)
    assert np.median(absolute(throughput)) < 0.07
    assert np.median(absolute(tpot)) < np.nanmedian([abs(o["TPOT"]) for o in others])


def test_full_batches_of_long_answers() -> None:
    """Dense models; contexts are inferred from answer lengths, hence the width. gpt-oss is a known bad row."""
    dense = [p for p in reality_runs.mlenergy() if not p.moe]
    assert all(abs(p.error) < 0.15 for p in dense if p.metric == "TPOT"), shown(dense)
    assert all(abs(p.error) < 0.25 for p in dense if p.metric == "power"), shown(dense)
