"""Efficiencies of devices nobody measured: those of the nearest measured one, and the error of such a step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from hardware_profiles.schema import CollectiveFit, DeviceProfile, Efficiency, PrefillAttentionFit
from simulator.calibration import attention, collectives, gemm, moe
from simulator.calibration.dtypes import BY_KEY
from simulator.calibration.fitting import rounded
from simulator.calibration.points import Points
from simulator.calibration.tables import FloatColumn

Distance = Literal["same generation", "other generation"]


@dataclass(frozen=True, slots=True)
class Transfer:
    """Where a device's parameters come from."""

    source: str
    distance: Distance
    reason: str


FAMILIES: Mapping[str, str] = {
    "gemm": "gemm",
    "prefill attention": "prefill_attention",
    "decode attention": "decode_attention",
    "moe": "moe",
    "collectives": "collectives",
}
"""Family of points -> field of Efficiency."""

PREDICT: Mapping[str, Any] = {
    "gemm": gemm.predict,
    "prefill attention": attention.predict_prefill,
    "decode attention": attention.predict_decode,
    "moe": moe.predict,
    "collectives": collectives.predict,
}

LEFT_OUT: Mapping[Distance, tuple[tuple[str, str], ...]] = {
    "same generation": (
        ("h100-sxm", "h200-sxm"),
        ("h200-sxm", "h100-sxm"),
        ("b200", "b300"),
        ("b300", "b200"),
        ("gb200", "b200"),
        ("l40s", "rtx-4090"),
        ("rtx-4090", "l40s"),
        ("a6000", "rtx-3090"),
        ("rtx-3090", "a6000"),
    ),
    "other generation": (
        ("a100-sxm-80gb", "h100-sxm"),
        ("h100-sxm", "a100-sxm-80gb"),
        ("b200", "h100-sxm"),
        ("h100-sxm", "b200"),
        ("l40s", "rtx-pro-6000"),
        ("rtx-pro-6000", "l40s"),
        ("a6000", "a100-sxm-80gb"),
        ("rtx-4090", "a6000"),
    ),
}
"""(device treated as unmeasured, the measured device its parameters are taken from)."""

Errors = dict[tuple[Distance, str, str], tuple[float, float, int]]
"""(distance, family, key) -> median and p90 error and rows; key '' pools all keys of the family."""


def transferred(
    known: Efficiency, source: DeviceProfile, target: DeviceProfile, transfer: Transfer, errors: Errors
) -> Efficiency:
    """``known`` carried to another device: shares of peaks and launches stay, bandwidths follow the datasheet."""
    carried: dict[str, Any] = {
        field: {
            key: _carried(fit, family, key, source, target, transfer, errors)
            for key, fit in getattr(known, field).items()
            if _has_peak(target, family, key) and (family != "collectives" or _linked(source, target))
        }
        for family, field in FAMILIES.items()
    }
    ratio = source.memory_bandwidth_bytes_per_s / target.memory_bandwidth_bytes_per_s
    return Efficiency(
        provenance="transferred",
        **carried,
        layer_fixed_s=known.layer_fixed_s,
        layer_token_s=rounded(known.layer_token_s * ratio),
        elementwise_memory=known.elementwise_memory,
        cache_bytes=known.cache_bytes,
        step_fixed_s=known.step_fixed_s,
        logits_row_s=rounded(known.logits_row_s * ratio),
        transferred_from=source.name,
        source=f"transferred from {source.name}: {transfer.reason}",
    )


def completed(own: Efficiency, other: Efficiency) -> Efficiency:
    """A measured device's own fits, with those it lacks from a transferred set."""
    both: dict[str, Any] = {
        field: dict(sorted({**getattr(other, field), **getattr(own, field)}.items())) for field in FAMILIES.values()
    }
    return replace(own, **both)


def left_out_errors(
    points: Iterable[Points], efficiencies: Mapping[str, Efficiency], devices: Mapping[str, DeviceProfile]
) -> Errors:
    """Errors of devices whose parameters are taken from another one, pooled per distance, family and key."""
    by_device: dict[str, list[Points]] = {}
    for p in points:
        by_device.setdefault(p.device, []).append(p)
    pooled: dict[tuple[Distance, str, str], list[FloatColumn]] = {}
    for distance, pairs in LEFT_OUT.items():
        for target, source in pairs:
            for p in by_device.get(target, []):
                error = _error_with(p, efficiencies.get(source), devices, source, distance)
                if error is not None:
                    for key in (p.key, ""):
                        pooled.setdefault((distance, p.family, key), []).append(error)
    return {key: _summary(np.concatenate(parts)) for key, parts in sorted(pooled.items())}


