"""Fitted efficiencies as YAML: ``efficiency/NAME.yaml``, written by calibration and merged by the loader."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hardware_profiles.records import from_mapping, read_yaml, to_mapping, to_yaml, unknown_field
from hardware_profiles.schema import Efficiency, PowerFit

EFFICIENCY_DIR = Path(__file__).parent / "efficiency"


def efficiency_from_mapping(content: Mapping[str, Any], *, where: str = "efficiency") -> Efficiency:
    """Build an Efficiency from the mapping below ``efficiency:``. ``where`` is the file that errors name."""
    return from_mapping(Efficiency, content, where=where, field="efficiency")


def power_from_mapping(content: Mapping[str, Any], *, where: str = "power") -> PowerFit:
    """Build a PowerFit from the mapping below ``power:``."""
    return from_mapping(PowerFit, content, where=where, field="power")


def efficiency_to_yaml(efficiency: Efficiency | None, power: PowerFit | None = None, *, comment: str = "") -> str:
    """Return the text of an efficiency file; reading it gives equal values. ``comment`` becomes its first lines."""
    blocks: dict[str, Any] = {}
    if efficiency is not None:
        blocks["efficiency"] = to_mapping(efficiency)
    if power is not None:
        blocks["power"] = to_mapping(power)
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    return head + to_yaml(blocks)


def read_efficiency_file(path: Path) -> tuple[Efficiency | None, PowerFit | None]:
    """Return the blocks ``efficiency:`` and ``power:`` of a file, either of which may be absent."""
    content = read_yaml(path)
    for key in content:
        if key not in ("efficiency", "power"):
            raise unknown_field(key, ("efficiency", "power"), where=str(path))
    efficiency = efficiency_from_mapping(content["efficiency"], where=str(path)) if "efficiency" in content else None
    power = power_from_mapping(content["power"], where=str(path)) if "power" in content else None
    return efficiency, power
