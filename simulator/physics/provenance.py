"""What the times of one deployment rest on: the weakest of the fits it uses, and which they are."""

from __future__ import annotations

from typing import Protocol

from hardware_profiles.schema import Efficiency, Provenance
from simulator.physics.precision import Precision
from simulator.plan import ParallelPlan
from workloads.model import ModelSpec

_ORDER: tuple[Provenance, ...] = ("measured", "transferred", "datasheet")


class _Sourced(Protocol):
    @property
    def source(self) -> str: ...
    @property
    def median_error(self) -> float | None: ...


def _rank(fit: _Sourced | None, device: Provenance) -> Provenance:
    """``transferred`` and the medians of the defaults name themselves in their source; the rest is as the device's."""
    if fit is None or "median over measured devices" in fit.source:
        return "datasheet"
    if fit.source.startswith("transferred from"):
        return max("transferred", device, key=_ORDER.index)
    return device


def provenance_of(
    model: ModelSpec, plan: ParallelPlan, precision: Precision, efficiency: Efficiency
) -> tuple[Provenance, tuple[str, ...]]:
    """(weakest provenance of the kernel families this model uses, the families weaker than the device's own)."""
    ranks = {name: _rank(fit, efficiency.provenance) for name, fit in _used(model, plan, precision, efficiency).items()}
    weakest = max(ranks.values(), key=_ORDER.index)
    weaker = [name for name, rank in ranks.items() if _ORDER.index(rank) > _ORDER.index(efficiency.provenance)]
    return weakest, tuple(weaker)


def borrowed_errors(
    model: ModelSpec, plan: ParallelPlan, precision: Precision, efficiency: Efficiency
) -> dict[str, float]:
    """Median absolute errors of the families taken over from another device: what the same step was off by where a
    measured device was treated as unmeasured."""
    used = _used(model, plan, precision, efficiency)
    return {
        name: fit.median_error
        for name, fit in used.items()
        if fit is not None and fit.source.startswith("transferred from") and fit.median_error is not None
    }


def _used(
    model: ModelSpec, plan: ParallelPlan, precision: Precision, efficiency: Efficiency
) -> dict[str, _Sourced | None]:
    """Kernels that take a large share of a step: projections, attention, experts, and all-reduce under TP."""
    is_mla = any(group.attention.kind == "mla" for group in model.layers)
    used: dict[str, _Sourced | None] = {
        "GEMM": precision.linear.gemm,
        "prefill attention": precision.prefill_attention,
        "decode attention": precision.mla_decode_attention if is_mla else precision.decode_attention,
    }
    if any(group.attention.ssm is not None for group in model.layers):
        used["state-space scan"] = None  # no measurements of its own
    if any(group.mlp.is_moe for group in model.layers):
        used["experts"] = precision.experts.moe
    if plan.tp > 1:
        used["all-reduce"] = efficiency.collectives.get("all_reduce")
    return used
