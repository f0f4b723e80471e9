"""Physics on the shipped models and devices: everything computes, adds up and agrees with the model's own counts."""

from __future__ import annotations

import argparse
import json

import pytest
from physics_helpers import ENGINE, decode_shape, mixed_shape, prefill_shape

from apex_sim.commands import explain
from hardware_profiles.cluster import parse_cluster
from hardware_profiles.errors import UserError
from hardware_profiles.loader import device_names
from simulator.physics.layout import check_plan
from simulator.physics.memory import estimate_memory
from simulator.physics.step_model import StepModel
from simulator.plan import ParallelPlan
from workloads.catalog import load_model, model_names

PLANS = (ParallelPlan(), ParallelPlan(tp=4), ParallelPlan(tp=2, pp=2), ParallelPlan(tp=4, ep=4))


@pytest.mark.parametrize("name", model_names())
def test_every_model_runs_under_every_plan_that_fits_its_heads(name):
    model, cluster = load_model(name), parse_cluster("h100-sxm:8x4")
    done = 0
    for plan in PLANS:
        try:
            check_plan(model, cluster, plan)
        except UserError:
            continue
        steps = StepModel(model, cluster, plan, ENGINE)
        decodes = decode_shape(8, 2000, steps.window)
        for shape in (decodes, prefill_shape(1000), mixed_shape(decodes, prefill_shape(1000))):
            seconds, joules = steps.step(shape)
            assert sum(c.seconds for c in steps.explain(shape)) == pytest.approx(seconds, rel=1e-9)
            assert 0 < steps.flop(shape) < seconds * steps.peak_flop_per_s * steps.num_devices
            assert 0 < steps.hbm_bytes(shape) < seconds * steps.bandwidth_bytes_per_s * steps.num_devices
            assert joules > 0
        if plan.pp == 1:
            weights = model.weight_bytes_per_device(plan.tp, plan.pp, plan.ep)
            if model.dtype != "float32":  # served in 16 bits
                found = estimate_memory(model, cluster, plan, ENGINE).weight_bytes
                assert found == pytest.approx(weights, rel=0.005)  # the engine pads the vocabulary
        done += 1
    assert done


@pytest.mark.parametrize("name", device_names())
def test_every_device_with_arithmetic_runs_a_model(name):
    cluster = parse_cluster(f"{name}:1")
    if not cluster.device.dense_flop_per_s:
        with pytest.raises(UserError, match="cannot run a model"):
            StepModel(load_model("llama-3.1-8b"), cluster, ParallelPlan(), ENGINE)
        return
    for quantization in (None, "fp8", "awq", "nvfp4"):
        steps = StepModel(load_model("llama-3.1-8b"), cluster, ParallelPlan(quantization=quantization), ENGINE)
        assert 0 < steps.decode(1).base_s < steps.step(prefill_shape(2000))[0]
        ideal = 8e9 * steps.precision.linear.weight_bytes / cluster.device.memory_bandwidth_bytes_per_s
        assert steps.decode(1).base_s > 0.8 * ideal


def test_explain_step_prints_what_the_model_says(capsys):
    parser = argparse.ArgumentParser()
    explain.add_parser(parser.add_subparsers())
    flags = ["--model", "llama-3.1-8b", "--cluster", "h100-sxm:2", "--tp", "2", "--decode", "8", "--context", "500"]
    assert explain.run(parser.parse_args(["explain", "step", *flags])) == 0
    text = capsys.readouterr().out
    assert "attention.decode" in text and "memory per device" in text
    assert explain.run(parser.parse_args(["explain", "step", *flags, "--json"])) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["seconds"] == pytest.approx(sum(c["seconds"] for c in values["components"]), rel=1e-9)
    with pytest.raises(UserError, match="the step is empty"):
        explain.run(parser.parse_args(["explain", "step", *flags[:4]]))
