"""Fits the measured points with the functions of ``simulator.calibration`` and says how well they hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hardware_profiles.errors import UserError
from hardware_profiles.schema import (
    CollectiveFit,
    DecodeAttentionFit,
    DeviceProfile,
    Efficiency,
    GemmFit,
    MoeFit,
    PowerFit,
    PrefillAttentionFit,
)
from simulator.calibration import attention, collectives, gemm, moe, power, profiles
from simulator.calibration.dtypes import BY_KEY
from simulator.calibration.fitting import Bound, Parameters, errors, fit_and_score, group_keys, rounded, rounded_all
from simulator.calibration.points import Points
from simulator.calibration.tables import FloatColumn, Mask, Table
from simulator.kernel_runner import tables
from simulator.kernel_runner.backend import DeviceFacts
from simulator.kernel_runner.kernel import ELEMENT_BYTES, Family, Point
from simulator.physics.elementwise import activation, elementwise_s, norms, rotary

LARGEST_MEDIAN = {"gpu": 0.30, "cpu": 0.50}
"""A fit whose median error on unseen shapes exceeds this has not converged. On GPUs kernels of one library are fitted
within 15 % (docs/calibration.md), so either the points or the form are wrong; libraries of CPUs switch kernels with the
shape, and the form misses that by up to 35 % (docs/kernel_runner.md)."""
LEAST_POINTS = 6
"""Fewer cannot be divided into two halves that each determine four parameters."""
GLOO_BOUNDS: Mapping[str, Bound] = {
    "alpha1_s": Bound(2e-4, 1e-6, 1e-2),
    "alpha1_rank_s": Bound(1e-5, 1e-9, 1e-2),
    "bandwidth1_bytes_per_s": Bound(1e9, 1e6, 1e11),
    "alpha2_s": Bound(5e-4, 1e-6, 1e-2),
    "alpha2_rank_s": Bound(1e-5, 1e-9, 1e-2),
    "bandwidth2_bytes_per_s": Bound(2e9, 1e6, 1e11),
}
"""Processes of one machine that talk through sockets and shared memory."""

CPU_FACTOR = 100.0
"""A kernel of a CPU starts in a function call and may take a lock or wake threads: from a hundredth to a hundred times
what a GPU's launch takes."""
CPU_LOWEST = {"compute": 0.01, "memory": 0.01, "norm": 1.0}
"""Lowest shares of the peaks (kernels that nobody tuned), and no overlap of arithmetic and memory at all."""


def limits(bounds: Mapping[str, Bound], facts: DeviceFacts) -> Mapping[str, Bound]:
    """Ranges of the parameters on this device: those of GPUs, or wider ones."""
    return bounds if facts.kind == "gpu" else {name: _wider(name, bound) for name, bound in bounds.items()}


