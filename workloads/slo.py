"""Service-level objectives: limits per request and the share of requests that must meet them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hardware_profiles.errors import UserError, unknown_name

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_TIME = re.compile(r"^\s*([0-9]*\.?[0-9]+(?:[eE][-+]?\d+)?)\s*(us|ms|s|min|m|h)\s*$")
_LIMITS = ("ttft", "tpot", "e2e")


def parse_seconds(text: str, place: str) -> float:
    """Seconds of '50ms', '1s', '1.5 s', '2min'. A unit is required: 50 could be either."""
    match = _TIME.match(text)
    if match is None:
        raise UserError(f"{place} is {text!r}; write a number with its unit, such as 50ms or 1.5s")
    seconds = float(match.group(1)) * _SECONDS[match.group(2)]
    if not 0 < seconds < math.inf:
        raise UserError(f"{place} is {text!r}; it must be above 0 and finite")
    return seconds


def time_text(seconds: float) -> str:
    """A limit as people write it, which :func:`parse_seconds` reads again: milliseconds below 10 s, then the largest unit
    that gives few digits (45s, 1.5min, 8h)."""
    for unit in ("h", "min", "s") if seconds >= 10 else ():
        value = seconds / _SECONDS[unit]
        if value >= 1 and math.isclose(float(f"{value:.4g}"), value, rel_tol=1e-12):
            return f"{float(f'{value:.4g}'):.10g}{unit}"
    return f"{seconds:.10g}s" if seconds >= 10 else f"{seconds * 1e3:.10g}ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """A request is good when it meets every limit that is set. TPOT does not bind requests of one output token."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None
    attainment: float = 0.95
    """Share of the requests that must be good."""

    def __post_init__(self) -> None:
        for name in _LIMITS:
            seconds = getattr(self, f"{name}_s")
            if seconds is not None and not (_is_number(seconds) and 0 < seconds < math.inf):
                raise UserError(f"Slo: {name}_s is {seconds!r}; it must be a number of seconds above 0, or None")
        if not (_is_number(self.attainment) and 0 < self.attainment <= 1):
            raise UserError(f"Slo: attainment is {self.attainment!r}; it must be a share above 0 and at most 1")

    def good(
        self, ttft_s: npt.NDArray[np.float64], tpot_s: npt.NDArray[np.float64], e2e_s: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.bool_]:
        """bool[n]: which requests meet every limit; NaN (not finished) never does, except TPOT of one-token outputs."""
        good = np.isfinite(e2e_s)
        if self.ttft_s is not None:
            good &= ttft_s <= self.ttft_s
        if self.tpot_s is not None:
            good &= ~(tpot_s > self.tpot_s)
        if self.e2e_s is not None:
            good &= e2e_s <= self.e2e_s
        return good

    def __str__(self) -> str:
        parts = [
            f"{name}={time_text(seconds)}"
            for name, seconds in zip(_LIMITS, (self.ttft_s, self.tpot_s, self.e2e_s), strict=True)
            if seconds is not None
        ]
        return ",".join([*parts, f"attainment={self.attainment:g}"])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_slo(slo: Slo | str | None) -> Slo | None:
    """An Slo from whatever a caller gave."""
    if slo is None or isinstance(slo, Slo):
        return slo
    if not isinstance(slo, str):
        raise UserError(f"slo is {slo!r}; give text such as 'ttft=1s,tpot=50ms', an Slo, or None")
    return parse_slo(slo)


def parse_slo(text: str) -> Slo:
    """Slo from 'ttft=1s,tpot=50ms,e2e=10s,attainment=0.95' (any subset)."""
    if not text.strip():
        raise UserError("--slo is empty; write limits such as ttft=1s,tpot=50ms")
    limits: dict[str, float] = {}
    for part in text.split(","):
        name, sign, value = (piece.strip() for piece in part.partition("="))
        if name not in (*_LIMITS, "attainment"):
            raise UserError(f"--slo {text!r}: {unknown_name('metric', name, (*_LIMITS, 'attainment'))}")
        if not sign or not value:
            raise UserError(f"--slo {text!r}: {name} has no value; write for example {name}=50ms")
        if name in limits:
            raise UserError(f"--slo {text!r}: {name} is given twice")
        limits[name] = _share(value) if name == "attainment" else parse_seconds(value, f"--slo {name}")
    if not set(limits) & set(_LIMITS):
        raise UserError(f"--slo {text!r} sets no limit; give at least one of ttft, tpot, e2e")
    return Slo(
        ttft_s=limits.get("ttft"),
        tpot_s=limits.get("tpot"),
        e2e_s=limits.get("e2e"),
        attainment=limits.get("attainment", Slo().attainment),
    )


def _share(text: str) -> float:
    try:
        value = float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise UserError(f"--slo attainment is {text!r}; give a share such as 0.95 or 95%")
    return value
