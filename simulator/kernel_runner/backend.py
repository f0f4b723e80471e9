"""What the runner needs of a device: facts, prepared kernels that time themselves, and a sign of life."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from simulator.kernel_runner.kernel import Family, Kernel

Run = Callable[[int], float]
"""Run a prepared kernel for so many rounds; seconds of one call, averaged over them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """What the device says of itself. None or 0: it does not say."""

    device: str
    """As the user wrote it: cpu, cuda:0."""
    name: str
    kind: Literal["gpu", "cpu"]
    vendor: str = ""
    architecture: str = ""
    num_sms: int = 0
    memory_bytes: int = 0
    cache_bytes: int = 0
    """Last-level cache."""
    power_limit_w: float | None = None
    min_cap_w: float | None = None
    framework: str = ""
    framework_version: str = ""
    runtime: str = ""
    """Driver, CUDA version or threads: whatever else decides how fast kernels are."""
    num_devices: int = 1
    """Devices of this kind that are visible."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A kernel with its operands in place."""

    run: Run
    calls: int = 1
    """Calls that one round makes (copies of the operands, so that each is read from memory)."""
    implementation: str = ""


class Unsupported(Exception):
    """The device or library cannot run a kernel; the text says why."""


@dataclass(slots=True)
class Collected:
    """Result of a family that a backend times by itself (collectives, storage)."""

    samples: dict[Kernel, list[float]] = field(default_factory=dict)
    """Seconds of every repeat."""
    implementation: str = ""


class PowerMeter(Protocol):
    """Reads the device's power."""

    @property
    def name(self) -> str:
        """How it reads it."""

    def watts(self, work: Callable[[], None], seconds: float) -> float:
        """Call ``work`` again and again for ``seconds`` and return the mean power meanwhile [W]."""


class Backend(Protocol):
    """A device with the library that runs kernels on it."""

    facts: DeviceFacts

    def dtypes(self) -> tuple[str, ...]:
        """Dtypes of matrices that it multiplies, the main one first."""

    def families(self) -> tuple[Family, ...]:
        """Families that ``prepare`` or ``collect`` knows on this device."""

    def reason_against(self, family: Family) -> str:
        """Why a family is not among them."""

    def prepare(self, kernel: Kernel) -> Prepared:
        """Put operands in place. Raises Unsupported."""

    def collect(self, kernels: list[Kernel], seconds: float) -> Collected:
        """Time collectives over all visible devices, within about ``seconds``. Raises Unsupported."""

    def alive(self) -> bool:
        """False when the device does not answer any more."""

    def power_meter(self) -> PowerMeter | None:
        """None where power cannot be read."""
