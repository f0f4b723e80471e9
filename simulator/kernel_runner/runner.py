"""The whole of ``apex-sim calibrate``: open a device, measure, fit, describe. Printing and files belong to the command."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from hardware_profiles.errors import UserError
from hardware_profiles.schema import DeviceProfile
from simulator.kernel_runner.backend import Backend, Prepared
from simulator.kernel_runner.fits import FitResult, Fits, Tiles, efficiency, fit_points
from simulator.kernel_runner.kernel import ELEMENT_BYTES, Family, Kernel
from simulator.kernel_runner.measure import POLICIES, Clock, DeviceLostError, Measured, Policy, measure
from simulator.kernel_runner.numpy_backend import threads
from simulator.kernel_runner.points import PointsFile
from simulator.kernel_runner.profile import describe, drive, provenance
from simulator.kernel_runner.storage import FILE_BYTES, TINY_FILE_BYTES, Storage
from simulator.kernel_runner.suites import SuiteName, kernels
from simulator.physics.efficiency import DEFAULT_DECODE_ATTENTION, efficiency_of

INSTALL = "pip install 'apex-sim[gpu]'"
REST = 3.0
"""Times ``power_s`` that the device rests before its idle power is read."""
CPU_GROUPS = (2, 4)
"""Processes that reduce with each other on a CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user asked for."""

    suite: SuiteName = "full"
    dtypes: tuple[str, ...] = ()
    """Empty: all that the device multiplies."""
    scratch: Path | None = None
    budget_s: float | None = None
    """Instead of the suite's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What came out of the points."""

    device: DeviceProfile
    fits: Fits
    drive: DeviceProfile | None = None


def open_backend(device: str, num_threads: int | None = None) -> Backend:
    """The device by name: cpu (PyTorch where it is installed, else NumPy), cuda or cuda:N."""
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", device):
        raise UserError(f"--device is {device!r}; write cpu, cuda or cuda:N")
    if num_threads is not None and device != "cpu":
        raise UserError(f"--threads is for CPUs; leave it out with --device {device}")
    if find_spec("torch") is not None:
        from simulator.kernel_runner.torch_backend import TorchBackend

        return TorchBackend("cuda:0" if device == "cuda" else device, num_threads)
    if device != "cpu":
        raise UserError(f"--device {device} needs PyTorch: {INSTALL}")
    from simulator.kernel_runner.numpy_backend import NumpyBackend

    return NumpyBackend(device, num_threads)


def chosen_dtypes(backend: Backend, options: Options) -> tuple[str, ...]:
    """The dtypes to measure: asked for and possible, or all; float16 beside bfloat16 only in a full run."""
    possible = backend.dtypes()
    for dtype in options.dtypes:
        if dtype not in ELEMENT_BYTES:
            raise UserError(f"--dtypes: {dtype!r} is not known; use some of {', '.join(ELEMENT_BYTES)}")
        if dtype not in possible:
            where = f"{backend.facts.name} with {backend.facts.framework} {backend.facts.framework_version}"
            raise UserError(f"--dtypes: {where} does not multiply {dtype}; it does {', '.join(possible)}")
    if options.dtypes:
        return options.dtypes
    quick = options.suite != "full" and "bfloat16" in possible
    return tuple(d for d in possible if not (quick and d in ("float16", "int8")))


def groups(backend: Backend) -> tuple[int, ...]:
    """Sizes of groups for collectives."""
    if backend.facts.kind == "cpu":
        return tuple(n for n in CPU_GROUPS if n <= max(2, threads()))
    return tuple(n for n in (2, 4, 8) if n <= backend.facts.num_devices)


def run_kernels(
    backend: Backend,
    options: Options,
    progress: Callable[[str], None] = lambda _: None,
    clock: Clock = time.perf_counter,
) -> PointsFile:
    """Measure the suite. Raises DeviceLostError, with the points so far, when the device goes away."""
    policy = POLICIES[options.suite]
    if options.budget_s is not None:
        policy = replace(policy, budget_s=options.budget_s)
    plan = kernels(backend.facts.kind, options.suite, chosen_dtypes(backend, options), groups(backend))
    pointless = {
        *(("storage",) if options.scratch is None else ()),
        *(("host_copy",) if backend.facts.kind == "cpu" else ()),
    }
    plan = {family: listed for family, listed in plan.items() if family not in pointless}
    idle_w = _idle(backend, policy)
    if options.scratch is None:
        result = measure(backend, plan, policy, options.suite, clock=clock, progress=progress)
    else:
        size = TINY_FILE_BYTES if options.suite == "tiny" else FILE_BYTES
        with Storage(options.scratch, size) as storage:
            extra: Mapping[Family, Callable[[Kernel], Prepared]] = {"storage": storage.prepare}
            result = measure(backend, plan, policy, options.suite, extra=extra, clock=clock, progress=progress)
    notes = tuple(_notes(result, backend))
    return PointsFile(facts=backend.facts, points=tuple(result.points), suite=options.suite, idle_w=idle_w, notes=notes)


