"""What a run says of devices that two phases share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from simulator import clock
from simulator.sharing.counters import SplitCounters

STEP_MODE = "spans of tokens alone; single steps while prompts run beside them, as each changes the other's pace"
PAIR_MODE = "single steps: instances of a pair pass sequences to each other at the end of any of them"


def split_summary(counters: Iterable[SplitCounters | None]) -> dict[str, Any]:
    """Fields of the summary; none where devices are not divided. Times are sums over replicas [s]."""
    known = [c for c in counters if c is not None]
    if not known:
        return {}
    both = sum(c.both_ticks for c in known)
    return {
        "step_mode": STEP_MODE,
        "sm_split_both_s": both / clock.TICKS_PER_S,
        "sm_split_prompts_alone_s": sum(c.prompt_ticks for c in known) / clock.TICKS_PER_S,
        "sm_split_mean_share": sum(c.share_ticks for c in known) / both if both else None,
        "sm_split_changes": sum(c.changes for c in known),
    }


def pair_summary(paired: bool) -> dict[str, Any]:
    """Fields of the summary; none without pairs of instances."""
    return {"step_mode": PAIR_MODE} if paired else {}
