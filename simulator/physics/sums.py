"""Sums of floating-point numbers that are the same to the last bit on every version of Python."""

from __future__ import annotations

from collections.abc import Iterable


def in_order(values: Iterable[float]) -> float:
    """Sum from left to right, each partial sum rounded to a double; 0 for nothing.

    The built-in ``sum`` did this up to Python 3.11 and compensates for rounding since 3.12, so its last digits depend on the
    interpreter. Whatever a result or a decision rests on is added up with this.
    """
    total: float = 0
    for value in values:
        total += value
    return total
