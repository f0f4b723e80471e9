"""Engine constants that a benchmark can tell: where they may lie, and what shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hardware_profiles.errors import UserError, unknown_name
from simulator.engine import EngineProfile
from simulator.validation.fit import Bound
from simulator.validation.run import MeasuredRun


@dataclass(frozen=True, slots=True)
class Range:
    """Where a constant may lie [s]; beyond, something else is wrong."""

    low: float
    high: float
    start: float
    """Where the search begins when the engine's profile says zero."""


CONSTANTS: Mapping[str, Range] = {
    "step_fixed_s": Range(1e-5, 2e-2, 2.7e-4),
    "step_seq_s": Range(1e-7, 5e-4, 1e-5),
    "step_token_s": Range(1e-9, 2e-5, 1e-7),
    "sync_step_fixed_s": Range(1e-5, 2e-2, 1e-3),
    "sync_step_seq_s": Range(1e-7, 5e-4, 3e-5),
    "launch_layer_s": Range(1e-5, 2e-3, 2.4e-4),
    "request_fixed_s": Range(1e-4, 2e-1, 5e-3),
    "request_token_s": Range(1e-8, 1e-4, 2e-6),
    "stream_token_s": Range(1e-7, 1e-3, 5e-5),
}
"""Ranges hold the fitted values of the engines that come along, with an order of magnitude on either side. Device-independent
costs of the host; what kernels take is the hardware profile's matter (``apex-sim calibrate``)."""
DEFAULT = ("step_fixed_s", "request_fixed_s")
"""What a run at any load shows: TPOT the one, TTFT the other."""


def shown_by(runs: Sequence[MeasuredRun]) -> tuple[str, ...]:
    """Those of DEFAULT that the results can tell: without TTFT (a server's log) the second does not show."""
    return DEFAULT if any(name.startswith("ttft") for run in runs for name in run.measured) else DEFAULT[:1]


def bounds_of(names: Sequence[str], engine: EngineProfile) -> dict[str, Bound]:
    """Start at the engine's own values, within the ranges. UserError for a name that cannot be fitted."""
    found = {}
    for name in names:
        if name not in CONSTANTS:
            raise UserError(f"--constants: {unknown_name('constant', name, CONSTANTS)}")
        about = CONSTANTS[name]
        start = float(getattr(engine, name)) or about.start
        if name.startswith("sync_") and engine.async_scheduling:
            raise UserError(
                f"--constants: {name} does not show while the next step is scheduled ahead (async_scheduling)"
            )
        found[name] = Bound(min(max(start, about.low), about.high), about.low, about.high)
    return found
