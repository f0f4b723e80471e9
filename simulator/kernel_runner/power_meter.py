"""Power of an NVIDIA GPU: its energy counter through NVML, samples of NVML, or nvidia-smi, whichever is there first."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from simulator.kernel_runner.backend import PowerMeter

LONGEST_STEP_S = 0.3
"""A counter that stands still for longer is read as it is."""
SETTLED = 0.4
"""Share of a run after which samples count: the sensor averages over up to a second, the clocks take a moment."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the driver says once."""

    power_limit_w: float | None = None
    min_cap_w: float | None = None
    memory_bytes: int = 0
    driver: str = ""


def open_meter(uuid: str) -> tuple[PowerMeter | None, Limits]:
    """The best meter for the GPU with this UUID ('GPU-...'), and its limits; (None, blanks) without NVML and nvidia-smi.

    The UUID, not the index: CUDA_VISIBLE_DEVICES renumbers CUDA's devices, never those of NVML.
    """
    try:
        return _nvml(uuid)
    except Exception:  # no library, no driver, no permission: the next way
        return _smi(uuid)


def _nvml(uuid: str) -> tuple[PowerMeter, Limits]:
    import pynvml

    nvml: Any = pynvml
    nvml.nvmlInit()
    handle = nvml.nvmlDeviceGetHandleByUUID(uuid)

    def optional(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except nvml.NVMLError:
            return None

    limit = optional(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle))
    lowest = optional(lambda: nvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)[0])
    memory = optional(lambda: nvml.nvmlDeviceGetMemoryInfo(handle).total)
    driver = optional(nvml.nvmlSystemGetDriverVersion)
    limits = Limits(
        power_limit_w=None if limit is None else limit / 1e3,
        min_cap_w=None if lowest is None else lowest / 1e3,
        memory_bytes=int(memory or 0),
        driver=driver.decode() if isinstance(driver, bytes) else str(driver or ""),
    )
    if optional(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) is not None:
        return EnergyCounter(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3), limits
    nvml.nvmlDeviceGetPowerUsage(handle)
    return Sampler("NVML", lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3), limits


def _smi(uuid: str) -> tuple[PowerMeter | None, Limits]:
    if shutil.which("nvidia-smi") is None:
        return None, Limits()

    def query(field: str) -> str:
        command = ["nvidia-smi", f"--id={uuid}", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        float(query("power.draw"))
        limits = Limits(
            _number(query("power.limit")),
            _number(query("power.min_limit")),
            int((_number(query("memory.total")) or 0.0) * (1 << 20)),
            query("driver_version"),
        )
    except (OSError, subprocess.SubprocessError, ValueError):
        return None, Limits()
    return Sampler("nvidia-smi", lambda: float(query("power.draw"))), limits


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class EnergyCounter:
    """Difference of the device's energy counter [J] over the time between two of its steps."""

    joules: Callable[[], float]
    name: str = "NVML energy counter"

    def watts(self, work: Callable[[], None], seconds: float) -> float:
        """From the first step of the counter after the clocks have settled to the first after the end."""
        begin = time.perf_counter()
        while time.perf_counter() - begin < SETTLED * seconds:
            work()
        start, before = self._next_step(work)
        while time.perf_counter() - begin < seconds:
            work()
        end, after = self._next_step(work)
        return (after - before) / max(end - start, 1e-6)

    def _next_step(self, work: Callable[[], None]) -> tuple[float, float]:
        """Time and value when the counter moves; the counter moves about ten times a second or more."""
        before, asked = self.joules(), time.perf_counter()
        while True:
            work()
            now, value = time.perf_counter(), self.joules()
            if value != before or now - asked > LONGEST_STEP_S:
                return now, value


@dataclass(frozen=True, slots=True)
class Sampler:
    """Mean of single readings [W]."""

    name: str
    read_w: Callable[[], float]

    def watts(self, work: Callable[[], None], seconds: float) -> float:
        """Readings between pieces of work, of the second part of the run; at least one."""
        begin = time.perf_counter()
        readings: list[float] = []
        while True:
            work()
            passed = time.perf_counter() - begin
            if passed >= SETTLED * seconds:
                readings.append(self.read_w())
            if passed >= seconds:
                return sum(readings) / len(readings)
