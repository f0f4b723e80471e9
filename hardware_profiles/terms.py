"""What an hour of a device costs under the terms of its cluster, and other terms or another site for a cluster."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

from hardware_profiles.errors import UserError, unknown_name
from hardware_profiles.schema import Cluster, DeviceProfile, Pricing, Site, Terms
from hardware_profiles.sites import site_at

HOURS_PER_YEAR = 8766.0
HOURS_PER_MONTH = 730.0
"""As clouds count a month: 8,760 h / 12."""
PRICINGS: tuple[str, ...] = get_args(Pricing)
_RENTS = {
    "on-demand": "usd_per_hour",
    "spot": "spot_usd_per_hour",
    "reserved-1y": "reserved_1y_usd_per_hour",
    "reserved-3y": "reserved_3y_usd_per_hour",
}


def usd_per_device_hour(device: DeviceProfile, terms: Terms) -> float | None:
    """Rent of one device, or its purchase written off over its lifetime (electricity apart) [$/h]; None: not known."""
    if terms.pricing == "owned":
        purchase = device.purchase_usd if terms.purchase_usd is None else terms.purchase_usd
        return None if purchase is None else purchase / (terms.lifetime_years * HOURS_PER_YEAR)
    if terms.usd_per_gpu_hour is not None:
        return terms.usd_per_gpu_hour
    return None if device.price is None else getattr(device.price, _RENTS[terms.pricing])


def with_terms(
    cluster: Cluster,
    *,
    pricing: str | None = None,
    usd_per_gpu_hour: float | None = None,
    purchase_usd: float | None = None,
    lifetime_years: float | None = None,
    pue: float | None = None,
    grid: str | float | None = None,
    usd_per_kwh: float | None = None,
) -> Cluster:
    """The cluster under other terms or at another site; what is None stays.

    ``grid``: a name of ``grids.yaml`` or a carbon intensity [g CO2e/kWh]. Raises UserError for unknown names, figures
    out of range, and a pricing that the device's profile has no price for.
    """
    figures = {
        "usd_per_gpu_hour": (usd_per_gpu_hour, False),
        "purchase_usd": (purchase_usd, False),
        "lifetime_years": (lifetime_years, True),
        "pue": (pue, False),
        "usd_per_kwh": (usd_per_kwh, False),
    }
    for name, (value, positive) in figures.items():
        if value is not None:
            _number(name, value, positive)
    if pricing is not None and pricing not in PRICINGS:
        raise unknown_name("pricing", pricing, PRICINGS)
    given = {"pricing": pricing, **{name: figures[name][0] for name in list(figures)[:3]}}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    terms = dataclasses.replace(cluster.terms, **changes)
    if purchase_usd is not None and terms.pricing != "owned":
        raise UserError(f"--purchase-usd {purchase_usd:g} has no effect on rented devices; add --pricing owned")
    site = _site(cluster.site, grid, pue, usd_per_kwh)
    return checked(dataclasses.replace(cluster, terms=terms, site=site))


def _site(base: Site, grid: str | float | None, pue: float | None, usd_per_kwh: float | None) -> Site:
    name, intensity = (grid, None) if grid is None or not _is_number(grid) else (None, float(grid))
    if intensity is not None:
        _number("grid", intensity, False)
    return site_at(
        base,
        grid=None if name is None else str(name),
        gco2_per_kwh=intensity,
        pue=pue,
        usd_per_kwh=usd_per_kwh,
        where="--",
    )


def checked(cluster: Cluster, where: str = "") -> Cluster:
    """``cluster``, if its terms can be met; UserError for a pricing without a price. On demand without one is allowed: the
    cost is then unknown."""
    device, terms = cluster.device, cluster.terms
    if terms.pricing == "owned":
        if terms.usd_per_gpu_hour is not None:
            raise UserError(
                f"{where}--usd-per-gpu-hour {terms.usd_per_gpu_hour:g} is a rent, which owned devices have not; give "
                "--purchase-usd, or another --pricing"
            )
        if usd_per_device_hour(device, terms) is None:
            raise UserError(
                f"{where}pricing is owned, but {device.name} has no purchase_usd in its profile; give --purchase-usd"
            )
        return cluster
    if terms.pricing != "on-demand" and usd_per_device_hour(device, terms) is None:
        known = [name for name, field in _RENTS.items() if device.price and getattr(device.price, field) is not None]
        raise UserError(
            f"{where}pricing is {terms.pricing}, but {device.name} has no such price in its profile (it has "
            f"{', '.join(known) or 'none'}); give --usd-per-gpu-hour or another --pricing"
        )
    return cluster


def _is_number(value: str | float) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, bool)


def _number(name: str, value: object, positive: bool) -> None:
    ok = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
    if not ok or (positive and value == 0):
        least = "1" if name == "pue" else "zero"
        rule = "a number above zero" if positive else f"a number of {least} or more"
        raise UserError(f"--{name.replace('_', '-')} is {value}; it must be {rule}")
