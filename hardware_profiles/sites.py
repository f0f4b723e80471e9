"""Grids by name (``grids.yaml``) and the site a cluster stands at."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from hardware_profiles.errors import UserError
from hardware_profiles.records import from_mapping, read_yaml
from hardware_profiles.schema import Site

GRIDS_FILE = Path(__file__).parent / "grids.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Electricity of a country or a region: yearly mean carbon intensity [g CO2e/kWh], industrial price [$/kWh]."""

    gco2_per_kwh: float
    usd_per_kwh: float | None = None
    source: str


@lru_cache(maxsize=1)
def grids() -> Mapping[str, Grid]:
    """All grids by name."""
    content = read_yaml(GRIDS_FILE)
    return {name: from_mapping(Grid, value, where=GRIDS_FILE.name, field=name) for name, value in content.items()}


def site_at(
    base: Site | None = None,
    *,
    grid: str | None = None,
    pue: float | None = None,
    gco2_per_kwh: float | None = None,
    usd_per_kwh: float | None = None,
    where: str = "",
) -> Site:
    """``base`` (default: the world's means) with what is given: a grid by name brings its intensity and, where known, its
    price; figures of their own win over it. ``where`` begins the message of a refusal."""
    site = base or Site()
    if grid is not None:
        known = _grid(grid, where)
        price = site.usd_per_kwh if known.usd_per_kwh is None else known.usd_per_kwh
        site = dataclasses.replace(site, grid=grid.lower(), gco2_per_kwh=known.gco2_per_kwh, usd_per_kwh=price)
    if pue is not None:
        if pue < 1:
            raise UserError(f"{where}pue is {pue:g}; a site uses at least what its servers do: write 1 or more")
        site = dataclasses.replace(site, pue=pue)
    if gco2_per_kwh is not None:
        name = site.grid if grid is not None else "own figure"
        site = dataclasses.replace(site, grid=name, gco2_per_kwh=gco2_per_kwh)
    return site if usd_per_kwh is None else dataclasses.replace(site, usd_per_kwh=usd_per_kwh)


def _grid(name: str, where: str) -> Grid:
    known = grids()
    if name.lower() not in known:
        near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(
            f"{where}grid is {name!r}; {hint}use one of {', '.join(known)}, or give its figure in gCO2e/kWh"
        )
    return known[name.lower()]
