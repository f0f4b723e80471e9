"""What a KV cache outside the accelerator does not go together with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardware_profiles.errors import UserError

if TYPE_CHECKING:
    from simulator.deployment import Deployment


def check_hybrid(deployment: Deployment) -> None:
    """UserError for settings that move or verify what --attention-device has moved already."""
    device = deployment.plan.techniques.attention_device
    if device is None:
        return
    flag = f"--attention-device {device.name}"
    if deployment.speculative is not None:
        raise UserError(f"{flag} attends to one token per sequence; drop --speculative-config")
    if deployment.engine.preemption == "swap":
        raise UserError(f"{flag}: the KV cache is not on the device, nothing is swapped; drop --preemption-mode swap")
    if deployment.kv_offload.host_bytes:
        raise UserError(f"{flag}: the KV cache is below the device already; drop --kv-offloading-size")
