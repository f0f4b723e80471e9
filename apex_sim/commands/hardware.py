"""``apex-sim hardware``: which devices are known, and every figure of one with its unit and source."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, get_args

from hardware_profiles.schema import DeviceKind

if TYPE_CHECKING:
    from hardware_profiles.schema import DeviceProfile, Link

FIT_FAMILIES = ("gemm", "prefill_attention", "decode_attention", "moe", "collectives")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``hardware`` and its two actions."""
    parser = subparsers.add_parser("hardware", help="list hardware profiles, or show one with its sources")
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show")
    listing = actions.add_parser("list", help="one line per bundled device")
    listing.add_argument("--kind", choices=get_args(DeviceKind), help="only devices of this kind")
    listing.add_argument("--json", action="store_true", help="print JSON")
    show = actions.add_parser("show", help="every figure of one device, with unit and source")
    show.add_argument("device", metavar="NAME|PATH", help="name or alias of a device, or your own YAML file")
    show.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Do the action that was asked for."""
    return {"list": _list, "show": _show}[args.action](args)


def _list(args: argparse.Namespace) -> int:
    from hardware_profiles.loader import device_names, load_device

    devices = [load_device(name) for name in device_names()]
    devices = [device for device in devices if args.kind in (None, device.kind)]
    if args.json:
        return _print_json([summary(device) for device in devices])
    header = ("device", "kind", "memory GB", "GB/s", "bf16 TFLOP/s", "fp8", "TDP W", "$/h", "efficiency")
    _print_table([header, *(_row(device) for device in devices)])
    print(f"\n{len(devices)} devices; peaks are dense. Sources: apex-sim hardware show NAME")
    return 0


def _show(args: argparse.Namespace) -> int:
    from hardware_profiles.loader import load_device

    device = load_device(args.device)
    if args.json:
        return _print_json(as_json(device))
    print(f"{device.name}  ({device.vendor} {device.architecture}, {device.kind})".replace(" ,", ","))
    if device.aliases:
        print(f"also: {', '.join(device.aliases)}")
    print()
    _print_figures(device)
    print()
    for line in (*_efficiency_lines(device), *_power_lines(device)):
        print(line)
    if device.notes:
        print(f"note: {device.notes}")
    return 0


def ridge_points(device: DeviceProfile) -> dict[str, float]:
    """Return dtype -> FLOP per byte of memory traffic above which compute is the limit, from datasheet peaks."""
    bandwidth = device.memory_bandwidth_bytes_per_s
    return {dtype: peak / bandwidth for dtype, peak in device.dense_flop_per_s.items()} if bandwidth else {}


def provenance(device: DeviceProfile) -> str:
    """Return what the efficiencies rest on: measured, transferred or datasheet."""
    return "datasheet" if device.efficiency is None else device.efficiency.provenance


def summary(device: DeviceProfile) -> dict[str, Any]:
    """Return the figures of the list, in SI units."""
    return {
        "name": device.name,
        "kind": device.kind,
        "vendor": device.vendor,
        "memory_bytes": device.memory_bytes,
        "memory_bandwidth_bytes_per_s": device.memory_bandwidth_bytes_per_s,
        "dense_flop_per_s": dict(device.dense_flop_per_s),
        "tdp_w": device.tdp_w,
        "usd_per_hour": None if device.price is None else device.price.usd_per_hour,
        "efficiency": provenance(device),
    }


def as_json(device: DeviceProfile) -> dict[str, Any]:
    """Return the whole profile, in SI units, with its ridge points [FLOP/B]."""
    import dataclasses

    return {**dataclasses.asdict(device), "ridge_flop_per_byte": ridge_points(device)}


def _print_json(content: object) -> int:
    import json

    print(json.dumps(content, indent=2))
    return 0


def _row(device: DeviceProfile) -> tuple[str, ...]:
    peaks = device.dense_flop_per_s
    half = peaks.get("bfloat16", peaks.get("float16"))
    return (
        device.name,
        device.kind,
        f"{device.memory_bytes / 1e9:.1f}",
        f"{device.memory_bandwidth_bytes_per_s / 1e9:.0f}",
        "-" if half is None else f"{half / 1e12:.1f}",
        "-" if "fp8" not in peaks else f"{peaks['fp8'] / 1e12:.0f}",
        "-" if device.tdp_w is None else f"{device.tdp_w:.0f}",
        "-" if device.price is None else f"{device.price.usd_per_hour:.2f}",
        provenance(device),
    )


def _print_table(rows: list[tuple[str, ...]]) -> None:
    """Print rows with text on the left and figures on the right (columns 2 to 7)."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = (c.rjust(w) if 2 <= i <= 7 else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        print("  ".join(cells).rstrip())


