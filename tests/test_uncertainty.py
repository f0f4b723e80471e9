"""Prediction intervals: which one applies, how they come from residuals, and that they cover runs left out."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.build import build_deployment
from simulator.simulate import simulate_deployment
from simulator.uncertainty import Interval, family_of, interval, load_class, pick
from simulator.validation.intervals import (
    coverage,
    fit_widening,
    leave_groups_out,
    rows_of,
    to_yaml,
    weighted_quantile,
)
from simulator.validation.metrics import metric_names
from simulator.validation.run import MeasuredRun, Workload
from simulator.validation.score import Residual
from workloads.trace import Trace

LABELS = {"engine": "vllm", "provenance": "measured", "experts": "dense", "load": "unsaturated"}


def residuals(groups: int, each: int, between: float, within: float, seed: int = 0) -> list[Residual]:
    """Log errors with a part common to a model and a part of each run."""
    rng = np.random.default_rng(seed)
    found = []
    for group in range(groups):
        common = rng.normal(0.0, between)
        for i in range(each):
            run = MeasuredRun(
                id=f"{group}-{i}",
                source="made up",
                model=f"model-{group}",
                cluster="h100-sxm:1",
                workload=Workload(input_len=10, output_len=10),
                measured={"ttft_mean_ms": 1.0},
            )
            measured = float(np.exp(common + rng.normal(0.0, within)))
            classes = {name: value for name, value in LABELS.items() if name != "engine"}
            found.append(Residual(run=run, metric="ttft_mean_ms", predicted=1.0, measured=measured, classes=classes))
    return found


def test_every_metric_has_a_family_or_is_a_count() -> None:
    without = {name for name in metric_names() if family_of(name) is None}
    assert without == {m for m in metric_names() if m.startswith(("queue_", "kv_", "peak_", "num_", "duration"))}


def test_the_most_specific_row_wins_and_general_ones_stand_in() -> None:
    specific = tuple(LABELS.items())
    general = (("provenance", "measured"),)
    rows = {("ttft", specific): (0.9, 1.1, 20), ("ttft", general): (0.5, 2.0, 90)}
    assert pick(rows, "ttft", LABELS) == Interval(low=0.9, high=1.1, runs=20, kind=tuple(LABELS.values()))
    other = pick(rows, "ttft", {**LABELS, "engine": "sglang"})
    assert other is not None and other.kind_text == "measured kernels" and other.around(10.0) == (5.0, 20.0)
    assert pick(rows, "tpot", LABELS) is None


def test_groups_weigh_alike_however_many_figures_they_have() -> None:
    many = [(1.0, 1 / 100)] * 100
    assert weighted_quantile([*many, (2.0, 1.0), (3.0, 1.0)], 0.5) == 2.0
    assert weighted_quantile(many, 0.9) == 1.0


@pytest.mark.parametrize("between", [0.0, 0.2])
def test_intervals_cover_groups_they_have_not_seen(between: float) -> None:
    """Errors shared within a group make plain quantiles too narrow; widening holds the promise for groups left out."""
    made = residuals(12, 10, between, 0.05)
    widening = fit_widening(made)
    share = leave_groups_out(made, widening)[0].share
    assert share >= 0.8
    fresh = coverage(residuals(60, 10, between, 0.05, seed=1), rows_of(made, widening))[0]
    assert fresh.share == pytest.approx(0.85, abs=0.13)
    assert fresh.width < np.exp(2 * 2.2 * np.hypot(between, 0.05)), "not bought with width"


def test_few_groups_have_no_row() -> None:
    assert rows_of(residuals(2, 50, 0.1, 0.1)) == {}
    rows = rows_of(residuals(4, 5, 0.1, 0.1))
    assert {key for _, key in rows} >= {tuple(LABELS.items()), (("provenance", "measured"),)}
    assert to_yaml(rows, ["made up"]).count("- {family: ttft") == len(rows)


def test_load_classes() -> None:
    def load(queue_mean_s: float, queue_p90_s: float, closed: bool = False) -> str:
        return load_class(
            closed=closed, queue_mean_s=queue_mean_s, queue_p90_s=queue_p90_s, tpot_mean_s=0.01, e2e_mean_s=1.0
        )

    assert [load(0.0, 0.0), load(0.01, 0.1), load(0.5, 1.0), load(0.5, 1.0, True)] == [
        "unsaturated",
        "saturated",
        "overloaded",
        "closed loop",
    ]


@pytest.mark.parametrize(
    ("cluster", "provenance"),
    [("h100-sxm:1", "measured"), ("v100-sxm2-32gb:1", "transferred"), ("m2-ultra:1", "datasheet")],
)
def test_every_simulated_latency_has_a_range(cluster: str, provenance: str) -> None:
    """Also on devices that nobody measured, and there it is wider than on measured ones."""
    trace = Trace(
        arrival_s=2.0 * np.arange(30), input_tokens=np.full(30, 200), output_tokens=np.full(30, 20), name="every 2 s"
    )
    result = simulate_deployment(build_deployment("llama-3.1-8b", cluster, dtype="float16"), trace)
    assert result.deployment.step_model.provenance == provenance
    summary = result.summary
    for name in ("ttft", "tpot", "e2el"):
        low, high = summary[f"mean_{name}_ms_low"], summary[f"mean_{name}_ms_high"]
        assert 0.0 < low < high
    assert provenance in result.intervals["tpot"].kind
    measured = interval("tpot", LABELS)
    own = result.intervals["tpot"]
    assert measured is not None
    assert provenance == "measured" or own.high / own.low > measured.high / measured.low
