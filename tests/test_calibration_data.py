"""Calibration on the real tables (../shared/data): reproducible, and as accurate as the document says."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("scipy")

from hardware_profiles.efficiency import EFFICIENCY_DIR
from hardware_profiles.loader import device_names, load_device
from simulator.calibration.calibrate import Calibration, calibrate
from simulator.calibration.report import tables

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


@pytest.mark.parametrize(
    ("family", "key", "limit"),
    [
        ("gemm", "bfloat16", 0.10),
        ("gemm", "fp8", 0.10),
        ("prefill attention", "bfloat16", 0.10),
        ("decode attention", "bfloat16", 0.10),
        ("moe", "bfloat16", 0.20),
    ],
)
def test_median_error_on_unseen_shapes(written: tuple[Calibration, Path], family: str, key: str, limit: float) -> None:
    """Limits are the worst device's error of the study behind the formulas, rounded up."""
    import numpy as np

    found = {
        p.device: float(np.median(np.abs(p.error))) for p in written[0].points if (p.family, p.key) == (family, key)
    }
    assert found and max(found.values()) < limit, found
