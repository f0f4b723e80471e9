"""Deployments that tests of exports use."""

from __future__ import annotations

from typing import Any

from test_planner_launch import deployment as launched

from planners.export.bundle import Export
from planners.export.make import export_of
from planners.pools import AnyDeployment
from simulator.build import build_deployment
from simulator.build_disaggregated import build_disaggregated
from workloads.slo import parse_slo
from workloads.synthetic import generate
from workloads.trace import Trace

POOLS = {"prefill": {"tp": 1, "dp": 2}, "decode": {"tp": 2, "dp": 2}}
MORE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "sglang": ("llama-3.1-8b", "h100-sxm:8", {"engine": "sglang", "tp": 2, "dp": 2}),
    "trtllm": ("llama-3.1-8b", "h100-sxm:8", {"engine": "trtllm", "tp": 2, "dp": 2, "kv_cache_dtype": "fp8"}),
    "old": ("llama-3.1-8b", "h100-sxm:8", {"engine": "vllm-v0", "tp": 2, "dp": 2}),
    "experts on two nodes": ("deepseek-ai/DeepSeek-V3", "h200-sxm:8x2", {"tp": 1, "dp": 16, "ep": 16}),
    "sglang on two nodes": ("llama-3.1-405b", "h100-sxm:8x2", {"engine": "sglang", "tp": 8, "pp": 2}),
    "trtllm on two nodes": ("llama-3.1-405b", "h100-sxm:8x2", {"engine": "trtllm", "tp": 8, "pp": 2}),
    "pools of TensorRT-LLM": ("llama-3.1-8b", "h100-sxm:8", {"engine": "trtllm"}),
    "AMD": ("llama-3.1-8b", "mi300x:8", {"tp": 2}),
    "slices": ("llama-3.1-8b", "h100-sxm@3g.40gb:2", {"dp": 2}),
}


def requests() -> Trace:
    return generate(input_len=500, output_len=50, num_requests=20, rate_per_s=2.0)


def made(name: str) -> AnyDeployment:
    if name.startswith("pools"):
        return build_disaggregated("llama-3.1-8b", "h100-sxm:8", POOLS, **MORE.get(name, ("", "", {}))[2])
    if name not in MORE:
        return launched(name)
    model, cluster, settings = MORE[name]
    return build_deployment(model, cluster, **settings)


def export(name: str) -> Export:
    return export_of(made(name), requests(), parse_slo("ttft=1s,tpot=50ms"))
