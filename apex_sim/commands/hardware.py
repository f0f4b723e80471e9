"""``apex-sim hardware``: which devices are known, every figure of one with its unit and source, and the grids."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, get_args

from apex_sim.hardware_figures import RENTS, figures, ridge_points
from apex_sim.json_option import add_json, wants_json
from hardware_profiles.schema import DeviceKind

if TYPE_CHECKING:
    from hardware_profiles.schema import DeviceProfile

FIT_FAMILIES = ("gemm", "prefill_attention", "decode_attention", "moe", "collectives")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``hardware`` and its actions."""
    parser = subparsers.add_parser(
        "hardware", help="list hardware profiles and grids, or show one device with its sources"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|grids")
    listing = actions.add_parser("list", help="one line per bundled device")
    listing.add_argument("--kind", choices=get_args(DeviceKind), help="only devices of this kind")
    add_json(listing)
    show = actions.add_parser("show", help="every figure of one device, with unit and source")
    show.add_argument("device", metavar="NAME|PATH", help="name or alias of a device, or your own YAML file")
    add_json(show)
    grids = actions.add_parser("grids", help="grids that --grid knows: carbon intensity, price, source")
    add_json(grids)


def run(args: argparse.Namespace) -> int:
    """Do the action that was asked for."""
    return {"list": _list, "show": _show, "grids": _grids}[args.action](args)


def _list(args: argparse.Namespace) -> int:
    from hardware_profiles.loader import device_names, load_device

    devices = [load_device(name) for name in device_names()]
    devices = [device for device in devices if args.kind in (None, device.kind)]
    if wants_json(args, [summary(device) for device in devices]):
        return 0
    rents = ("$/h", "spot", "1 year", "3 years", "to own $")
    header = ("device", "kind", "memory GB", "GB/s", "bf16 TFLOP/s", "fp8", "TDP W", *rents, "efficiency")
    _print_table([header, *(_row(device) for device in devices)])
    print(f"\n{len(devices)} devices; peaks are dense. Sources: apex-sim hardware show NAME")
    return 0


def _show(args: argparse.Namespace) -> int:
    from hardware_profiles.loader import load_device

    device = load_device(args.device)
    if wants_json(args, as_json(device)):
        return 0
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


def _grids(args: argparse.Namespace) -> int:
    import dataclasses

    from hardware_profiles.sites import grids

    if wants_json(args, {name: dataclasses.asdict(grid) for name, grid in grids().items()}):
        return 0
    rows = [
        (name, f"{g.gco2_per_kwh:.0f}", "-" if g.usd_per_kwh is None else f"{g.usd_per_kwh:.3f}", g.source)
        for name, g in grids().items()
    ]
    _print_table([("grid", "gCO2e/kWh", "$/kWh", "source"), *rows], first_figure=1)
    print("\nYearly means of 2024, life cycle, location-based; links: hardware_profiles/grids.yaml")
    return 0


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
        **{field: getattr(device.price, field, None) for _, field in RENTS},
        "purchase_usd": device.purchase_usd,
        "efficiency": provenance(device),
    }


def as_json(device: DeviceProfile) -> dict[str, Any]:
    """Return the whole profile, in SI units, with its ridge points [FLOP/B]."""
    import dataclasses

    return {**dataclasses.asdict(device), "ridge_flop_per_byte": ridge_points(device)}


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
        *("-" if (v := getattr(device.price, field, None)) is None else f"{v:.2f}" for _, field in RENTS),
        "-" if device.purchase_usd is None else f"{device.purchase_usd:,.0f}",
        provenance(device),
    )


def _print_table(rows: list[tuple[str, ...]], first_figure: int = 2) -> None:
    """Print rows with text on the left; columns from ``first_figure`` to the last but one are figures, on the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    figures = range(first_figure, len(widths) - 1)
    for row in rows:
        cells = (c.rjust(w) if i in figures else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        print("  ".join(cells).rstrip())


def _print_figures(device: DeviceProfile) -> None:
    """Print the figures, each with the number of its source, and the sources below."""
    rows = list(figures(device))
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
