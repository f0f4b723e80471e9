"""Settings that would do nothing: refused in one line where they are given, so that nobody takes them for tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hardware_profiles.errors import UserError

if TYPE_CHECKING:
    from simulator.deployment import Deployment


def check_idle(deployment: Deployment, settings: Mapping[str, Any]) -> None:
    """UserError for a setting without anything that it could act on."""
    swaps, model, device = deployment.engine.preemption == "swap", deployment.model, deployment.cluster.device
    if settings.get("kv_copy_group") is not None and not (swaps or deployment.kv_offload.host_bytes):
        raise UserError(
            f"--kv-copy-group is {settings['kv_copy_group']}, but no KV block crosses the host link; add --kv-offloading-size "
            "or --preemption-mode swap, or drop it"
        )
    disk = settings.get("kv_offloading_disk_device")
    if disk is not None and not deployment.kv_offload.disk_bytes:
        raise UserError(
            f"--kv-offloading-disk-device {disk}: there is no disk below; add --kv-offloading-disk GIB or drop it"
        )
    if settings.get("swap_space") and not swaps:
        raise UserError(
            f"--swap-space is {settings['swap_space']:g}, but preempted requests are computed again; add --preemption-mode "
            "swap or drop it"
        )
    if deployment.moe_skew and not model.is_moe:
        raise UserError(
            f"--moe-skew is {deployment.moe_skew:g}, but {model.name} has no experts whose popularity could differ; drop it"
        )
    if deployment.plan.quantization == "flightllm" and device.dataflow is None:
        raise UserError(
            f"--quantization flightllm needs the units of its FPGA design, which {device.name} does not have; use vhk158 or "
            "alveo-u280, or a format such as awq_marlin"
        )


def idle_lines(deployment: Deployment, shares_prefixes: bool) -> list[str]:
    """Lines of a report about settings that had nothing to act on in this workload."""
    if shares_prefixes or not deployment.kv_offload.host_bytes:
        return []
    return [
        "note         --kv-offloading-size had no use: the workload does not say which prefixes its requests share "
        "(docs/workloads.md)"
    ]
