"""What a replica counts of two phases that share its devices."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class SplitCounters:
    """How the two phases of a replica met."""

    both_ticks: int = 0
    """Both phases ran."""
    prompt_ticks: int = 0
    """Only prompts ran."""
    share_ticks: float = 0.0
    """Share of prompts times ticks, while both ran."""
    changes: int = 0
    """Of the share."""
