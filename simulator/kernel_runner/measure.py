"""Times prepared kernels within a budget: warm-up, repeats until the point's share is spent, median and quartiles."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from hardware_profiles.errors import UserError
from simulator.kernel_runner.backend import Backend, PowerMeter, Prepared, Unsupported
from simulator.kernel_runner.kernel import Family, Kernel, Point
from simulator.kernel_runner.suites import WEIGHTS, SuiteName, with_power

Clock = Callable[[], float]

REPEATS_SHARE = 0.3
"""Of a shape's share of the time left that repeats may take; the rest is for shapes that are slower than the average,
and for putting operands in place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How long to measure."""

    budget_s: float
    """For everything, without fitting; cut repeats first, then shapes."""
    sample_s: float = 1e-3
    """A sample runs the kernel for at least this long, so that the clock's resolution does not matter; but no longer than
    a scheduler's time slice (3 ms on Linux), so that the median is of samples that nothing interrupted."""
    point_s: float = 0.25
    """Repeats stop after this long,"""
    repeats: int = 31
    """or after so many,"""
    least_repeats: int = 3
    """but never before these."""
    power_s: float = 1.2
    """Power is averaged over this long, several times the sensor's window (0.1 s or less on data-centre GPUs)."""


POLICIES: Mapping[SuiteName, Policy] = {
    "full": Policy(budget_s=420.0),
    "quick": Policy(budget_s=80.0, point_s=0.12, repeats=15, power_s=0.8),
    "tiny": Policy(budget_s=20.0, sample_s=5e-4, point_s=0.01, repeats=5, power_s=0.05),
}


class DeviceLostError(UserError):
    """The device stopped answering; ``points`` are those measured before."""

    def __init__(self, message: str, points: Sequence[Point]) -> None:
        super().__init__(message)
        self.points = tuple(points)


@dataclass(slots=True)
class Measured:
    """All points, and what did not come out, in words."""

    points: list[Point] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    """Shapes left out because time was up."""
    missing: dict[str, str] = field(default_factory=dict)
    """Family, or family and dtype -> why it has no points at all."""
    dropped: list[tuple[Kernel, str]] = field(default_factory=list)
    """Single shapes that could not run, and why."""


def measure(
    backend: Backend,
    plan: Mapping[Family, list[Kernel]],
    policy: Policy,
    suite: SuiteName,
    *,
    extra: Mapping[Family, Callable[[Kernel], Prepared]] | None = None,
    clock: Clock = time.perf_counter,
    progress: Callable[[str], None] = lambda _: None,
) -> Measured:
    """Run every family in its share of the budget. Raises DeviceLostError when the device stops answering.

    ``extra``: families that something else than the backend prepares (storage).
    """
    result = Measured()
    extra = extra or {}
    can_run = {*backend.families(), *extra}
    meter = backend.power_meter()
    end = clock() + policy.budget_s
    families = [f for f in plan if plan[f]]
    for index, family in enumerate(families):
        if family not in can_run:
            result.missing[family] = backend.reason_against(family)
            continue
        left = sum(WEIGHTS[f] for f in families[index:] if f in can_run)
        share = max(0.0, end - clock()) * WEIGHTS[family] / left
        progress(f"{family}: up to {share:.0f} s")
        if family == "collective":
            _collect(backend, plan[family], share, result)
        else:
            prepare = extra.get(family, backend.prepare)
            _family(backend, prepare, family, plan[family], policy, suite, meter, clock() + share, clock, result)
    return result


