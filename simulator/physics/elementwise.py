"""Seconds of what lies between the matrix products of a layer: norms, rotary embedding, activation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

Real = Any
"""A float or a float64 array, as in ``kernels``."""

CACHE_SHARE = 1 / 3
"""Of the last-level cache: activations of one kernel beyond it come from memory. Fitted freely on RTX 4090 (72 MB) and
RTX PRO 6000 (128 MB) the knee is at 0.32 and 0.44 (vLLM 0.19, LLMServingSim profiles, MIT); a third serves both."""


class Traffic(NamedTuple):
    """Activations of one kind of kernel, per token and layer on one rank [B]."""

    working_bytes: float
    """What one launch reads and writes."""
    total_bytes: float
    """The same over all launches of a layer."""


def norms(hidden: int, element_bytes: float) -> Traffic:
    """Two norms with residual: each reads and writes hidden states and residual; TP does not split them."""
    one = 4.0 * hidden * element_bytes
    return Traffic(one, 2.0 * one)


def rotary(num_heads: int, num_kv_heads: int, head_dim: int, element_bytes: float) -> Traffic:
    """Queries and keys of a rank, read and written."""
    one = 2.0 * (num_heads + num_kv_heads) * head_dim * element_bytes
    return Traffic(one, one)


def activation(outputs: int, inputs: int, element_bytes: float) -> Traffic:
    """Gate and up (``outputs`` of the first matrix) read, ``inputs`` of the down projection written."""
    one = (outputs + inputs) * element_bytes
    return Traffic(one, one)


def elementwise_s(
    tokens: Real,
    parts: Sequence[Traffic],
    *,
    fixed_s: float,
    token_s: float,
    memory: float,
    bandwidth_bytes_per_s: float,
    cache_bytes: float,
) -> Real:
    """All elementwise kernels of one layer [s]: fixed_s + token_s * tokens while the activations stay in the cache.

    Tokens beyond those whose activations of one kernel fill CACHE_SHARE of the cache cost bytes/(memory*bandwidth)
    instead, kind by kind, if that is more. ``memory`` 0 switches this off. Fusion is not modelled.
    """
    seconds = fixed_s + token_s * tokens
    moved = sum(part.total_bytes for part in parts)
    if memory <= 0 or moved <= 0:
        return seconds
    for part in parts:
        if part.working_bytes <= 0:
            continue
        slower_s = part.total_bytes / (memory * bandwidth_bytes_per_s) - token_s * part.total_bytes / moved
        beyond = tokens - CACHE_SHARE * cache_bytes / part.working_bytes
        seconds = seconds + max(0.0, slower_s) * np.maximum(0.0, beyond)
    return seconds
