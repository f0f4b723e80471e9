"""Measured and predicted seconds of a kernel family, kept for errors, plots and the list of worst shapes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.calibration.tables import FloatColumn, Table


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Rows of one family, device and dtype; predictions are those of a fit that has not seen the row's shape."""

    family: str
    device: str
    key: str
    """Dtype, KV dtype or collective operation: the key in the Efficiency mapping of the family."""
    rows: Table
    measured_s: FloatColumn
    predicted_s: FloatColumn
    shape: tuple[str, ...]
    """Columns that describe a row to a reader."""

    @property
    def error(self) -> FloatColumn:
        """Signed relative error of every row."""
        return np.asarray(self.predicted_s / self.measured_s - 1.0, dtype=np.float64)

    def worst(self, count: int) -> list[tuple[str, float]]:
        """Descriptions and signed errors of the rows that are furthest off (as a ratio)."""
        order = np.argsort(-np.abs(np.log(self.predicted_s / self.measured_s)), kind="stable")[:count]
        return [(self._label(int(i)), float(self.error[i])) for i in order]

    def _label(self, row: int) -> str:
        values = ((name, self.rows[name][row]) for name in self.shape)
        return ", ".join(f"{name} {value:g}" if isinstance(value, float) else str(value) for name, value in values)
