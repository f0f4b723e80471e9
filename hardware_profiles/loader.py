"""Device files to DeviceProfile: finds a device by name, alias or path, and refuses figures without a source."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from hardware_profiles.efficiency import EFFICIENCY_DIR, read_efficiency_file
from hardware_profiles.errors import UserError, unknown_name
from hardware_profiles.mig import sliced, split_name
from hardware_profiles.records import from_mapping, read_yaml, unknown_field
from hardware_profiles.schema import DeviceProfile, Efficiency, PowerFit

DEVICE_DIR = Path(__file__).parent / "devices"

DTYPES = ("float32", "tfloat32", "bfloat16", "float16", "fp8", "int8", "int4", "fp4")
"""Keys that ``dense_flop_per_s`` may have."""

SPEC_FIELDS = (
    *("architecture", "release_year", "dense_flop_per_s", "num_sms", "memory_bandwidth_bytes_per_s"),
    *("write_bandwidth_bytes_per_s", "scaleup", "scaleup_domain", "host_link", "tdp_w", "max_devices_per_node"),
)
"""Figures of a vendor's data sheet: one source ``spec`` may stand for all of them."""

UNSOURCED_FIELDS = ("name", "kind", "vendor", "aliases", "efficiency", "power", "sources", "notes")
"""Names and text, and fits that carry their own source."""

_VENDOR_PREFIX = re.compile(r"^(nvidia|geforce|tesla|amd|instinct|intel|xilinx|apple)-")


def load_device(name_or_path: str | Path) -> DeviceProfile:
    """Return the profile of a bundled device (name or alias, case and ``_``/space/``-`` alike) or of a YAML file.

    ``NAME@PROFILE`` is one MIG instance of a bundled device (:mod:`hardware_profiles.mig`).
    """
    if is_path(name_or_path):
        return read_device_file(Path(name_or_path))
    name, profile = split_name(str(name_or_path))
    device = _load_bundled(device_name(name))
    return device if profile is None else sliced(device, profile)


def device_names() -> list[str]:
    """Return the names of the bundled devices, sorted."""
    return sorted(path.stem for path in DEVICE_DIR.glob("*.yaml"))


def device_name(name: str) -> str:
    """Return the bundled name that ``name`` (a name or an alias, as any tool spells it) stands for."""
    key = normalised(name)
    names = device_names()
    if key in names:
        return key
    aliases = _aliases()
    if key in aliases:
        return aliases[key]
    error = unknown_name("device", name, names)
    raise UserError(f"{error} 'apex-sim hardware list' shows them; a path to your own YAML file works too.")


def read_device_file(path: Path) -> DeviceProfile:
    """Read one device file, checked; its efficiency may stand in the file, in another file, or be borrowed by name."""
    content = dict(read_yaml(path))
    where = str(path)
    efficiency = content.pop("efficiency", None)
    known = [f.name for f in dataclasses.fields(DeviceProfile)]
    if "name" not in content and not set(content) & set(known):
        raise unknown_field(next(iter(content), ""), known, where=where)
    if isinstance(efficiency, Mapping):
        content["efficiency"] = efficiency
    profile = from_mapping(DeviceProfile, content, where=where)
    _check_dtypes(profile, where)
    _check_dataflow(profile, where)
    profile = dataclasses.replace(profile, sources=_expanded_sources(profile, content, where))
    if isinstance(efficiency, str):
        return _borrow(profile, efficiency, path)
    if efficiency is not None and not isinstance(efficiency, Mapping):
        raise UserError(f"{where}: efficiency is {efficiency!r}; write a device's name, a file, or the fits themselves")
    return profile


def is_path(name: str | Path) -> bool:
    """Tell a file from a name: a Path, or text with a slash or a YAML suffix."""
    return isinstance(name, Path) or "/" in name or "\\" in name or name.lower().endswith((".yaml", ".yml"))


