"""A power limit below the TDP: the clock falls until a part of a step fits it; arithmetic slows down, memory does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hardware_profiles.errors import UserError
from hardware_profiles.schema import DeviceProfile, PowerFit
from simulator.physics.frequency import at_clock, dynamic_share, least_clock_mhz, max_clock_mhz
from simulator.physics.power import idle_w_of, power_fit_of
from simulator.plan import ParallelPlan

CLOCK_STEPS = 128
"""Clocks that are tried, as equal steps of the largest: 11 MHz of 1410 (drivers step by 15)."""
LEAST_STEP = 26
"""The lowest of them, a fifth: POLCA's brake locks 288 of 1410 MHz. Below it a part only takes longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerCap:
    """The limit of one device. ``floor_w``: power that no clock changes, idle at most."""

    cap_w: float
    floor_w: float
    line: PowerFit

    def fit(
        self, seconds: float, joules: float, peak_s: float, memory_s: float, longer_s: Callable[[float], float]
    ) -> tuple[float, float]:
        """(seconds, joules) of a part of a step under the limit; what fits it is returned as it came.

        ``seconds``, ``joules``: without the limit (joules within the TDP). ``longer_s``: clock share -> how much longer the
        part takes there [s]. Power at a share: the floor stays, the rest of the base and the arithmetic follow
        :func:`dynamic_share` (arithmetic lasts 1/share as long), memory's joules stay. Where the line says more than the
        TDP, its joules count in proportion, so that a limit just below the TDP is just above it in time.
        """
        if joules <= self.cap_w * seconds:
            return seconds, joules
        line, work_j = self.line, self.line.compute_w * peak_s + self.line.memory_w * memory_s
        scale = max(0.0, joules - line.base_w * seconds) / work_j if work_j else 0.0

        def at(step: int) -> tuple[float, float, float]:
            share = step / CLOCK_STEPS
            power = dynamic_share(share)
            base_w = self.floor_w + (line.base_w - self.floor_w) * power
            busy_j = scale * (line.compute_w * peak_s * power / share + line.memory_w * memory_s)
            return seconds + max(0.0, longer_s(share)), base_w, busy_j

        low, high = LEAST_STEP, CLOCK_STEPS
        while high - low > 1:
            middle = (low + high) // 2
            spent_s, base_w, busy_j = at(middle)
            low, high = (middle, high) if base_w * spent_s + busy_j <= self.cap_w * spent_s else (low, middle)
        spent_s, base_w, busy_j = at(low)
        spent_s = max(spent_s, busy_j / (self.cap_w - base_w))
        return spent_s, base_w * spent_s + busy_j


def power_cap_of(device: DeviceProfile, cap_w: float | None) -> PowerCap | None:
    """The limit on a device; None where it changes nothing."""
    if cap_w is None or device.tdp_w is None or cap_w >= device.tdp_w:
        return None
    line = power_fit_of(device)
    return PowerCap(cap_w=cap_w, floor_w=min(idle_w_of(device), line.base_w), line=line)


def locked(device: DeviceProfile, plan: ParallelPlan) -> DeviceProfile:
    """The device at the clock that the plan locks."""
    if plan.gpu_clock_mhz is None:
        return device
    return at_clock(device, plan.gpu_clock_mhz / max_clock_mhz(device))


def check_power(device: DeviceProfile, plan: ParallelPlan) -> None:
    """UserError for a power limit or a clock that the device cannot be set to."""
    cap_w, mhz = plan.power_cap_w, plan.gpu_clock_mhz
    if cap_w is not None:
        if device.tdp_w is None:
            raise UserError(f"--power-cap is {cap_w:g}, but the profile of {device.name} has no tdp_w; leave it out")
        least_w = device.min_cap_w if device.min_cap_w is not None else 1.1 * idle_w_of(device)
        if not least_w <= cap_w <= device.tdp_w:
            what = "min_cap_w" if device.min_cap_w is not None else "10 % above idle"
            raise UserError(
                f"--power-cap is {cap_w:g}; {device.name} takes {least_w:g} ({what}) to {device.tdp_w:g} W (tdp_w)"
            )
    if mhz is not None:
        least_mhz, most_mhz = least_clock_mhz(device), max_clock_mhz(device)
        if not least_mhz <= mhz <= most_mhz:
            raise UserError(f"--gpu-clock is {mhz:g}; {device.name} takes {least_mhz:g} to {most_mhz:g} MHz")
