"""Distributions of token counts, turns and think times, and the text that names them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from hardware_profiles.errors import UserError, unknown_name
from workloads.expressions import Call, bind, check_cv, number, parse_call
from workloads.trace import FloatArray, IntArray

Role = Literal["input", "output"]
Draw = Callable[[np.random.Generator, int, Mapping[str, float]], FloatArray]

MAX_TOKENS = 10**9
"""A request longer than this is a mistake."""
MAX_SIGMA = 20.0
"""exp(20 * 30) is still a float; real length distributions have sigmas near 1."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Length:
    """A distribution of positive quantities: tokens, turns, or seconds of think time."""

    text: str
    kind: str
    params: Mapping[str, float] = field(default_factory=dict)
    min: float | None = None
    max: float | None = None
    """Values outside [min, max] are clipped (not drawn again)."""
    values: FloatArray | None = None
    """Empirical: the observed values, drawn with replacement."""
    joint_file: Path | None = None
    """Empirical, without a column named: the file whose input/output pairs stay together."""

    def draw(self, rng: np.random.Generator, n: int) -> FloatArray:
        """float64[n], continuous, clipped."""
        if self.values is not None:
            drawn = self.values[rng.integers(len(self.values), size=n)]
        else:
            drawn = DRAWS[self.kind][1](rng, n, self.params)
        return self._clip(drawn)

    def tokens(self, rng: np.random.Generator, n: int) -> IntArray:
        """int64[n], rounded to the nearest whole number, clipped, at least 1."""
        if self.kind == "uniform":  # every whole number equally likely, both ends included
            low, high = math.ceil(self.params["low"]), math.floor(self.params["high"])
            drawn = rng.integers(low, max(low, high) + 1, size=n).astype(np.float64)
            return as_tokens(self._clip(drawn))
        return as_tokens(self.draw(rng, n))

    def pick(self, rows: IntArray) -> IntArray:
        """Empirical: the values of the given rows, clipped; for joint draws."""
        assert self.values is not None
        return as_tokens(self._clip(self.values[rows]))

    def _clip(self, values: FloatArray) -> FloatArray:
        return values if self.min is None and self.max is None else np.clip(values, self.min, self.max)


def as_tokens(values: FloatArray) -> IntArray:
    """Nearest whole number, at least 1; lengths beyond any model are refused."""
    if len(values) and not values.max() <= MAX_TOKENS:
        raise UserError(f"a length of {values.max():.3g} tokens was drawn, more than {MAX_TOKENS:,}; add max= to it")
    return np.maximum(np.rint(values), 1.0).astype(np.int64)


def parse_length(
    value: object, *, what: str = "length", role: Role | None = None, folder: Path | None = None
) -> Length:
    """``128``, ``"uniform(100, 200)"``, ``"lognormal(median=660, sigma=0.9, max=8192)"``, ``"empirical(FILE)"`` ...

    ``role`` says which column of a file of pairs ``empirical(FILE)`` means; relative files are looked up in ``folder``.
    """
    if isinstance(value, Length):
        return value
    call = parse_call(value, what)
    if call.name == "empirical":
        return _empirical(call, role, folder)
    if call.name not in DRAWS:
        raise call.error(str(unknown_name("distribution", call.name, [*DRAWS, "empirical"])))
    names = DRAWS[call.name][0]
    if call.name == "lognormal" and "mean" in call.kwargs:
        names = ("mean", "cv")
    bound = bind(call, names, optional=("min", "max"))
    params = {key: number(call, key, bound[key]) for key in names}
    _check(call, params)
    low, high = _bounds(call, bound)
    return Length(text=call.text, kind=call.name, params=params, min=low, max=high)


def _check(call: Call, params: Mapping[str, float]) -> None:
    for key in ("median", "mean"):
        if key in params and params[key] <= 0:
            raise call.error(f"{key} is {params[key]:g}; it must be above 0")
    if "cv" in params:
        check_cv(call, params["cv"])
    if params.get("sigma", 0.0) > MAX_SIGMA:
        raise call.error(f"sigma is {params['sigma']:g}; it is that of the logarithm, use at most {MAX_SIGMA:g}")
    if call.name == "geometric" and params["mean"] < 1:
        raise call.error(f"mean is {params['mean']:g}; a geometric count has a mean of at least 1")
    if call.name == "uniform" and params["high"] < params["low"]:
        raise call.error(f"high ({params['high']:g}) is below low ({params['low']:g})")


def _bounds(call: Call, bound: Mapping[str, str]) -> tuple[float | None, float | None]:
    low, high = (number(call, key, bound[key]) if key in bound else None for key in ("min", "max"))
    if low is not None and high is not None and high < low:
        raise call.error(f"max ({high:g}) is below min ({low:g})")
    return low, high


def _empirical(call: Call, role: Role | None, folder: Path | None) -> Length:
    bound = bind(call, ("file",), optional=("column", "min", "max"))
    low, high = _bounds(call, bound)
    path = Path(bound["file"])
    if folder is not None and not path.is_absolute():
        path = folder / path
    from workloads.readers import read_lengths

    column = bound.get("column")
    values = read_lengths(path, column=column, role=role)
    joint = path.resolve() if column is None and role is not None else None
    return Length(text=call.text, kind="empirical", min=low, max=high, values=values, joint_file=joint)


def _lognormal(rng: np.random.Generator, n: int, p: Mapping[str, float]) -> FloatArray:
    if "median" in p:
        return np.exp(math.log(p["median"]) + p["sigma"] * rng.standard_normal(n))
    variance = math.log1p(p["cv"] ** 2)
    return np.exp(math.log(p["mean"]) - variance / 2 + math.sqrt(variance) * rng.standard_normal(n))


def _gamma(rng: np.random.Generator, n: int, p: Mapping[str, float]) -> FloatArray:
    if p["cv"] == 0:
        return np.full(n, p["mean"])
    shape = p["cv"] ** -2
    return rng.standard_gamma(shape, n) * (p["mean"] / shape)


DRAWS: dict[str, tuple[tuple[str, ...], Draw]] = {
    "constant": (("value",), lambda rng, n, p: np.full(n, p["value"])),
    "uniform": (("low", "high"), lambda rng, n, p: rng.uniform(p["low"], p["high"], n)),
    "normal": (("mean", "std"), lambda rng, n, p: p["mean"] + p["std"] * rng.standard_normal(n)),
    "lognormal": (("median", "sigma"), _lognormal),
    "exponential": (("mean",), lambda rng, n, p: p["mean"] * rng.standard_exponential(n)),
    "gamma": (("mean", "cv"), _gamma),
    "geometric": (("mean",), lambda rng, n, p: rng.geometric(1.0 / p["mean"], n).astype(np.float64)),
}
"""Parameters in positional order, and how to draw. ``lognormal`` also takes (mean=, cv=). Add a line to add one."""
