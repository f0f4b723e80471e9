"""What a summary says of adapters that were loaded."""

from __future__ import annotations

from typing import Any

from simulator.physics.sums import in_order
from simulator.recorder import ReplicaRecord


def adapter_summary(replicas: list[ReplicaRecord]) -> dict[str, Any]:
    """``adapters``: loads, bytes over the host links, share of admissions that found theirs; {} where none are loaded."""
    counts = [replica.adapters for replica in replicas if replica.adapters is not None]
    if not counts:
        return {}
    loads, hits = sum(c.loads for c in counts), sum(c.hits for c in counts)
    return {
        "adapters": {
            "loads": loads,
            "load_bytes": sum(c.nbytes for c in counts),
            "load_s": in_order(c.load_s for c in counts),
            "hits": hits,
            "evictions": sum(c.evictions for c in counts),
            "cancelled_loads": sum(c.cancelled for c in counts),
            "peak_in_memory": max(c.peak for c in counts),
        }
    }
