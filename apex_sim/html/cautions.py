"""What figures of a simulation have to be read with, in every report that has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def refused(s: Mapping[str, Any]) -> list[str]:
    """Of a summary: requests that no server takes."""
    if not s["failed"]:
        return []
    return [f"{s['failed']:,} of {s['num_prompts']:,} requests were refused: their prompts are too long."]


def weak_basis(s: Mapping[str, Any]) -> list[str]:
    """Of a summary: kernel efficiencies that nobody measured on the device."""
    if s["provenance"] == "measured":
        return []
    return [f"The times rest on {s['provenance']} kernel efficiencies: expect larger errors (see the end)."]
