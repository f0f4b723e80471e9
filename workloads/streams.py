"""Named random streams: one generator per purpose, so that adding a consumer leaves the others' numbers unchanged."""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, name: str) -> np.random.Generator:
    """Generator of one purpose (``arrivals``, ``input_len`` ...) under one seed; same pair, same numbers."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])
