"""A locked clock: arithmetic slows down with it, memory does not, power falls faster than it."""

from __future__ import annotations

from dataclasses import replace

from hardware_profiles.errors import UserError
from hardware_profiles.schema import DeviceProfile
from simulator.physics.efficiency import efficiency_of
from simulator.physics.power import idle_w_of, power_fit_of

LEAST_SHARE = 0.2
"""Lowest clock that may be locked, of the largest: POLCA's brake locks 288 of 1410 MHz, its sweep begins at 200."""
POWER_EXPONENT = 1.75
"""Dynamic power of the cores ~ (clock share)^1.75.

Set so that a prompt of 2048 tokens of BLOOM-176B on A100 draws 20 % less at 1110 of 1410 MHz: POLCA (Patel et al., ASPLOS
2024) reports up to 20 % less peak power over clocks of 1.1 to 1.4 GHz. 1 would be a constant voltage, 3 one in proportion to
the clock.
"""


def max_clock_mhz(device: DeviceProfile) -> float:
    """Clock at which the device's peaks hold [MHz]; UserError for a profile without one."""
    if device.max_clock_mhz is None:
        raise UserError(
            f"device {device.name!r}: its profile has no max_clock_mhz, so no clock can be locked; "
            "add the field and its source to a file of your own, or cap its power instead (--power-cap)"
        )
    return device.max_clock_mhz


def least_clock_mhz(device: DeviceProfile) -> float:
    """Smallest clock that may be locked [MHz]: a fifth of the largest (:data:`LEAST_SHARE`, rounded down)."""
    return float(int(LEAST_SHARE * max_clock_mhz(device)))


def dynamic_share(clock_share: float) -> float:
    """Power of the cores at a share of the largest clock, as a share of that at the largest clock, for equal utilisation."""
    return float(clock_share**POWER_EXPONENT)


def at_clock(device: DeviceProfile, clock_share: float) -> DeviceProfile:
    """The device locked to a share of its largest clock (above 0, at most 1).

    Peaks of arithmetic, the exponentials of attention and the per-sequence part of decode attention follow the clock;
    memory, links and launches do not (HBM and NVLink have clocks of their own). So prompts take ~1/share and decode
    steps hardly longer. Power line: idle stays, the rest of the base and the arithmetic follow :func:`dynamic_share`
    (MFU then refers to the lower peak), memory power stays.
    """
    if not 0 < clock_share <= 1:
        raise ValueError(f"clock_share is {clock_share}; it must be above 0 and at most 1")
    if clock_share == 1:
        return device
    power, idle_w, scale = power_fit_of(device), idle_w_of(device), dynamic_share(clock_share)
    floor_w = min(idle_w, power.base_w)
    fits = efficiency_of(device)
    return replace(
        device,
        dense_flop_per_s={name: peak * clock_share for name, peak in device.dense_flop_per_s.items()},
        efficiency=replace(
            fits,
            prefill_attention={
                name: replace(fit, softmax_s=fit.softmax_s / clock_share)
                for name, fit in fits.prefill_attention.items()
            },
            decode_attention={
                name: replace(fit, sequence_s=fit.sequence_s / clock_share)
                for name, fit in fits.decode_attention.items()
            },
        ),
        power=replace(
            power,
            base_w=floor_w + (power.base_w - floor_w) * scale,
            compute_w=power.compute_w * scale,
        ),
    )
