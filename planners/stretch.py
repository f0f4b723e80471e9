"""The stretch of a trace on which candidates are screened."""

from __future__ import annotations

import math

import numpy as np

from workloads.trace import Trace


def busiest_stretch(trace: Trace, requests: int) -> Trace:
    """The ``requests`` consecutive requests that offer the most tokens per second, moved to time 0.

    Traces whose requests wait for others are cut at the front instead. An output token counts as four prompt tokens.
    """
    if len(trace) <= requests:
        return trace
    if trace.concurrency is not None or trace.previous is not None:
        return trace.head(requests)
    tokens = np.concatenate(([0.0], np.cumsum(trace.input_tokens + 4.0 * trace.output_tokens)))
    starts = np.arange(0, len(trace) - requests + 1, max(1, requests // 8))
    spans = trace.arrival_s[starts + requests - 1] - trace.arrival_s[starts]
    rates = (tokens[starts + requests] - tokens[starts]) / np.maximum(spans, 1e-9)
    start = int(starts[int(np.argmax(rates))])
    first_s, last_s = (float(trace.arrival_s[row]) for row in (start, start + requests - 1))
    part = trace.slice_time(first_s, math.nextafter(last_s, math.inf))
    return part if len(part) < 2 * requests else trace.head(requests)
