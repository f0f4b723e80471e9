"""The end of a finite run: what its last answers make of rates and costs, said where it is much."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from apex_sim.text import number, share
from workloads.trace import Trace

LARGE = 0.05
"""Share of a run from which its tail is worth a note."""
QUEUE = 0.25
"""Mean time in the queue, as a share of the tail, from which the tail is a queue that has built up: where requests come
faster than they are served the wait grows evenly, so that its mean is half of the last one's."""


def drain_notes(metrics: Mapping[str, Any], trace: Trace) -> list[str]:
    """One sentence where the time after the last arrival is a large part of a run; none for requests all at once, which have
    no steady state. ``metrics``: ``duration`` [s], ``drain_s`` and ``mean_queue_ms`` of its summary."""
    duration_s, drain_s = metrics.get("duration") or 0.0, metrics.get("drain_s") or 0.0
    span_s = duration_s - drain_s
    if not (span_s > 0 and drain_s > LARGE * duration_s):
        return []
    words = (
        f"the last answers finish {number(drain_s)} s after the last request came, {share(drain_s / duration_s)} of the run: "
        "rates and goodput come out about that much lower, $ and J per token higher, than while requests keep coming"
    )
    if metrics.get("mean_queue_ms", 0.0) / 1e3 > QUEUE * drain_s:
        return [
            f"{words}; a queue has built up by then, so more requests do not mend it: lower the rate or add devices"
        ]
    if drain_s > span_s:
        return [f"{words}; requests come for {number(span_s)} s only: many times as many show the steady state"]
    wanted = len(trace) * (1 / LARGE - 1) * drain_s / span_s
    scale = 10.0 ** max(0, math.floor(math.log10(wanted)) - 1)
    more = f"about {int(math.ceil(wanted / scale) * scale):,} requests"
    more += " (--num-requests)" if trace.source.startswith("generated: ") else " like these"
    return [f"{words}; with {more} and a tail as long it would be {share(LARGE)}"]
