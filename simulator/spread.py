"""Mean, deviation and percentiles of a latency, from a sample or from values with multiplicities."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

PERCENTILES = (50, 90, 95, 99)


def weighted_percentile(values: Floats, counts: npt.NDArray[np.int64], percents: tuple[float, ...]) -> list[float]:
    """Percentiles of a sample in which ``values[i]`` occurs ``counts[i]`` times: the smallest value that at least the
    given share of the sample does not exceed."""
    if not len(values):
        return [float("nan")] * len(percents)
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(counts[order])
    ranks = [max(1, math.ceil(Fraction(p) * int(cumulative[-1]) / 100)) for p in percents]
    return [float(values[order[np.searchsorted(cumulative, rank)]]) for rank in ranks]


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean, standard deviation and percentiles of one latency [s]."""

    mean: float
    std: float
    percentiles: tuple[float, ...]

    @classmethod
    def of(cls, values: Floats) -> Spread:
        """Of a sample; NaN when it is empty."""
        if not len(values):
            nan = float("nan")
            return cls(nan, nan, (nan,) * len(PERCENTILES))
        return cls(float(values.mean()), float(values.std()), tuple(np.percentile(values, PERCENTILES).tolist()))

    @classmethod
    def of_weighted(cls, values: Floats, counts: npt.NDArray[np.int64]) -> Spread:
        """Of a sample given with multiplicities."""
        total = counts.sum()
        if not total:
            return cls.of(np.zeros(0))
        mean = float((values * counts).sum() / total)
        std = float(np.sqrt(((values - mean) ** 2 * counts).sum() / total))
        return cls(mean, std, tuple(weighted_percentile(values, counts, PERCENTILES)))

    def to_ms(self, name: str) -> dict[str, float]:
        """Fields as ``vllm bench serve`` names them: mean_ttft_ms, median_ttft_ms, std_ttft_ms, p90_ttft_ms ..."""
        fields = {f"mean_{name}_ms": self.mean, f"median_{name}_ms": self.percentiles[0], f"std_{name}_ms": self.std}
        for percent, value in zip(PERCENTILES[1:], self.percentiles[1:], strict=True):
            fields[f"p{percent}_{name}_ms"] = value
        return {key: value * 1e3 for key, value in fields.items()}
