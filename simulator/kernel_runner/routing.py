"""Which tokens go to which expert: uniform routing, the same on every machine."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def routed(tokens: int, experts: int, top_k: int) -> tuple[npt.NDArray[np.int64], list[int]]:
    """Token of every row, rows sorted by expert, and rows per expert; each token picks ``top_k`` experts at random."""
    rng = np.random.default_rng((tokens, experts, top_k))
    chosen = np.argsort(rng.random((tokens, experts)), axis=1)[:, :top_k].ravel()
    order = np.argsort(chosen, kind="stable")
    return order // top_k, np.bincount(chosen, minlength=experts).tolist()
