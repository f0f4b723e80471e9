"""Adapters that were loaded, in the report of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apex_sim.text import number


def adapter_lines(s: Mapping[str, Any]) -> list[str]:
    """Loads, what they moved and how long the host links were busy; [] where none are loaded."""
    found = s.get("adapters")
    if found is None:
        return []
    kinds = (("evictions", "evicted"), ("cancelled_loads", "cancelled"))
    more = [f"{found[name]:,} {text}" for name, text in kinds if found[name]]
    moved = f"{found['load_bytes'] / 1e9:,.1f} GB in {number(found['load_s'])} s"
    held = f"at most {found['peak_in_memory']:,} in memory"
    return [
        "adapters     "
        + ", ".join([f"{found['loads']:,} loads", moved, f"{found['hits']:,} requests found theirs", held, *more])
    ]