def _wider(name: str, bound: Bound) -> Bound:
    if bound.low == bound.high:
        return bound
    if name.endswith("_s"):
        return Bound(bound.start, bound.low / CPU_FACTOR, bound.high * CPU_FACTOR)
    return Bound(bound.start, CPU_LOWEST.get(name, bound.low), bound.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """One fitted family and key."""

    family: str
    key: str
    points: int
    median_error: float | None = None
    p90_error: float | None = None
    """On shapes the fit has not seen; of elementwise kernels and power on those it has."""
    spread: float = 0.0
    """Median distance of the quartiles of the repeats, relative to the median: the noise of the measurement."""
    problem: str = ""
    """Why it did not converge; empty when it did."""

    @property
    def name(self) -> str:
        """Family with its key."""
        return f"{self.family} {self.key}".strip()


@dataclass(slots=True)
class Fits:
    """What was fitted, family by family."""

    facts: DeviceFacts
    gemm: dict[str, GemmFit] = field(default_factory=dict)
    prefill_attention: dict[str, PrefillAttentionFit] = field(default_factory=dict)
    decode_attention: dict[str, DecodeAttentionFit] = field(default_factory=dict)
    moe: dict[str, MoeFit] = field(default_factory=dict)
    collectives: dict[str, CollectiveFit] = field(default_factory=dict)
    overheads: profiles.Overheads | None = None
    power: PowerFit | None = None
    results: list[FitResult] = field(default_factory=list)
    seen: list[Points] = field(default_factory=list)
    """Of matrix products, attention and experts: measured times, and predictions of fits that have not seen the row."""

    @property
    def failed(self) -> list[FitResult]:
        """Those that did not converge; they are not among the fits."""
        return [r for r in self.results if r.problem]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """Query tiles of the attention kernels."""

    prefill_tile_rows: tuple[float, ...]
    """Candidates; the one whose fit is closest on unseen shapes is taken."""
    mixed_tile_rows: float
    """Of decode rows beside a prompt, which single-kernel timings do not show."""


def fit_points(points: Sequence[Point], device: DeviceProfile, facts: DeviceFacts, tiles: Tiles) -> Fits:
    """Fit every family that has points. ``device`` gives the peaks that shares refer to."""
    fits = Fits(facts)
    for dtype in _dtypes(points, "gemm"):
        mine = tables.of(points, "gemm", dtype)
        _run(fits, fits.gemm, "gemm", dtype, mine, _gemm(tables.gemm_table(mine, facts), device, dtype, facts))
    for dtype in _dtypes(points, "prefill_attention"):
        mine = tables.of(points, "prefill_attention", dtype)
        rows, view = tables.prefill_table(mine, facts), _attention_view(device, dtype)
        fit_prefill = _prefill(rows, view, dtype, tiles.prefill_tile_rows, facts)
        _run(fits, fits.prefill_attention, "prefill_attention", dtype, mine, fit_prefill)
    for dtype in _dtypes(points, "decode_attention"):
        mine = tables.of(points, "decode_attention", dtype)
        fit_decode = _decode(tables.decode_table(mine, facts), device, dtype, tiles.mixed_tile_rows, facts)
        _run(fits, fits.decode_attention, "decode_attention", dtype, mine, fit_decode)
    for dtype in _dtypes(points, "moe"):
        mine = tables.of(points, "moe", dtype)
        _run(fits, fits.moe, "moe", dtype, mine, _moe(tables.moe_table(mine, facts), device, dtype, facts))
    mine = tables.of(points, "collective")
    if mine:
        fit_links = _collective(tables.collective_table(mine, facts), device, _link_bounds(device, facts))
        _run(fits, fits.collectives, "collectives", "all_reduce", mine, fit_links)
    _between_kernels(fits, tables.of(points, "elementwise"), device, facts)
    _power(fits, [p for p in points if p.power_w], device, facts)
    return fits


def _dtypes(points: Sequence[Point], family: Family) -> list[str]:
    return sorted({p.kernel.dtype for p in points if p.kernel.family == family})


def _run(
    fits: Fits, into: dict[str, Any], family: str, key: str, mine: Sequence[Point], fit_one: Callable[[], Any]
) -> None:
    """Fit one key of one family; a fit that does not hold is kept out and noted."""
    result = FitResult(family=family, key=key, points=len(mine), spread=_spread(mine))
    if len(mine) < LEAST_POINTS:
        fits.results.append(replace(result, problem=f"only {len(mine)} of at least {LEAST_POINTS} points"))
        return
    try:
        fitted, seen = fit_one()
    except UserError:
        raise
    except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
        fits.results.append(replace(result, problem=f"no solution ({' '.join(str(error).split())[:100]})"))
        return
    result = replace(result, median_error=fitted.median_error, p90_error=fitted.p90_error)
    problem = _problem(fitted.median_error, fits.facts)
    fits.results.append(replace(result, problem=problem))
    fits.seen += [] if seen is None else [seen]
    if not problem:
        into[key] = fitted


def _problem(median: float | None, facts: DeviceFacts) -> str:
    if median is None or not math.isfinite(median):
        return "the error is not a number"
    largest = LARGEST_MEDIAN[facts.kind]
    if median > largest:
        return f"median error {median:.0%} on unseen shapes, above {largest:.0%}"
    return ""


def _spread(points: Sequence[Point]) -> float:
    return float(np.median([p.spread for p in points])) if points else 0.0


def _attention_view(device: DeviceProfile, dtype: str) -> DeviceProfile:
    """The fit reads the 16-bit peak; attention in another dtype runs at that one's."""
    peaks = device.dense_flop_per_s
    peak = peaks.get(dtype) or peaks.get("bfloat16") or peaks.get("float16") or max(peaks.values())
    return replace(device, dense_flop_per_s={**peaks, "bfloat16": peak})


def _gemm(rows: Table, device: DeviceProfile, dtype: str, facts: DeviceFacts) -> Callable[[], tuple[GemmFit, Points]]:
    ranges = limits(gemm.BOUNDS, facts)
    return lambda: gemm.fit_gemm(rows, device, BY_KEY[dtype], facts.framework, limits=ranges)


def _prefill(
    rows: Table, device: DeviceProfile, dtype: str, tile_rows: Sequence[float], facts: DeviceFacts
) -> Callable[[], tuple[PrefillAttentionFit, Points]]:
    ranges = limits(attention.PREFILL_BOUNDS, facts)

    def fit_one() -> tuple[PrefillAttentionFit, Points]:
        found = [attention.fit_prefill_rows(rows, device, dtype, tile, bounds=ranges) for tile in tile_rows]
        misses = [float(np.mean(np.abs(np.log(seen.predicted_s / seen.measured_s)))) for _, seen in found]
        return found[int(np.argmin(misses))]

    return fit_one


def _decode(
    rows: Table, device: DeviceProfile, dtype: str, mixed_tile_rows: float, facts: DeviceFacts
) -> Callable[[], tuple[DecodeAttentionFit, Points]]:
    ranges = limits(attention.DECODE_BOUNDS, facts)
    return lambda: attention.fit_decode_rows(rows, device, dtype, mixed_tile_rows, bounds=ranges)


def _moe(rows: Table, device: DeviceProfile, dtype: str, facts: DeviceFacts) -> Callable[[], tuple[MoeFit, Points]]:
    ranges = limits(moe.BOUNDS, facts)
    return lambda: moe.fit_moe(rows, device, dtype, limits=ranges)


def _link_bounds(device: DeviceProfile, facts: DeviceFacts) -> Mapping[str, Bound]:
    if facts.kind == "cpu" or device.scaleup is None:
        return GLOO_BOUNDS
    return collectives.bounds(device.scaleup.bandwidth_bytes_per_s)


def _collective(
    rows: Table, device: DeviceProfile, ranges: Mapping[str, Bound]
) -> Callable[[], tuple[CollectiveFit, None]]:
    """As ``collectives.fit_collective``, with bounds for the link at hand."""

    def predicted(p: Parameters, mask: Mask) -> FloatColumn:
        return collectives.predict(rows.where(mask), device, "all_reduce", CollectiveFit(**p))

    def fit_one() -> tuple[CollectiveFit, None]:
        scored = fit_and_score(predicted, rows["latency_ms"] * 1e-3, group_keys(rows["bytes"]), ranges)
        fitted = CollectiveFit(
            **rounded_all(scored.parameters),
            median_error=rounded(scored.median_error, 3),
            p90_error=rounded(scored.p90_error, 3),
            source=f"{rows.name}: {rows.describe('kernel_source', 'framework', 'version')}; {len(rows)} rows",
        )
        return fitted, None

    return fit_one


def _between_kernels(fits: Fits, mine: Sequence[Point], device: DeviceProfile, facts: DeviceFacts) -> None:
    """Norms, rotary embedding, activation, embedding and sampler, if all of them were measured."""
    if not mine:
        return
    result = FitResult(family="elementwise", key=mine[0].kernel.dtype, points=len(mine), spread=_spread(mine))
    # the fit counts 16-bit activations: with wider ones, bandwidth and cache hold fewer of them
    wider = ELEMENT_BYTES[mine[0].kernel.dtype] / profiles.ELEMENT_BYTES
    bandwidth, cache = device.memory_bandwidth_bytes_per_s / wider, facts.cache_bytes / wider
    table = tables.elementwise_table(mine, facts)
    try:
        found = profiles.fit_overheads(table, bandwidth, cache)
        median, p90 = _elementwise_errors(table, found, bandwidth, cache)
    except (ValueError, IndexError, ArithmeticError, KeyError):
        fits.results.append(replace(result, problem="not all kinds of kernels were measured"))
        return
    problem = _problem(median, facts)
    fits.results.append(replace(result, median_error=rounded(median, 3), p90_error=rounded(p90, 3), problem=problem))
    if not problem:
        fits.overheads = found


def _elementwise_errors(table: Table, found: profiles.Overheads, bandwidth: float, cache: float) -> tuple[float, float]:
    """Errors of the time per layer at the token counts that were measured."""
    tokens = np.array(table.select(layer="layernorm").distinct("tokens_or_seqs"))
    measured = np.zeros(len(tokens))
    for layer, times in profiles.PER_LAYER.items():
        part = table.select(layer=layer)
        measured += times * np.interp(tokens, part["tokens_or_seqs"], part["time_us"]) * 1e-6
    heads, kv_heads = profiles.HEADS[profiles.MODEL]
    parts = (
        norms(int(profiles.HIDDEN), profiles.ELEMENT_BYTES),
        rotary(int(heads), int(kv_heads), profiles.HEAD_DIM, profiles.ELEMENT_BYTES),
        activation(2 * profiles.INTERMEDIATE, profiles.INTERMEDIATE, profiles.ELEMENT_BYTES),
    )
    predicted = elementwise_s(
        tokens,
        parts,
        fixed_s=found.layer_fixed_s,
        token_s=found.layer_token_s,
        memory=found.elementwise_memory,
        bandwidth_bytes_per_s=bandwidth,
        cache_bytes=cache,
    )
    return errors(np.asarray(predicted, dtype=np.float64), measured)


def _power(fits: Fits, mine: Sequence[Point], device: DeviceProfile, facts: DeviceFacts) -> None:
    """The power line, where the device's power and its limit are known."""
    limit_w = facts.power_limit_w or device.tdp_w
    if not mine or limit_w is None:
        return
    result = FitResult(family="power", key="", points=len(mine))
    if len(mine) < LEAST_POINTS:
        fits.results.append(replace(result, problem=f"only {len(mine)} of at least {LEAST_POINTS} points"))
        return
    table = tables.power_table(mine, device, facts, limit_w)
    try:
        found = power.fit_power(table, device)
    except (ValueError, ArithmeticError) as error:
        fits.results.append(replace(result, problem=f"no solution ({' '.join(str(error).split())[:100]})"))
        return
    if found is None:
        return
    watts = found.base_w + found.compute_w * table["compute_util_of_spec"] + found.memory_w * table["hbm_util_of_spec"]
    median, p90 = errors(np.minimum(watts, limit_w), table["power_w"])
    problem = _problem(median, facts)
    fits.results.append(replace(result, median_error=rounded(median, 3), p90_error=rounded(p90, 3), problem=problem))
    if not problem:
        fits.power = found


def efficiency(
    fits: Fits, facts: DeviceFacts, source: str, lent: Efficiency | None, defaults: Efficiency
) -> Efficiency:
    """The fits as the efficiency of a device.

    ``lent``: another profile of the device, for families that were not measured. ``defaults``: for the time between
    kernels if that profile has none either.
    """
    between: profiles.Overheads | Efficiency = fits.overheads or lent or defaults
    own = Efficiency(
        provenance="measured",
        gemm=fits.gemm,
        prefill_attention=fits.prefill_attention,
        decode_attention=fits.decode_attention,
        moe=fits.moe,
        collectives=fits.collectives,
        layer_fixed_s=between.layer_fixed_s,
        layer_token_s=between.layer_token_s,
        elementwise_memory=between.elementwise_memory,
        cache_bytes=float(facts.cache_bytes),
        step_fixed_s=between.step_fixed_s,
        logits_row_s=between.logits_row_s,
        source=source if fits.overheads else f"{source}; between kernels: {between.source}",
    )
    return own if lent is None else _completed(own, lent)


def _completed(own: Efficiency, lent: Efficiency) -> Efficiency:
    """Families that were not measured now come from the base profile, and their source says so."""
    both: dict[str, Any] = {}
    for family in ("gemm", "prefill_attention", "decode_attention", "moe", "collectives"):
        mine: Mapping[str, Any] = getattr(own, family)
        theirs: Mapping[str, Any] = getattr(lent, family)
        borrowed = {k: replace(f, source=f"base profile: {f.source}") for k, f in theirs.items() if k not in mine}
        both[family] = dict(sorted({**borrowed, **mine}.items()))
    return replace(own, **both)