def partial_file(backend: Backend, options: Options, lost: DeviceLostError) -> PointsFile:
    """What there is to keep of a run whose device went away."""
    return PointsFile(facts=backend.facts, points=lost.points, suite=options.suite, notes=(str(lost),))


def _idle(backend: Backend, policy: Policy) -> float | None:
    """Power at rest, with the framework loaded, as in a server without requests."""
    meter = backend.power_meter()
    if meter is None:
        return None
    time.sleep(REST * policy.power_s)
    try:
        return meter.watts(lambda: time.sleep(0.02), policy.power_s)
    except Exception:  # a sensor that fails: no idle power, which the command says
        return None


def _notes(result: Measured, backend: Backend) -> list[str]:
    """What is missing, in words: whole families, what time cut off, and shapes counted by reason."""
    notes = [f"{what}: not measured, {why}" for what, why in result.missing.items()]
    notes += [f"cut: {text}" for text in result.cut]
    shapes: dict[tuple[str, str], int] = {}
    for kernel, reason in result.dropped:
        what = f"{kernel.family} {kernel.dtype}".strip()
        if what not in result.missing:
            shapes[what, reason] = shapes.get((what, reason), 0) + 1
    notes += [f"left out: {count} shapes of {what}, {reason}" for (what, reason), count in shapes.items()]
    if backend.power_meter() is None:
        notes.append("power: not measured, this device has neither NVML nor nvidia-smi")
    return notes


def make_profile(
    file: PointsFile,
    *,
    base: DeviceProfile | None = None,
    name: str | None = None,
    scratch: Path | None = None,
    allow_partial: bool = False,
) -> Profile:
    """Fit the points and describe the device. Raises UserError for fits that do not hold, unless partial is allowed."""
    require_scipy()
    facts = file.facts
    device = describe(facts, file.points, suite=file.suite, base=base, name=name, idle_w=file.idle_w)
    fits = fit_points(file.points, device, facts, tiles(facts.kind, base))
    if not allow_partial:
        _refuse_failures(fits.failed)
        _refuse_gaps(fits, base)
    source = provenance(facts, file.suite)
    fitted = efficiency(fits, facts, source, None if base is None else base.efficiency, efficiency_of(device))
    notes = "; ".join(file.notes)
    complete = replace(device, efficiency=fitted, power=fits.power or device.power, notes=notes)
    capacity = shutil.disk_usage(scratch).total if scratch is not None else 0
    storage = drive(file.points, str(scratch), capacity, source) if scratch is not None else None
    return Profile(device=complete, fits=fits, drive=storage)


def require_scipy() -> None:
    """Fitting needs scipy; say so before the long work."""
    if find_spec("scipy") is None:
        raise UserError("fitting needs scipy, which is not installed: pip install 'apex-sim[calibrate]'")


TILES = (16.0, 64.0, 128.0)
"""Query rows of a tile: FlashAttention-3 with packed heads, cuDNN and memory-efficient attention, FlashAttention-2."""


def tiles(kind: str, base: DeviceProfile | None) -> Tiles:
    """Query tiles to choose from, and those of mixed batches of the base, or of FlashAttention-2; none on CPUs."""
    if kind == "cpu":
        return Tiles(prefill_tile_rows=(1.0,), mixed_tile_rows=0.0)
    decode = DEFAULT_DECODE_ATTENTION["bfloat16"]
    if base is not None and base.efficiency is not None:
        decode = base.efficiency.decode_attention.get("bfloat16", decode)
    return Tiles(prefill_tile_rows=TILES, mixed_tile_rows=decode.mixed_tile_rows)


def _refuse_failures(failed: Sequence[FitResult]) -> None:
    if failed:
        what = "; ".join(f"{r.name}: {r.problem}" for r in failed)
        short = any(r.median_error is None for r in failed)
        remedy = "give it more time with --budget" if short else "measure again on an idle device"
        raise UserError(f"the fit did not converge for {what}; {remedy}, or write the rest with --allow-partial")


def _refuse_gaps(fits: Fits, base: DeviceProfile | None) -> None:
    """A profile needs products and both kinds of attention, its own or its base's."""
    needed = {"gemm": fits.gemm, "prefill_attention": fits.prefill_attention, "decode_attention": fits.decode_attention}
    gaps = [family for family, found in needed.items() if not found]
    if gaps and base is None:
        remedy = "give it more time with --budget, name a --base DEVICE to borrow from, or --allow-partial"
        raise UserError(f"nothing was measured of {', '.join(gaps)}; {remedy}")