def normalised(name: str) -> str:
    """Return the form in which names are compared: lower case, single dashes, no vendor in front."""
    key = re.sub(r"[\s_\-]+", "-", name.strip().lower())
    shorter = _VENDOR_PREFIX.sub("", key)
    while shorter != key:
        key, shorter = shorter, _VENDOR_PREFIX.sub("", shorter)
    return key


@lru_cache(maxsize=256)
def _load_bundled(name: str) -> DeviceProfile:
    profile = read_device_file(DEVICE_DIR / f"{name}.yaml")
    fits = EFFICIENCY_DIR / f"{name}.yaml"
    return _merge(profile, *read_efficiency_file(fits)) if fits.exists() else profile


@lru_cache(maxsize=1)
def _aliases() -> dict[str, str]:
    """Map every alias to its device; read only when a name is not a file's."""
    found: dict[str, str] = {}
    for name in device_names():
        for alias in read_yaml(DEVICE_DIR / f"{name}.yaml").get("aliases", []):
            other = found.setdefault(normalised(str(alias)), name)
            if other != name:
                raise UserError(f"{name}.yaml: alias {alias!r} already belongs to {other}; remove one of the two")
    return found


def _merge(profile: DeviceProfile, efficiency: Efficiency | None, power: PowerFit | None) -> DeviceProfile:
    return dataclasses.replace(
        profile,
        efficiency=profile.efficiency if efficiency is None else efficiency,
        power=profile.power if power is None else power,
    )


def _borrow(profile: DeviceProfile, reference: str, path: Path) -> DeviceProfile:
    """Resolve ``efficiency: h100-sxm`` (another device's fits, then *transferred*) or ``efficiency: fits.yaml``."""
    if is_path(reference):
        return _merge(profile, *read_efficiency_file(path.parent / reference))
    donor = load_device(reference)
    if donor.efficiency is None:
        raise UserError(f"{path.name}: efficiency is {reference!r}, which has no fits itself; name a calibrated device")
    source = f"fits of {donor.name}, borrowed by {path.name}: {donor.efficiency.source}"
    fits = dataclasses.replace(donor.efficiency, provenance="transferred", transferred_from=donor.name, source=source)
    return _merge(profile, fits, None)


def _check_dtypes(profile: DeviceProfile, where: str) -> None:
    for dtype in profile.dense_flop_per_s:
        if dtype not in DTYPES:
            raise unknown_field(dtype, DTYPES, where=where, prefix="dense_flop_per_s")


def _check_dataflow(profile: DeviceProfile, where: str) -> None:
    """A design has a peak, and no share of it exceeds the whole."""
    if profile.dataflow is None:
        return
    for name in ("busy_share", "bandwidth_share"):
        share = getattr(profile.dataflow, name)
        if share > 1:
            raise UserError(f"{where}: dataflow.{name} is {share:g}; it is a share, at most 1")
    if not profile.dense_flop_per_s:
        raise UserError(
            f"{where}: dataflow without dense_flop_per_s; add the design's peak, 2 x multipliers x clock: {{int8: 7.37e+12}}"
        )


def _expanded_sources(profile: DeviceProfile, content: Mapping[str, Any], where: str) -> dict[str, str]:
    """Return field -> source for every field the file gives; a figure without one is refused."""
    given = [key for key in content if key not in UNSOURCED_FIELDS]
    for key in profile.sources:
        if key != "spec" and key.split(".")[0] not in given:
            raise UserError(f"{where}: sources.{key} names a field the file does not have; use 'spec' or a given field")
    expanded = {key: text for key, text in profile.sources.items() if key != "spec"}
    for key in given:
        text = profile.sources.get(key) or (profile.sources.get("spec") if key in SPEC_FIELDS else None)
        if not text or not text.strip():
            remedy = f"add '{key}: <where it is from>' below 'sources:'"
            raise UserError(f"{where}: {key} has no source; {remedy}")
        expanded[key] = text
    return expanded
