"""Kernels of a device as functions for notebooks: read what was measured, and fit a profile to it (``apex-sim calibrate``).

The other planners' functions are in :mod:`apex_sim.questions`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from hardware_profiles.schema import DeviceProfile
    from simulator.calibration.points import Points
    from simulator.kernel_runner.points import PointsFile


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KernelFits:
    """Kernels of a device, fitted."""

    device: DeviceProfile
    """With the fitted efficiencies: goes into a cluster, and so into :func:`apex_sim.simulate`."""
    table: pd.DataFrame
    """A row per fit: points, median and p90 error on unseen shapes, noise, and the problem if it did not converge."""
    points: list[Points]
    """Measured and predicted seconds, of fits that have not seen the row; :func:`apex_sim.plots.fit_figure` draws them."""


def read_kernels(path: str | Path) -> PointsFile:
    """Measured kernels: a file that ``apex-sim calibrate --points`` wrote."""
    from simulator.kernel_runner.points import read_points

    return read_points(Path(path))


def fit_kernels(file: PointsFile, *, base: DeviceProfile | str | None = None, name: str | None = None) -> KernelFits:
    """Fit the kernel formulas to measured points: ``apex-sim calibrate --from-points``.

    base: profile that gives the peaks, price and limits of this device. Raises UserError where a fit does not converge.
    """
    import pandas as pd

    from hardware_profiles.loader import load_device
    from simulator.kernel_runner.runner import make_profile

    made = make_profile(file, base=load_device(base) if isinstance(base, str) else base, name=name)
    rows = [dataclasses.asdict(result) for result in made.fits.results]
    table = pd.DataFrame(rows).rename(columns={"spread": "noise"})
    return KernelFits(device=made.device, table=table.set_index(["family", "key"]), points=made.fits.seen)
