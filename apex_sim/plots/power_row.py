"""The row of ``apex-sim power`` over a day."""

from __future__ import annotations

from apex_sim.power_figure import power_figure

__all__ = ["power_figure"]
