"""Prefix identities as ragged arrays: build them, take rows of them, and see how much of them a cache could reuse."""

from __future__ import annotations

import numpy as np

from hardware_profiles.errors import UserError
from workloads.trace import IntArray, Trace

MAX_IDS = 250_000_000
"""Identities one trace may hold: 2 GB of int64, our choice for a laptop."""


def build_ids(
    *, num_blocks: IntArray, shared_blocks: IntArray, shared_base: IntArray, own_base: IntArray
) -> tuple[IntArray, IntArray]:
    """Ids and offsets of rows with ``num_blocks[i]`` pieces, the first ``shared_blocks[i]`` from a common range.

    Piece p of row i is ``shared_base[i] + p`` in the shared part and ``own_base[i] + p`` behind it; the caller sees to
    it that ranges of different content do not meet.
    """
    offsets = np.concatenate(([0], np.cumsum(num_blocks, dtype=np.int64)))
    total = int(offsets[-1])
    if total > MAX_IDS:
        raise UserError(
            f"the workload needs {total:,} prefix identities, more than {MAX_IDS:,}; "
            "use larger pieces (block_tokens: 256) or fewer requests"
        )
    position = np.arange(total, dtype=np.int64) - np.repeat(offsets[:-1], num_blocks)
    ids = np.repeat(own_base, num_blocks)
    if shared_blocks.any():
        in_shared = position < np.repeat(shared_blocks, num_blocks)
        ids = np.where(in_shared, np.repeat(shared_base, num_blocks), ids)
    return ids + position, offsets


def prompt_blocks_hit(trace: Trace) -> tuple[int, int]:
    """(prompt pieces an unbounded cache would hit, all prompt pieces), rows taken in table order.

    A piece counts as hit when its id was seen earlier at its position, in a prompt or in an output; the last piece of
    a prompt counts like a full one (as in Mooncake's published hit rates).
    """
    if trace.prefix_ids is None or trace.prefix_offsets is None:
        return 0, 0
    import pandas as pd

    counts = np.diff(trace.prefix_offsets)
    position = np.arange(len(trace.prefix_ids), dtype=np.int64) - np.repeat(trace.prefix_offsets[:-1], counts)
    prompt = -(-trace.input_tokens // trace.prefix_block_tokens)
    # One number per (id, position): ids are renumbered densely first, so the product cannot overflow.
    dense = pd.factorize(trace.prefix_ids)[0].astype(np.int64)
    seen = pd.Series(dense * (int(counts.max(initial=0)) + 1) + position).duplicated().to_numpy()
    in_prompt = position < np.repeat(prompt, counts)
    return int(np.count_nonzero(seen & in_prompt)), int(prompt.sum())
