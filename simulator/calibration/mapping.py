"""Which device borrows its parameters from which measured one, and why."""

from __future__ import annotations

from collections.abc import Mapping

from simulator.calibration.transfer import Transfer

TRANSFERS: Mapping[str, Transfer] = {}
POWER_FROM: Mapping[str, str] = {}
