"""Numbers between 0 and 1 for a design, and the values of a dimension that they stand for."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from hardware_profiles.errors import UserError

if TYPE_CHECKING:
    from apex_sim.sweeps.spec import Dimension

DIGITS = 6
"""Significant digits of a drawn value: readable, and equal on machines whose logarithms differ in the last bit."""


def drawn(dimension: Dimension, share: float) -> Any:
    """The value that a random number ``share`` (0 to below 1) stands for; of whole numbers each has an equal share
    (of the logarithm from it to the next one, on a log scale), the ends too."""
    if not dimension.integer:
        return at(dimension, share)
    low, end = dimension.low, dimension.high + 1
    value = low * math.exp(share * math.log(end / low)) if dimension.log else low + share * (end - low)
    return int(min(dimension.high, max(low, math.floor(value))))


def at(dimension: Dimension, share: float) -> Any:
    """The value at ``share`` (0 to 1) of a range, 1 being its end: what steps are made of."""
    low, high = dimension.low, dimension.high
    if dimension.log:
        value = low * math.exp(share * math.log(high / low))
    else:
        value = low + share * (high - low)
    if dimension.integer:
        return round(min(high, max(low, value)))
    return float(f"{min(high, max(low, value)):.{DIGITS}g}")


def unit_points(kind: str, points: int, width: int, seed: int) -> Iterator[np.ndarray]:
    """Rows of ``width`` numbers in [0, 1), without end: whole designs of ``points`` rows, one after another.

    The first of a random or Sobol design are the same for any ``points``. latin-hypercube: every column has one number in
    each of ``points`` equal intervals (McKay, Beckman, Conover, Technometrics 21(2), 1979). sobol: scrambled (Owen), from
    scipy.
    """
    rng = np.random.default_rng(seed)
    if kind == "sobol":
        yield from _sobol(width, seed)
    while True:
        if kind == "random":
            yield rng.random(width)
            continue
        offsets = rng.random((points, width))
        order = np.argsort(rng.random((points, width)), axis=0)
        yield from (order + offsets) / points


def _sobol(width: int, seed: int) -> Iterator[np.ndarray]:
    try:
        from scipy.stats import qmc
    except ImportError:
        raise UserError(
            "design sobol needs scipy; install it with: pip install scipy, or use latin-hypercube"
        ) from None
    known = inspect.signature(qmc.Sobol).parameters  # scipy before 1.15 calls it seed, with the same numbers
    engine = qmc.Sobol(d=max(1, width), scramble=True, **{"rng" if "rng" in known else "seed": seed})
    while True:
        yield from engine.random(256)
