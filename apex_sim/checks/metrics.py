"""What a summary's field is about, which way is worse, and how far it may move."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hardware_profiles.errors import UserError, unknown_name

Direction = Literal["lower", "higher", "same"]
"""Which way is better; ``same``: any change counts."""

FAMILIES: Mapping[str, tuple[Direction, re.Pattern[str]]] = {
    **{
        name: ("lower", re.compile(rf"(mean|median|std|p90|p95|p99)_{name}_ms"))
        for name in ("ttft", "tpot", "itl", "e2el", "queue")
    },
    "throughput": ("higher", re.compile(r"(output|request|total_token)_throughput|output_throughput_per_gpu|mfu")),
    "slo": ("higher", re.compile(r"(slo|simulated)_attainment|request_goodput")),
    "cost": ("lower", re.compile(r"(break_even_|bound_)?usd_per_\w+|usd|bound_usd")),
    "energy": ("lower", re.compile(r"\w*joules_per_\w+|\w*energy_j|average_power_w|facility_kwh\w*")),
    "carbon": ("lower", re.compile(r"gco2e_per_\w+|\w+_gco2e")),
    "served": ("higher", re.compile(r"completed|prefix_hit_rate|num_gpu_blocks")),
    "pressure": ("lower", re.compile(r"failed|truncated|num_preemptions|peak_kv_usage|duration|peak_waiting")),
    "placement": (
        "lower",
        re.compile(r"imbalance(_unseen)?|cross_(gpu|node)_unseen|(decode_step|experts|exchange)_ms"),
    ),
    "row": (
        "lower",
        re.compile(
            r"brakes_per_day|services_missed|(uncapped_peak|peak|mean|rack_peak)_share|worst_p\d\d_increase|energy_kwh"
        ),
    ),
    "row_servers": ("higher", re.compile(r"num_servers|(fixed_)?servers_added")),
    "count": (
        "same",
        re.compile(
            r"num_gpus|num_instances|starts|engine_steps|total_(in|out)put_tokens|max_concurrent_requests|peak_running"
        ),
    ),
}
"""Family -> which way is better, and the fields of a summary that belong to it."""
DEFAULT_METRICS = (
    *("completed", "median_ttft_ms", "p95_ttft_ms", "median_tpot_ms", "p95_tpot_ms"),
    *("output_throughput", "slo_attainment", "usd_per_million_output_tokens", "joules_per_output_token"),
)
"""Compared unless the suite says otherwise; those that a run does not have (no SLO, no known power) are left out."""
DEFAULT_KEY = "default"
"""Tolerance of everything that has none of its own."""
DIGITS = 6
"""Significant digits of a stored value: more would make every difference of the last bit a line in a diff."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """A change counts when it is larger than both the relative and the absolute limit."""

    rel: float = 0.01
    """Share of the baseline's value."""
    abs: float = 0.0
    """In the metric's unit."""

    def allowed(self, baseline: float) -> float:
        """Largest change that does not count, in the metric's unit."""
        return max(self.rel * abs(baseline), self.abs)


Tolerances = Mapping[str, Tolerance]
"""By metric, family or ``default``."""


def family_of(metric: str) -> str:
    """The family of a field of the summary; UserError when it cannot be compared."""
    for name, (_, pattern) in FAMILIES.items():
        if pattern.fullmatch(metric):
            return name
    raise UserError(str(unknown_name("metric", metric, DEFAULT_METRICS)).replace("Available", "Compared by default"))


def direction_of(metric: str) -> Direction:
    """Which way is better."""
    return FAMILIES[family_of(metric)][0]


def tolerance_of(metric: str, tolerances: Tolerances) -> Tolerance:
    """The metric's own tolerance, its family's, or the default."""
    for key in (metric, family_of(metric), DEFAULT_KEY):
        if key in tolerances:
            return tolerances[key]
    return Tolerance()


def parse_tolerances(data: Mapping[str, Any], place: str) -> dict[str, Tolerance]:
    """``{ttft: 3%, default: {rel: 0.01, abs: 0.5}}``; UserError names the key."""
    found = {}
    for key, value in data.items():
        if key != DEFAULT_KEY and key not in FAMILIES:
            try:
                family_of(str(key))
            except UserError:
                known = [*FAMILIES, DEFAULT_KEY]
                unknown = unknown_name("metric or family", str(key), known, listed=len(known))
                raise UserError(f"{place}: {unknown} Or a metric, such as p95_ttft_ms") from None
        found[str(key)] = _tolerance(value, f"{place}: {key}")
    return found


def _tolerance(value: object, place: str) -> Tolerance:
    if not isinstance(value, Mapping):
        return Tolerance(rel=share_of(value, place))
    for key in value:
        if key not in ("rel", "abs"):
            raise UserError(f"{place}: {unknown_name('limit', str(key), ('rel', 'abs'))}")
    return Tolerance(
        rel=share_of(value.get("rel", 0.0), f"{place}: rel"), abs=_not_negative(value.get("abs", 0.0), f"{place}: abs")
    )


def share_of(value: object, place: str) -> float:
    """0.02 of 0.02 and '2%'; a plain number above 1 is refused, because it is a per cent that lost its sign."""
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            return _not_negative(float(value.strip()[:-1]) / 100.0, place)
        except ValueError:
            pass
    share = _not_negative(value, place)
    if share > 1:
        raise UserError(f"{place} is {value!r}, a share; write {value}% for per cent, or {share:.0%} if it is meant")
    return share


def _not_negative(value: object, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value >= 0):
        raise UserError(f"{place} is {value!r}; write a number of at least 0, or a share such as 2%")
    return float(value)


def stored(value: float) -> float | int:
    """A value as a baseline holds it: six significant digits, whole numbers as such."""
    short = float(f"{value:.{DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def values_of(summary: Mapping[str, Any], metrics: tuple[str, ...]) -> dict[str, float]:
    """The metrics that a run has, as a baseline holds them."""
    found = {}
    for name in metrics:
        value = summary.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found[name] = stored(float(value))
    return found
