"""Watts and joules of a device from how busy its arithmetic and its memory are."""

from __future__ import annotations

from hardware_profiles.schema import DeviceProfile, PowerFit

DEFAULT_BASE_SHARE = 0.20
DEFAULT_COMPUTE_SHARE = 1.04
DEFAULT_MEMORY_SHARE = 0.73
"""Shares of TDP: medians of the lines fitted to whole runs on A100 (0.29, 1.18, 0.73), H100 (0.20, 1.04, 0.64) and B200
(0.19, 0.73, 0.97); docs/power.md."""
DEFAULT_IDLE_SHARE = 0.19
"""Lowest power seen in the same tables: 130 W of 700 W (H200), 245 W of 1000 W (B200)."""


def power_fit_of(device: DeviceProfile) -> PowerFit:
    """The device's fitted power line, or the default shares of its TDP (all zero when the TDP is unknown)."""
    if device.power is not None:
        return device.power
    tdp_w = device.tdp_w or 0.0
    return PowerFit(
        base_w=DEFAULT_BASE_SHARE * tdp_w,
        compute_w=DEFAULT_COMPUTE_SHARE * tdp_w,
        memory_w=DEFAULT_MEMORY_SHARE * tdp_w,
        source="median shares of TDP of A100, H100 and B200",
    )


def idle_w_of(device: DeviceProfile) -> float:
    """Power of a device that holds a model and computes nothing [W]."""
    if device.idle_w is not None:
        return device.idle_w
    return DEFAULT_IDLE_SHARE * (device.tdp_w or 0.0)


def energy_j(fit: PowerFit, seconds: float, peak_s: float, memory_s: float, tdp_w: float | None) -> float:
    """P = base + compute * MFU + memory * MBU, at most the TDP, over ``seconds`` [J]: MFU is peak_s / seconds, MBU
    memory_s / seconds.

    ``peak_s``: FLOP over the peak of their dtype; ``memory_s``: bytes over the peak bandwidth. Linear in its three
    times until the TDP cuts it.
    """
    joules = fit.base_w * seconds + fit.compute_w * peak_s + fit.memory_w * memory_s
    return joules if tdp_w is None else min(joules, tdp_w * seconds)


def least_seconds(fit: PowerFit, peak_s: float, memory_s: float, tdp_w: float | None) -> float:
    """Time that the power limit leaves for this much arithmetic and traffic [s]; 0 where no limit is known.

    At the limit the clock falls until mean power is the TDP. A FLOP costs the same at every clock there: GEMMs of an H200 at
    its limit of 700 W reach 0.69 of peak (AIConfigurator power tables), where the line fitted to serving runs says 688 W; the
    latency tables, measured in bursts, have 0.80.
    """
    if not fit.limits_time or tdp_w is None or tdp_w <= fit.base_w:
        return 0.0
    return (fit.compute_w * peak_s + fit.memory_w * memory_s) / (tdp_w - fit.base_w)