def _print_figures(device: DeviceProfile) -> None:
    """Print the figures, each with the number of its source, and the sources below."""
    rows = list(_figures(device))
    numbers: dict[str, int] = {}
    for _, _, source in rows:
        if source and source != "default":
            numbers.setdefault(source, len(numbers) + 1)
    name_width = max(len(name) for name, _, _ in rows)
    value_width = max(len(value) for _, value, _ in rows)
    for name, value, source in rows:
        mark = f"[{numbers[source]}]" if source in numbers else source
        print(f"{name:<{name_width}}  {value:<{value_width}}  {mark}".rstrip())
    print("\nsources")
    for source, number in numbers.items():
        print(f"  [{number}] {source}")


def _figures(device: DeviceProfile) -> Iterator[tuple[str, str, str]]:
    """Yield (field, value with unit, source) of every figure the profile has."""
    source = device.sources
    ridges = ridge_points(device)
    for dtype, peak in device.dense_flop_per_s.items():
        value = f"{peak / 1e12:,.1f} TFLOP/s dense, ridge {ridges[dtype]:,.0f} FLOP/B"
        yield f"peak {dtype}", value, source["dense_flop_per_s"]
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
    price = device.price
    shown = "unknown" if price is None else f"{price.usd_per_hour:,.4g} $/h ({price.provider}, {price.date})"
    yield "price", shown, source.get("price", "")
    carbon = device.embodied_kgco2e
    yield (
        "embodied carbon",
        "unknown" if carbon is None else f"{carbon:,.0f} kg CO2e",
        source.get("embodied_kgco2e", ""),
    )
    if device.release_year is not None:
        yield "released", f"{device.release_year}", source.get("release_year", "")


def _link_figures(name: str, link: Link, key: str, device: DeviceProfile) -> Iterator[tuple[str, str, str]]:
    source = device.sources
    value = f"{link.name}, {link.bandwidth_bytes_per_s / 1e9:,.1f} GB/s one way"
    yield name, value, source.get(key, "")
    yield f"{name} latency", f"{link.latency_s * 1e6:.3g} us", source.get(f"{key}.latency_s", source.get(key, ""))
    default = "default" if link.efficiency == 1.0 else source.get(key, "")
    yield f"{name} efficiency", f"{link.efficiency:.0%}", source.get(f"{key}.efficiency", default)


def _efficiency_lines(device: DeviceProfile) -> Iterator[str]:
    """Yield where the efficiencies come from and how well they fitted shapes they had not seen."""
    fits = device.efficiency
    if fits is None:
        yield "efficiency: datasheet (nothing was measured on this device: predictions are rough)"
        return
    borrowed = f" from {fits.transferred_from}" if fits.transferred_from else ""
    yield f"efficiency: {fits.provenance}{borrowed}" + (f" ({fits.source})" if fits.source else "")
    for family in FIT_FAMILIES:
        for key, fit in getattr(fits, family).items():
            errors = [
                f"{word} {error:.1%}"
                for word, error in (("median", fit.median_error), ("p90", fit.p90_error))
                if error is not None
            ]
            tail = f"  {fit.source}" if fit.source else ""
            yield f"  {family} {key}: error {', '.join(errors) or 'unknown'}{tail}"


def _power_lines(device: DeviceProfile) -> Iterator[str]:
    fit = device.power
    if fit is not None:
        curve = f"{fit.base_w:.0f} W + {fit.compute_w:.0f} W * MFU + {fit.memory_w:.0f} W * MBU"
        yield f"power while busy: {curve}" + (f"  ({fit.source})" if fit.source else "")