def _family(
    backend: Backend,
    prepare: Callable[[Kernel], Prepared],
    family: Family,
    listed: Sequence[Kernel],
    policy: Policy,
    suite: SuiteName,
    meter: PowerMeter | None,
    deadline: float,
    clock: Clock,
    result: Measured,
) -> None:
    """Time one family; kernels that cannot run are noted, and the next one goes on."""
    powered = with_power(family, listed, suite) if meter is not None else frozenset()
    reasons: dict[str, str] = {}
    before = len(result.points)
    for index, kernel in enumerate(listed):
        left_s = deadline - clock()
        if left_s <= 0:
            result.cut.append(f"{family}: {len(listed) - index} of {len(listed)} shapes (time was up)")
            break
        per_point_s = min(policy.point_s, REPEATS_SHARE * left_s / (len(listed) - index))
        try:
            point = _one(prepare, kernel, policy, per_point_s, meter if kernel in powered else None, clock)
        except Unsupported as reason:
            reasons[kernel.dtype] = str(reason)
            result.dropped.append((kernel, str(reason)))
            continue
        except Exception as error:  # whatever a library raises: find out whether the device is still there
            text = one_line(error)
            if not backend.alive():
                message = f"{backend.facts.device} stopped answering at {kernel.label} ({text})"
                remedy = "no profile was written; check the device and run again"
                raise DeviceLostError(f"{message}; {remedy}", result.points) from None
            reasons[kernel.dtype] = text
            result.dropped.append((kernel, text))
            continue
        result.points.append(point)
    done = {p.kernel.dtype for p in result.points[before:]}
    for dtype, why in reasons.items():
        if dtype not in done:
            result.missing[f"{family} {dtype}".strip()] = why


def _one(
    prepare: Callable[[Kernel], Prepared],
    kernel: Kernel,
    policy: Policy,
    point_s: float,
    meter: PowerMeter | None,
    clock: Clock,
) -> Point:
    """One kernel from its operands to its point; the operands go when it returns."""
    prepared = prepare(kernel)
    samples = _samples(prepared, policy, point_s, clock)
    watts = None
    if meter is not None:
        with suppress(Exception):  # a sensor that fails costs the watts, not the point
            watts = _watts(prepared, meter, policy)
    return _point(kernel, samples, prepared.implementation, watts)


def _samples(prepared: Prepared, policy: Policy, point_s: float, clock: Clock) -> list[float]:
    """Seconds per call of every repeat, after a warm-up that also says how many rounds fill a sample."""
    prepared.run(1)
    once_s = max(prepared.run(1) * prepared.calls, 1e-9)
    rounds = max(1, min(10_000, round(policy.sample_s / once_s)))
    samples: list[float] = []
    start = clock()
    while len(samples) < policy.least_repeats or (len(samples) < policy.repeats and clock() - start < point_s):
        samples.append(prepared.run(rounds))
    return samples


def _watts(prepared: Prepared, meter: PowerMeter, policy: Policy) -> float:
    once_s = max(prepared.run(1) * prepared.calls, 1e-9)
    rounds = max(1, round(0.02 / once_s))
    return meter.watts(lambda: void(prepared.run(rounds)), policy.power_s)


def void(_: object) -> None:
    """Drop a result."""


def _collect(backend: Backend, listed: list[Kernel], seconds: float, result: Measured) -> None:
    try:
        collected = backend.collect(listed, seconds)
    except Unsupported as reason:
        result.missing["collective"] = str(reason)
        return
    except Exception as error:  # processes can fail in any way; the device itself was not touched
        result.missing["collective"] = one_line(error)
        return
    for kernel, samples in collected.samples.items():
        result.points.append(_point(kernel, samples, collected.implementation, None))
    lacking = len(listed) - len(collected.samples)
    if lacking:
        result.cut.append(f"collective: {lacking} of {len(listed)} shapes (time was up)")


def _point(kernel: Kernel, samples: Sequence[float], implementation: str, watts: float | None) -> Point:
    first, median, third = (float(q) for q in np.quantile(np.array(samples), (0.25, 0.5, 0.75)))
    return Point(
        kernel=kernel,
        seconds=median,
        quartile1_s=first,
        quartile3_s=third,
        repeats=len(samples),
        power_w=watts,
        implementation=implementation,
    )


def one_line(error: BaseException) -> str:
    """First line of an exception, cut to a readable length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."
