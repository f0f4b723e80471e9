"""Calibration on the real tables (../shared/data): reproducible, and as accurate as the document says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")

from hardware_profiles.efficiency import EFFICIENCY_DIR
from hardware_profiles.loader import device_names, load_device
from simulator.calibration.calibrate import Calibration, calibrate
from simulator.calibration.report import GOALS, tables, worst_page

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
DOCS = Path(__file__).resolve().parents[1] / "docs"

pytestmark = pytest.mark.skipif(not (DATA / "kernels").is_dir(), reason=f"no kernel tables in {DATA}")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Calibration, Path]:
    out = tmp_path_factory.mktemp("efficiency")
    return calibrate(DATA, out, {name: load_device(name) for name in device_names()}), out


def test_the_shipped_files_are_what_the_tables_give(written: tuple[Calibration, Path]) -> None:
    made = {p.name: p.read_text(encoding="utf-8") for p in written[1].glob("*.yaml")}
    shipped = {p.name: p.read_text(encoding="utf-8") for p in EFFICIENCY_DIR.glob("*.yaml")}
    assert made == shipped


def test_the_document_shows_these_errors(written: tuple[Calibration, Path]) -> None:
    assert tables(written[0]) in (DOCS / "calibration.md").read_text(encoding="utf-8")
    assert worst_page(written[0]) in (DOCS / "calibration_worst.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("family", GOALS)
def test_every_measured_device_reaches_the_goal_on_unseen_shapes(
    written: tuple[Calibration, Path], family: str
) -> None:
    errors: dict[str, list[float]] = {}
    for p in written[0].points:
        if p.family == family:
            errors.setdefault(p.device, []).extend(np.abs(p.error).tolist())
    medians = {device: float(np.median(e)) for device, e in errors.items()}
    assert medians and max(medians.values()) <= GOALS[family], medians


def test_other_projects_measure_what_is_predicted(written: tuple[Calibration, Path]) -> None:
    """Kernels of the same kind as the fitted ones; bounds are what is reached, rounded up."""
    bounds = {"decode attention": 0.07, "prefill attention (FA3)": 0.07, "GEMM fp8": 0.15}
    found = {c.kernel: float(np.median(np.abs(c.error))) for c in written[0].checks}
    assert all(found[kernel] <= bound for kernel, bound in bounds.items()), found
