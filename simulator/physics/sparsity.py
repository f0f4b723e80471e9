"""Zeros in the weights of linear layers, and channels of dense MLPs that a token does not use."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hardware_profiles.errors import UserError
from hardware_profiles.schema import DeviceProfile

if TYPE_CHECKING:
    from simulator.physics.layout import StageLayout
    from simulator.physics.precision import KernelFormat
    from simulator.plan import ParallelPlan

MASK_BYTES = 1 / 8
"""Bytes per weight, zero or not, that say which are not zero: a bit each."""


def sparse_format(fmt: KernelFormat, sparsity: float, device: DeviceProfile) -> KernelFormat:
    """The format when a share of the weights is zero anywhere: (1 - s) of the bytes and a bit mask, (1 - s) of the arithmetic.

    Processors skip zeros; tensor cores do not, so that other devices are refused.
    """
    if not sparsity:
        return fmt
    if device.kind != "cpu":
        raise UserError(
            f"--weight-sparsity {sparsity:g}: {device.name} (kind {device.kind}) has no kernels that skip single weights; use "
            "a CPU, or --quantization sparse24"
        )
    left = 1.0 - sparsity
    return replace(
        fmt,
        name=f"{fmt.name}, {left:.0%} of the weights",
        weight_bytes=left * fmt.weight_bytes + MASK_BYTES,
        peak_flop_per_s=fmt.peak_flop_per_s / left,
        density=left * fmt.density,
    )


def channel_share(stage: StageLayout, plan: ParallelPlan) -> float | None:
    """Share of the channels of dense MLPs that a token uses; None: all."""
    channels = plan.techniques.shape.active_channels
    if channels is None:
        return None
    widths = [plan.tp * m.k for layer, _ in stage.layers for m in layer.matrices if m.name == "mlp.down_proj"]
    return channels / max(widths) if widths else None


def channels_used(name: str, tokens: float, share: float) -> float:
    """Share of a matrix that ``tokens`` tokens use between them: 1 - (1 - share)^tokens of the up and down projections.

    The gate is computed whole: it chooses the channels (Mixture-of-Channels). Tokens choose independently.
    """
    used = 1.0 - float((1.0 - share) ** tokens)
    if name.endswith("gate_up_proj"):
        return (1.0 + used) / 2.0
    return used if name.startswith("mlp.") and not name.endswith("gate_proj") else 1.0
