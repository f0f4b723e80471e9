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
        price = _price_without_grid(site) if known.usd_per_kwh is None else known.usd_per_kwh
        site = dataclasses.replace(site, grid=_key(grid), gco2_per_kwh=known.gco2_per_kwh, usd_per_kwh=price)
    if pue is not None:
        if pue < 1:
            raise UserError(f"{where}pue is {pue:g}; a site uses at least what its servers do: write 1 or more")
        site = dataclasses.replace(site, pue=pue)
    if gco2_per_kwh is not None:
        name = site.grid if grid is not None else "own figure"
        site = dataclasses.replace(site, grid=name, gco2_per_kwh=gco2_per_kwh)
    return site if usd_per_kwh is None else dataclasses.replace(site, usd_per_kwh=usd_per_kwh)


def _price_without_grid(site: Site) -> float:
    """The site's price of electricity, unless it is that of its grid, which another grid takes along [$/kWh]."""
    own = grids().get(site.grid)
    return Site().usd_per_kwh if own is not None and own.usd_per_kwh == site.usd_per_kwh else site.usd_per_kwh


def _grid(name: str, where: str) -> Grid:
    known, key = grids(), _key(name)
    if key not in known:
        near = _nearest(key)
        hint = f"did you mean {near!r}? " if near else ""
        figure = "give its figure in gCO2e/kWh" if where == "--" else "write its figure as gco2_per_kwh, without grid"
        raise UserError(
            f"{where}grid is {name!r}; {hint}use one of the {len(known)} that 'apex-sim hardware grids' lists, such as fr or "
            f"us-tx, or {figure}"
        )
    return known[key]


def _nearest(key: str) -> str | None:
    """A grid whose name is nearly ``key``, or whose source names the country."""
    known = grids()
    words = {"uk": "great britain", "united kingdom": "great britain", "england": "great britain"}
    if len(place := words.get(key, key)) > 3:
        for name, grid in known.items():
            if f"({place})" in grid.source.lower():
                return name
    return next(iter(difflib.get_close_matches(key, known, n=1, cutoff=0.6)), None)


def _key(name: str) -> str:
    return name.strip().lower()
