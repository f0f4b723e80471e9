"""Pareto fronts: what nothing else beats in every respect."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(points: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the points that no other dominates; smaller is better in every coordinate; NaN counts as infinity.

    Equal points stay in together. O(n^2).
    """
    clean = [tuple(float("inf") if x != x else x for x in point) for point in points]
    return [i for i, point in enumerate(clean) if not any(_dominates(other, point) for other in clean)]


def _dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))
