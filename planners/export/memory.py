"""Whether weights, activations and KV cache fit at the utilisation that a command names."""

from __future__ import annotations

from dataclasses import dataclass

from hardware_profiles.errors import UserError
from simulator.deployment import Deployment

ROUNDING = 1e-6
"""Relative difference that is only rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeed:
    """Of the fullest device of a server [B]."""

    device_bytes: float
    usable_bytes: float
    """Of which the utilisation is a share."""
    utilization: float
    weight_bytes: float
    activation_bytes: float
    """Peak of the largest step."""
    reserve_bytes: float
    """Context, graphs and allocator."""
    state_bytes: float
    longest_request_bytes: float
    """KV of one request of max-model-len tokens."""
    kv_bytes: float
    """KV cache that the plan rests on."""
    kv_apart: bool = False
    """The KV cache is in other memory."""

    @property
    def budget_bytes(self) -> float:
        """What the engine may use."""
        return self.usable_bytes * self.utilization

    @property
    def fixed_bytes(self) -> float:
        """Everything but the KV cache."""
        return self.weight_bytes + self.activation_bytes + self.reserve_bytes + self.state_bytes


def memory_need(pool: Deployment) -> MemoryNeed:
    """The figures of a deployment that is known to fit."""
    memory, share = pool.memory, pool.engine.gpu_memory_utilization
    return MemoryNeed(
        device_bytes=float(memory.device_bytes),
        usable_bytes=memory.budget_bytes / share,
        utilization=share,
        weight_bytes=memory.weight_bytes,
        activation_bytes=memory.activation_bytes,
        reserve_bytes=memory.reserve_bytes,
        state_bytes=memory.state_bytes,
        longest_request_bytes=memory.kv_bytes_per_token * pool.effective_max_model_len,
        kv_bytes=memory.kv_bytes,
        kv_apart=pool.plan.techniques.attention_device is not None,
    )


def check_memory(need: MemoryNeed, utilization: float | None, where: str) -> None:
    """UserError unless all of it fits at the utilisation of the command (None: the engine's own)."""
    share = need.utilization if utilization is None else utilization
    budget = need.usable_bytes * share
    slack = ROUNDING * need.device_bytes
    if need.kv_apart:
        missing = need.fixed_bytes - budget
    else:
        missing = need.fixed_bytes + max(need.kv_bytes, need.longest_request_bytes) - budget
    if missing > slack:
        raise UserError(
            f"{where}: weights, activations and KV cache need {(budget + missing) / 1e9:.1f} GB of a device, the command "
            f"gives {budget / 1e9:.1f} GB at {share:g}; raise gpu_memory_utilization, shorten max_model_len or "
            "leave num_gpu_blocks_override out"
        )
