"""What serves, in one line: model, devices, layout, engine, and every setting that is not as usual."""

from __future__ import annotations

from apex_sim.sharing_text import sharing_labels
from simulator.deployment import Deployment
from simulator.techniques import technique_labels

OVERLAPS = ("comm_overlap", "nano_batch_tokens", "fused_moe")
"""Settings of an engine that let parts of a step overlap."""


def describe_deployment(deployment: Deployment) -> str:
    """One line: what serves."""
    plan, engine = deployment.plan, deployment.engine
    layout = " ".join(f"{n}={getattr(plan, n)}" for n in ("tp", "pp", "dp", "ep") if getattr(plan, n) > 1) or "tp=1"
    extras = [f"quantization={plan.quantization}"] if plan.quantization else []
    if plan.kv_cache_dtype != "auto":
        extras.append(f"kv-cache-dtype={plan.kv_cache_dtype}")
    if plan.power_cap_w is not None:
        extras.append(f"power-cap={plan.power_cap_w:g}W")
    if plan.gpu_clock_mhz is not None:
        extras.append(f"gpu-clock={plan.gpu_clock_mhz:g}MHz")
    extras += technique_labels(plan.techniques) + sharing_labels(deployment)
    extras += [f"{n.replace('_', '-')}={getattr(engine, n)}" for n in OVERLAPS if getattr(engine, n)]
    return (
        f"{deployment.model.name} on {plan.num_devices} of {deployment.cluster.name} ({layout}), {engine.name}, "
        f"max-num-seqs={engine.max_num_seqs} max-num-batched-tokens={engine.max_num_batched_tokens}"
        + "".join(f" {extra}" for extra in extras)
    )
