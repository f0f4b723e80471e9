"""The load in AIPerf's configuration since it has phases (``input_config.phases``; AIPerf 0.13, schema 1.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simulator.validation.bench.result import number, whole


def load_of(config: object) -> dict[str, Any]:
    """rate_per_s, concurrency, arrival of the profiled phase, or ``unknown``: why they cannot be had. Empty without phases."""
    phases = config.get("phases") if isinstance(config, Mapping) else None
    if not isinstance(phases, list):
        return {}
    profiled = [phase for phase in phases if isinstance(phase, Mapping) and not _left_out(phase)]
    if len(profiled) != 1:
        return {"unknown": f"it has {len(profiled)} profiled phases"}
    phase = profiled[0]
    kind, rate, limit = str(phase.get("type")), number(phase, "rate"), whole(phase, "concurrency")
    if any(phase.get(name) for name in ("rate_ramp", "rate_series", "adaptive_scale")):
        return {"unknown": "its load changes during the run"}
    if kind == "concurrency":
        return {"concurrency": limit or 1}
    if kind not in ("poisson", "constant", "gamma") or rate is None or rate <= 0:
        return {"unknown": f"its phase is of type {kind}"}
    arrival = "constant" if kind == "constant" else "poisson"
    shape = number(phase, "smoothness")
    if kind == "gamma" and shape is not None and shape > 0:
        arrival = f"gamma(cv={shape**-0.5:.10g})"
    return {"rate_per_s": rate, "concurrency": limit, "arrival": arrival}


def _left_out(phase: Mapping[str, Any]) -> bool:
    """Warm-up, which the figures do not count."""
    return phase.get("exclude_from_results") is True or phase.get("kind") == "warmup"


def model_of(config: object) -> str | None:
    """The first of ``models.items``."""
    models = config.get("models") if isinstance(config, Mapping) else None
    items = models.get("items") if isinstance(models, Mapping) else None
    first = items[0] if isinstance(items, list) and items else None
    name = first.get("name") if isinstance(first, Mapping) else None
    return name if isinstance(name, str) else None


def broken_off(data: Mapping[str, Any]) -> tuple[str, ...]:
    """What the file says of a run that did not end as meant."""
    if data.get("was_cancelled") is True:
        return ("the run was cancelled before its end",)
    if data.get("is_complete") is False:
        return (f"the run is incomplete: {data.get('incomplete_reason') or 'no reason given'}",)
    return ()