def _error_with(
    p: Points, known: Efficiency | None, devices: Mapping[str, DeviceProfile], source: str, distance: Distance
) -> FloatColumn | None:
    """Absolute errors of a device's rows under the parameters of another one; None where that one lacks the key."""
    fit = None if known is None else getattr(known, FAMILIES[p.family]).get(p.key)
    if fit is None:
        return None
    target = devices[p.device]
    if isinstance(fit, CollectiveFit) and not _linked(devices[source], target):
        return None
    fit = adapted(fit, p.family, p.key, devices[source], target, distance)
    return np.asarray(np.abs(PREDICT[p.family](p.rows, target, p.key, fit) / p.measured_s - 1.0), dtype=np.float64)


def scaled_collective(fit: CollectiveFit, source: DeviceProfile, target: DeviceProfile) -> CollectiveFit:
    """The same start-ups, bandwidths in proportion to the links'."""
    assert source.scaleup is not None and target.scaleup is not None
    ratio = target.scaleup.bandwidth_bytes_per_s / source.scaleup.bandwidth_bytes_per_s
    third = fit.bandwidth3_bytes_per_s
    return replace(
        fit,
        bandwidth1_bytes_per_s=rounded(fit.bandwidth1_bytes_per_s * ratio),
        bandwidth2_bytes_per_s=rounded(fit.bandwidth2_bytes_per_s * ratio),
        bandwidth3_bytes_per_s=None if third is None else rounded(third * ratio),
    )


def scaled_prefill(fit: PrefillAttentionFit, source: DeviceProfile, target: DeviceProfile) -> PrefillAttentionFit:
    """Exponentials follow the number of multiprocessors: each has the same function units."""
    if not fit.softmax_s or not source.num_sms or not target.num_sms:
        return fit
    return replace(fit, softmax_s=rounded(fit.softmax_s * source.num_sms / target.num_sms))


def scaled_compute(fit: Any, peak: str, source: DeviceProfile, target: DeviceProfile) -> Any:
    """Share of the peak on a chip of the same generation with other tensor cores per multiprocessor.

    What a kernel spends beside its matrix products (1/share - 1 of their time) is done by the rest of the
    multiprocessor, which is the same: where products are slower (H20 against H200, RTX 3090 against RTX A6000), the
    share is higher.
    """
    ours, theirs = target.dense_flop_per_s.get(peak), source.dense_flop_per_s.get(peak)
    if not ours or not theirs or not source.num_sms or not target.num_sms or fit.compute >= 1.0:
        return fit
    ratio = (ours / target.num_sms) / (theirs / source.num_sms)
    return replace(fit, compute=rounded(1.0 / (1.0 + (1.0 / fit.compute - 1.0) * ratio)))


def adapted(fit: Any, family: str, key: str, source: DeviceProfile, target: DeviceProfile, distance: Distance) -> Any:
    """A fit of ``source`` as it stands for ``target``."""
    if isinstance(fit, CollectiveFit):
        return scaled_collective(fit, source, target)
    if isinstance(fit, PrefillAttentionFit):
        fit = scaled_prefill(fit, source, target)
    if distance == "same generation" and family in ("gemm", "moe", "prefill attention"):
        peak = BY_KEY[key].peak if family in ("gemm", "moe") else "bfloat16"
        return scaled_compute(fit, peak, source, target)
    return fit


def _carried(
    fit: Any,
    family: str,
    key: str,
    source: DeviceProfile,
    target: DeviceProfile,
    transfer: Transfer,
    errors: Errors,
) -> Any:
    fit = adapted(fit, family, key, source, target, transfer.distance)
    found = errors.get((transfer.distance, family, key)) or errors.get((transfer.distance, family, ""))
    median, p90 = (found[0], found[1]) if found else (None, None)
    return replace(fit, median_error=median, p90_error=p90, source=f"transferred from {source.name}")


def _has_peak(target: DeviceProfile, family: str, key: str) -> bool:
    """True when the target has the arithmetic of a dtype (16-bit fits serve bfloat16 and float16 alike)."""
    if family not in ("gemm", "moe"):
        return True
    peak = BY_KEY[key].peak
    return peak in target.dense_flop_per_s or (peak == "bfloat16" and "float16" in target.dense_flop_per_s)


def _linked(source: DeviceProfile, target: DeviceProfile) -> bool:
    return source.scaleup is not None and target.scaleup is not None


def _summary(error: FloatColumn) -> tuple[float, float, int]:
    return rounded(float(np.median(error)), 3), rounded(float(np.quantile(error, 0.9)), 3), len(error)
