"""The power limit: work that would need more than the TDP takes longer; energy then is TDP times time."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from hardware_profiles.cluster import parse_cluster
from hardware_profiles.loader import load_device
from hardware_profiles.schema import PowerFit
from simulator.engine_loader import load_engine
from simulator.physics.explain import step_shape
from simulator.physics.power import least_seconds, power_fit_of
from simulator.physics.step_model import StepModel
from simulator.plan import ParallelPlan
from workloads.catalog import load_model

RUNS = Path(__file__).resolve().parents[2] / "shared" / "data" / "runs" / "mlenergy.csv"


def steps(limits_time: bool, tp: int = 1) -> StepModel:
    """Llama-3.1-8B on H100s whose power line holds at the limit, or is only a meter."""
    cluster = parse_cluster("h100-sxm:8")
    line = dataclasses.replace(power_fit_of(cluster.device), limits_time=limits_time)
    device = dataclasses.replace(cluster.device, power=line)
    cluster = dataclasses.replace(cluster, node=dataclasses.replace(cluster.node, device=device))
    return StepModel(load_model("llama-3.1-8b"), cluster, ParallelPlan(tp=tp), load_engine("vllm-v1", device))


def test_least_time_spends_the_energy_at_the_limit() -> None:
    line = PowerFit(base_w=100.0, compute_w=800.0, memory_w=400.0, limits_time=True)
    assert least_seconds(line, 1.0, 0.5, 600.0) == pytest.approx((800.0 + 200.0) / 500.0)
    assert least_seconds(dataclasses.replace(line, limits_time=False), 1.0, 0.5, 600.0) == 0.0
    assert least_seconds(line, 1.0, 0.5, None) == 0.0
    assert least_seconds(line, 1.0, 0.5, 90.0) == 0.0, "a base beyond the limit says nothing about time"


def test_long_prompts_slow_down_and_decoding_does_not() -> None:
    free, bound = steps(False), steps(True)
    prompt, decode = step_shape(prefill=8192), step_shape(decode_seqs=64, context=64_000)
    assert bound.step(decode)[0] == free.step(decode)[0]
    slower = bound.step(prompt)[0] / free.step(prompt)[0]
    assert 1.01 < slower < 1.25
    seconds, joules = bound.step(prompt)
    assert joules / seconds == pytest.approx(700.0, rel=0.1)
    waiting_s = sum(c.seconds for c in bound.explain(prompt) if c.name == "power_limit")
    assert waiting_s == pytest.approx(seconds - free.step(prompt)[0], rel=1e-6)


def test_more_devices_per_replica_draw_less_each_and_slow_down_less() -> None:
    """Links and small kernels leave gaps in which the power recovers."""
    prompt = step_shape(prefill=4096)
    slower = [steps(True, tp).step(prompt)[0] / steps(False, tp).step(prompt)[0] for tp in (1, 2, 8)]
    assert slower[0] >= slower[1] >= slower[2] >= 1.0
    assert slower[2] < 1.05


def test_the_line_of_serving_runs_meets_the_power_tables_at_the_limit() -> None:
    """GEMMs of an H200 at its limit (690 W of 700 W): 0.69 of peak in 16 bits, a tenth of the bandwidth
    (AIConfigurator power tables, Apache-2.0)."""
    line = power_fit_of(load_device("h200-sxm"))
    assert line.base_w + line.compute_w * 0.69 + line.memory_w * 0.1 == pytest.approx(690.0, rel=0.01)


@pytest.mark.skipif(not RUNS.exists(), reason="the measured runs are not here")
def test_the_committed_lines_are_those_of_the_fit() -> None:
    from simulator.calibration.power import SERVING
    from simulator.calibration.serving_power import fit_line, point_of
    from simulator.validation.rows import read_rows
    from simulator.validation.sources import mlenergy

    _, rows = read_rows(RUNS)
    pairs = [(run, row) for run, row in zip(mlenergy.read(RUNS, rows), rows, strict=True) if run.skip is None]
    points = [point_of(run, row) for run, row in pairs if run.device == "h100-sxm"]
    line = SERVING["h100-sxm"]
    np.testing.assert_allclose(fit_line(points, 700.0), [line.base_w, line.compute_w, line.memory_w], rtol=0.05)
