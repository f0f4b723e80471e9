"""Order of requests that arrive together: as they come, or grouped by the prefixes they share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from workloads.trace import Trace

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
ORDERS = ("arrival", "prefix-groups")
"""Names for --order."""


def group_prefixes(trace: Trace, rows: Ints, times_s: Floats) -> tuple[Ints, Floats]:
    """``rows`` and the times at which they reach the engine, requests with the same ``arrival_s`` in the order of a walk
    through the tree of their prompts (BatchLLM, arXiv 2412.03594: global prefix grouping).

    All prompts must be known to build the tree, so all of a batch reach the engine with its last one. Groups, and requests
    within one, follow their first request. Without prefix identities nothing changes.
    """
    if trace.prefix_ids is None:
        return rows, times_s
    arrivals = trace.arrival_s[rows]
    order: list[int] = []
    together = np.array(times_s)
    for batch in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(arrivals)) + 1):
        together[batch] = times_s[batch].max()
        order += _walk(trace, rows[batch], int(batch[0])) if len(batch) > 1 else batch.tolist()
    return rows[order], together[order]


def _walk(trace: Trace, rows: Ints, offset: int) -> list[int]:
    """Positions of ``rows``, from ``offset`` on, by the ranks in which the ids of their prompts appear first."""
    ranks: dict[int, int] = {}
    keys = []
    for position, row in enumerate(rows.tolist()):
        pieces = -(-int(trace.input_tokens[row]) // trace.prefix_block_tokens)
        path = tuple(ranks.setdefault(piece, len(ranks)) for piece in trace.prefix_of(row)[:pieces].tolist())
        keys.append((path, position))
    return [offset + position for _, position in sorted(keys)]
