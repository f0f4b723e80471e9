"""The figures of a device one by one, with unit and source, for ``apex-sim hardware show``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hardware_profiles.schema import DeviceProfile, Link

RENTS = (
    ("spot price", "spot_usd_per_hour"),
    ("price, 1 year", "reserved_1y_usd_per_hour"),
    ("price, 3 years", "reserved_3y_usd_per_hour"),
)
"""Other rents than on demand: what they are called, and fields of ``Price``."""


def ridge_points(device: DeviceProfile) -> dict[str, float]:
    """Return dtype -> FLOP per byte of memory traffic above which compute is the limit, from datasheet peaks."""
    bandwidth = device.memory_bandwidth_bytes_per_s
    return {dtype: peak / bandwidth for dtype, peak in device.dense_flop_per_s.items()} if bandwidth else {}


def figures(device: DeviceProfile) -> Iterator[tuple[str, str, str]]:
    """Yield (field, value with unit, source) of every figure the profile has."""
    source = device.sources
    ridges = ridge_points(device)
    for dtype, peak in device.dense_flop_per_s.items():
        value = f"{peak / 1e12:,.1f} TFLOP/s dense, ridge {ridges[dtype]:,.0f} FLOP/B"
        yield f"peak {dtype}", value, source["dense_flop_per_s"]
    if device.dataflow is not None:
        design, why = device.dataflow, source["dataflow"]
        yield "weights into arrays", f"{design.weight_elements_per_s / 1e9:,.1f} G/s", why
        yield "busy share", f"{design.busy_share:.1%}", why
        yield "bandwidth share", f"{design.bandwidth_share:.1%}", why
    if device.num_sms:
        yield "SMs / compute units", f"{device.num_sms}", source["num_sms"]
    memory = f"{device.memory_bytes / 1e9:,.2f} GB ({device.memory_bytes / 2**30:,.2f} GiB)"
    yield "memory", memory, source.get("memory_bytes", "")
    bandwidth = f"{device.memory_bandwidth_bytes_per_s / 1e9:,.1f} GB/s"
    yield "memory bandwidth", bandwidth, source.get("memory_bandwidth_bytes_per_s", "")
    if device.write_bandwidth_bytes_per_s is not None:
        value = f"{device.write_bandwidth_bytes_per_s / 1e9:,.1f} GB/s"
        yield "write bandwidth", value, source["write_bandwidth_bytes_per_s"]
    for name, link, key in (("scale-up", device.scaleup, "scaleup"), ("host link", device.host_link, "host_link")):
        if link is not None:
            yield from _link_figures(name, link, key, device)
    if device.scaleup is not None:
        yield "scale-up domain", f"{device.scaleup_domain} devices", source.get("scaleup_domain", "default")
    yield "devices per node", f"at most {device.max_devices_per_node}", source.get("max_devices_per_node", "default")
    for name, watts, key in (
        ("TDP", device.tdp_w, "tdp_w"),
        ("idle power", device.idle_w, "idle_w"),
        ("lowest power cap", device.min_cap_w, "min_cap_w"),
    ):
        yield name, "unknown" if watts is None else f"{watts:,.0f} W", source.get(key, "")
    for name, mhz, key in (
        ("largest clock", device.max_clock_mhz, "max_clock_mhz"),
        ("base clock", device.base_clock_mhz, "base_clock_mhz"),
    ):
        if device.kind in ("gpu", "npu"):
            yield name, "unknown" if mhz is None else f"{mhz:,.0f} MHz", source.get(key, "")
    yield from _money_figures(device)
    carbon = device.embodied_kgco2e
    yield (
        "embodied carbon",
        "unknown" if carbon is None else f"{carbon:,.0f} kg CO2e",
        source.get("embodied_kgco2e", ""),
    )
    if device.release_year is not None:
        yield "released", f"{device.release_year}", source.get("release_year", "")


def _money_figures(device: DeviceProfile) -> Iterator[tuple[str, str, str]]:
    source, price, purchase = device.sources, device.price, device.purchase_usd
    shown = "unknown" if price is None else f"{price.usd_per_hour:,.4g} $/h ({price.provider}, {price.date})"
    yield "price", shown, source.get("price", "")
    for name, field in RENTS:
        value = getattr(price, field, None)
        if value is not None:
            yield name, f"{value:,.4g} $/h", source.get(f"price.{field}", source.get("price", ""))
    shown = "unknown" if purchase is None else f"{purchase:,.0f} $ with its share of the server"
    yield "to own", shown, source.get("purchase_usd", "")


def _link_figures(name: str, link: Link, key: str, device: DeviceProfile) -> Iterator[tuple[str, str, str]]:
    source = device.sources
    value = f"{link.name}, {link.bandwidth_bytes_per_s / 1e9:,.1f} GB/s one way"
    yield name, value, source.get(key, "")
    yield f"{name} latency", f"{link.latency_s * 1e6:.3g} us", source.get(f"{key}.latency_s", source.get(key, ""))
    default = "default" if link.efficiency == 1.0 else source.get(key, "")
    yield f"{name} efficiency", f"{link.efficiency:.0%}", source.get(f"{key}.efficiency", default)
