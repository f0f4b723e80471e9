"""A trace in a line."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workloads.trace import Trace


def trace_line(trace: Trace) -> str:
    """Requests, how they come, mean tokens: ``chat_small: 600 requests over 148 s, 4.04/s, mean 911 tokens in, 226 out``."""
    if trace.concurrency is not None:
        how = f"by {trace.concurrency:,} clients in a closed loop"
    elif math.isinf(trace.request_rate_per_s):
        how = "all at once"
    else:
        how = f"over {trace.duration_s:,.4g} s, {trace.request_rate_per_s:,.4g}/s"
    means = f"mean {trace.input_tokens.mean():,.4g} tokens in, {trace.output_tokens.mean():,.4g} out"
    marks = [
        *(["in sessions"] if trace.previous is not None else []),
        *(["with shared prefixes"] if trace.prefix_ids is not None else []),
    ]
    count = f"{len(trace):,} request{'s' if len(trace) != 1 else ''}"
    return ", ".join([f"{trace.name}: {count} {how}", means, *marks])
